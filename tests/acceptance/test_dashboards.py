"""Every expression that is shipped, in a real Prometheus that scrapes a real yard."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from models.publish.publisher import publish
from models.store.repository import Repository
from producer.client import Client
from tests.helpers import estimators
from tests.helpers.composes import DEPLOY, needs_deploy
from tests.helpers.gateways import RunningGateway, running_gateway
from tests.helpers.pools import RunningPool, running_pool
from tests.helpers.prometheus import RunningPrometheus, program, running_prometheus
from tests.helpers.redis_server import patient
from tests.helpers.waiting import wait_until
from yard.contract import keys

pytestmark = [needs_deploy, pytest.mark.timeout(240)]

#: Parts that are no metric's name: labels, ranges, functions (a bracket follows), operators.
_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on)\s*\([^)]*\)")
_NAME = re.compile(r"\b(?!(?:and|or|unless|offset)\b)[a-z_]+[a-z](?![a-z_:]|\s*\()")
_SELECTOR = re.compile(r"(\b[a-z_:]+)\{([^}]*)\}")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/modelyard.json").read_text())
    return found


def panels() -> list[tuple[str, str]]:
    """Title and expression of each query, with its variables in place."""
    variables = {"$__rate_interval": "1m", "$yard": ".*", "$model": ".*"}
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in variables.items():
                text = text.replace(name, value)
            found.append((panel["title"], text))
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def eventful(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[tuple[Any, ...]]:
    """A yard, what makes everything happen in it that is counted, and who watches."""
    echo = estimators.Echo().fit([[1.0]])
    publish(Repository(tmp_path / "store"), redis, echo, "echo", "v1", [[1.0]], activate=True)
    publish(Repository(tmp_path / "store"), redis, echo, "echo", "v2", [[1.0]])
    with ExitStack() as stack:
        gateway = stack.enter_context(running_gateway(redis_url, tmp_path))
        pool = stack.enter_context(
            running_pool(redis_url, tmp_path / "store", tmp_path, attempts=1)
        )
        prometheus = stack.enter_context(running_prometheus(tmp_path, gateway.port))
        client = stack.enter_context(closing(Client(patient(redis_url))))
        redis.hset(keys.key("weights", "echo"), mapping={"v1": 1, "v2": 1})
        redis.set(keys.key("active", "echo"), "v9")
        yield lambda: make_history(redis, client, gateway), pool, prometheus


def make_history(redis: Redis, client: Client, gateway: RunningGateway) -> None:
    good = [client.submit("echo", instances=[[float(n)]]) for n in range(8)]
    assert [handle.wait(60).status for handle in good] == ["finished"] * 8
    for number in (estimators.RAISE, estimators.EXIT_1):
        assert client.submit("echo", instances=[[number]], version="v1").wait(60).status == "failed"
    redis.rpush(keys.key("queue", "echo@v1"), "no job at all")
    answer = gateway.call("POST", "/v1/models/echo/predict", {"instances": [[1.0]]})
    assert answer.status == 200
    assert gateway.call("GET", "/v1/models/nobody").status == 404


def test_every_panel_shows_something_and_every_rule_is_understood(eventful):
    make_more, pool, prometheus = eventful
    shown = set(dict(panels()))
    assert len(shown) > 20

    silent = panels()

    def have_all_shown() -> bool:
        make_more()  # a counter that is seen at one value only has no rate
        silent[:] = [(title, text) for title, text in silent if not prometheus.query(text)]
        return not silent

    try:
        wait_until(have_all_shown, 90, interval_s=0.5)
    except AssertionError:
        raise AssertionError(f"nothing is shown by {silent}") from None
    check_names(prometheus)
    check_labels(prometheus)
    found = prometheus.ask("rules")["groups"]
    evaluated = [rule for group in found for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    assert [rule for rule in evaluated if rule["health"] != "ok"] == []
    check_alerts(prometheus, pool)


def check_names(prometheus: RunningPrometheus) -> None:
    """Also in rules whose condition does not hold, where a wrong name would never show."""
    names = set(prometheus.ask("label/__name__/values"))
    texts = [text for _, text in panels()] + [rule["expr"] for rule in rules()]
    plain = [_LABELS.sub("", re.sub(r"modelyard:\S+", "", text)) for text in texts]
    used = {name for text in plain for name in _NAME.findall(text)}
    assert {"up", "queue_depth", "route_problems", "model_route_weight"} <= used
    assert used - names == set()


def check_labels(prometheus: RunningPrometheus) -> None:
    for text in [rule["expr"] for rule in rules()]:
        for name, matchers in _SELECTOR.findall(text):
            wanted = set(re.findall(r"(\w+)\s*[=!]", matchers))
            assert any(wanted <= labels.keys() for labels in prometheus.series(name)), text


def check_alerts(prometheus: RunningPrometheus, pool: RunningPool) -> None:
    """Some that can be had at once; `rules.test.yml` has all of them."""
    assert pool.stop() == 0

    def alerts() -> set[str]:
        return {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}

    wanted = {"ModelyardNoPool", "ModelyardRouteProblem"}
    wait_until(lambda: wanted <= alerts(), 60, "no pool, and a route that names no version")
    assert "ModelyardNoGateway" not in alerts()


def test_each_alert_comes_when_it_should_and_only_then():
    ran = subprocess.run(
        [program("promtool"), "test", "rules", DEPLOY / "prometheus/rules.test.yml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = (DEPLOY / "prometheus/rules.test.yml").read_text()
    untested = [
        rule["alert"]
        for rule in rules()
        if "alert" in rule and not re.search(rf"alertname: {rule['alert']}\n\s+exp_alerts:", tested)
    ]
    assert untested == []


def test_the_configuration_is_one_of_prometheus():
    file = DEPLOY / "prometheus/prometheus.yml"
    ran = subprocess.run(
        [program("promtool"), "check", "config", file], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_is_of_the_data_source_that_is_provisioned():
    provisioned = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    (source,) = provisioned["datasources"]
    text = json.dumps(dashboard())
    assert set(re.findall(r'"type": "prometheus", "uid": "(\w+)"', text)) == {source["uid"]}
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
