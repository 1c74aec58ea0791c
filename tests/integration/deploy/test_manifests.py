"""The manifests in deploy/k8s fit the product: commands, variables, paths, ports, times."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import click
import pytest

from gateway.server.processes import KILL_S, WAITS_END_S
from modelyard.cli import main
from tests.helpers import ROOT
from tests.helpers.composes import needs_deploy, services
from tests.helpers.gateways import new_app
from tests.helpers.manifests import (
    K8S,
    containers,
    documents,
    labels,
    named,
    pod,
    probes,
    selects,
    workloads,
)
from yard.contract import keys
from yard.platform import extras
from yard.settings import Settings, variable

pytestmark = needs_deploy

NOWHERE = "redis://127.0.0.1:1/0"


def parsed(argv: list[str]) -> click.Context:
    """The command that a line would run, with its flags read; nothing runs."""
    with click.Context(main) as above:
        name, command, rest = main.resolve_command(above, argv)
        assert command is not None
        return command.make_context(name, rest, parent=above)


def settings_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that a container gets; the secret is not in the files."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= named("ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            assert source["secretRef"]["optional"] is True
    return found | {one["name"]: one["value"] for one in container.get("env", [])}


def test_every_command_and_its_flags_are_there():
    for _, container in containers():
        parsed(container["args"])
        for probe in probes(container):
            if "exec" in probe:
                program, *rest = probe["exec"]["command"]
                assert program == "modelyard"
                parsed(rest)


@pytest.mark.parametrize("page", ["docs/deploy.md", "docs/scaling.md", "docs/how-a-job-runs.md"])
def test_every_command_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?<!namespace )(?<!SETUSER )\bmodelyard ([a-z]+)\b", text))
    with click.Context(main) as above:
        known = set(main.list_commands(above))
    assert named - known == set()


def test_every_variable_that_a_page_names_is_a_setting():
    known = {variable(name) for name in Settings.model_fields}
    for page in (ROOT / "docs").glob("*.md"):
        assert set(re.findall(r"MODELYARD_[A-Z_]+[A-Z]", page.read_text())) <= known, page


def test_every_variable_is_a_setting_within_its_bounds():
    known = {variable(name) for name in Settings.model_fields}
    for workload, container in containers():
        environ = settings_of(container)
        assert environ.keys() <= known, workload["metadata"]["name"]
        Settings.load(environ)


def test_every_path_that_is_asked_is_served():
    with new_app(NOWHERE) as app:
        served = {rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    asked = {
        probe["httpGet"]["path"]
        for _, container in containers()
        for probe in probes(container)
        if "httpGet" in probe
    }
    template = named("Deployment", "modelyard-gateway")["spec"]["template"]
    asked.add(template["metadata"]["annotations"]["prometheus.io/path"])
    assert asked == {"/healthz", "/readyz", "/metrics"}
    assert asked <= served


def test_ports_have_names_and_the_gateway_listens_where_it_is_asked():
    gateway = named("Deployment", "modelyard-gateway")
    (container,) = pod(gateway)["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [Settings().port]
    for service in documents("Service"):
        (workload,) = [
            one for one in workloads() if service["spec"]["selector"].items() <= labels(one).items()
        ]
        names = {port["name"] for one in pod(workload)["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for workload in workloads():
        for container in pod(workload)["containers"]:
            names = {port["name"] for port in container.get("ports", [])}
            used = {
                (p.get("httpGet") or p.get("tcpSocket") or {}).get("port")
                for p in probes(container)
            }
            assert used - {None} <= names


def test_the_configured_redis_is_the_service():
    service = named("Service", "modelyard-redis")
    url = named("ConfigMap", "modelyard")["data"]["MODELYARD_REDIS_URL"]
    assert url == f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"
    (redis,) = pod(named("StatefulSet", "modelyard-redis"))["containers"]
    assert redis["args"] == services()["redis"]["command"]
    assert redis["image"] == services()["redis"]["image"]


def test_images_are_of_this_version():
    assert {container["image"].split(":")[1] for _, container in containers()} == {extras.version()}


def test_pods_stop_later_than_what_runs_in_them():
    pool, gateway = named("Deployment", "modelyard-pool"), named("Deployment", "modelyard-gateway")
    (container,) = pod(pool)["containers"]
    drain_s = Settings.load(settings_of(container)).drain_s
    assert pod(pool)["terminationGracePeriodSeconds"] >= drain_s + 10
    (container,) = pod(gateway)["containers"]
    pause_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed_s = pause_s + max(WAITS_END_S, KILL_S) + 5
    assert pod(gateway)["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("workload", workloads() if K8S.is_dir() else [], ids=lambda w: w["kind"])
def test_pods_may_do_nothing_that_they_need_not(workload):
    spec = pod(workload)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "MODELYARD_PORT=tcp://... for a service `modelyard`"
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert ":" in container["image"]
        assert not container["image"].endswith(":latest")
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        if workload["kind"] != "Job":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_selectors_pick_their_own_pods():
    for workload in workloads():
        if workload["kind"] == "Job":
            continue
        picked = [
            one["metadata"]["name"]
            for one in workloads()
            if selects(workload["spec"]["selector"], labels(one))
        ]
        assert picked == [workload["metadata"]["name"]]
    for budget in documents("PodDisruptionBudget"):
        picked = [
            one["metadata"]["name"]
            for one in workloads()
            if selects(budget["spec"]["selector"], labels(one))
        ]
        assert picked == [budget["metadata"]["name"]]


def test_each_deployment_is_scaled_by_one_thing_in_each_folder():
    scaled = [
        (kind, one["spec"]["scaleTargetRef"]["name"])
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for one in documents(kind)
    ]
    assert scaled == [
        ("HorizontalPodAutoscaler", "modelyard-gateway"),
        ("ScaledObject", "modelyard-pool"),  # of keda-length
        ("ScaledObject", "modelyard-pool"),  # of keda-work
    ]
    for _, name in scaled:
        assert "replicas" not in named("Deployment", name)["spec"], "they would pull at each other"


def triggers(kind: str) -> list[dict[str, str]]:
    return [
        trigger["metadata"]
        for one in documents("ScaledObject")
        for trigger in one["spec"]["triggers"]
        if trigger["type"] == kind
    ]


def test_keda_reads_queues_by_the_names_that_they_have():
    found = triggers("redis")
    assert found
    for trigger in found:
        queue = trigger["listName"].removeprefix(keys.PREFIXES["queue"])
        assert trigger["listName"] == keys.key("queue", queue)
        assert keys.parse_queue(queue) is not None


def test_keda_asks_for_a_number_that_is_there(redis, redis_url):
    (trigger,) = triggers("metrics-api")
    place = urlsplit(trigger["url"])
    assert place.hostname is not None
    assert place.hostname.split(".")[0] == named("Service", "modelyard-gateway")["metadata"]["name"]
    with new_app(redis_url) as app:
        answer = app.test_client().get(place.path)
    assert answer.status_code == 200
    value = answer.get_json()
    for name in trigger["valueLocation"].split("."):
        value = value[name]
    assert isinstance(value, int)


def test_keda_counts_workers_by_the_pod():
    (trigger,) = triggers("metrics-api")
    assert trigger["targetValue"] == named("ConfigMap", "modelyard")["data"]["MODELYARD_POOL_MAX"]


@pytest.mark.parametrize("folder", ["base", "keda-work", "keda-length"])
def test_the_folders_build(folder):
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("there is no kubectl here, to build a kustomization with")
    ran = subprocess.run(
        [kubectl, "kustomize", K8S / folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "kind: Deployment" in ran.stdout


class TestNetwork:
    """The pairs of pods of which the first may send to the second; all else is refused."""

    def flows(self) -> set[tuple[str, str, int]]:
        pods = {labels(one)["app.kubernetes.io/component"]: labels(one) for one in workloads()}
        policies = documents("NetworkPolicy")
        return {
            (sender, receiver, port)
            for sender, receiver in product(pods, pods)
            for port in (6379, 8000)
            if self.is_let(policies, "egress", "to", pods[sender], pods[receiver], port)
            and self.is_let(policies, "ingress", "from", pods[receiver], pods[sender], port)
        }

    def is_let(
        self,
        policies: list[dict[str, Any]],
        way: str,
        side: str,
        mine: dict[str, str],
        other: dict[str, str],
        port: int,
    ) -> bool:
        return any(
            port in [one["port"] for one in rule["ports"]]
            and any(
                "namespaceSelector" not in peer and selects(peer["podSelector"], other)
                for peer in rule[side]
            )
            for policy in policies
            if selects(policy["spec"]["podSelector"], mine)
            for rule in policy["spec"].get(way, [])
        )

    def test_all_pods_are_closed_both_ways(self):
        deny = named("NetworkPolicy", "modelyard-deny")["spec"]
        assert deny["policyTypes"] == ["Ingress", "Egress"]
        assert not {"ingress", "egress"} & deny.keys()
        assert all(selects(deny["podSelector"], labels(one)) for one in workloads())

    def test_only_what_must_is_let(self):
        assert self.flows() == {
            ("gateway", "redis", 6379),
            ("pool", "redis", 6379),
            ("examples", "redis", 6379),
        }

    def test_all_may_ask_for_names(self):
        names = named("NetworkPolicy", "modelyard-names")["spec"]
        assert all(selects(names["podSelector"], labels(one)) for one in workloads())
        assert json.dumps(names["egress"]).count('"port": 53') == 2
