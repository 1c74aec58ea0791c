"""Options, client and output that the commands share.

Text that other processes wrote into Redis passes through `plain` on its way to a terminal, so that
no escape sequence gets there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from modelyard import tables
from yard.errors import AccessDenied, ModelyardError

if TYPE_CHECKING:
    from producer.client import Client
    from yard.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

#: Error code -> a remedy, added to the message.
_ADVICE = {
    "unknown_model": "`modelyard models` lists what is published",
    "unknown_version": "`modelyard models` lists what is published",
    "no_active_version": "`modelyard activate MODEL VERSION` routes it",
    "invalid_route": "`modelyard models` lists what is published, and what is retired",
    "unknown_job": "`modelyard jobs` lists the latest",
    "unavailable": "`modelyard doctor` looks",
    "queue_full": "try again in a moment, or start more workers",
    "timeout": "it lives on: `modelyard result ID --wait` waits for it",
    "idempotency_mismatch": "choose another key for another body",
    "revision_mismatch": "look at it and try again",
}


def common(command: Command) -> Command:
    """Add ``--yard``, ``--redis-url`` and ``--json``, the options of every client command."""
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document, named as over HTTP."
    )
    return redis_options(as_json(command))


def redis_options(command: Command) -> Command:
    """Add ``--redis-url``, and ``--yard``, which stands for the Redis and the store of that yard.

    The command itself sees only ``redis_url``, and ``store`` if it has that option.
    """

    @functools.wraps(command)
    def with_yard(*arguments: Any, yard: str | None, **options: Any) -> Any:
        if yard is not None:
            from yard import local

            if options["redis_url"] is not None:
                raise click.UsageError("--yard and --redis-url exclude each other.")
            known = local.named(yard)
            options["redis_url"] = known.redis_url
            if "store" in options and options["store"] is None:
                options["store"] = known.store
        return command(*arguments, **options)

    url = click.option(
        "--redis-url", metavar="URL", help="The Redis to use.  [default: the running yard's]"
    )
    named = click.option(
        "--yard",
        metavar="NAME|PATH",
        help="The running yard to use, by its name or folder.  [default: the one on ./data, else "
        "your only one]",
    )
    return named(url(cast("Command", with_yard)))


def workers(command: Command) -> Command:
    """Add ``--min`` and ``--max``, for `pool_settings`."""
    least = click.option("--min", "pool_min", type=click.IntRange(0), help="Workers at least. [1]")
    most = click.option("--max", "pool_max", type=click.IntRange(1), help="Workers at most. [2]")
    return least(most(command))


def pool_settings(pool_min: int | None, pool_max: int | None, **flags: Any) -> Settings:
    """Settings for a pool; a minimum that is given alone raises the maximum to it.

    Raises:
        UsageError: The minimum is above the maximum.
        ConfigurationError: A value is out of its bounds.
    """
    from yard.settings import Settings

    if pool_min is not None and pool_max is None:
        pool_max = max(pool_min, Settings.load().pool_max)
    settings = Settings.load(pool_min=pool_min, pool_max=pool_max, **flags)
    if settings.pool_min > settings.pool_max:
        raise click.UsageError(f"--min {settings.pool_min} is above --max {settings.pool_max}")
    return settings


def examples(*lines: str) -> str:
    """Examples for the end of a command's help."""
    return "\n".join(
        ["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {x}" for x in lines)]
    )


@contextmanager
def open_client(redis_url: str | None) -> Iterator[Client]:
    """A client for one command; adds a remedy to the message of an error."""
    from producer.client import Client
    from yard.broker import redis_reachable
    from yard.settings import Settings

    try:
        client = Client(settings=Settings.load(redis_url=redis_url))
        try:
            with redis_reachable():
                yield client
        finally:
            client.close()
    except ModelyardError as error:
        advice = None if isinstance(error, AccessDenied) else _ADVICE.get(error.code)
        error.message = plain(f"{error.message}; {advice}" if advice else error.message)
        raise


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, keeps_first: bool = False
) -> None:
    """Print aligned columns under their headers, within the terminal; numbers are aligned right."""
    cells = [[plain(_text(value)) for value in row] for row in rows]
    is_number = [
        all(isinstance(value, int | float) for value in column)
        for column in zip(*rows, strict=True)
    ]
    for line in tables.table(
        headers, cells, tables.terminal_width(), is_number, keeps_first=keeps_first
    ):
        click.echo(line)


def print_facts(pairs: Iterable[tuple[str, Any]], name_width: int) -> None:
    """Print one name and value a line, within the terminal."""
    shown = [(name, plain(str(value))) for name, value in pairs]
    for line in tables.facts(shown, name_width, tables.terminal_width()):
        click.echo(line)


def plain(text: str) -> str:
    """``text`` in one line; characters that a terminal would act on become ``?``."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
