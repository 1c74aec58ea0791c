"""`modelyard doctor`: runs the checks and prints the report.

Checks the settings, the extras, the store, Redis with the workers and the keys, and the gateway, in
this order. Without Redis the checks that need it are left out. Programs read ``--json``, also to
find the running yard's Redis.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from modelyard import tables
from modelyard.doctor import checks
from modelyard.doctor.checks import Check
from yard import local
from yard.broker import connections
from yard.errors import ConfigurationError, ModelyardError
from yard.platform import extras
from yard.settings import Settings

_LIBRARIES = ("redis", "rq", "pydantic", "click", "orjson", "flask", "granian", "scikit-learn")


@dataclass(slots=True)
class Report:
    """Findings of one run.

    Attributes:
        redis_url: The Redis that was checked, with its password; None if none was found.
        store: Absolute path, or URL, of the artefact store.
        data: Absolute path of the data folder.
        versions: Version of Python, Modelyard, each library and the Redis server.
        checks: In the order in which they were made.
    """

    redis_url: str | None
    store: str
    data: str
    versions: dict[str, str]
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON shows it."""
        return {
            "ok": self.ok,
            "redis_url": self.redis_url,
            "store": self.store,
            "data": self.data,
            "versions": self.versions,
            "checks": [check.to_dict() for check in self.checks],
        }


def run_checks(settings: Settings) -> Report:
    """Run all checks; none raises for a finding."""
    running = _running(settings)
    store = running.store if running else settings.store_location
    data = running.data if running else str(Path(settings.data).absolute())
    report = Report(None, store, data, _versions())
    report.checks += [checks.check_variables(os.environ), checks.check_extras()]
    stored, digests = checks.check_store(store)
    report.checks.append(stored)
    try:
        report.redis_url = local.redis_url(settings)
        with connections.fast(report.redis_url, "modelyard-doctor") as redis:
            report.checks += _look_at_redis(redis, report, digests)
    except (ModelyardError, RedisError) as error:
        report.checks.append(_no_redis(error))
        if settings.redis_url is None and running is None:
            report.checks.append(checks.check_embedded())
    report.checks.append(checks.check_gateway(*_gateway(running, settings)))
    return report


def _running(settings: Settings) -> local.Yard | None:
    """The yard that is meant; None also where several run, which the check of Redis reports."""
    if settings.redis_url is not None:
        return local.running(Path(settings.data))
    try:
        return local.find(settings)
    except ConfigurationError:
        return None


def _look_at_redis(
    redis: Redis, report: Report, stored: dict[tuple[str, str], str]
) -> Iterator[Check]:
    redis_checks = list(checks.check_redis(redis, connections.redact_url(report.redis_url or "")))
    yield from redis_checks
    if not redis_checks[0].ok:
        return
    report.versions["redis-server"] = ".".join(map(str, connections.server_version(redis)))
    for check in (checks.check_keys, checks.check_workers, checks.check_crashes):
        yield _tried(check, redis)
    yield _tried(lambda redis: checks.check_catalogue(redis, stored), redis, "catalogue")
    for check in (
        checks.check_routes,
        checks.check_quarantine,
        checks.check_suspension,
        checks.check_queues,
        checks.check_due,
    ):
        yield _tried(check, redis)


def _tried(check: Callable[[Redis], Check], redis: Redis, name: str = "") -> Check:
    """The outcome of a check; one that a key of another type stops, stops no other."""
    try:
        return check(redis)
    except ResponseError as error:
        name = name or check.__name__.removeprefix("check_")
        return Check(name, False, f"cannot be read: {error}", "mend the keys first")


def _no_redis(error: Exception) -> Check:
    if isinstance(error, ConfigurationError):
        return Check("redis", False, error.message, "modelyard up, or modelyard doctor --yard")
    return Check("redis", False, f"it stopped answering: {error}", "modelyard doctor, once more")


def _gateway(running: local.Yard | None, settings: Settings) -> tuple[str, int]:
    """Host and port of the running yard's gateway, else those of the settings."""
    parts = urlsplit(running.gateway if running else "")
    return (parts.hostname or settings.host, parts.port or settings.port)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "modelyard": extras.version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def as_text(report: Report, columns: int | None = None) -> str:
    """The report for people, in lines of at most so many columns."""
    width = max(len(check.name) for check in report.checks) + 8
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = tables.wrap(versions, columns)
    for check in report.checks:
        mark = "ok   " if check.ok else "WRONG"
        said = [(f"{mark}  {check.name}", check.detail)]
        if check.hint:
            said.append(("", f"-> {check.hint}"))
        lines += tables.facts(said, width, columns)
    wrong = sum(not check.ok for check in report.checks)
    lines.append("All is well." if report.ok else f"Wrong: {wrong} of {len(report.checks)}.")
    return "\n".join(lines)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs; has the full redis_url.")
@click.option("--redis-url", metavar="URL", help="The Redis to look at.")
@click.option("--store", metavar="FOLDER|URL", help="The artefact store to look at.")
@click.option("--data", metavar="FOLDER", help="The data folder of `modelyard up`.")
@click.option("--yard", metavar="NAME|PATH", help="The running yard to look at.")
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool, **flags: str | None) -> None:
    """Check this set-up and print a remedy for each fault.

    Exit status 0 if all is well, 1 if something is wrong.
    """
    report = run_checks(Settings.load(None, **flags))
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        click.echo(as_text(report, tables.terminal_width()))
    ctx.exit(0 if report.ok else 1)
