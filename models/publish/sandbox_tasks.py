"""Tasks of the sandbox's child: describe, quantise or load an artefact that is being published.

`models.sandbox.server` calls a task of `TASKS` with the bytes; the task opens them, predicts the
example, and sends plain values, `ArtefactDescription` first, so that it is not lost if the
compiling after it crashes. Only here is an artefact of unknown origin opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships none

from models.formats import inspect_onnx
from models.manifest import File, Golden, Manifest, Tolerance
from models.optimize import compile as compiling
from models.optimize import rows_around
from models.publish.sklearn_signature import derive_signature
from models.runtimes import SklearnModel, golden, is_same_release, load, open_joblib, sklearn_tuning
from models.sandbox import ArtefactDescription
from models.store import Repository
from yard.contract import ModelRef, Signature, check_rows, wire
from yard.errors import ConfigurationError, InvalidRequest, described

if TYPE_CHECKING:
    from models.sandbox import Exchange
    from models.store import Store

#: Allowed difference of the same file's answers between machines.
SAME_RTOL, SAME_ATOL = 1e-6, 1e-9
#: The same for graphs in single precision.
SINGLE_RTOL, SINGLE_ATOL = 1e-4, 1e-6
_UNBATCHABLE = "its answer to a row changes with the rows beside it, by more than rounding"


def describe_artefact(exchange: Exchange) -> None:
    """Opens an artefact, describes it and its answers, and compiles it if asked to.

    The request has ``format``, ``example``, ``feature_names`` (or None) and ``compiles``.

    Raises:
        InvalidInput: The example or the names do not fit.
        ConfigurationError: It does not open, is no model, or does not answer the example.
    """
    with threadpool_limits(limits=1):
        if exchange.request["format"] == "onnx":
            _describe_graph(exchange)
        else:
            _describe_estimator(exchange)


def quantize_artefact(exchange: Exchange) -> None:
    """Quantises an ONNX file, and compares both; see `models.publish.quantizer`.

    The request has ``signature``, ``example``, and ``rows`` to compare on, or None.

    Raises:
        InvalidInput: A row does not fit the signature.
        ConfigurationError: The graph does not open, does not answer the example, or has nothing
            that shrinks.
    """
    from models.optimize import quantize_graph

    request = exchange.request
    with threadpool_limits(limits=1):
        outcome = quantize_graph(
            exchange.artefact,
            Signature.model_validate(request["signature"]),
            request["example"],
            request["rows"],
            partial(_report_progress, exchange),
        )
    exchange.write_output(outcome.graph)
    exchange.send(quantized=outcome.comparison.model_dump(mode="json"))


def load_version(exchange: Exchange) -> None:
    """Loads a version as a worker does, and checks its golden answers.

    The request has ``manifest``; the artefact is the file that the manifest's runtime opens.

    Raises:
        ModelUnavailable: It would not load in a worker with the libraries of this process.
    """
    manifest = Manifest.parse(wire.dumps(exchange.request["manifest"]))
    store = cast("Store", _OneFile(exchange.artefact))
    with threadpool_limits(limits=1):
        load(manifest, Repository(store))
    exchange.send(loaded=True)


class _OneFile:
    """The file of a version that a runtime reads; `Repository` compares it with the manifest."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, ref: ModelRef, file: File | None = None) -> bytes:
        return self._content


#: Modules that children need beside this one, imported once before the first.
PRELOAD = ("onnxruntime", "skl2onnx")

#: Tasks by name.
TASKS: Mapping[str, Callable[[Exchange], None]] = {
    "describe": describe_artefact,
    "quantize": quantize_artefact,
    "load": load_version,
}


def _describe_estimator(exchange: Exchange) -> None:
    request = exchange.request
    estimator = sklearn_tuning.take_arrays(_open_estimator(exchange.artefact, request["format"]))
    signature, model = _sign_and_load(estimator, request["example"], request["feature_names"])
    rows = check_rows(signature, instances=request["example"])
    answers = model.predict(rows)
    libraries = ["joblib", "numpy", "scikit-learn", "scipy"]
    if request["format"] == "skops":
        libraries.append("skops")
    tolerance = Tolerance(rtol=SAME_RTOL, atol=SAME_ATOL)
    _send_description(
        exchange,
        model.batch_invariance.is_batchable,
        signature,
        _kind_of(estimator),
        libraries,
        golden.record_golden(answers, tolerance),
    )
    if request["compiles"]:
        _compile(exchange, estimator, model, rows)


def _sign_and_load(
    estimator: Any, example: Sequence[Any], feature_names: Sequence[str] | None
) -> tuple[Signature, SklearnModel]:
    try:
        signature = derive_signature(estimator, example, feature_names)
        rows = check_rows(signature, instances=list(example))
        return signature, SklearnModel(estimator, signature, rows, holds_threads=False)
    except (InvalidRequest, ConfigurationError):
        raise
    except Exception as error:
        # A step of the estimator may use what only a data frame has.
        frame = "; it was fitted on a data frame and is given an array" * hasattr(
            estimator, "feature_names_in_"
        )
        raise ConfigurationError(
            f"does not answer its example: {described(error)}{frame}"
        ) from error


def _compile(
    exchange: Exchange, estimator: Any, model: SklearnModel, rows: list[list[Any]]
) -> None:
    synthetic_rows = rows_around(estimator, model.signature, rows)
    outcome = compiling.compile_estimator(
        estimator, model, rows, synthetic_rows, partial(_report_progress, exchange)
    )
    if outcome.graph is not None:
        exchange.write_output(outcome.graph)
    exchange.send(compiled=outcome.decision.model_dump(mode="json"))


def _report_progress(exchange: Exchange, line: str) -> None:
    exchange.send(progress=line)


def _describe_graph(exchange: Exchange) -> None:
    from models.publish.onnx_signature import derive_onnx_signature
    from models.runtimes import OnnxModel, open_session

    known = inspect_onnx(exchange.artefact)
    example = exchange.request["example"]
    session = open_session(exchange.artefact)
    try:
        signature = derive_onnx_signature(
            session, known, example, exchange.request["feature_names"]
        )
        rows = check_rows(signature, instances=example)
        model = OnnxModel(exchange.artefact, signature, rows)
        answers = model.predict(rows)
    except (InvalidRequest, ConfigurationError):
        raise
    except Exception as error:
        raise ConfigurationError(f"does not answer its example: {described(error)}") from error
    kind = f"ONNX graph of {known.nodes} nodes"
    tolerance = Tolerance(rtol=SINGLE_RTOL, atol=SINGLE_ATOL)
    _send_description(
        exchange,
        model.batch_invariance.is_batchable,
        signature,
        kind,
        ("onnxruntime", "numpy"),
        golden.record_golden(answers, tolerance),
    )


def _send_description(
    exchange: Exchange,
    is_batchable: bool,
    signature: Signature,
    kind: str,
    libraries: Sequence[str],
    answers: Golden | None,
) -> None:
    found = ArtefactDescription(
        kind=kind,
        signature=signature,
        libraries=list(libraries),
        golden=answers,
        unbatchable_reason="" if is_batchable else _UNBATCHABLE,
    )
    exchange.send(found=found.model_dump(mode="json"))


def _open_estimator(raw: bytes, format_: str) -> Any:
    """Returns the estimator, unless another release of scikit-learn has written it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = _opener(format_)(raw)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"does not open: {described(error)}") from error
    for warning in caught:
        message = warning.message
        if isinstance(message, InconsistentVersionWarning) and not is_same_release(
            message.original_sklearn_version, message.current_sklearn_version
        ):
            raise ConfigurationError(
                f"was written by scikit-learn {message.original_sklearn_version}, here is "
                f"{message.current_sklearn_version}, which may read it wrongly: fit it anew"
            )
    return estimator


def _opener(format_: str) -> Callable[[bytes], Any]:
    if format_ == "joblib":
        return open_joblib
    try:
        from models.runtimes import open_skops
    except ImportError:
        raise ConfigurationError(
            "skops, which opens it, is not installed here: pip install 'modelyard[skops]'"
        ) from None
    return open_skops


def _kind_of(estimator: Any) -> str:
    """Returns ``Pipeline of StandardScaler and LogisticRegression``."""
    name = type(estimator).__name__
    if not isinstance(estimator, Pipeline):
        return name
    steps = [type(step).__name__ for _, step in estimator.steps]
    return f"{name} of {' and '.join(filter(None, [', '.join(steps[:-1]), steps[-1]]))}"
