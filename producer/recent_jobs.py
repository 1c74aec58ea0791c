"""Recent jobs, for people to look at: from RQ's queues and registries, in four round trips.

Nothing scans the database. Each queue and registry is kept in the order in which jobs came to it,
so its newest few are read from its end, and the newest by creation among them are returned. A job
that was created long before it ended may therefore be missed when a registry holds more than
``limit``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from redis import Redis

from producer.results import decode_job, read_raw
from yard.contract import Job, JobStatus, check_name, is_job_id, keys, lenient, parse_time
from yard.errors import UnknownModel

#: Most jobs of one call.
MOST_JOBS = 1_000

#: Key family of the jobs of each status: a list whose end is the newest, or a set by expiry.
_PLACES = {
    JobStatus.QUEUED: "queue",
    JobStatus.STARTED: "wip",
    JobStatus.FINISHED: "finished",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELED: "canceled",
}

#: Taken for a time of creation that cannot be read.
_LONG_AGO = datetime.fromtimestamp(0, UTC)


def list_jobs(
    redis: Redis,
    model: str | None = None,
    status: JobStatus | Collection[JobStatus] | None = None,
    limit: int = 20,
) -> list[Job]:
    """Reads the latest jobs, newest first.

    Args:
        redis: Where they are.
        model: Only this model's jobs; None for those of every published model.
        status: Only jobs of this status, or of one of these; None or empty for all.
        limit: Number of jobs at most, capped at `MOST_JOBS`.

    Raises:
        InvalidName: ``model`` is no name.
        UnknownModel: ``model`` is not published.
    """
    limit = min(max(limit, 1), MOST_JOBS)
    wanted = frozenset([status] if isinstance(status, JobStatus) else status or JobStatus)
    queues = _queues(redis, model)
    ids = _newest_ids(redis, queues, wanted, limit)
    newest = _by_creation(redis, ids)[:limit]
    found = (
        decode_job(job_id, raw)
        for job_id, raw in zip(newest, read_raw(redis, newest) if newest else (), strict=True)
    )
    return [job for job in found if job is not None and job.status in wanted]


def _queues(redis: Redis, model: str | None) -> list[str]:
    """The queues of one model, or of all published ones; others' queues are left out."""
    pipe = redis.pipeline(transaction=False)
    pipe.smembers(keys.QUEUES)
    pipe.smembers(keys.MODELS)
    names, models = pipe.execute()
    published = {lenient.decode(raw) for raw in models}
    if model is not None and check_name("model", model) not in published:
        raise UnknownModel(f"no version of model {model!r} is published")
    wanted = published if model is None else {model}
    found = []
    for raw in names:
        name = lenient.decode(raw).removeprefix(keys.PREFIXES["queue"])
        parsed = keys.parse_queue(name)
        if parsed is not None and parsed[0] in wanted:
            found.append(name)
    return sorted(found)


def _newest_ids(
    redis: Redis, queues: Iterable[str], wanted: Collection[JobStatus], limit: int
) -> list[str]:
    """Ids at the new end of each queue and registry, each once."""
    pipe = redis.pipeline(transaction=False)
    for queue in queues:
        for status in wanted:
            place = keys.key(_PLACES[status], queue)
            if status is JobStatus.QUEUED:
                pipe.lrange(place, -limit, -1)
            else:
                pipe.zrevrange(place, 0, limit - 1)
    return list(dict.fromkeys(_valid_ids(pipe.execute(raise_on_error=False))))


def _valid_ids(replies: Iterable[Any]) -> Iterator[str]:
    for reply in replies:
        for raw in lenient.items(reply):  # none where a key holds another type
            # The started registry's members are "id:execution".
            job_id = lenient.decode(raw).partition(":")[0]
            if is_job_id(job_id):
                yield job_id


def _by_creation(redis: Redis, ids: list[str]) -> list[str]:
    """Those of ``ids`` whose jobs still exist, the latest created first."""
    pipe = redis.pipeline(transaction=False)
    for job_id in ids:
        pipe.hget(keys.key("job", job_id), "created_at")
    created = [
        (parse_time(reply) or _LONG_AGO, job_id)
        for job_id, reply in zip(ids, pipe.execute(raise_on_error=False), strict=True)
        if isinstance(reply, bytes)
    ]
    return [job_id for _, job_id in sorted(created, reverse=True)]
