"""Calls of a fitted estimator: its input, its method, its answers as an array.

`models.runtimes.sklearn_joblib` predicts with it, `models.publish.sklearn_signature` derives a
signature with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from models.runtimes import arrays
from yard.contract import Signature


def find_inputs(estimator: Any, signature: Signature, example: arrays.Rows) -> arrays.ToInputs:
    """Returns the conversion of rows to the estimator's input.

    A single column of strings is a list of texts for a vectorizer, and a table of one column for
    all others; a trial on the example decides.
    """
    to_table = arrays.table_converter(signature.inputs)
    if [column.type for column in signature.inputs] != ["string"]:
        return to_table
    try:
        predict_method(estimator)(arrays.to_texts(example))
    except Exception:
        return to_table
    return arrays.to_texts


def predict_method(estimator: Any) -> Callable[[Any], Any]:
    """Returns the method for ``predictions``: ``predict``, or a transformer's ``transform``."""
    call = estimator.predict if hasattr(estimator, "predict") else estimator.transform
    return cast(Callable[[Any], Any], call)


def to_dense(values: Any) -> Any:
    """Returns ``values`` as an array; a transformer may return a sparse matrix."""
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)
