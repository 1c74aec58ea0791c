"""A real Prometheus that scrapes a real gateway, with the configuration in deploy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.composes import DEPLOY
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.platform import pdeathsig

#: Folder of the programs that `.ci/prometheus` fetches where the PATH has none.
_FETCHED = ROOT / "build/prometheus/usr/bin"
#: Interval at which the tests' Prometheus scrapes and evaluates.
_EVERY = "500ms"


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it, a test is skipped, and fails in CI."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(_FETCHED)]))
    if found is not None:
        return found
    reason = f"there is no {name} on the PATH: .ci/prometheus fetches one"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class RunningPrometheus:
    """One server, queried over HTTP."""

    def __init__(self, folder: Path, gateway_port: int) -> None:
        self.port = free_port()
        self.log = folder / "prometheus.log"
        options = {
            "config.file": _configuration(folder, gateway_port),
            "storage.tsdb.path": folder / "tsdb",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        argv = [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                pdeathsig.command(argv, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer; an expression that Prometheus refuses fails the test."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=10
            ) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                raise ConnectionError(str(error)) from None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression, now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def series(self, expression: str) -> list[dict[str, str]]:
        """The labels of an expression's series."""
        return [one["metric"] for one in self.query(expression)]

    def wait_until_scraped(self) -> None:
        """Wait until it has scraped the gateway twice, which a rate needs."""

        def has_scraped() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return bool(self.query('count_over_time(up{job="modelyard"}[5m]) > 3'))
            except OSError:
                return False

        wait_until(has_scraped, 60, "Prometheus scrapes the gateway")


def _configuration(folder: Path, gateway_port: int) -> Path:
    """The configuration in deploy, with the gateway's port and shorter intervals."""
    shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    shipped["global"] |= {
        "scrape_interval": _EVERY,
        "scrape_timeout": _EVERY,
        "evaluation_interval": _EVERY,
    }
    (scrape,) = shipped["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{gateway_port}"]}]
    shipped["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in shipped["rule_files"]]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(shipped))
    return file


@contextmanager
def running_prometheus(folder: Path, gateway_port: int) -> Iterator[RunningPrometheus]:
    """A server that has scraped, and is gone when the context ends."""
    server = RunningPrometheus(folder, gateway_port)
    try:
        server.wait_until_scraped()
        yield server
    finally:
        server.process.kill()
        server.process.wait()
