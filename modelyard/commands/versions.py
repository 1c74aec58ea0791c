"""``modelyard inspect`` and ``modelyard verify``: show a version, compare it with its manifest.

They read the manifest in the store and the catalogue in Redis. Where one of them does not answer,
the other is shown, with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from modelyard.commands.store_options import (
    check_argument,
    common,
    digests_of,
    overview_of,
    redis_or_none,
    repository_of,
    version,
)
from modelyard.options import examples, plain, print_facts, print_json, print_table
from yard.contract import ModelRef
from yard.errors import ModelyardError, NotFound, UnknownVersion
from yard.settings import Settings

if TYPE_CHECKING:
    from models.maintenance import Depth, Verdict
    from models.manifest import Manifest
    from models.store import Repository

#: Most entries of a list in the text; ``--json`` prints all.
_MOST = 8


@click.command(epilog=examples("modelyard inspect iris v1"))
@version
@common
def inspect(
    model: str, version: str, store: str | None, redis_url: str | None, as_json: bool
) -> None:
    """Show a version: its manifest, its traffic, and the workers that have it loaded."""
    settings = Settings.load(store=store, redis_url=redis_url)
    ref, repository = ModelRef(model, version), repository_of(settings)
    redis, redis_problem = redis_or_none(settings)
    known = overview_of(redis, ref) if redis is not None else None
    manifest, problem = _manifest(repository, ref, is_known=known is not None)
    if as_json:
        print_json(_document(repository, ref, manifest, problem, known, redis_problem))
    else:
        print_facts(_facts(repository, ref, manifest, problem, known, redis_problem), 12)
    if manifest is None:
        sys.exit(1)


def _manifest(
    repository: Repository, ref: ModelRef, *, is_known: bool
) -> tuple[Manifest | None, str]:
    """The manifest in the store, or the reason why there is none.

    Raises:
        NotFound: Neither the store nor the catalogue has the version.
    """
    try:
        return repository.manifest(ref), ""
    except NotFound as error:
        if not is_known:
            raise
        return None, error.message
    except ModelyardError as error:
        return None, error.message


def _document(
    repository: Repository,
    ref: ModelRef,
    manifest: Manifest | None,
    problem: str,
    known: dict[str, Any] | None,
    redis_problem: str,
) -> dict[str, Any]:
    traffic = ("state", "active", "share", "aliases", "queue", "queue_depth", "loaded")
    return {
        "model": ref.model,
        "version": ref.version,
        "store": repository.location,
        "manifest": None if manifest is None else manifest.model_dump(mode="json"),
        "size_bytes": None if manifest is None else manifest.size_bytes,
        "registered": None if redis_problem else known is not None,
        **{name: known[name] if known else None for name in traffic},
        "weight": known["route"]["weights"].get(ref.version) if known else None,
        "problems": [text for text in (problem, redis_problem) if text],
    }


def _facts(
    repository: Repository,
    ref: ModelRef,
    manifest: Manifest | None,
    problem: str,
    known: dict[str, Any] | None,
    redis_problem: str,
) -> Iterator[tuple[str, str]]:
    yield "version", str(ref)
    if problem:
        yield "problem", problem
    if manifest is not None:
        yield from _facts_of(manifest)
    yield "store", repository.location
    if redis_problem:
        yield "registered", f"unknown: {redis_problem}"
    elif known is None:
        yield "registered", "no: publish it again, or start a yard on this store"
    else:
        yield from _traffic(known)


def _facts_of(manifest: Manifest) -> Iterator[tuple[str, str]]:
    signature = manifest.signature
    yield "task", signature.task
    yield "format", f"{manifest.format}, served by {manifest.runtime}"
    if manifest.parent:
        yield "parent", manifest.parent
    yield "published", manifest.created_at
    if manifest.note:
        yield "note", manifest.note
    yield "digest", manifest.digest
    for file in manifest.files:
        yield "file", f"{file.name}  {file.size_bytes} bytes  SHA-256 {file.sha256}"
    yield "inputs", _some(f"{column.name} ({column.type})" for column in signature.inputs)
    yield "outputs", _some(f"{output.name} ({output.type})" for output in signature.outputs)
    if signature.classes:
        yield "classes", _some(map(str, signature.classes))
    if manifest.metrics:
        yield "metrics", _some(f"{k} {v:g}" for k, v in manifest.metrics.items())
    yield "batches", "yes" if manifest.batchable else f"no: {manifest.unbatchable_reason}"
    golden = manifest.golden
    yield "example", f"{len(manifest.example)} rows, {golden.count if golden else 0} with answers"
    if manifest.compiled is not None:
        yield "compiled", f"{manifest.compiled.chosen}: {manifest.compiled.reason}"
    yield "libraries", ", ".join(f"{k} {v}" for k, v in manifest.libraries.items())


def _traffic(known: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "registered", known["state"]
    yield "active", "yes" if known["active"] else "no"
    weight = known["route"]["weights"].get(known["version"])
    is_split = known["route"]["mode"] == "weights" and weight is not None
    yield "traffic", f"{known['share']:.1%}" + (f", weight {weight:g}" if is_split else "")
    yield "aliases", ", ".join(known["aliases"]) or "none"
    yield "queue", f"{known['queue']}, {known['queue_depth']} jobs wait"
    workers = [f"{worker['worker']} ({worker['bytes']} bytes)" for worker in known["loaded"]]
    yield "loaded by", _some(workers) or "no worker"


def _some(texts: Iterable[str]) -> str:
    listed = list(texts)
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return ", ".join(listed[:_MOST]) + more


@click.command(
    epilog=examples(
        "modelyard verify", "modelyard verify iris v1", "modelyard verify --no-open --json"
    )
)
@click.argument("model", required=False, callback=check_argument)
@click.argument("version", required=False, callback=check_argument)
@click.option("--no-open", is_flag=True, help="Compare bytes only: no file is opened.")
@click.option("--quick", is_flag=True, help="Read the manifests only.")
@common
def verify(
    model: str | None,
    version: str | None,
    no_open: bool,
    quick: bool,
    store: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Compare versions with their manifests: every file, and the published answers.

    All versions, those of one model, or one. Exit status 0 if all is well, 1 if something is wrong.
    Opening a joblib or pickle file RUNS ITS CODE; only files whose bytes are the published ones are
    opened, and --no-open opens none.
    """
    settings = Settings.load(store=store, redis_url=redis_url)
    repository = repository_of(settings)
    redis, _ = redis_or_none(settings)
    published = digests_of(redis) if redis is not None else {}
    depth: Depth = "manifest" if quick else "digests" if no_open else "answers"
    verdicts = []
    for ref in _wanted(repository, model, version):
        if not as_json:
            click.echo(f"verifying {ref}", err=True)
        verdicts.append(_verdict(repository, published, ref, depth))
    if as_json:
        print_json(_verified(repository, verdicts))
    else:
        _print_verdicts(verdicts)
    sys.exit(0 if all(verdict.ok for verdict in verdicts) else 1)


def _wanted(repository: Repository, model: str | None, version: str | None) -> list[ModelRef]:
    if model is None:
        return repository.refs()
    if version is None:
        return [ModelRef(model, found) for found in repository.versions(model)]
    if version not in repository.versions(model):
        raise UnknownVersion(f"the store has no version {version!r} of {model!r}")
    return [ModelRef(model, version)]


def _verdict(
    repository: Repository, published: Mapping[ModelRef, str], ref: ModelRef, depth: Depth
) -> Verdict:
    from models.maintenance import verify

    verdict = verify(repository, ref, depth)
    known = published.get(ref)
    if known is not None and verdict.digest is not None and known != verdict.digest:
        verdict.problems.append(
            f"{ref}: the store holds {verdict.digest[:12]}, published was {known[:12]}: "
            "no worker opens it"
        )
    return verdict


def _verified(repository: Repository, verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "ok": all(verdict.ok for verdict in verdicts),
        "store": repository.location,
        "versions": [verdict.to_dict() for verdict in verdicts],
    }


def _print_verdicts(verdicts: list[Verdict]) -> None:
    rows = [
        (
            verdict.ref.model,
            verdict.ref.version,
            verdict.size_bytes,
            ", ".join(verdict.checked) or "-",
            "ok" if verdict.ok else "WRONG",
        )
        for verdict in verdicts
    ]
    if not rows:
        return click.echo("The store has no versions.")
    print_table(("MODEL", "VERSION", "BYTES", "CHECKED", "RESULT"), rows)
    for verdict in verdicts:
        for problem in verdict.problems:
            click.echo(plain(f"problem: {problem}"))
    return None
