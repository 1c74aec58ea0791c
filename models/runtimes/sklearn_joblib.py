"""Runs scikit-learn estimators that joblib has written.

`load` opens digest-checked bytes from memory and makes the estimator fit for serving;
`SklearnModel` turns rows into one array, one predict and plain values. Opening such bytes runs
their code, so only what the manifest pins is ever opened (`models.store.repository`).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from models.manifest import Manifest, artefact_name
from models.runtimes import arrays, threads
from models.runtimes.batch_invariance import BatchInvariance, find_batch_invariance, rows_to_try
from models.runtimes.labels import one_call, two_calls
from models.runtimes.memory_size import measure
from models.runtimes.sklearn_tuning import fit_for_serving
from models.store import Repository
from yard.contract import Signature
from yard.errors import ModelUnavailable, PredictFailed, described

#: The name of the file in a version's folder.
ARTEFACT = artefact_name("joblib")
LIBRARY = "scikit-learn"
#: How a pickle begins that is not compressed, joblib's too: the opcode that names its protocol.
_UNCOMPRESSED = b"\x80"

_log = logging.getLogger(__name__)


def load(manifest: Manifest, repository: Repository) -> SklearnModel:
    """A version, opened and warmed up with its example.

    One that another release of scikit-learn has made is opened where the manifest has golden
    answers, which tell whether it was read rightly; `models.runtimes.load` compares them.

    Raises:
        ModelUnavailable: It was made by another release of scikit-learn and nothing can prove it,
            does not open, or does not answer its own example.
    """
    _refuse_unproven_release(manifest)
    mapped = _mapped(manifest, repository)
    if mapped is not None:
        return mapped
    return served(manifest, repository.read(manifest.ref, ARTEFACT, expected=manifest), open_joblib)


def served(manifest: Manifest, raw: bytes, open_: Callable[[bytes], Any]) -> SklearnModel:
    """An estimator, opened by ``open_`` and warmed up with its example.

    Raises:
        ModelUnavailable: As `load`.
    """
    _refuse_unproven_release(manifest)
    try:
        with warnings.catch_warnings():  # of another release: answers tell
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            estimator = open_(raw)
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.ref}: does not open: {described(error)}{_other_release(manifest)}"
        ) from error
    threads.scan()
    try:
        return SklearnModel(
            estimator,
            manifest.signature,
            manifest.rows,
            len(raw),
            is_batchable=manifest.batchable,
        )
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer its example: {described(error)}"
            f"{_other_release(manifest)}"
        ) from error


def _mapped(manifest: Manifest, repository: Repository) -> SklearnModel | None:
    """The version with its large arrays in a file that all workers of this machine map.

    The pages are copied where something writes to them, so that a model is never refused for what
    it does with its arrays; nothing ever gets into the file.

    Returns:
        None where the file is small or compressed, where there is no place for the copy, or where
        the estimator does not answer from it: it is read into memory then.
    """
    if repository.maps is None:
        return None
    read = partial(repository.read, manifest.ref, ARTEFACT, expected=manifest)
    with repository.maps.open(manifest.file(ARTEFACT), read) as mapped:
        if mapped is None or not mapped.begins().startswith(_UNCOMPRESSED):
            return None
        try:
            return SklearnModel(
                _opened_mapped(mapped.alias),
                manifest.signature,
                manifest.rows,
                is_batchable=manifest.batchable,
                mapped_share=repository.maps.share,
            )
        except Exception as error:
            _log.info("%s is read into memory, not mapped: %s", manifest.ref, described(error))
            return None


def _opened_mapped(path: str) -> Any:
    """The object in a file, with arrays mapped; a warning that they are not aligned is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        estimator = joblib.load(path, mmap_mode="c")
    threads.scan()
    return estimator


def open_joblib(raw: bytes) -> Any:
    """The object that joblib or pickle has written; runs their code, so check the bytes before."""
    return joblib.load(io.BytesIO(raw))


def release(version: str) -> tuple[str, ...]:
    """The part of a version within which scikit-learn reads what it wrote: major and minor."""
    return tuple(version.split(".")[:2])


class SklearnModel:
    """An estimator that answers rows; see `models.runtimes.Loaded`.

    Attributes:
        signature: What it takes and gives.
        size_bytes: The artefact's length, or the memory counted by `models.runtimes.memory_size`,
            whichever is more.
        alignment: How rows may be put together, as tried out.

    Args:
        estimator: Fitted; taken over and changed for serving.
        signature: What it takes and gives.
        example: Rows to try it on.
        artefact_bytes: Length of its artefact.
        holds_threads: Whether predicting holds BLAS and OpenMP to one thread for good.
        is_batchable: What the manifest says; None while it is being published.
        mapped_share: What a byte counts that lies in a mapped file.

    Raises:
        Exception: Whatever the estimator raises on the example.
    """

    def __init__(
        self,
        estimator: Any,
        signature: Signature,
        example: arrays.Rows,
        artefact_bytes: int = 0,
        *,
        holds_threads: bool = True,
        is_batchable: bool | None = None,
        mapped_share: float = 1.0,
    ) -> None:
        self.signature = signature
        self._holds_threads = holds_threads
        self._estimator = fit_for_serving(estimator)
        self._to_inputs = find_inputs(estimator, signature, example)
        self._labels = two_calls(estimator, signature)
        self._group = 1
        self._call = call_of(estimator)
        rows = rows_to_try(self._answer, signature, example)
        if self._labels is not None:
            self._labels = one_call(self._labels, self._to_inputs(rows))
        self.alignment: BatchInvariance = find_batch_invariance(
            self._answer,
            rows,
            fills=not self.takes_texts,
            is_batchable=is_batchable,
        )
        self._group = self.alignment.group
        self.size_bytes = max(artefact_bytes, measure(self._estimator, mapped_share))

    @property
    def takes_texts(self) -> bool:
        """Whether it takes a list of strings instead of a table."""
        return self._to_inputs is arrays.texts

    def predict(self, rows: arrays.Rows) -> dict[str, list[Any]]:
        """The outputs by name; see `models.runtimes.Loaded.predict`."""
        return self._answer(rows, self._group)

    def _answer(self, rows: arrays.Rows, group: int) -> dict[str, list[Any]]:
        if self._holds_threads:
            threads.hold()
        count = len(rows)
        missing = -count % group
        inputs = self._to_inputs(rows + rows[-1:] * missing if missing else rows)
        values = self._outputs(inputs)
        for name, answers in values.items():
            if len(answers) != count + missing:
                raise PredictFailed(
                    f"output {name!r} has {len(answers)} answers for {count + missing} rows"
                )
        return {
            output.name: arrays.plain(output, values[output.name], count)
            for output in self.signature.outputs
        }

    def _outputs(self, inputs: Any) -> Mapping[str, Any]:
        if self._labels is not None:
            return self._labels.outputs(inputs)
        return {"predictions": dense(self._call(inputs))}


def find_inputs(estimator: Any, signature: Signature, example: arrays.Rows) -> arrays.ToInputs:
    """How rows become what the estimator takes.

    A single column of strings is a list of texts for a vectorizer, and a table of one column for
    all others; the example tells which.
    """
    to_table = arrays.table(signature.inputs)
    if [column.type for column in signature.inputs] != ["string"]:
        return to_table
    try:
        call_of(estimator)(arrays.texts(example))
    except Exception:
        return to_table
    return arrays.texts


def call_of(estimator: Any) -> Callable[[Any], Any]:
    """What gives ``predictions``: ``predict``, or a transformer's ``transform``."""
    call = estimator.predict if hasattr(estimator, "predict") else estimator.transform
    return cast(Callable[[Any], Any], call)


def dense(values: Any) -> Any:
    """``values`` as an array where a transformer gives a sparse matrix."""
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def _refuse_unproven_release(manifest: Manifest) -> None:
    if manifest.golden is None and (other := _other_release(manifest)):
        raise ModelUnavailable(
            f"{manifest.ref}: may be read wrongly{other}, and it has no golden answers to tell: "
            "publish it again from here"
        )


def _other_release(manifest: Manifest) -> str:
    """Both versions of scikit-learn in words, where their releases differ; else empty."""
    published = manifest.libraries.get(LIBRARY)
    if published is None or release(published) == release(sklearn.__version__):
        return ""
    return f"; it was published with {LIBRARY} {published}, here is {sklearn.__version__}"
