"""Commands for operators: list the models, show and change their routes.

The keys of a route can also be set by hand with ``redis-cli``. These commands write the same keys,
refuse invalid values, and show the route that is in force afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from modelyard.options import common, examples, open_client, plain, print_json, print_table
from modelyard.tables import age

if TYPE_CHECKING:
    from producer.client import Client
    from yard.contract import Route
    from yard.routing import RouteChange, WarmupResult

_NO_WAIT = click.option(
    "--no-wait",
    is_flag=True,
    help="Do not wait until the pools have loaded the version: its first jobs may have to.",
)


@click.command(epilog=examples("modelyard models"))
@common
def models(redis_url: str | None, as_json: bool) -> None:
    """List the models: their versions, each one's share of the traffic, and jobs waiting."""
    from yard.status import read_models

    with open_client(redis_url) as client:
        known = read_models(client.redis)
    if as_json:
        return print_json({"models": known})
    if not known:
        return click.echo("No model is published yet: see `modelyard publish --help`.")
    headers = ("MODEL", "VERSION", "TASK", "INPUTS", "SHARE", "QUEUED", "LOADED", "AGE")
    print_table(headers, [_table_row(version) for model in known for version in model["versions"]])
    for model in known:
        for problem in model["route"]["problems"]:
            click.echo(plain(f"problem of {model['model']}: {problem}"))
        for failed in (failed for version in model["versions"] for failed in version["failed"]):
            click.echo(plain(f"not loaded by {failed['worker']}: {failed['reason']}"))
    return None


@click.command(epilog=examples("modelyard route iris"))
@click.argument("model")
@common
def route(model: str, redis_url: str | None, as_json: bool) -> None:
    """Show how a model's traffic splits, and problems of its keys."""
    from yard.cluster import read_presence
    from yard.routing import cold_versions, read_route

    with open_client(redis_url) as client:
        known = read_route(client.redis, model)
        more = {"cold": cold_versions(known, read_presence(client.redis))}
    _print_route(known, as_json, more)
    if not as_json and more["cold"]:
        click.echo(f"cold: {', '.join(more['cold'])}; some pool loads it with its next job")


@click.command(epilog=examples("modelyard activate iris v2"))
@click.argument("model")
@click.argument("version")
@_NO_WAIT
@common
def activate(model: str, version: str, no_wait: bool, redis_url: str | None, as_json: bool) -> None:
    """Send all of a model's traffic to one version, from the next job on.

    First every pool loads the version and tries it on its example; if one fails, or takes longer
    than MODELYARD_WARM_S, the route stays as it is. Weights are cleared. Queued jobs finish on the
    version that they were accepted for. The same by hand, without waiting:
    redis-cli SET modelyard:active:MODEL VERSION.
    """
    from yard.routing import RouteChange

    with open_client(redis_url) as client:
        _flip(client, RouteChange(model, active=version), no_wait, as_json)


@click.command(
    epilog=examples("modelyard weights iris v1=90 v2=10", "modelyard weights iris --clear")
)
@click.argument("model")
@click.argument("split", metavar="VERSION=WEIGHT...", nargs=-1)
@click.option("--clear", is_flag=True, help="End the split: the active version gets all traffic.")
@_NO_WAIT
@common
def weights(
    model: str,
    split: tuple[str, ...],
    clear: bool,
    no_wait: bool,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Split a model's traffic between versions in proportion to their weights.

    First every pool loads the versions with a weight above zero, as with `modelyard activate`.
    """
    from yard.routing import RouteChange

    if clear == bool(split):
        raise click.UsageError("give weights, as in v1=90 v2=10, or --clear.")
    parsed = _parse_split(split)
    with open_client(redis_url) as client:
        _flip(client, RouteChange(model, weights=parsed), no_wait, as_json)


@click.command(
    epilog=examples(
        "modelyard alias iris champion v2",
        "modelyard submit iris '[[5.1, 3.5, 1.4, 0.2]]' --version champion --wait",
        "modelyard alias iris champion --delete",
    )
)
@click.argument("model")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--delete", is_flag=True, help="Remove the alias.")
@common
def alias(
    model: str, name: str, version: str | None, delete: bool, redis_url: str | None, as_json: bool
) -> None:
    """Give a version a second name, for jobs that ask for it by that name."""
    from yard.routing import read_route, set_alias

    if delete == (version is not None):
        raise click.UsageError("give the VERSION that NAME stands for, or --delete.")
    with open_client(redis_url) as client:
        read_route(client.redis, model)  # a model that is not published has no aliases
        set_alias(client.redis, model, name, version)
        _print_route(read_route(client.redis, model), as_json)


@click.command(epilog=examples("modelyard activate iris v2", "modelyard rollback iris"))
@click.argument("model")
@_NO_WAIT
@common
def rollback(model: str, no_wait: bool, redis_url: str | None, as_json: bool) -> None:
    """Restore the route that a model had before its present one.

    First every pool loads its versions, as with `modelyard activate`.
    """
    from yard.routing import routes

    with open_client(redis_url) as client:
        _flip(client, routes.previous_change(client.redis, model), no_wait, as_json)


def _flip(client: Client, change: RouteChange, no_wait: bool, as_json: bool) -> None:
    """Warm the versions up, change the route, and show both."""
    from yard.routing import flip_route

    warm_s = 0.0 if no_wait else client.settings.warm_s
    known, warmth = flip_route(client.redis, change, warm_s, _Sleeper())
    _print_route(known, as_json, {"warm": warmth.to_dict()})
    if not as_json:
        click.echo(_warmth_line(warmth))


class _Sleeper:
    """Sleeps, and prints the reason once after about a second."""

    def __init__(self) -> None:
        self._waited_s = 0.0

    def __call__(self, seconds: float) -> None:
        if self._waited_s < 1 <= self._waited_s + seconds:
            click.echo("waiting until the pools have loaded it", err=True)
        self._waited_s += seconds
        time.sleep(seconds)


def _warmth_line(warmth: WarmupResult) -> str:
    named = ", ".join(warmth.versions)
    return {
        "warm": f"warm: the pools had {named} loaded before the flip ({warmth.waited_s:.1f} s)",
        "no_pool": f"cold: no pool is alive to load {named}; the first jobs wait for it",
    }.get(warmth.state, "not warmed: the first jobs may wait until a worker has loaded it")


def _parse_split(split: tuple[str, ...]) -> dict[str, float]:
    parsed: dict[str, float] = {}
    for entry in split:
        version, equals, weight = entry.partition("=")
        try:
            number = float(weight)
        except ValueError:
            number = None
        if not equals or number is None:
            raise click.BadParameter(f"{plain(entry)!r} is no VERSION=WEIGHT, as in v1=90.")
        if version in parsed:
            raise click.BadParameter(f"{plain(version)!r} is given twice.")
        parsed[version] = number
    return parsed


def _table_row(version: dict[str, Any]) -> tuple[Any, ...]:
    return (
        version["model"],
        version["version"],
        version["signature"]["task"],
        len(version["signature"]["inputs"]),
        _percent(version["share"]) if version["state"] == "published" else version["state"],
        version["queue_depth"],
        len(version["loaded"]),
        age(version["created_at"]),
    )


def _print_route(known: Route, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """Print a route; ``more`` is added to the JSON."""
    if as_json:
        return print_json(known.to_dict() | dict(more or {}))
    decided_by = {
        "weights": f"split by weights (active, when they are cleared: {known.active or 'none'})",
        "active": f"active version {known.active}",
        "none": "no version gets traffic: `modelyard activate` sets one",
    }
    click.echo(f"{known.model}: {decided_by[known.mode]}; revision {known.revision}")
    if known.weights:
        rows = [(v, w, _percent(known.shares[v])) for v, w in known.weights.items()]
        print_table(("VERSION", "WEIGHT", "SHARE"), rows)
    if known.keys.get("aliases"):
        print_table(("ALIAS", "VERSION"), sorted(known.keys["aliases"].items()))
    effect = "" if known.mode == "none" else "; the last good route goes on"
    for problem in known.problems:
        click.echo(plain(f"problem: {problem}{effect}"))
    return None


def _percent(share: float) -> str:
    return f"{share:.1%}" if share else "-"
