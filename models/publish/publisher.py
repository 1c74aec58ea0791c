"""Publishing a fitted estimator as a version with traffic: read, examine, store, register.

Data scientists, the command line and the examples call `publish`. The artefact is opened in a child
process only (`models.publish.examine`), so that one that crashes, hangs or is hostile leaves no
trace. The store is written first and Redis last, and both steps can be repeated: if Redis is away
in between, the same call again repairs it, and so does `register_store`, which every start of the
yard runs. Imports no numpy unless it is passed an estimator.
"""

from __future__ import annotations

import io
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from models import manifest as manifests
from models.formats import Artefact, detect_artefact, read_artefact
from models.manifest import Compiled, File, Manifest, artefact_name
from models.publish.examine import FORMATS, Examination, ReportProgress, examine_artefact
from models.sandbox import Limits
from models.store import Repository
from yard.contract import ModelRef, keys
from yard.errors import (
    ConfigurationError,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    Unavailable,
    VersionExists,
    described,
)
from yard.registry import catalog
from yard.routing import routes, warmup

#: Runtime of an artefact as published, by its format.
SERVED_BY = {format_: runtime for runtime, format_ in FORMATS.items()}
#: The name of the compiled form in a version's folder.
GRAPH = artefact_name("onnx")
#: Libraries that a version may record.
LIBRARIES = frozenset(
    {"joblib", "numpy", "onnx", "onnxruntime", "scikit-learn", "scipy", "skl2onnx", "skops"}
)

_log = logging.getLogger(__name__)


def publish(
    repository: Repository,
    redis: Redis | None,
    estimator_or_path: Any,
    model: str,
    version: str,
    example: Sequence[Any],
    *,
    feature_names: Sequence[str] | None = None,
    note: str = "",
    metrics: Mapping[str, float] | None = None,
    activate: bool = False,
    warm_s: float = 30.0,
    compile: bool = True,
    limits: Limits | None = None,
    progress: ReportProgress = lambda line: None,
) -> Manifest:
    """Publishes a version; the same call again changes nothing and repairs a partial publish.

    Args:
        repository: The store to write to.
        redis: Registers the version there; None leaves that to `register_store`.
        estimator_or_path: A fitted estimator; or the path of one that joblib, pickle or skops has
            written, of an ONNX file, or of a model folder of MLflow. A file of joblib or pickle
            runs its code when it is opened, here in a child process and in every worker.
        model: The model's name.
        version: The new version's name.
        example: Rows that it answers, in the form of a request's ``instances``.
        feature_names: The names of the inputs, by default those that it was fitted with.
        note: A sentence for people.
        metrics: Measurements of it.
        activate: Whether to give it the model's traffic.
        warm_s: Seconds to wait for that, at most, until the pools have loaded it; 0 does not wait.
        compile: Whether to try a faster form.
        limits: Limits of the child that opens it.
        progress: Called with each progress line.

    Raises:
        InvalidName: The name of the model or the version is invalid.
        InvalidInput: The example or the names do not fit the estimator.
        ConfigurationError: It does not open, is no model, or does not answer the example.
        InvalidManifest: The note, a metric or the example is out of bounds.
        VersionExists: The version is published with other bytes or another signature.
        Unavailable: It is stored but not registered, because Redis is away.
        ModelUnavailable: It is published, but does not load in a pool, or not in time, so that it
            got no traffic.
    """
    ref = ModelRef(model, version)
    artefact = _read_input(ref, estimator_or_path)
    progress(f"read {len(artefact.content)} bytes: {artefact.description}")
    rows = _rows_of(example)
    original = File.of(artefact_name(artefact.format), artefact.content)
    known = _known_version(repository, ref, original)
    if redis is not None:
        check_catalogue(redis, ref, original, repository.location)
    examination = _examine(
        ref,
        artefact,
        rows,
        feature_names,
        compiles=compile and known is None,
        limits=limits or Limits(),
        report_progress=progress,
    )
    files = {artefact_name(artefact.format): artefact.content}
    if examination.graph is not None:
        files[GRAPH] = examination.graph
    manifest = manifests.build(
        model=model,
        version=version,
        files=tuple(File.of(name, content) for name, content in files.items()),
        example=tuple(rows),
        note=note,
        metrics=dict(metrics or {}),
        **_manifest_fields(artefact, examination),
    )
    if known is None:
        repository.publish(manifest, files)
    stored = _check_stored(repository, manifest)
    if redis is not None:
        register(redis, stored, activate=activate, warm_s=warm_s)
    return stored


def register_store(repository: Repository, redis: Redis) -> list[ModelRef]:
    """Registers in Redis the versions of the store that Redis lacks, or has otherwise.

    A version that cannot be read is skipped and logged, so that it does not hide the others.

    Returns:
        The versions that were registered.

    Raises:
        Unavailable: Redis is away.
    """
    registered = []
    for model in repository.models():
        known = _registered_manifests(redis, model)
        for version in repository.versions(model):
            manifest = _readable_manifest(repository, ModelRef(model, version))
            if manifest is not None and known.get(version.encode()) != manifest.to_json():
                register(redis, manifest)
                registered.append(manifest.ref)
    return registered


def check_catalogue(redis: Redis, ref: ModelRef, original: File, location: str) -> None:
    """Checks that a version made of this file may be registered.

    A store that is not that of the yard has room for the name, and what the yard serves under it
    must not change all the same.

    Raises:
        VersionExists: It is registered with other bytes.
    """
    try:
        entry = catalog.read_versions(redis, ref.model).get(ref.version)
    except RedisError:  # registering it reports this
        return
    files = entry.manifest.get("files") if entry is not None else None
    known = {file.get("sha256") for file in files or () if isinstance(file, dict)}
    if known and original.sha256 not in known:
        raise VersionExists(
            f"{ref} is published with other bytes, though not in {location}: is that the yard's "
            "store? If it is, `modelyard delete` the version first, or take a new name"
        )


def register(
    redis: Redis, manifest: Manifest, *, activate: bool = False, warm_s: float = 0.0
) -> None:
    """Registers a stored version in Redis, and gives it the traffic if asked to.

    Raises:
        Unavailable: Redis is away.
        ModelUnavailable: It does not load in a pool, or not within ``warm_s``: it got no traffic.
    """
    try:
        catalog.register(redis, manifest.ref, manifest.to_json(), manifest.signature)
        if activate:
            _activate(redis, manifest, warm_s)
    except RedisError as error:
        raise _not_registered(manifest.ref, error) from error


def _activate(redis: Redis, manifest: Manifest, warm_s: float) -> None:
    try:
        warmup.flip_route(
            redis, routes.RouteChange(manifest.model, active=manifest.version), warm_s
        )
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"{manifest.ref} is published, but gets no traffic: {error.message}"
        ) from error


def installed_versions(names: set[str]) -> dict[str, str]:
    """Returns the installed versions of these libraries, and of Python."""
    return {name: metadata.version(name) for name in sorted(names)} | {
        "python": platform.python_version()
    }


def _read_input(ref: ModelRef, estimator_or_path: Any) -> Artefact:
    if isinstance(estimator_or_path, str | Path):
        return read_artefact(Path(estimator_or_path))
    import joblib

    buffer = io.BytesIO()
    try:
        joblib.dump(estimator_or_path, buffer, compress=0)
    except Exception as error:
        raise ConfigurationError(f"the estimator cannot be written: {described(error)}") from error
    return detect_artefact(buffer.getvalue(), str(ref))


def _rows_of(example: Any) -> list[Any]:
    """Returns the example as lists of plain values, also where it is an array."""
    listed = example.tolist() if hasattr(example, "tolist") else example
    if not isinstance(listed, list | tuple):
        raise InvalidInput.at(["example"], "must be a list of rows")
    rows = [_row_of(row) for row in listed]
    for place, row in enumerate(rows):
        cells = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
        # Here and not by the signature's check, because JSON has no form for it.
        if any(isinstance(cell, float) and not math.isfinite(cell) for cell in cells):
            raise InvalidInput.at(["instances", place], "must be finite, not NaN or infinity")
    return rows


def _row_of(row: Any) -> Any:
    if isinstance(row, dict):
        return {name: _plain(cell) for name, cell in row.items()}
    return _plain(row)


def _plain(value: Any) -> Any:
    """Returns ``value`` with arrays, tuples and NumPy's scalars inside made Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _known_version(repository: Repository, ref: ModelRef, original: File) -> Manifest | None:
    """Returns the version, if it is there and was made of the same bytes.

    Raises:
        VersionExists: It was made of others.
    """
    try:
        known = repository.manifest(ref)
    except (NotFound, ModelUnavailable):  # a broken one is refused on writing
        return None
    if original in known.files:
        return known
    raise VersionExists(
        f"{ref} is published with other bytes: digest {known.digest[:12]}; a version never "
        "changes, so take a new name"
    )


def _examine(
    ref: ModelRef, artefact: Artefact, rows: list[Any], *args: Any, **kwargs: Any
) -> Examination:
    try:
        return examine_artefact(artefact, rows, *args, **kwargs)
    except ConfigurationError as error:
        raise ConfigurationError(f"{ref}: {error.message}") from None


def _manifest_fields(artefact: Artefact, examination: Examination) -> dict[str, Any]:
    """Returns the fields of a manifest that an examination yields."""
    description, decision = examination.description, examination.decision
    runtime = SERVED_BY[artefact.format]
    golden, libraries = description.golden, set(description.libraries) & LIBRARIES
    if decision is not None:
        decision = decision.model_copy(update={"chosen": decision.chosen or runtime})
    if decision is not None and examination.graph is not None:
        runtime = decision.chosen
        libraries |= {"onnxruntime", "skl2onnx"}
        if golden is not None:  # the original's, nearly those of the graph
            golden = golden.model_copy(update={"tolerance": decision.tolerance})
    return {
        "format": artefact.format,
        "runtime": runtime,
        "signature": description.signature,
        "libraries": installed_versions(libraries),
        "batchable": not description.unbatchable_reason,
        "unbatchable_reason": description.unbatchable_reason,
        "golden": golden,
        "compiled": decision or _not_compiled(artefact, runtime),
    }


def _not_compiled(artefact: Artefact, runtime: str) -> Compiled:
    reason = "it is ONNX already" if artefact.format == "onnx" else "it was not asked for"
    return Compiled(chosen=runtime, reason=reason)


def _check_stored(repository: Repository, manifest: Manifest) -> Manifest:
    """Returns the manifest in the store: this one, or an earlier call's with the same bytes."""
    stored = repository.manifest(manifest.ref)
    if stored.signature != manifest.signature:
        raise VersionExists(
            f"{manifest.ref} is published with another signature; a version never changes, so take "
            "a new name"
        )
    return stored


def _registered_manifests(redis: Redis, model: str) -> Mapping[Any, Any]:
    try:
        return redis.hgetall(keys.key("versions", model))
    except RedisError as error:
        raise Unavailable(f"Redis does not answer: {described(error)}") from error


def _not_registered(ref: ModelRef, error: RedisError) -> Unavailable:
    return Unavailable(
        f"{ref} is stored, but Redis does not answer, so it is not known yet: publish it again "
        f"({described(error)})"
    )


def _readable_manifest(repository: Repository, ref: ModelRef) -> Manifest | None:
    try:
        return repository.manifest(ref)
    except (ModelUnavailable, NotFound) as error:
        _log.warning("%s is left out of the catalogue: %s", ref, error.message)
        return None
