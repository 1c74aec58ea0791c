"""``modelyard publish`` and ``modelyard examples``: versions get into the store from here.

Both write the store first and Redis second, through `models.publish` and `models.examples`, which
are imported only when a command runs: help must not wait for scikit-learn. What goes wrong is
raised, and `producer.cli` makes a line and an exit status of it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.commands.shared import redis_of as _redis
from models.commands.shared import repository_of as _repository
from producer import wire
from producer.contract import check_name
from producer.errors import InvalidName, InvalidRequest
from producer.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from models.manifest import Manifest
    from models.repository import Repository

_STORE = click.option("--store", help="Where the artefacts lie: a folder or a URL.")
_REDIS_URL = click.option("--redis-url", help="Redis to use; by default that of the running yard.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _name(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return check_name(str(parameter.name), value)
    except InvalidName as error:
        raise click.BadParameter(error.message) from None


def _metrics(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    metrics = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            metrics[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not like accuracy=0.97") from None
        if not name or not math.isfinite(metrics[name]):
            raise click.BadParameter(f"{value!r} is not like accuracy=0.97")
    return metrics


def _example(_context: click.Context, _parameter: click.Parameter, path: Path) -> list[Any]:
    """The rows of a file: a JSON list, or a request with ``instances``."""
    try:
        value = wire.loads(path.read_bytes())
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from None
    except InvalidRequest as error:
        raise click.BadParameter(f"{path}: {error.message}") from None
    rows = value.get("instances") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        raise click.BadParameter(f'{path}: must be a list of rows, or {{"instances": [rows]}}')
    return rows


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: modelyard publish iris v3 iris.joblib --example rows.json --activate"
)
@click.argument("model", callback=_name)
@click.argument("version", callback=_name)
@click.argument("file", type=_FILE)
@click.option(
    "--example",
    type=_FILE,
    callback=_example,
    required=True,
    metavar="ROWS.json",
    help="Rows that it answers, [[5.1, 3.5, 1.4, 0.2]], or objects by feature name; they tell the "
    "types of its inputs, and each worker tries it on them.",
)
@click.option("--note", default="", help="A sentence for people.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    callback=_metrics,
    metavar="NAME=NUMBER",
    help="What was measured of it; may be given several times.",
)
@click.option("--activate", is_flag=True, help="Send the model's traffic to it at once.")
@_STORE
@_REDIS_URL
@_JSON
def publish(
    model: str,
    version: str,
    file: Path,
    example: list[Any],
    note: str,
    metrics: dict[str, float],
    activate: bool,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Publish FILE, an estimator that joblib or pickle has written, as a VERSION of MODEL.

    It is opened, tried on the example, stored as it is and made known to the running yard. A
    version never changes: publishing the same file again is harmless, another file needs another
    version.

    Opening such a file RUNS ITS CODE, here and in every worker: publish only what you trust.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = _redis(settings), _repository(settings)
    click.echo(f"opening {file} and trying it on the example", err=True)
    from models.publish import publish as publish_version

    manifest = publish_version(
        repository,
        redis,
        file,
        model,
        version,
        example,
        note=note,
        metrics=metrics,
        activate=activate,
    )
    click.echo(manifest.to_json() if as_json else _described(manifest, activate))


@click.command(epilog="Example: modelyard examples --if-empty")
@click.option(
    "--if-empty", is_flag=True, help="Only if the store has no models; else make known what it has."
)
@_STORE
@_REDIS_URL
@_JSON
def examples(if_empty: bool, store: str | None, redis_url: str | None, as_json: bool) -> None:
    """Publish the example models: iris v1 and v2, diabetes v1, sentiment v1.

    They are trained here, from data that comes with scikit-learn, in a second. Those that are there
    already are left as they are; v1 gets the traffic where no version is active.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = _redis(settings), _repository(settings)
    published = _examples(repository, redis, is_wanted=not (if_empty and repository.models()))
    if as_json:
        click.echo(wire.dumps({"published": published}))
    elif published:
        click.echo(f"published {', '.join(published)}")
    else:
        click.echo("nothing to publish: the store has models" if if_empty else "all are published")


def _examples(repository: Repository, redis: Redis, *, is_wanted: bool) -> list[str]:
    if is_wanted:
        from models.examples import publish_examples

        refs = publish_examples(repository, redis, lambda line: click.echo(line, err=True))
        return [str(ref) for ref in refs]
    from models.examples import activate_examples
    from models.publish import register_store

    register_store(repository, redis)
    activate_examples(repository, redis)
    return []


def _described(manifest: Manifest, is_active: bool) -> str:
    inputs = ", ".join(manifest.signature.names[:6])
    more = len(manifest.signature.names) - 6
    return "\n".join(
        [
            f"published {manifest.ref}, {manifest.size_bytes} bytes, digest {manifest.digest[:12]}",
            f"  inputs   {inputs}{f' and {more} more' if more > 0 else ''}",
            f"  outputs  {', '.join(manifest.signature.output_names)}",
            f"  active   now, and it gets all of the traffic of {manifest.model}"
            if is_active
            else f"  active   no: modelyard activate {manifest.model} {manifest.version}",
        ]
    )
