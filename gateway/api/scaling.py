"""For whoever scales from outside: how much work there is, and how many workers it is for.

The figures are those that pools decide by, from the same arithmetic (`yard.cluster.capacity`), so
that KEDA or an operator adds machines where pools would add workers. Nothing here depends on a pool
being alive: with none, what waits is still told, and one worker at least is wanted for it.
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

_MOST_PATTERN = 200


@dataclass(frozen=True, slots=True)
class Demand:
    """One queue: what is there, and what it takes.

    Attributes:
        work: The queue.
        seconds: Its work, in seconds of one worker.
        wanted: The workers that it is due.
    """

    work: Work
    seconds: float
    wanted: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """Every queue, and all workers that are alive."""

    demands: tuple[Demand, ...]
    workers: int


def read_scaling(redis: Redis, settings: Settings, pattern: str = "*") -> Scaling:
    """How the yard stands, in seven round trips however many queues there are.

    Args:
        redis: Where the yard is.
        settings: The target wait, and what a batch holds.
        pattern: Only models whose name matches, as a shell matches file names.

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
    """How much work waits and runs, in seconds of one worker, and how many workers it is for."""
    settings = services().settings
    look = read_scaling(services().redis, settings, _pattern())
    value = {
        "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "target_wait_s": settings.target_wait_s,
        # A front door is there only while it has jobs; its work soon is that of versions.
        "versions": [
            _demand(d) for d in look.demands if not d.work.is_unversioned or d.work.is_active
        ],
        "total": {
            "depth": sum(demand.work.depth for demand in look.demands),
            "rows": round(sum(demand.work.rows for demand in look.demands)),
            "seconds_of_work": round(sum(demand.seconds for demand in look.demands), 6),
            "wanted_workers": sum(demand.wanted for demand in look.demands),
            "workers": look.workers,
        },
    }
    return Response(wire.dumps(value), mimetype="application/json")


def _pattern() -> str:
    """The query's ``model``.

    Raises:
        InvalidInput: It is longer than any name could need.
    """
    pattern = request.args.get("model", "*")
    if len(pattern) > _MOST_PATTERN:
        raise InvalidInput.at(["model"], f"must have at most {_MOST_PATTERN} characters")
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
