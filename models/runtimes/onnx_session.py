"""ONNX runtime: compiled forms of estimators, and artefacts published as ONNX.

`load` makes a session of digest-checked bytes; `OnnxModel` turns rows into the tensors that the
graph takes, one run, and plain values. One thread, and nothing of scikit-learn is imported: a
worker that serves only such versions starts sooner and takes less memory.
"""

from __future__ import annotations

import logging
import mmap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from models.formats import inspect_onnx, protobuf
from models.manifest import Manifest, artefact_name
from models.runtimes import arrays, onnx_sharing
from models.runtimes.batch_invariance import BatchInvariance, find_batch_invariance, rows_to_try
from models.runtimes.tensors import (
    find_feeds,
    output_names,
    reshape_output,
    rows_per_run,
    stack_probabilities,
)
from models.store import Repository
from yard.contract import Signature
from yard.errors import ConfigurationError, ModelUnavailable, described

#: The name of the file in a version's folder.
ARTEFACT = artefact_name("onnx")
LIBRARY = "onnxruntime"
_log = logging.getLogger(__name__)
#: Operators whose answer to a row does not depend on the rows beside it, since none multiplies
#: matrices: only with these is a trial made of unpadded batches.
_ROW_BY_ROW = frozenset(
    {
        "Add",
        "ArgMax",
        "ArrayFeatureExtractor",
        "Cast",
        "Concat",
        "Div",
        "Flatten",
        "Identity",
        "LabelEncoder",
        "Mul",
        "Normalizer",
        "OneHotEncoder",
        "Reshape",
        "Scaler",
        "StringNormalizer",
        "Sub",
        "TfIdfVectorizer",
        "Tokenizer",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    }
)
#: Bytes of a session for each byte of its file, measured: up to 1 for networks, 6.2 for forests,
#: whose nodes become objects.
_GROWTH, _TREE_GROWTH = 2, 7


def load(manifest: Manifest, repository: Repository) -> OnnxModel:
    """Returns a version, its session made and warmed up with its example.

    Raises:
        ModelUnavailable: It does not open, or does not answer its own example.
    """
    try:
        mapped = _mapped(manifest, repository)
        if mapped is not None:
            return mapped
        raw = repository.read(manifest.ref, ARTEFACT, expected=manifest)
        return OnnxModel(raw, manifest.signature, manifest.rows, is_batchable=manifest.batchable)
    except ModelUnavailable:
        raise
    except ConfigurationError as error:
        raise ModelUnavailable(f"{manifest.ref}: {error.message}") from error
    except Exception as error:
        raise ModelUnavailable(
            f"{manifest.ref}: does not answer its example: {described(error)}"
        ) from error


def _mapped(manifest: Manifest, repository: Repository) -> OnnxModel | None:
    """Returns the version with its large weights in a file that all workers of this machine map.

    Returns:
        None where the file is small or has no large weights, where the copy cannot be made, or
        where onnxruntime does not take it so: it is read into memory then.

    Raises:
        ConfigurationError: It may not be opened.
    """
    if repository.maps is None:
        return None
    read = partial(repository.read, manifest.ref, ARTEFACT, expected=manifest)
    with repository.maps.open(manifest.file(ARTEFACT), read) as mapped:
        if mapped is None:
            return None
        with mmap.mmap(mapped.descriptor, 0, prot=mmap.PROT_READ) as raw:
            graph = SessionGraph.mapped(raw, mapped.path, repository.maps.share)
    if graph is None:
        return None
    try:
        return OnnxModel(graph, manifest.signature, manifest.rows, is_batchable=manifest.batchable)
    except Exception as error:
        _log.info("%s is read into memory, not mapped: %s", manifest.ref, described(error))
        return None


@dataclass(frozen=True, slots=True)
class SessionGraph:
    """Source of a session.

    Attributes:
        model: The ModelProto.
        operators: The names of its operators.
        size_bytes: Bytes of its session in memory, estimated from its length.
        folder: Folder of the file that its large weights are mapped from; None if it has all.
    """

    model: bytes
    operators: frozenset[str]
    size_bytes: int
    folder: Path | None = None

    @classmethod
    def whole(cls, raw: bytes) -> SessionGraph:
        """Returns a file as it is.

        Raises:
            ConfigurationError: It may not be opened.
        """
        operators = frozenset(inspect_onnx(raw).operators)
        return cls(raw, operators, _session_bytes(raw, operators))

    @classmethod
    def mapped(cls, raw: protobuf.Raw, path: Path, share: float) -> SessionGraph | None:
        """Returns a file at ``path`` whose large weights stay there; None if it has none.

        Raises:
            ConfigurationError: It may not be opened.
        """
        operators = frozenset(inspect_onnx(raw).operators)
        thin = onnx_sharing.share_weights(raw, path.name)
        if thin.shared_bytes == 0:
            return None
        own_bytes = _session_bytes(thin.model, operators)
        size_bytes = own_bytes + round(thin.shared_bytes * share)
        return cls(thin.model, operators, size_bytes, path.parent)


def _session_bytes(model: bytes, operators: frozenset[str]) -> int:
    has_trees = any(name.startswith("TreeEnsemble") for name in operators)
    return len(model) * (_TREE_GROWTH if has_trees else _GROWTH)


def open_session(raw: bytes, folder: Path | None = None) -> onnxruntime.InferenceSession:
    """Returns a session with one thread, on the processor.

    Args:
        raw: The ModelProto.
        folder: Folder of the file that its large weights are mapped from; None if it has all.

    Raises:
        ConfigurationError: onnxruntime does not take the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # errors are raised, too
    # Read as ONNX even if it resembles another format: onnxruntime's own would escape our
    # inspection.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if folder is not None:
        onnx_sharing.configure_session(options, folder)
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise ConfigurationError(f"onnxruntime does not open it: {described(error)}") from error


class OnnxModel:
    """An ONNX graph that answers rows; see `models.runtimes.Loaded`.

    Attributes:
        signature: Its inputs and outputs.
        size_bytes: Bytes of its session in memory, estimated from the file's length.
        batch_invariance: Result of the trials of batching.

    Args:
        graph: The graph to run; bytes are those of a whole file.
        signature: Its inputs and outputs.
        example: Rows to try it on.
        is_batchable: The manifest's value; None while it is being published.

    Raises:
        ConfigurationError: It may not be opened, or does not fit the signature.
        Exception: Any error of onnxruntime on the example.
    """

    def __init__(
        self,
        graph: SessionGraph | bytes,
        signature: Signature,
        example: arrays.Rows,
        *,
        is_batchable: bool | None = None,
    ) -> None:
        if isinstance(graph, bytes):
            graph = SessionGraph.whole(graph)
        self.signature = signature
        self.size_bytes = graph.size_bytes
        self._session = open_session(graph.model, graph.folder)
        self._names = output_names(self._session, signature)
        self._feeds = find_feeds(self._session, signature)
        self._is_single = rows_per_run(self._session) == 1
        # Texts are expensive to split, an empty one is not.
        is_text = [column.type for column in signature.inputs] == ["string"]
        self._padding = [[""]] if is_text and self._takes_empty() else []
        self.batch_invariance = self._find_batch_invariance(example, is_batchable, graph.operators)

    def predict(self, rows: arrays.Rows) -> dict[str, list[Any]]:
        """Returns the outputs by name; see `models.runtimes.Loaded.predict`."""
        return self._answer(rows, self.batch_invariance.group)

    def _takes_empty(self) -> bool:
        try:
            self._run([[""]])
        except Exception:
            return False
        return True

    def _find_batch_invariance(
        self, example: arrays.Rows, is_batchable: bool | None, operators: frozenset[str]
    ) -> BatchInvariance:
        rows, each_s = rows_to_try(self._answer, self.signature, example, is_batchable)
        if self._is_single:
            return BatchInvariance(1, is_exact=True, is_batchable=True)
        return find_batch_invariance(
            self._answer,
            rows,
            pads=not operators <= _ROW_BY_ROW,
            is_batchable=is_batchable,
            each_s=each_s,
        )

    def _answer(self, rows: arrays.Rows, group: int) -> dict[str, list[Any]]:
        count = len(rows)
        missing = -count % group
        padded = rows + (self._padding or rows[-1:]) * missing if missing else rows
        values = self._alone(padded) if self._is_single else self._run(padded)
        answers = {}
        for output, value in zip(self.signature.outputs, values, strict=True):
            whole = reshape_output(output, value, len(padded))
            answers[output.name] = arrays.output_values(output, whole, count)
        return answers

    def _run(self, rows: arrays.Rows) -> list[Any]:
        return [
            stack_probabilities(value) if isinstance(value, list) else value
            for value in self._session.run(self._names, self._feeds(rows))
        ]

    def _alone(self, rows: arrays.Rows) -> list[Any]:
        """Runs row by row, for a graph that was made for one row only."""
        each = [self._run([row]) for row in rows]
        return [np.concatenate(values) for values in zip(*each, strict=True)]
