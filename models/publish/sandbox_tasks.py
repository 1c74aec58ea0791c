"""What a child process finds out about an artefact that is being published.

`models.sandbox.server` calls a task of `TASKS` with the bytes; the task opens them, lets them
answer the example, and tells in plain values what it found, `Findings` first, so that they are not
lost if what comes after them, the compiling, crashes. Only here is an artefact of unknown origin
opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships none

from models.formats import onnx_check
from models.manifest import Golden, Tolerance
from models.optimize import compile as compiling
from models.optimize import rows_around
from models.publish.sklearn_signature import derive
from models.runtimes import BatchInvariance, SklearnModel, golden, open_joblib, release, take_arrays
from models.sandbox import Findings
from yard.contract import Signature, check_rows
from yard.errors import ConfigurationError, InvalidRequest, described

if TYPE_CHECKING:
    from models.sandbox import Exchange

#: How far the answers of the same file may differ between machines.
SAME_RTOL, SAME_ATOL = 1e-6, 1e-9
#: For graphs that count in single precision.
SINGLE_RTOL, SINGLE_ATOL = 1e-4, 1e-6
_UNBATCHABLE = "its answer to a row changes with the rows beside it, by more than rounding"


def inspect(exchange: Exchange) -> None:
    """Open an artefact, tell what it is and how it answers, and compile it if asked to.

    The request has ``format``, ``example``, ``feature_names`` (or None) and ``compiles``.

    Raises:
        InvalidInput: The example or the names do not fit.
        ConfigurationError: It does not open, is no model, or does not answer the example.
    """
    with threadpool_limits(limits=1):
        if exchange.request["format"] == "onnx":
            _inspect_graph(exchange)
        else:
            _inspect_estimator(exchange)


def quantize(exchange: Exchange) -> None:
    """Write an ONNX file anew with 8-bit weights, and compare; see `models.publish.quantizer`."""
    from models.optimize import quantize_graph

    with threadpool_limits(limits=1):
        quantize_graph(exchange)


#: What children need beside this module, imported once before the first.
PRELOAD = ("onnxruntime", "skl2onnx")

#: What can be asked for.
TASKS: Mapping[str, Callable[[Exchange], None]] = {"inspect": inspect, "quantize": quantize}


def _inspect_estimator(exchange: Exchange) -> None:
    request = exchange.request
    estimator = take_arrays(_opened(exchange.artefact, request["format"]))
    signature, model = _answering(estimator, request["example"], request["feature_names"])
    rows = check_rows(signature, instances=request["example"])
    answers = model.predict(rows)
    libraries = ["joblib", "numpy", "scikit-learn", "scipy"]
    if request["format"] == "skops":
        libraries.append("skops")
    tolerance = Tolerance(rtol=SAME_RTOL, atol=SAME_ATOL)
    _tell(
        exchange,
        model.alignment,
        signature,
        _kind(estimator),
        libraries,
        golden.record(answers, tolerance),
    )
    if request["compiles"]:
        _compile(exchange, estimator, model, rows)


def _answering(
    estimator: Any, example: Sequence[Any], feature_names: Sequence[str] | None
) -> tuple[Signature, SklearnModel]:
    try:
        signature = derive(estimator, example, feature_names)
        rows = check_rows(signature, instances=list(example))
        return signature, SklearnModel(estimator, signature, rows, holds_threads=False)
    except (InvalidRequest, ConfigurationError):
        raise
    except Exception as error:
        # What only a data frame has, an estimator may ask for in a step of its own.
        frame = "; it was fitted on a data frame and is given an array" * hasattr(
            estimator, "feature_names_in_"
        )
        raise ConfigurationError(
            f"does not answer its example: {described(error)}{frame}"
        ) from error


def _compile(
    exchange: Exchange, estimator: Any, model: SklearnModel, rows: list[list[Any]]
) -> None:
    def tell(line: str) -> None:
        exchange.say(progress=line)

    trials = rows_around(estimator, model.signature, rows)
    outcome = compiling.compile_estimator(estimator, model, rows, trials, tell)
    if outcome.graph is not None:
        exchange.keep(outcome.graph)
    exchange.say(compiled=outcome.decision.model_dump(mode="json"))


def _inspect_graph(exchange: Exchange) -> None:
    from models.publish.onnx_signature import derive as derive_graph
    from models.runtimes import OnnxModel, open_session

    known = onnx_check.inspect(exchange.artefact)
    example = exchange.request["example"]
    session = open_session(exchange.artefact)
    try:
        signature = derive_graph(session, known, example, exchange.request["feature_names"])
        rows = check_rows(signature, instances=example)
        model = OnnxModel(exchange.artefact, signature, rows)
        answers = model.predict(rows)
    except (InvalidRequest, ConfigurationError):
        raise
    except Exception as error:
        raise ConfigurationError(f"does not answer its example: {described(error)}") from error
    kind = f"ONNX graph of {known.nodes} nodes"
    tolerance = Tolerance(rtol=SINGLE_RTOL, atol=SINGLE_ATOL)
    _tell(
        exchange,
        model.alignment,
        signature,
        kind,
        ("onnxruntime", "numpy"),
        golden.record(answers, tolerance),
    )


def _tell(
    exchange: Exchange,
    alignment: BatchInvariance,
    signature: Signature,
    kind: str,
    libraries: Sequence[str],
    answers: Golden | None,
) -> None:
    found = Findings(
        kind=kind,
        signature=signature,
        libraries=list(libraries),
        golden=answers,
        unbatchable_reason="" if alignment.is_batchable else _UNBATCHABLE,
    )
    exchange.say(found=found.model_dump(mode="json"))


def _opened(raw: bytes, format_: str) -> Any:
    """The estimator, unless another release of scikit-learn has written it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = _opener(format_)(raw)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"does not open: {described(error)}") from error
    for warning in caught:
        said = warning.message
        if isinstance(said, InconsistentVersionWarning) and release(
            said.original_sklearn_version
        ) != release(said.current_sklearn_version):
            raise ConfigurationError(
                f"was written by scikit-learn {said.original_sklearn_version}, here is "
                f"{said.current_sklearn_version}, which may read it wrongly: fit it anew"
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


def _kind(estimator: Any) -> str:
    """``Pipeline of StandardScaler and LogisticRegression``."""
    name = type(estimator).__name__
    if not isinstance(estimator, Pipeline):
        return name
    steps = [type(step).__name__ for _, step in estimator.steps]
    return f"{name} of {' and '.join(filter(None, [', '.join(steps[:-1]), steps[-1]]))}"
