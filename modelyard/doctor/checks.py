"""Checks of a set-up, one function each, for `modelyard doctor`.

Each changes nothing and returns a `Check`: the verdict, the finding and, if something is wrong, a
remedy. None raises for a finding; the caller catches the errors of Redis.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from gateway import endpoint
from modelyard.up import RESULT_NODE_BYTES, find_server
from yard.broker import check_server, server_version
from yard.cluster import (
    LOOP_CRASHES,
    PoolInfo,
    read_crash_loops,
    read_mistyped_keys,
    read_presence,
    why_no_pool_works,
)
from yard.contract import is_name, keys, lenient, wire
from yard.errors import AccessDenied, ConfigurationError, InvalidJson, ModelyardError, Unavailable
from yard.platform import child_environment, exit_cause, extras
from yard.registry import catalog, queue_names, read_states
from yard.routing import read_route
from yard.settings import PREFIX, Settings, variable

#: Most bytes of a manifest that are read.
_MANIFEST_BYTES = 2**20

#: Time limit for reading a store by URL, in seconds.
_REMOTE_S = 60
_REMOTE_HINT = f"check {variable('store')}, and the store's own variables, as AWS_ENDPOINT_URL"

#: Seconds from which on a scheduled job is late: pools look once a second.
_LATE_S = 10

#: Most findings that a check names; the rest is counted.
_MOST = 5


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes:
        name: Its subject, for example ``redis``.
        ok: True if nothing is wrong.
        detail: The finding.
        hint: The remedy; may be empty.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON shows it."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "hint": self.hint}


def check_variables(environ: Mapping[str, str]) -> Check:
    """Every ``MODELYARD_*`` variable belongs to a setting."""
    known = [variable(name) for name in Settings.model_fields]
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    if not unknown:
        return Check("settings", True, "every MODELYARD_* variable is known")
    close = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {close[0]}?" if close else "see docs/settings.md"
    return Check("settings", False, f"unknown: {_some(unknown)}", hint)


def check_extras() -> Check:
    """Lists the installed extras; never wrong, for a client needs none."""
    lacking = {extra: names for extra in extras.MODULES if (names := extras.missing(extra))}
    have = [extra for extra in extras.MODULES if extra not in lacking]
    detail = f"installed: {', '.join(have) or 'none'}"
    if not lacking:
        return Check("extras", True, detail)
    detail += "; not: " + ", ".join(f"{k} (no {', '.join(v)})" for k, v in lacking.items())
    return Check("extras", True, detail, f"pip install 'modelyard[{','.join(lacking)}]'")


def check_embedded() -> Check:
    """`modelyard up` finds a Redis server to start."""
    try:
        return Check("redis server", True, str(find_server()))
    except ConfigurationError as error:
        return Check("redis server", False, error.message, "pip install 'modelyard[embedded]'")


def check_redis(redis: Redis, shown_url: str) -> Iterator[Check]:
    """Redis is new enough, keeps an append-only file, and evicts no key."""
    try:
        check_server(redis)
    except ModelyardError as error:
        yield Check("redis", False, f"{shown_url}: {error.message}", _redis_hint(error))
        return
    version = ".".join(map(str, server_version(redis)))
    yield Check("redis", True, f"{version} at {shown_url}")
    kept = bool(redis.info("persistence").get("aof_enabled"))
    yield Check(
        "append-only file",
        kept,
        "on" if kept else "off: accepted jobs are lost when Redis restarts",
        "" if kept else "redis-cli CONFIG SET appendonly yes, and in its configuration file",
    )
    policy = str(redis.info("memory").get("maxmemory_policy", "noeviction"))
    never = policy == "noeviction"
    yield Check(
        "maxmemory-policy",
        never,
        policy if never else f"{policy}: a full Redis drops jobs and routes without a word",
        "" if never else "redis-cli CONFIG SET maxmemory-policy noeviction",
    )
    yield _check_results(redis)


def _redis_hint(error: ModelyardError) -> str:
    """The remedy for a Redis that cannot be used; empty where the error names its own."""
    if isinstance(error, AccessDenied):
        return ""
    another = f"set {variable('redis_url')} to another"
    return f"start it, or {another}" if isinstance(error, Unavailable) else another


def _check_results(redis: Redis) -> Check:
    """Bytes that Redis sets aside for a result; never wrong, only wasteful."""
    try:
        setting: Any = redis.config_get("stream-node-max-bytes")
        size = int(setting["stream-node-max-bytes"])
    except (RedisError, KeyError, ValueError):  # a managed Redis may refuse CONFIG
        return Check("results", True, "what Redis sets aside for each cannot be read")
    is_wasteful = size == 0 or size > 2 * RESULT_NODE_BYTES
    return Check(
        "results",
        True,
        f"Redis sets aside {min(size, 4096) or 4096} bytes for each",
        f"less memory and more jobs a second: redis-cli CONFIG SET stream-node-max-bytes "
        f"{RESULT_NODE_BYTES}"
        if is_wasteful
        else "",
    )


def check_gateway(host: str, port: int) -> Check:
    """A gateway answers and is ready."""
    where = endpoint.address(host, port)
    status, detail = endpoint.ask_ready(host, port, timeout_s=2.0)
    if status == 200:
        return Check("gateway", True, f"ready at {where}")
    if status is None:
        return Check("gateway", False, f"{where}: {detail}", "modelyard up, or modelyard gateway")
    return Check("gateway", False, f"{where} is not ready: {detail}", "see the other checks")


def check_keys(redis: Redis) -> Check:
    """Every key of ours has its type: one that was overwritten stops what needs it."""
    models = _members(redis, keys.MODELS)
    queues = [
        name.removeprefix(keys.PREFIXES["queue"])
        for name in _members(redis, keys.QUEUES)
        if keys.parse_queue(name.removeprefix(keys.PREFIXES["queue"])) is not None
    ]
    found = read_mistyped_keys(redis, models, queues)
    if not found:
        return Check("keys", True, "every key has its type")
    faults = [f"{key} is a {kind}, not a {wanted}" for key, (kind, wanted) in found.items()]
    ways = [f"redis-cli DEL {key}" for key in found]
    return Check("keys", False, _some(faults), f"{' && '.join(ways[:_MOST])}; work goes on then")


def _members(redis: Redis, key: str) -> list[str]:
    """Names in a set; none where the key holds another type."""
    try:
        found: Any = redis.smembers(key)
    except ResponseError:
        return []
    return sorted(lenient.decode(raw) for raw in found)


def check_workers(redis: Redis) -> Check:
    """A pool is alive, by Redis' clock, and none is stuck."""
    present = read_presence(redis)
    names = [_with_release(pool) for pool in present.pools]
    stuck = [pool for pool in present.pools if pool.is_stuck]
    detail = f"pools: {_some(names) or 'none'}; workers: {len(present.workers)}"
    if stuck:
        way = "end it with SIGKILL" if check_keys(redis).ok else "mend the keys first"
        return Check("workers", False, f"{detail}; {why_no_pool_works(stuck)}", way)
    hint = "" if names else "modelyard up, or modelyard pool"
    return Check("workers", bool(names), detail, hint)


def _with_release(pool: PoolInfo) -> str:
    release = pool.known.get("release")
    return f"{pool.name} ({release})" if isinstance(release, str) else pool.name


def check_crashes(redis: Redis) -> Check:
    """No version is in a crash loop."""
    loops = [
        f"{one.queue}: {one.row} workers in a row died ({exit_cause(one.status)}), "
        + (f"held back for {one.held_s:.0f} s more" if one.held_s else "to be tried again")
        for one in read_crash_loops(redis)
        if one.row >= LOOP_CRASHES
    ]
    hint = "the pool's log says more; send the model's traffic to another version" if loops else ""
    return Check("crashes", not loops, _some(loops) or "no version kills its workers", hint)


def check_store(location: str) -> tuple[Check, dict[tuple[str, str], str]]:
    """Every version in the store is whole; returned with each whole version's digest.

    Of a store by URL only the manifests are read; `modelyard verify` reads the files.
    """
    if "://" in location:
        return _check_remote(location)
    return _check_folder(Path(location))


def _check_remote(location: str) -> tuple[Check, dict[tuple[str, str], str]]:
    """Asks `modelyard verify --quick` in a process of its own, which can read such a store."""
    command = ["verify", "--quick", "--json", "--store", location]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "modelyard.cli", *command],
            env=child_environment({}),
            capture_output=True,
            timeout=_REMOTE_S,
            check=False,
        )
        versions = json.loads(done.stdout)["versions"] if done.stdout else None
    except (OSError, ValueError, LookupError, subprocess.TimeoutExpired):
        return Check(
            "store", False, f"{location}: no answer within {_REMOTE_S} s", _REMOTE_HINT
        ), {}
    if versions is None:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Check("store", False, said.removeprefix("error: "), _REMOTE_HINT), {}
    whole = {(v["model"], v["version"]): v["digest"] for v in versions if v["digest"]}
    if faults := [f for v in versions if not v["digest"] for f in v["problems"]]:
        return Check("store", False, _some(faults), "publish these versions again"), whole
    detail = f"{len(whole)} versions in {location}; `modelyard verify` reads their files"
    return Check("store", True, detail), whole


def _check_folder(store: Path) -> tuple[Check, dict[tuple[str, str], str]]:
    if not store.is_dir():
        hint = f"modelyard publish or modelyard examples makes it; {variable('store')} moves it"
        return Check("store", False, f"{store} is not there", hint), {}
    whole: dict[tuple[str, str], str] = {}
    faults = []
    try:
        folders = sorted(p for p in store.glob("*/*") if is_name(p.name) and is_name(p.parent.name))
    except OSError as error:
        return Check("store", False, f"{store}: {error.strerror}", "check its permissions"), {}
    for folder in folders:
        try:
            whole[folder.parent.name, folder.name] = _digest_of(folder)
        except (OSError, InvalidJson, KeyError, TypeError, ValueError) as error:
            faults.append(f"{folder.parent.name}@{folder.name}: {error}")
    if faults:
        return Check("store", False, _some(faults), "publish these versions again"), whole
    return Check("store", True, f"{len(whole)} versions in {store}, all whole"), whole


def _digest_of(folder: Path) -> str:
    """The digest in a version's manifest, after its files have been read and compared.

    Raises:
        ValueError: A file differs from what was published.
    """
    with (folder / "manifest.json").open("rb") as file:
        manifest = wire.loads(file.read(_MANIFEST_BYTES))
    for known in manifest["files"]:
        path = folder / Path(known["name"]).name
        if path.stat().st_size != known["size_bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not as published")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                raise ValueError(f"{path.name} is not what was published (its SHA-256 differs)")
    return str(manifest["digest"])


def check_catalogue(redis: Redis, stored: Mapping[tuple[str, str], str]) -> Check:
    """Redis and the store have the same versions."""
    published = {
        (model, version): str(entry.manifest.get("digest"))
        for model in catalog.model_names(redis)
        for version, entry in catalog.read_versions(redis, model).items()
    }
    gone = [f"{m}@{v} is published but not in the store" for m, v in published.keys() - stored]
    new = [f"{m}@{v} is in the store but not published" for m, v in stored.keys() - published]
    other = [
        f"{m}@{v} has other bytes in the store than were published"
        for m, v in published.keys() & stored.keys()
        if published[m, v] != stored[m, v]
    ]
    if faults := sorted([*gone, *new, *other]):
        hint = f"modelyard publish again; {variable('store')} must be the same for all processes"
        return Check("catalogue", False, _some(faults), hint)
    if not published:
        return Check("catalogue", False, "no model is published", "modelyard examples, or publish")
    return Check("catalogue", True, f"{len(published)} versions, all in the store")


def check_routes(redis: Redis) -> Check:
    """Each model's route keys are valid; one that is published but not routed is only named."""
    faults, unrouted = [], []
    names = catalog.model_names(redis)
    for model in names:
        try:
            route = read_route(redis, model)
        except ModelyardError as error:
            faults.append(f"{model}: {error.message}")
            continue
        faults += [f"{model}: {problem}" for problem in route.problems]
        if route.mode == "none" and not route.problems:
            unrouted.append(model)
    hint = "modelyard activate MODEL VERSION, or modelyard weights" if faults or unrouted else ""
    well = f"{len(names)} models, all routed"
    if unrouted:  # as `publish` leaves it without --activate
        well = f"{len(names)} models; no version is active of: {_some(unrouted)}"
    return Check("routes", not faults, _some(faults) or well, hint)


def check_quarantine(redis: Redis) -> Check:
    """The quarantine is empty: every push was a readable job."""
    length = _length(redis, keys.QUARANTINE)
    if not length:
        return Check("quarantine", True, "empty")
    hint = f"redis-cli LRANGE {keys.QUARANTINE} 0 4 shows them; DEL it once you have looked"
    return Check("quarantine", False, f"{length} pushes were no jobs that can be read", hint)


def check_suspension(redis: Redis) -> Check:
    """`rq suspend` does not keep the workers from all jobs."""
    left_ms = int(redis.pttl(keys.SUSPENDED))  # -2: no such key, -1: for ever
    if left_ms == -2:
        return Check("suspension", True, "workers may take jobs")
    long = "" if left_ms == -1 else f" for {left_ms / 1000:.0f} s more"
    return Check(
        "suspension",
        False,
        f"`rq suspend` holds all workers back{long}: jobs are accepted, and wait",
        f"rq resume, or redis-cli DEL {keys.SUSPENDED}",
    )


def check_queues(redis: Redis) -> Check:
    """Every job that waits has a version that will run it."""
    waiting, faults, hint = 0, [], ""
    prefix = keys.PREFIXES["queue"]
    published = {model: catalog.read_versions(redis, model) for model in catalog.model_names(redis)}
    served = {f"{model}@{version}" for model, known in published.items() for version in known}
    served |= {*published, *read_states(redis)}  # workers fail the jobs of a deleted version
    for key in sorted(redis.scan_iter(match=f"{prefix}*", count=1000)):
        name = bytes(key).decode("utf-8", "replace").removeprefix(prefix)
        length = _length(redis, key)
        if length is None:
            faults.append(f"{name[:80]!r} is no list")
        elif name in served:
            waiting += length
        elif _is_meant_for_us(name, published):
            jobs = "1 job waits" if length == 1 else f"{length} jobs wait"
            faults.append(f"{name[:80]!r}: {jobs}, and no worker serves this queue")
            hint = hint or _way_back(name, served)
    return Check("queues", not faults, _some(faults) or f"{waiting} jobs wait", hint)


def _is_meant_for_us(queue: str, published: Mapping[str, Any]) -> bool:
    """True for a queue named as those of ours, but for case; others are another application's."""
    model, at, _ = queue.partition("@")
    parsed = keys.parse_queue(queue)
    return model.strip().lower() in published or bool(at and parsed)


def _way_back(queue: str, served: Collection[str]) -> str:
    """The remedy for jobs on a queue that is not served: its likely name, or to publish it."""
    lowered = queue.strip().lower()
    close = [lowered] if lowered in served else difflib.get_close_matches(lowered, served, n=1)
    meant = f"push to {close[0]} if that was meant" if close else ""
    publish = "publish the version and they run" if keys.parse_queue(queue) else ""
    drop = f"redis-cli DEL {shlex.quote(keys.key('queue', queue))} drops them"
    return "; ".join(text for text in (publish, meant, drop) if text)


def check_due(redis: Redis) -> Check:
    """Jobs that RQ's clients have scheduled are queued at their time."""
    queues = queue_names(redis)
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    for queue in queues:
        pipe.zcard(keys.key("scheduled", queue))
        pipe.zcard(keys.key("deferred", queue))
        pipe.zrangebyscore(keys.key("scheduled", queue), "-inf", "+inf", 0, 1, withscores=True)
        pipe.exists(keys.key("scheduler_lock", queue))
    (now_s, _), *found = pipe.execute(raise_on_error=False)
    faults, scheduled, deferred = [], 0, 0
    for place, queue in enumerate(queues):
        later, behind, first, is_locked = found[4 * place : 4 * place + 4]
        scheduled += lenient.count(later)
        deferred += lenient.count(behind)
        late_s = now_s - first[0][1] if isinstance(first, list) and first else 0
        if late_s > _LATE_S:
            whose = "an RQ scheduler holds its lock" if is_locked else "no pool queues them"
            faults.append(f"{queue}: scheduled jobs are late by {late_s:.0f} s, and {whose}")
    hint = "modelyard pool queues them; an RQ scheduler with the lock must be seen to itself"
    detail = f"{scheduled} jobs scheduled, {deferred} wait for others"
    return Check("scheduled", not faults, _some(faults) or detail, hint if faults else "")


def _length(redis: Redis, key: bytes | str) -> int | None:
    """Length of a list, 0 if the key is absent, None if it has another type."""
    try:
        return int(redis.llen(key))
    except ResponseError:
        return None


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return "; ".join(texts[:_MOST]) + more
