"""``modelyard retire`` and ``modelyard delete``: the end of a version.

One Redis script decides whether the version may end (`yard.registry.lifecycle`). Only then its
files are deleted, once the workers have unloaded it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from modelyard.commands.store_options import (
    common,
    overview_of,
    redis_of,
    repository_of,
    version,
)
from modelyard.options import examples, print_json
from yard.contract import ModelRef
from yard.errors import NotFound, VersionInUse
from yard.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

#: Seconds to wait until workers have unloaded a deleted version; they report what they have loaded
#: every two seconds.
_UNLOAD_S = 10.0


@click.command(
    epilog=examples("modelyard retire iris v1", "modelyard retire iris v1 --undo"),
)
@version
@click.option("--undo", is_flag=True, help="Put it back into service.")
@click.option("--force", is_flag=True, help="Take it out of the model's route and aliases first.")
@common
def retire(
    model: str,
    version: str,
    undo: bool,
    force: bool,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Take a version out of service: queued jobs finish, new ones are refused.

    Workers unload it after its last job. Refused while it is active, weighted or aliased. It stays
    in the store: --undo brings it back.
    """
    from yard.broker import redis_reachable
    from yard.registry import lifecycle

    if undo and force:
        raise click.UsageError("--undo and --force exclude each other.")
    ref = ModelRef(model, version)
    redis = redis_of(Settings.load(store=store, redis_url=redis_url))
    with redis_reachable(), _advised():
        is_changed = _restore(redis, ref) if undo else lifecycle.retire(redis, ref, force=force)
    known = overview_of(redis, ref)
    queued = known["queue_depth"] if known is not None else 0
    if as_json:
        state = known["state"] if known is not None else None
        return print_json(
            {
                "model": model,
                "version": version,
                "state": state,
                "changed": is_changed,
                "queue_depth": queued,
            }
        )
    done = "in service again" if undo else f"retired; {queued} jobs that it has will finish"
    return click.echo(f"{ref} is {done}" if is_changed else f"{ref} was so before")


def _restore(redis: Redis, ref: ModelRef) -> bool:
    from yard.registry import Catalog, lifecycle

    return lifecycle.restore(redis, ref, Catalog(redis).entry(ref).signature)


@click.command(epilog=examples("modelyard delete iris v1", "modelyard delete iris v1 --yes"))
@version
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    is_flag=True,
    help="Take it out of the model's route and aliases first; jobs that wait for it fail with "
    "`version_gone`.",
)
@common
def delete(
    model: str,
    version: str,
    yes: bool,
    force: bool,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Delete a version from Redis and from the store, for good.

    Refused while it is active, weighted or aliased, and while jobs wait or run.
    """
    ref = ModelRef(model, version)
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = redis_of(settings), repository_of(settings)
    _ask(ref, repository.location, yes=yes)
    was_registered = _unregister(redis, ref, force=force)
    if was_registered and not _wait_for_unload(redis, ref):
        click.echo(f"a worker is busy and has {ref} loaded still; it will let go of it", err=True)
    try:
        freed_bytes = repository.delete(ref)
    except NotFound:
        if not was_registered:
            raise
        freed_bytes = 0
    if as_json:
        return print_json({"model": model, "version": version, "freed_bytes": freed_bytes})
    return click.echo(f"deleted {ref}, {freed_bytes} bytes")


@contextmanager
def _advised() -> Iterator[None]:
    """Add a remedy to the error of a version that is in use."""
    try:
        yield
    except VersionInUse as error:
        error.message += ": route its traffic elsewhere first (`modelyard activate`), or --force"
        raise


def _ask(ref: ModelRef, location: str, *, yes: bool) -> None:
    """Ask for confirmation, unless ``--yes`` was given.

    Raises:
        UsageError: Standard input is no terminal.
        Abort: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("deleting is for good: confirm with --yes.")
    click.confirm(f"Delete {ref} from {location}, for good?", abort=True, err=True)


def _unregister(redis: Redis, ref: ModelRef, *, force: bool) -> bool:
    """Take the version out of the catalogue; False if it was not there.

    Raises:
        VersionInUse: A route, an alias or a job needs it.
    """
    from yard.broker import redis_reachable
    from yard.registry import lifecycle

    with redis_reachable(), _advised():
        try:
            lifecycle.delete(redis, ref, force=force)
        except NotFound:
            return False
    return True


def _wait_for_unload(redis: Redis, ref: ModelRef) -> bool:
    """Wait until no worker has the version loaded or runs its jobs; False after `_UNLOAD_S`."""
    from yard.broker import redis_reachable
    from yard.cluster import read_presence
    from yard.contract import keys

    queue = keys.queue_name(ref)
    until = time.monotonic() + _UNLOAD_S
    while True:
        with redis_reachable():
            is_running = redis.exists(keys.key("wip", queue))
            if not is_running and not read_presence(redis).holders(queue):
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
