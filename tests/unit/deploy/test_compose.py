"""docker-compose.yml: closed to the outside, bounded, and patient enough when it stops."""

from __future__ import annotations

import re

import pytest
import yaml

from gateway.server.processes import KILL_S, WAITS_END_S
from tests.helpers import ROOT
from tests.helpers.composes import DEPLOY, needs_deploy, seconds, services
from tests.helpers.dockerfiles import read
from yard.settings import Settings, variable

pytestmark = needs_deploy

NAMES = sorted(services()) if DEPLOY.is_dir() else []


def test_there_is_all_that_a_yard_takes():
    assert {"redis", "gateway", "pool", "examples", "prometheus", "grafana"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_closed_and_bounded(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} == service["deploy"]["resources"]["limits"].keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["logging"]["options"]["max-size"]
    if "build" not in service:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+[\w.-]*", service["image"]), "not pinned"


@pytest.mark.parametrize("name", ["redis", "prometheus", "grafana"])
def test_what_is_not_ours_has_a_health_check_here(name):
    assert services()[name]["healthcheck"]["test"][0].startswith("CMD")


@pytest.mark.parametrize("name", ["gateway", "pool"])
def test_what_is_ours_has_one_in_its_image_and_is_built_here(name):
    _, stages = read(DEPLOY / "Dockerfile")
    build = services()[name]["build"]
    assert (build["dockerfile"], build["target"]) == ("deploy/Dockerfile", name)
    (stage,) = [stage for stage in stages if stage.name == name]
    assert stage.last("HEALTHCHECK") is not None
    assert "healthcheck" not in services()[name]


def test_services_start_when_what_they_need_is_there():
    conditions = {
        name: {on: how["condition"] for on, how in service.get("depends_on", {}).items()}
        for name, service in services().items()
    }
    assert conditions["gateway"] == {"redis": "service_healthy"}
    assert conditions["examples"] == {"redis": "service_healthy"}
    assert conditions["pool"] == {
        "redis": "service_healthy",
        "examples": "service_completed_successfully",
    }
    assert conditions["grafana"] == {"prometheus": "service_healthy"}


def test_variables_are_settings_within_their_bounds():
    known = {variable(name) for name in Settings.model_fields}
    for name in ("gateway", "pool", "examples"):
        environ = {key: str(value) for key, value in services()[name]["environment"].items()}
        assert environ.keys() <= known
        Settings.load(environ)


def test_a_container_is_killed_later_than_what_runs_in_it_ends_by_itself():
    pool, gateway = services()["pool"], services()["gateway"]
    drain_s = Settings.load({k: str(v) for k, v in pool["environment"].items()}).drain_s
    assert seconds(pool["stop_grace_period"]) >= drain_s + 10
    assert seconds(gateway["stop_grace_period"]) >= max(WAITS_END_S, KILL_S) + 5


def test_no_secret_is_in_the_file():
    text = re.sub(r"#.*", "", (ROOT / "docker-compose.yml").read_text())
    assert not re.search(r"(?i)(password|secret|token)\s*[:=]\s*\S", text)
    assert not re.search(r"://[^/\s]*@", text)


def test_mounts_are_there_and_volumes_are_named():
    whole = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in services().items():
        for mount in service.get("volumes", []):
            source, _, rest = mount.partition(":")
            if source.startswith("."):
                assert (ROOT / source).is_dir(), mount
                assert rest.endswith(":ro"), mount
            else:
                assert source in whole["volumes"], name
        for network in service["networks"]:
            assert network in whole["networks"]


def test_the_pool_cannot_write_what_it_runs():
    assert services()["pool"]["volumes"] == ["store:/srv/modelyard/store:ro"]
    assert services()["examples"]["volumes"] == ["store:/srv/modelyard/store"]


def test_grafana_finds_what_is_mounted():
    grafana = services()["grafana"]
    file = DEPLOY / "grafana/provisioning/dashboards/modelyard.yml"
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in grafana["volumes"]}
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, dashboard = home.rpartition("/")
    assert (ROOT / mounted[folder] / dashboard).is_file()
    file = DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_scrapes_the_gateway_where_it_listens():
    shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (scrape,) = shipped["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    (name,) = found["names"]
    assert name in NAMES
    port = int(services()[name]["ports"][0].rpartition(":")[2])
    assert found["port"] == port == Settings().port
    assert set(services()[name]["networks"]) & set(services()["prometheus"]["networks"])
