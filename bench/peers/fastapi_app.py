"""FastAPI under uvicorn, predicting inline: one process, no queue, no batches.

``/threads/predict`` is a plain function, which FastAPI runs in a pool of threads, as its manual
advises for code that computes; ``/loop/predict`` predicts on the event loop.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,misc"

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers import iris

app = FastAPI()
iris.predict([[5.1, 3.5, 1.4, 0.2]])


class Wanted(BaseModel):
    """The body of a request."""

    instances: list[list[float]]


@app.post("/threads/predict")
def in_threads(wanted: Wanted) -> dict[str, Any]:
    """In a thread of the pool."""
    return iris.predict(wanted.instances)


@app.post("/loop/predict")
async def on_loop(wanted: Wanted) -> dict[str, Any]:
    """On the event loop."""
    return iris.predict(wanted.instances)
