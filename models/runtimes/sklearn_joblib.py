"""scikit-learn runtime: estimators that joblib has written.

`load` opens digest-checked bytes from memory and makes the estimator fit for serving;
`SklearnModel` turns rows into one array, one predict and plain values. Opening such bytes runs
their code, so only bytes that the manifest pins are ever opened (`models.store.repository`).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import joblib
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

from models.manifest import Manifest, artefact_name
from models.runtimes import arrays, threads
from models.runtimes.batch_invariance import BatchInvariance, find_batch_invariance, rows_to_try
from models.runtimes.labels import with_one_call, with_two_calls
from models.runtimes.memory_size import measure
from models.runtimes.sklearn_calls import find_inputs, predict_method, to_dense
from models.runtimes.sklearn_tuning import fit_for_serving
from models.store import Repository
from yard.contract import Signature
from yard.errors import ModelUnavailable, PredictFailed, described

#: The name of the file in a version's folder.
ARTEFACT = artefact_name("joblib")
LIBRARY = "scikit-learn"
#: First byte of a pickle that is not compressed, joblib's too: the opcode that names its protocol.
_UNCOMPRESSED = b"\x80"

_log = logging.getLogger(__name__)


def load(manifest: Manifest, repository: Repository) -> SklearnModel:
    """Returns a version, opened and warmed up with its example.

    A version from another release of scikit-learn is opened if the manifest has golden answers,
    which prove that it was read rightly; `models.runtimes.load` compares them.

    Raises:
        ModelUnavailable: It was made by another release of scikit-learn and nothing can prove it,
            does not open, or does not answer its own example.
    """
    _refuse_unproven_release(manifest)
    mapped = _mapped(manifest, repository)
    if mapped is not None:
        return mapped
    return build_model(
        manifest, repository.read(manifest.ref, ARTEFACT, expected=manifest), open_joblib
    )


def build_model(manifest: Manifest, raw: bytes, open_: Callable[[bytes], Any]) -> SklearnModel:
    """Returns a model of an estimator, opened by ``open_`` and warmed up with its example.

    Raises:
        ModelUnavailable: As `load`.
    """
    _refuse_unproven_release(manifest)
    try:
        with warnings.catch_warnings():  # golden answers check another release
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
    """Returns the version with its large arrays in a file that all workers of this machine map.

    Pages are copied on write, so that a model may write to its arrays; the file never changes.

    Returns:
        None where the file is small or compressed, where the copy cannot be made, or where the
        estimator does not answer from it: it is read into memory then.
    """
    if repository.maps is None:
        return None
    read = partial(repository.read, manifest.ref, ARTEFACT, expected=manifest)
    with repository.maps.open(manifest.file(ARTEFACT), read) as mapped:
        if mapped is None or not mapped.head().startswith(_UNCOMPRESSED):
            return None
        try:
            return SklearnModel(
                _open_mapped(mapped.descriptor_path),
                manifest.signature,
                manifest.rows,
                is_batchable=manifest.batchable,
                mapped_share=repository.maps.share,
            )
        except Exception as error:
            _log.info("%s is read into memory, not mapped: %s", manifest.ref, described(error))
            return None


def _open_mapped(path: str) -> Any:
    """Opens a file with arrays mapped; a warning that they are not aligned is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        estimator = joblib.load(path, mmap_mode="c")
    threads.scan()
    return estimator


def open_joblib(raw: bytes) -> Any:
    """Opens what joblib or pickle has written; runs its code, so check the bytes before."""
    return joblib.load(io.BytesIO(raw))


def is_same_release(one: str, other: str) -> bool:
    """True if scikit-learn of one version reads what the other wrote: same major and minor."""
    return one.split(".")[:2] == other.split(".")[:2]


class SklearnModel:
    """An estimator that answers rows; see `models.runtimes.Loaded`.

    Attributes:
        signature: Its inputs and outputs.
        size_bytes: The artefact's length, or the memory counted by `models.runtimes.memory_size`,
            the larger.
        batch_invariance: Result of the trials of batching.

    Args:
        estimator: Fitted; taken over and changed for serving.
        signature: Its inputs and outputs.
        example: Rows to try it on.
        artefact_bytes: Length of its artefact.
        holds_threads: Whether predicting holds BLAS and OpenMP to one thread for good.
        is_batchable: The manifest's value; None while it is being published.
        mapped_share: Weight of a byte that lies in a mapped file.

    Raises:
        Exception: Any error of the estimator on the example.
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
        self._labels = with_two_calls(estimator, signature)
        self._group = 1
        self._call = predict_method(estimator)
        rows, each_s = rows_to_try(self._answer, signature, example, is_batchable)
        if self._labels is not None:
            self._labels = with_one_call(self._labels, self._to_inputs(rows))
        self.batch_invariance: BatchInvariance = find_batch_invariance(
            self._answer,
            rows,
            pads=not self.takes_texts,
            is_batchable=is_batchable,
            each_s=each_s,
        )
        self._group = self.batch_invariance.group
        self.size_bytes = max(artefact_bytes, measure(self._estimator, mapped_share))

    @property
    def takes_texts(self) -> bool:
        """True if it takes a list of strings instead of a table."""
        return self._to_inputs is arrays.to_texts

    def predict(self, rows: arrays.Rows) -> dict[str, list[Any]]:
        """Returns the outputs by name; see `models.runtimes.Loaded.predict`."""
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
            output.name: arrays.output_values(output, values[output.name], count)
            for output in self.signature.outputs
        }

    def _outputs(self, inputs: Any) -> Mapping[str, Any]:
        if self._labels is not None:
            return self._labels.outputs(inputs)
        return {"predictions": to_dense(self._call(inputs))}


def _refuse_unproven_release(manifest: Manifest) -> None:
    if manifest.golden is None and (other := _other_release(manifest)):
        raise ModelUnavailable(
            f"{manifest.ref}: may be read wrongly{other}, and it has no golden answers to tell: "
            "publish it again from here"
        )


def _other_release(manifest: Manifest) -> str:
    """Returns both versions of scikit-learn in words, if their releases differ; else ""."""
    published = manifest.libraries.get(LIBRARY)
    if published is None or is_same_release(published, sklearn.__version__):
        return ""
    return f"; it was published with {LIBRARY} {published}, here is {sklearn.__version__}"
