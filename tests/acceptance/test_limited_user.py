"""A yard whose Redis user may do what docs/scaling.md says, and no more."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from models.publish.publisher import publish
from models.store.repository import Repository
from modelyard.doctor import checks as inspection
from producer.client import Client
from tests.helpers import ROOT, estimators
from tests.helpers.gateways import running_gateway
from tests.helpers.pools import running_pool
from tests.helpers.redis_server import patient
from yard.broker import connections

PAGE = ROOT / "docs/scaling.md"
PASSWORD = "not-a-secret"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="no checkout: docs/ is not here")


def rules() -> list[str]:
    """The rules that the page gives to ``ACL SETUSER modelyard``."""
    found = re.search(r"^ +ACL SETUSER modelyard (.*)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].replace(">PASSWORD", f">{PASSWORD}").split()


def test_the_documented_rights_are_enough_and_no_more(redis, redis_server, tmp_path: Path):
    url = redis_server.url.replace("://", f"://modelyard:{PASSWORD}@")
    redis.execute_command("ACL", "SETUSER", "modelyard", *rules())
    try:
        with connections.steady(url) as limited, ExitStack() as stack:
            echo = estimators.Echo().fit([[1.0]])
            repository = Repository(tmp_path / "store")
            publish(repository, limited, echo, "echo", "v1", [[1.0]], activate=True)
            gateway = stack.enter_context(running_gateway(url, tmp_path))
            stack.enter_context(running_pool(url, tmp_path / "store", tmp_path, attempts=1))
            client = stack.enter_context(closing(Client(patient(url))))
            asked = {"instances": [[2.0]]}
            answer = gateway.call("POST", "/v1/models/echo/predict", asked)
            assert answer.json["result"]["predictions"] == [2.0]
            crash = client.submit("echo", instances=[[estimators.EXIT_1]])
            assert crash.wait(60).error is not None
            assert client.submit("echo", instances=[[3.0]]).cancel().status == "canceled"
            assert gateway.call("GET", "/readyz").status == 200
            assert b"modelyard_redis_up 1" in gateway.call("GET", "/metrics").body
            checks = [*inspection.check_redis(limited, url), inspection.check_queues(limited)]
            assert {check.name for check in checks} > {"redis", "append-only file"}
            for refused in (
                ["CONFIG", "GET", "*"],
                ["FLUSHALL"],
                ["GET", "other:key"],
                ["KEYS", "*"],
            ):
                with pytest.raises(NoPermissionError):
                    limited.execute_command(*refused)
    finally:
        redis.execute_command("ACL", "DELUSER", "modelyard")
