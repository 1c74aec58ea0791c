"""Celery with the add-on celery-batches: up to 64 jobs in one predict, as ours.

It waits for a batch to fill, so a job alone takes as long as the timer lets it.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator"

from __future__ import annotations

import time
from typing import Any

import numpy as np
from celery import states
from celery_batches import Batches

from bench.peers import iris
from bench.peers.celery_app import app


@app.task(name="predict_many", base=Batches, flush_every=64, flush_interval=0.01)
def predict_many(requests: list[Any]) -> None:
    """One batch; each job's result is stored by itself."""
    model = iris.estimator()
    rows = [row for request in requests for row in request.args[0]]
    chances = model.predict_proba(np.array(rows))
    names = model.classes_[chances.argmax(axis=1)].tolist()
    classes, at = model.classes_.tolist(), time.time()
    for request, name, chance in zip(requests, names, chances.tolist(), strict=True):
        found = {"predictions": [name], "probabilities": [chance], "classes": classes, "at": at}
        app.backend.store_result(request.id, found, states.SUCCESS, request=request)


def submit(row: list[float]) -> Any:
    """Queue a job."""
    return predict_many.delay([row])


def result(ticket: Any) -> Any:
    """Its result."""
    return ticket.get(timeout=60)
