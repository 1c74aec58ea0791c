"""``modelyard export`` and ``modelyard import``: copy a version from one store to another."""

from __future__ import annotations

from pathlib import Path

import click

from modelyard.commands.store_options import (
    activating,
    common,
    limiting,
    limits_of,
    redis_of,
    repository_of,
    version,
)
from modelyard.options import examples, print_json
from yard.contract import ModelRef
from yard.errors import ModelyardError
from yard.settings import Settings


@click.command(
    epilog=examples("modelyard export iris v1 iris-v1.tar", "modelyard export iris v1 ./iris-v1")
)
@version
@click.argument("target", metavar="FILE.tar|FOLDER", type=click.Path(path_type=Path))
@common
def export(
    model: str,
    version: str,
    target: Path,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Write a version's files and its manifest to a tar file or a new folder.

    Every file is compared with the manifest on the way. `modelyard import` publishes it elsewhere.
    """
    from models.maintenance import archive

    settings = Settings.load(store=store, redis_url=redis_url)
    ref = ModelRef(model, version)
    size_bytes = archive.write(repository_of(settings), ref, target)
    if as_json:
        return print_json(
            {"model": model, "version": version, "target": str(target), "size_bytes": size_bytes}
        )
    return click.echo(f"exported {ref}, {size_bytes} bytes, to {target}")


@click.command(
    "import",
    epilog=examples("modelyard import iris-v1.tar", "modelyard import ./iris-v1 --activate"),
)
@click.argument("source", metavar="FILE.tar|FOLDER", type=click.Path(exists=True, path_type=Path))
@activating
@limiting
@common
def import_version(
    source: Path,
    activate: bool,
    no_wait: bool,
    memory_mib: int,
    timeout_s: int,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Publish a version that `modelyard export` has written, under its old name.

    Every file is compared with the manifest. Then the version is loaded in a process of its own, as
    a worker will load it: only one that answers its example as it did is stored and registered.

    Opening a file of joblib or pickle RUNS ITS CODE, here and in every worker: import only what you
    trust. skops and ONNX files are data.
    """
    from models.maintenance import archive
    from models.publish import check_catalogue, register, try_version

    settings = Settings.load(store=store, redis_url=redis_url)
    redis, repository = redis_of(settings), repository_of(settings)
    try:
        manifest, contents = archive.read(source)
    except ModelyardError as error:
        error.message = f"{source}: {error.message}"
        raise
    check_catalogue(redis, manifest.ref, manifest.file(), repository.location)
    try_version(
        manifest,
        contents,
        limits=limits_of(memory_mib, timeout_s),
        report_progress=lambda line: click.echo(line, err=True),
    )
    repository.publish(manifest, contents)
    stored = repository.manifest(manifest.ref)  # the older one, if it was there already
    register(redis, stored, activate=activate, warm_s=0.0 if no_wait else settings.warm_s)
    if as_json:
        return print_json(stored.model_dump(mode="json"))
    is_active = "active now" if activate else f"modelyard activate {stored.model} {stored.version}"
    return click.echo(f"published {stored.ref}, {stored.size_bytes} bytes; {is_active}")
