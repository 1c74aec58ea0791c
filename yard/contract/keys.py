"""Every Redis key, queue name and time to live. No other module formats a key.

Modelyard keeps RQ's keys with RQ's meaning, so that RQ's own tools read them, and adds its own under
``modelyard:``. The table has for each: type, writers, readers, and when it goes away.
"permanent" means that it stays until an operator deletes it; its size is bounded by the catalogue.
"reap" is all that takes jobs back from a worker: reap, sweep, and a claim whose predecessor was lost.

    key                              type    written by          read by          gone
    RQ's
    rq:queues                        set     submit, publish     RQ's tools       permanent
    rq:queue:{queue}                 list    submit, anyone      claim            when empty
    rq:job:{id}                      hash    submit, anyone      claim, get       result or failure TTL after its end
    rq:results:{id}                  stream  finish, reap        get, wait        result or failure TTL
    rq:wip:{queue}                   zset    claim, finish, reap RQ's tools       when empty
    rq:finished|failed|canceled:{queue}  zset  finish, cancel, reap  RQ's tools     members go with their jobs
    rq:scheduled:{queue}             zset    RQ's clients        pool             when empty
    rq:deferred:{queue}              zset    RQ's clients        pool             when empty
    rq:scheduler-lock:{queue}        string  RQ's scheduler      pool             RQ's time, a minute
    rq:groups, rq:group:{name}       set     RQ's clients        pool             when empty; members go with their jobs
    rq:workers, rq:workers:{queue}   set     worker              RQ's tools       when empty
    rq:worker:{name}                 hash    worker              RQ's tools       WORKER_TTL_S after its last beat
    rq:pubsub:{name}                 channel RQ's tools          worker           -
    rq:suspended                     string  `rq suspend`        claim            RQ's `--duration`, or `rq resume`
    Operators write
    modelyard:active:{model}         string  operators           submit           permanent
    modelyard:weights:{model}        hash    operators           submit           permanent
    modelyard:aliases:{model}        hash    operators           submit           permanent
    Modelyard writes
    modelyard:format                 string  pool             pool, gateway    permanent
    modelyard:models                 set     publish             all              permanent
    modelyard:versions:{model}       hash    publish             all              permanent
    modelyard:signatures:{model}     hash    publish             submit           permanent
    modelyard:route:{model}          hash    submit, routing     all              permanent
    modelyard:retired                hash    retire, delete      submit, workers  permanent; deleted ones TOMBSTONE_TTL_S
    modelyard:history:{model}        stream  submit, routing     rollback         permanent, HISTORY_LENGTH entries
    modelyard:leases                 zset    claim, renew        sweep            when empty
    modelyard:swept                  hash    sweep, renew, beat  sweep, renew, beat  permanent, two fields
    modelyard:batch:{worker}         hash    claim, finish       reap, renew, pool  when the batch ends or is reaped; has the one taken ahead, too
    modelyard:bell:{queue}           list    submit, claim       idle workers     BELL_TTL_S
    modelyard:deadlines              zset    submit, reap        sweep            when empty; members go when their job is started or ends
    modelyard:idempotency:{model}:{digest}  string  submit       submit           idempotency TTL
    modelyard:metrics                hash    finish, reap, pool  /metrics         permanent, one field a series
    modelyard:quarantine             list    claim               doctor           permanent, QUARANTINE_LENGTH entries
    modelyard:pace:{queue}           string  worker              pool, gateway    PACE_TTL_S after the last batch
    modelyard:off:{worker}           string  pool                worker           PRESENCE_TTL_S after it was last written
    modelyard:crashes                hash    pool             workers, doctor  CRASHES_TTL_S after the last crash
    modelyard:loaded:{worker}        string  worker              gateway          PRESENCE_TTL_S after its last beat
    modelyard:waiting                hash    pool, workers, gateway  claim, gateway, pool  WAITING_TTL_S after the last look
    modelyard:pool:{name}            string  pool                gateway, doctor  PRESENCE_TTL_S after its last beat
    modelyard:presence               zset    worker, pool        gateway, doctor  when empty; members by expiry
    modelyard:wanted                 hash    flips               workers, pool    WANTED_TTL_S after the last entry
    modelyard:loading:{queue}        hash    worker              worker           WANTED_TTL_S after the last load began
    modelyard:ended                  channel finish, reap, cancel  waiting clients  -
"""

from __future__ import annotations

from yard.contract.values import ModelRef, is_name

#: Seconds that a worker's RQ entry outlives its last beat.
WORKER_TTL_S = 60
#: Seconds without an announcement after which a pool or worker counts as gone.
PRESENCE_TTL_S = 10
#: Seconds that the measured pace of a version is kept: a day.
PACE_TTL_S = 86_400
#: Seconds without a completed look at the queues after which a pool is stuck.
STUCK_S = 6
#: Seconds after which a crash counts no more towards a loop.
CRASHES_TTL_S = 3600
#: Seconds that an unanswered doorbell stays; jobs are found by looking at the queue, too.
BELL_TTL_S = 60
#: Seconds after which warm-up requests are dropped; above any wait for one.
WANTED_TTL_S = 3_600
#: Seconds that is kept since when jobs wait in a queue, if nobody looks any more.
WAITING_TTL_S = 3_600
#: Seconds that a deleted version is known as such: longer than any batch may take.
TOMBSTONE_TTL_S = 7_200
#: Number of routes that ``rollback`` can look back to.
HISTORY_LENGTH = 1_000
#: Number of unreadable pushes that are kept for the operator.
QUARANTINE_LENGTH = 1_000
#: Bounds of the time that an ended job is kept, in seconds: RQ's 0 and -1 are these.
SHORTEST_TTL_S = 10
LONGEST_TTL_S = 604_800
#: Bytes of an id from which on a push is no job; those above 64 are failed with a word.
ID_LENGTH = 255
#: Seconds that the hash of a quarantined push stays.
QUARANTINED_TTL_S = 86_400
#: Seconds added to a job's timeout for RQ's started registry, so that RQ's clean-up never acts
#: first.
RQ_WIP_MARGIN_S = 600

#: Its members are whole keys, ``rq:queue:iris@v1``: at a bare name RQ's tools raise.
QUEUES = "rq:queues"
WORKERS = "rq:workers"
SUSPENDED = "rq:suspended"
GROUPS = "rq:groups"
FORMAT = "modelyard:format"
MODELS = "modelyard:models"
RETIRED = "modelyard:retired"
LEASES = "modelyard:leases"
SWEPT = "modelyard:swept"
DEADLINES = "modelyard:deadlines"
METRICS = "modelyard:metrics"
QUARANTINE = "modelyard:quarantine"
CRASHES = "modelyard:crashes"
PRESENCE = "modelyard:presence"
ENDED = "modelyard:ended"
WANTED = "modelyard:wanted"
WAITING = "modelyard:waiting"

#: The families of keys: ``K.name`` in the scripts, ``name`` for `key`.
PREFIXES = {
    "queue": "rq:queue:",
    "job": "rq:job:",
    "results": "rq:results:",
    "wip": "rq:wip:",
    "finished": "rq:finished:",
    "failed": "rq:failed:",
    "canceled": "rq:canceled:",
    "scheduled": "rq:scheduled:",
    "deferred": "rq:deferred:",
    "scheduler_lock": "rq:scheduler-lock:",
    "group": "rq:group:",
    "workers": "rq:workers:",
    "worker": "rq:worker:",
    "pubsub": "rq:pubsub:",
    "active": "modelyard:active:",
    "weights": "modelyard:weights:",
    "aliases": "modelyard:aliases:",
    "versions": "modelyard:versions:",
    "signatures": "modelyard:signatures:",
    "route": "modelyard:route:",
    "history": "modelyard:history:",
    "batch": "modelyard:batch:",
    "bell": "modelyard:bell:",
    "idempotency": "modelyard:idempotency:",
    "pace": "modelyard:pace:",
    "off": "modelyard:off:",
    "loaded": "modelyard:loaded:",
    "pool": "modelyard:pool:",
    "loading": "modelyard:loading:",
}

#: Single keys that the scripts see.
SINGLES = {
    "queues": QUEUES,
    "suspended": SUSPENDED,
    "groups": GROUPS,
    "models": MODELS,
    "retired": RETIRED,
    "leases": LEASES,
    "swept": SWEPT,
    "deadlines": DEADLINES,
    "metrics": METRICS,
    "quarantine": QUARANTINE,
    "crashes": CRASHES,
    "presence": PRESENCE,
    "all_workers": WORKERS,
    "ended": ENDED,
    "wanted": WANTED,
    "waiting": WAITING,
}

#: The sizes and times to live that the scripts see.
NUMBERS = {
    "bell_ttl": BELL_TTL_S,
    "wanted_ttl": WANTED_TTL_S,
    "waiting_ttl": WAITING_TTL_S,
    "tombstone_ttl": TOMBSTONE_TTL_S,
    "history_length": HISTORY_LENGTH,
    "quarantine_length": QUARANTINE_LENGTH,
    "shortest_ttl": SHORTEST_TTL_S,
    "longest_ttl": LONGEST_TTL_S,
    "id_length": ID_LENGTH,
    "quarantined_ttl": QUARANTINED_TTL_S,
    "worker_ttl": WORKER_TTL_S,
    "crashes_ttl": CRASHES_TTL_S,
    "wip_margin": RQ_WIP_MARGIN_S,
}

#: Types of single keys, by name, as the table above has them.
TYPES = {
    QUEUES: "set",
    WORKERS: "set",
    MODELS: "set",
    RETIRED: "hash",
    LEASES: "zset",
    SWEPT: "hash",
    DEADLINES: "zset",
    METRICS: "hash",
    QUARANTINE: "list",
    CRASHES: "hash",
    PRESENCE: "zset",
    WANTED: "hash",
    WAITING: "hash",
    FORMAT: "string",
}

#: Types of the families that have a key for each model, and for each queue.
MODEL_TYPES = {
    "versions": "hash",
    "signatures": "hash",
    "route": "hash",
    "history": "stream",
    "aliases": "hash",
}
QUEUE_TYPES = {
    "queue": "list",
    "wip": "zset",
    "finished": "zset",
    "failed": "zset",
    "canceled": "zset",
    "bell": "list",
    "pace": "string",
    "workers": "set",
}

#: Keys, or prefixes of keys, that stay until an operator deletes them; the catalogue bounds them.
PERMANENT = (
    QUEUES,
    FORMAT,
    MODELS,
    RETIRED,
    SWEPT,
    METRICS,
    QUARANTINE,
    PREFIXES["active"],
    PREFIXES["weights"],
    PREFIXES["aliases"],
    PREFIXES["versions"],
    PREFIXES["signatures"],
    PREFIXES["route"],
    PREFIXES["history"],
)

#: Keys, or prefixes of keys, without a time to live that go with the thing that they are about.
WHILE_IN_USE = (
    SUSPENDED,
    LEASES,
    DEADLINES,
    PRESENCE,
    WORKERS,
    GROUPS,
    PREFIXES["queue"],
    PREFIXES["job"],
    PREFIXES["wip"],
    PREFIXES["finished"],
    PREFIXES["failed"],
    PREFIXES["canceled"],
    PREFIXES["scheduled"],
    PREFIXES["deferred"],
    PREFIXES["group"],
    PREFIXES["workers"],
    PREFIXES["batch"],
)


def key(family: str, name: str) -> str:
    """Returns the key of ``name`` in one of the `PREFIXES` families."""
    return PREFIXES[family] + name


def queue_name(ref: ModelRef) -> str:
    """Returns the queue of a version; `parse_queue` is the inverse."""
    return f"{ref.model}@{ref.version}"


def parse_queue(queue: str) -> tuple[str, str | None] | None:
    """Returns the model and version of a queue; None if it is no queue of ours.

    The version is None for a model's unversioned queue.
    """
    model, at, version = queue.partition("@")
    if not is_name(model) or (at and not is_name(version)):
        return None
    return model, version if at else None
