"""Options, store and Redis of the commands on versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from models.store import Repository, open_repository
from modelyard.options import redis_options
from yard.contract import ModelRef, check_name
from yard.errors import ConfigurationError, InvalidName, Unavailable, UnknownModel
from yard.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from models.sandbox import Limits

Command = TypeVar("Command", bound=Callable[..., Any])


def common(command: Command) -> Command:
    """Add ``--store``, ``--yard``, ``--redis-url`` and ``--json``."""
    store = click.option(
        "--store", metavar="FOLDER|URL", help="The store.  [default: the running yard's]"
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return store(redis_options(as_json(command)))


def activating(command: Command) -> Command:
    """Add ``--activate`` and ``--no-wait``."""
    activate = click.option(
        "--activate",
        is_flag=True,
        help="Send the model's traffic to it, once the running pools have loaded it.",
    )
    no_wait = click.option(
        "--no-wait", is_flag=True, help="With --activate: do not wait for the pools."
    )
    return activate(no_wait(command))


def limiting(command: Command) -> Command:
    """Add ``--memory-mib`` and ``--timeout-s``."""
    memory = click.option(
        "--memory-mib",
        type=click.IntRange(min=256),
        default=4096,
        show_default=True,
        help="Memory limit of the process that opens it, added to what its size needs.",
    )
    timeout = click.option(
        "--timeout-s",
        type=click.IntRange(min=1),
        default=120,
        show_default=True,
        help="Seconds after which that process is killed.",
    )
    return memory(timeout(command))


def limits_of(memory_mib: int, timeout_s: int) -> Limits:
    """Limits of the process that opens an artefact."""
    from models.sandbox import Limits

    return Limits(memory_bytes=memory_mib * 2**20, cpu_s=timeout_s, wall_s=float(timeout_s))


def version(command: Command) -> Command:
    """Add the arguments MODEL and VERSION."""
    model = click.argument("model", callback=check_argument)
    return model(click.argument("version", callback=check_argument)(command))


def check_argument(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Check a name; None where none was given.

    Raises:
        BadParameter: It has characters that a name cannot have.
    """
    try:
        return None if value is None else check_name(str(parameter.name), value)
    except InvalidName as error:
        raise click.BadParameter(error.message) from None


def repository_of(settings: Settings) -> Repository:
    """Open the store that is set, else that of the running yard.

    Raises:
        ConfigurationError: It is neither a folder nor the URL of an object store, or several yards
            run and none is named.
    """
    from yard import local

    is_chosen = "store" in settings.model_fields_set or settings.redis_url is not None
    running = None if is_chosen else local.find(settings)
    return open_repository(settings, running.store if running else None)


def redis_of(settings: Settings) -> Redis:
    """Connect to the Redis with the catalogue, and check that it answers.

    Raises:
        ConfigurationError: None is set and no yard runs, or the server is not supported.
        Unavailable: It does not answer.
    """
    from yard import local
    from yard.broker import connections

    redis = connections.fast(local.redis_url(settings))
    connections.check_server(redis)
    return redis


def redis_or_none(settings: Settings) -> tuple[Redis | None, str]:
    """Like `redis_of`, for commands that can do without; returns the reason if there is none."""
    try:
        return redis_of(settings), ""
    except (ConfigurationError, Unavailable) as error:
        return None, error.message


def overview_of(redis: Redis, ref: ModelRef) -> dict[str, Any] | None:
    """A version as in ``GET /v1/models``, with its model's route; None if it is not published.

    Raises:
        Unavailable: Redis does not answer.
    """
    from yard.status import model_json, read_status

    try:
        status = read_status(redis, ref.model)
    except UnknownModel:
        return None
    model = model_json(status.models[0], status.presence)
    for known in model["versions"]:
        if known["version"] == ref.version:
            return {**known, "route": model["route"]}
    return None


def digests_of(redis: Redis) -> dict[ModelRef, str]:
    """The digest of every version in the catalogue.

    Raises:
        Unavailable: Redis does not answer.
    """
    from yard.broker import redis_reachable
    from yard.registry import model_names, read_versions

    with redis_reachable():
        return {
            entry.ref: str(entry.manifest.get("digest"))
            for model in model_names(redis)
            for entry in read_versions(redis, model).values()
        }
