"""The model as every peer serves it: the published artefact, loaded once, one call a job.

The artefact's path is in ``BENCH_ARTEFACT``, the peers' Redis in ``BENCH_REDIS``.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any


def redis_url() -> str:
    """The Redis that the peers use."""
    return os.environ["BENCH_REDIS"]


@cache
def estimator() -> Any:
    """The fitted estimator, loaded when it is first needed."""
    import joblib  # type: ignore[import-untyped,unused-ignore]

    return joblib.load(os.environ["BENCH_ARTEFACT"])


def predict(instances: list[list[float]]) -> dict[str, Any]:
    """The result that ours gives, from one ``predict_proba``; ``at`` is when it was ready."""
    import numpy as np

    model = estimator()
    chances = model.predict_proba(np.array(instances))
    return {
        "predictions": model.classes_[chances.argmax(axis=1)].tolist(),
        "probabilities": chances.tolist(),
        "classes": model.classes_.tolist(),
        "at": time.time(),
    }
