"""From a fitted estimator to a version that gets traffic: describe, try, store, register.

A data scientist calls `publish`, the command line and the examples do, too. The store is written
first and Redis last, and both steps can be repeated: if Redis is away in between, the same call
again repairs it, and so does `register_store`, which every start of the yard runs.
"""

from __future__ import annotations

import io
import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from redis import Redis
from redis.exceptions import RedisError
from sklearn.exceptions import InconsistentVersionWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships none

from models import manifest as manifests
from models.manifest import File, Manifest
from models.repository import Repository
from models.runtimes import described
from models.runtimes.arrays import as_plain
from models.runtimes.sklearn_joblib import SklearnModel, open_artefact, release
from models.signatures import derive
from producer import catalog, keys, routing
from producer.contract import ModelRef, Signature
from producer.errors import (
    ConfigurationError,
    InvalidInput,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    Unavailable,
    VersionExists,
)
from producer.rows import check_rows

#: The artefact's name in a version's folder.
ARTEFACT = "model.joblib"
#: What a version records of its surroundings.
LIBRARIES = ("joblib", "numpy", "scikit-learn", "scipy")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tried:
    signature: Signature
    is_batchable: bool


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
) -> Manifest:
    """Publish a version; the same call again changes nothing and repairs what is half done.

    Args:
        repository: Where its files go.
        redis: Where it becomes known; None leaves that to `register_store`.
        estimator_or_path: A fitted estimator, or the file of one that joblib or pickle has written.
            The file is opened, which runs its code, and stored as it is.
        model: The model's name.
        version: The new version's name.
        example: Rows that it answers, in the form of a request's ``instances``.
        feature_names: The names of the inputs, by default those that it was fitted with.
        note: A sentence for people.
        metrics: What was measured of it.
        activate: Whether to give it the model's traffic.

    Raises:
        InvalidName: The model or the version may not be called so.
        InvalidInput: The example or the names do not fit the estimator.
        ConfigurationError: It does not open, is no estimator, or does not answer the example.
        InvalidManifest: The note, a metric or the example is out of bounds.
        VersionExists: The version is published with other bytes or another signature.
        Unavailable: It is stored but not registered, because Redis is away.
    """
    ref = ModelRef(model, version)
    artefact = _artefact(estimator_or_path)
    rows = _rows_of(example)
    tried = _try(ref, artefact, rows, feature_names)
    manifest = manifests.build(
        model=model,
        version=version,
        format="joblib",
        runtime="sklearn",
        files=(File.of(ARTEFACT, artefact),),
        signature=tried.signature,
        example=tuple(rows),
        libraries=_libraries(),
        created_at=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        note=note,
        metrics=dict(metrics or {}),
        batchable=tried.is_batchable,
    )
    repository.publish(manifest, {ARTEFACT: artefact})
    stored = _stored(repository, manifest)
    if redis is not None:
        _register(redis, stored, activate=activate)
    return stored


def register_store(repository: Repository, redis: Redis) -> list[ModelRef]:
    """Make known to Redis what the store has and Redis has not, or has otherwise.

    A version that cannot be read is left out and logged, so that it does not hide the others.

    Returns:
        The versions that were registered.

    Raises:
        Unavailable: Redis is away.
    """
    registered = []
    for model in repository.models():
        known = _known(redis, model)
        for version in repository.versions(model):
            manifest = _readable(repository, ModelRef(model, version))
            if manifest is not None and known.get(version.encode()) != manifest.to_json():
                _register(redis, manifest)
                registered.append(manifest.ref)
    return registered


def _artefact(estimator_or_path: Any) -> bytes:
    if isinstance(estimator_or_path, str | Path):
        try:
            return Path(estimator_or_path).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{estimator_or_path}: {error.strerror or error}") from None
    buffer = io.BytesIO()
    try:
        joblib.dump(estimator_or_path, buffer, compress=0)
    except Exception as error:
        raise ConfigurationError(f"the estimator cannot be written: {described(error)}") from error
    return buffer.getvalue()


def _rows_of(example: Any) -> list[Any]:
    """The example as lists of plain values, also where it is an array."""
    listed = example.tolist() if hasattr(example, "tolist") else example
    if not isinstance(listed, list | tuple):
        raise InvalidInput.at(["example"], "must be a list of rows")
    return [_row_of(row) for row in listed]


def _row_of(row: Any) -> Any:
    if isinstance(row, dict):
        return {name: as_plain(cell) for name, cell in row.items()}
    return as_plain(list(row) if isinstance(row, tuple | np.ndarray) else row)


def _try(
    ref: ModelRef, artefact: bytes, example: Sequence[Any], feature_names: Sequence[str] | None
) -> _Tried:
    """Open what will be stored, as a worker would, and let it answer the example."""
    estimator = _opened(ref, artefact)
    try:
        # A notebook that publishes gets its threads back; a worker holds them for good.
        with threadpool_limits(limits=1):
            signature = derive(estimator, example, feature_names)
            rows = check_rows(signature, instances=example)
            model = SklearnModel(estimator, signature, rows, holds_threads=False)
    except (InvalidRequest, ConfigurationError):
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{ref}: does not answer its example: {described(error)}"
        ) from error
    return _Tried(signature, model.alignment.is_batchable)


def _opened(ref: ModelRef, artefact: bytes) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = open_artefact(artefact)
        except Exception as error:
            raise ConfigurationError(f"{ref}: does not open: {described(error)}") from error
    for warning in caught:
        said = warning.message
        if isinstance(said, InconsistentVersionWarning) and release(
            said.original_sklearn_version
        ) != release(said.current_sklearn_version):
            raise ConfigurationError(
                f"{ref}: was written by scikit-learn {said.original_sklearn_version}, here is "
                f"{said.current_sklearn_version}, which may read it wrongly: fit it anew"
            )
    return estimator


def _libraries() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES} | {
        "python": platform.python_version()
    }


def _stored(repository: Repository, manifest: Manifest) -> Manifest:
    """What the store has now: this manifest, or that of an earlier call with the same bytes."""
    stored = repository.manifest(manifest.ref)
    if stored.signature != manifest.signature:
        raise VersionExists(
            f"{manifest.ref} is published with another signature; a version never changes, so take "
            "a new name"
        )
    return stored


def _register(redis: Redis, manifest: Manifest, *, activate: bool = False) -> None:
    try:
        catalog.register(redis, manifest.ref, manifest.to_json(), manifest.signature)
        if activate:
            routing.set_route(redis, manifest.model, active=manifest.version)
    except RedisError as error:
        raise _away(manifest.ref, error) from error


def _known(redis: Redis, model: str) -> Mapping[Any, Any]:
    try:
        return redis.hgetall(keys.key("versions", model))
    except RedisError as error:
        raise Unavailable(f"Redis does not answer: {described(error)}") from error


def _away(ref: ModelRef, error: RedisError) -> Unavailable:
    return Unavailable(
        f"{ref} is stored, but Redis does not answer, so it is not known yet: publish it again "
        f"({described(error)})"
    )


def _readable(repository: Repository, ref: ModelRef) -> Manifest | None:
    try:
        return repository.manifest(ref)
    except (ModelUnavailable, NotFound) as error:
        _log.warning("%s is left out of the catalogue: %s", ref, error.message)
        return None
