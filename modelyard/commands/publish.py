"""``modelyard publish``, ``quantize`` and ``examples``: put versions into the store.

All write the store first and Redis second, through `models.publish.publisher`,
`models.publish.quantizer` and `models.examples.examples`, which are imported only when a command
runs. Errors are raised; `modelyard.cli` turns them into a line and an exit status.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelyard.commands.store_options import (
    activating,
    check_argument,
    common,
    limiting,
    limits_of,
    redis_of,
    repository_of,
    version,
)
from modelyard.options import examples as usage
from modelyard.options import print_json
from yard.contract import wire
from yard.errors import InvalidRequest
from yard.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from models.store import Repository


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


def _example(
    _context: click.Context, _parameter: click.Parameter, path: Path | None
) -> list[Any] | None:
    """The rows of a file: a JSON list, or a request with ``instances``."""
    if path is None:
        return None
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
_ARTEFACT = click.Path(exists=True, path_type=Path)


def _progress(line: str) -> None:
    click.echo(line, err=True)


@click.command(epilog=usage("modelyard publish iris v3 iris.joblib --example rows.json --activate"))
@version
@click.argument("file", type=_ARTEFACT)
@click.option(
    "--example",
    type=_FILE,
    callback=_example,
    required=True,
    metavar="ROWS.json",
    help="Rows to predict, [[5.1, 3.5, 1.4, 0.2]], or objects by feature name. They give the "
    "types of the inputs, and each worker tries the version on them.",
)
@click.option("--note", default="", help="A sentence for people.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    callback=_metrics,
    metavar="NAME=NUMBER",
    help="A measured quality of it, for the manifest; repeat it.",
)
@activating
@click.option(
    "--no-compile", is_flag=True, help="Serve it as it is: do not look for a faster form."
)
@limiting
@common
def publish(
    model: str,
    version: str,
    file: Path,
    example: list[Any],
    note: str,
    metrics: dict[str, float],
    activate: bool,
    no_wait: bool,
    no_compile: bool,
    memory_mib: int,
    timeout_s: int,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Publish FILE as a VERSION of MODEL.

    FILE is a scikit-learn estimator that joblib, pickle or skops has written, an ONNX file, or a
    model folder of MLflow; the format is detected by its content. It is opened in a process of its
    own, tried on the example, compiled to ONNX if that gives the same answers and is faster, stored
    and registered in the running yard. A version never changes: publishing the same file again is
    harmless, another file needs another version.

    Opening a file of joblib or pickle RUNS ITS CODE, here and in every worker: publish only what
    you trust. skops and ONNX files are data.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = redis_of(settings), repository_of(settings)
    _progress(f"opening {file} and trying it on the example")
    from models.publish import publish as publish_version
    from modelyard.commands import publish_report

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
        warm_s=0.0 if no_wait else settings.warm_s,
        compile=not no_compile,
        limits=limits_of(memory_mib, timeout_s),
        progress=_progress,
    )
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        click.echo(publish_report.published(manifest, is_active=activate))


@click.command(epilog=usage("modelyard quantize digits v1 v1-small"))
@version
@click.argument("new_version", callback=check_argument)
@click.option(
    "--rows",
    type=_FILE,
    callback=_example,
    metavar="ROWS.json",
    help="Rows to compare the answers on, the more the better; by default rows near the example.",
)
@click.option("--note", default="", help="A sentence for people.")
@common
def quantize(
    model: str,
    version: str,
    new_version: str,
    rows: list[Any] | None,
    note: str,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Make NEW_VERSION of a VERSION of MODEL, with its weights in 8 bits.

    It is made only where it helps: the file shrinks by a fifth or more, and 98 of 100 rows get the
    same answer. Networks shrink to about a quarter; trees, linear models and text models do not,
    and then nothing is made and the exit status is 1.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = redis_of(settings), repository_of(settings)
    from models.publish import quantize as quantize_version
    from modelyard.commands import publish_report

    found = quantize_version(
        repository,
        redis,
        model,
        version,
        new_version,
        rows=rows,
        note=note,
        progress=_progress,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(publish_report.quantized(found))
    if found.manifest is None:
        raise SystemExit(1)


@click.command(epilog=usage("modelyard examples --if-empty"))
@click.option(
    "--if-empty", is_flag=True, help="Only if the store has no models; else register what it has."
)
@common
def examples(if_empty: bool, store: str | None, redis_url: str | None, as_json: bool) -> None:
    """Publish the example models: iris, diabetes, sentiment and digits.

    iris has v1 and v2, digits v1 and v1-int8, the others v1. They are trained here, from data that
    comes with scikit-learn, in a second. Published ones stay as they are; v1 becomes active where
    no version is.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = redis_of(settings), repository_of(settings)
    published = _examples(repository, redis, is_wanted=not (if_empty and repository.models()))
    if as_json:
        print_json({"published": published})
    elif published:
        click.echo(f"published {', '.join(published)}")
    else:
        click.echo("nothing to publish: the store has models" if if_empty else "all are published")


def _examples(repository: Repository, redis: Redis, *, is_wanted: bool) -> list[str]:
    if is_wanted:
        from models.examples import publish_examples

        refs = publish_examples(repository, redis, _progress)
        return [str(ref) for ref in refs]
    from models.examples import activate_examples
    from models.publish import register_store

    register_store(repository, redis)
    activate_examples(repository, redis)
    return []
