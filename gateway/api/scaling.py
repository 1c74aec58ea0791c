"""The scaling API, for scalers outside the yard: work in the queues and workers wanted for it.

The figures are those that pools decide by, from the same arithmetic (`yard.cluster.capacity`), so
that KEDA or an operator adds machines where pools would add workers. No pool has to be alive:
without any, waiting jobs are still reported, and at least one worker is wanted for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from redis import Redis

from gateway.api import openapi, schemas
from gateway.services import services
from yard import errors
from yard.broker import redis_reachable
from yard.cluster import (
    WORKER_STATES,
    Bounds,
    Work,
    announced_arrivals_s,
    announced_start_s,
    read_presence,
    read_workload,
    seconds_of_work,
    workers_wanted,
)
from yard.contract import wire
from yard.errors import InvalidInput
from yard.registry import queue_names
from yard.settings import Settings

blueprint = APIBlueprint(
    "scaling", __name__, abp_tags=[Tag(name="operation", description="Health and metrics.")]
)

_MAX_PATTERN = 200


@dataclass(frozen=True, slots=True)
class Demand:
    """One queue's work and the workers for it.

    Attributes:
        work: The queue, with its jobs.
        seconds: Its work, in seconds of one worker.
        wanted: Workers that the queue is due.
    """

    work: Work
    seconds: float
    wanted: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """Every queue's demand, and the number of workers that are alive."""

    demands: tuple[Demand, ...]
    workers: int


def read_scaling(redis: Redis, settings: Settings, pattern: str = "*") -> Scaling:
    """Reads the demand of the yard, in seven round trips for any number of queues.

    Args:
        redis: The yard's Redis.
        settings: The target wait, and the bounds of a batch.
        pattern: Shell pattern; only models whose name matches are read.

    Raises:
        Unavailable: Redis does not answer.
    """
    with redis_reachable():
        queues = queue_names(redis, pattern)
        presence = read_presence(redis)
        load = read_workload(redis, queues, presence, announced_arrivals_s(presence))
    start_s = announced_start_s(presence)
    bounds = Bounds(
        settings.target_wait_s, settings.batch_jobs, settings.batch_rows, start_s=start_s
    )
    slots = workers_wanted(load.works, bounds)
    return Scaling(
        tuple(Demand(w, seconds_of_work(w, bounds), slots[w.queue]) for w in load.works),
        sum(presence.count(state) for state in WORKER_STATES),
    )


@blueprint.get(
    "/v1/scaling",
    **openapi.call(
        "getScaling",
        openapi.PATTERN,
        answers={200: schemas.Scaling},
        refuses=(errors.InvalidInput, errors.Unavailable),
    ),
)
def get_scaling() -> Response:
    """The work that waits and runs, in seconds of one worker, and the workers wanted for it."""
    settings = services().settings
    scaling = read_scaling(services().redis, settings, _pattern())
    value = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "target_wait_s": settings.target_wait_s,
        # An unversioned queue is there only while it has jobs, which soon go to versions.
        "versions": [
            _demand(d) for d in scaling.demands if not d.work.is_unversioned or d.work.is_active
        ],
        "total": {
            "depth": sum(demand.work.depth for demand in scaling.demands),
            "rows": round(sum(demand.work.rows for demand in scaling.demands)),
            "seconds_of_work": round(sum(demand.seconds for demand in scaling.demands), 6),
            "wanted_workers": sum(demand.wanted for demand in scaling.demands),
            "workers": scaling.workers,
        },
    }
    return Response(wire.dumps(value), mimetype="application/json")


def _pattern() -> str:
    """Returns the query's ``model``.

    Raises:
        InvalidInput: It is longer than `_MAX_PATTERN` characters.
    """
    pattern = request.args.get("model", "*")
    if len(pattern) > _MAX_PATTERN:
        raise InvalidInput.at(["model"], f"must have at most {_MAX_PATTERN} characters")
    return pattern


def _demand(demand: Demand) -> dict[str, Any]:
    model, _, version = demand.work.queue.partition("@")
    return {
        "model": model,
        "version": version or None,
        "queue": demand.work.queue,
        "depth": demand.work.depth,
        "rows": round(demand.work.rows),
        "seconds_of_work": round(demand.seconds, 6),
        "wanted_workers": demand.wanted,
        "workers": demand.work.holders,
    }
