"""Checks when a run is over: the invariants I1 to I6, and the times of recovery."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from producer.results import decode_job, read_raw
from tests.chaos.faults import Faults, Hit
from tests.chaos.load import FIRST, Load, Promise
from tests.chaos.plan import DISTURBING
from tests.chaos.rubbish import PREFIX
from tests.chaos.yard import QUEUES, VERSIONS, ChaosYard
from yard.contract import keys
from yard.contract.values import Job, JobStatus

_DIED = re.compile(r"a worker died \(status (-?\d+)\)")


@dataclass(slots=True)
class Report:
    """The result of a run.

    Attributes:
        violations: Sentences; none if all is well.
        figures: What is printed.
    """

    violations: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def check(self, holds: bool, what: str) -> None:
        """Note a violation unless it ``holds``; 50 at most, since the first ones suffice."""
        if not holds and len(self.violations) < 50:
            self.violations.append(what)

    def __str__(self) -> str:
        lines = [f"  {name:<34}{value}" for name, value in self.figures.items()]
        return "\n".join([*lines, *(f"VIOLATION {one}" for one in self.violations)])


@dataclass(frozen=True, slots=True)
class Found:
    """One accepted job, as Redis holds it in the end."""

    job: Job | None
    results: int
    crashes: int


def examine(yard: ChaosYard, load: Load, faults: Faults) -> Report:
    """Check everything; the pools have been stopped."""
    report = Report()
    found = {promise.id: one for promise, one in zip(load.promises, _read(yard, load), strict=True)}
    executions = {version: _executions(yard, version) for version in VERSIONS}
    sent = {entry["number"] for entry in load.history.read("sent")}
    cuts = sum(done.name in DISTURBING for done in faults.done)
    for promise in load.promises:
        _check_promise(report, load, promise, found[promise.id])
        _check_executions(report, promise, found[promise.id], executions, cuts)
    _check_strangers(report, yard, load, sent, executions)
    _check_rest(report, yard)
    _check_logs(report, yard)
    _tell(report, yard, load, faults, found, executions)
    return report


def _read(yard: ChaosYard, load: Load) -> list[Found]:
    found: list[Found] = []
    for start in range(0, len(load.promises), 500):
        ids = [promise.id for promise in load.promises[start : start + 500]]
        pipe = yard.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.xlen(keys.key("results", job_id))
            pipe.hget(keys.key("job", job_id), "my_crashes")
        counts = pipe.execute()
        jobs = [decode_job(i, raw) for i, raw in zip(ids, read_raw(yard.redis, ids), strict=True)]
        found += [
            Found(job, results, int(crashes or 0))
            for job, results, crashes in zip(jobs, counts[::2], counts[1::2], strict=True)
        ]
    return found


def _check_promise(report: Report, load: Load, promise: Promise, found: Found) -> None:
    """I1: one terminal result; I2: the right one; I5: of the version that was accepted."""
    job, name = found.job, f"job {promise.number} ({promise.id})"
    if job is None:
        report.check(False, f"I1 {name} is gone")
        return
    report.check(job.status.is_terminal, f"I1 {name} is {job.status}")
    report.check(found.results == 1, f"I1 {name} has {found.results} results")
    report.check(job.version == promise.version, f"I5 {name} ran on {job.version}")
    was = load.ended.get(promise.id)
    report.check(was is None or was == job, f"I1 {name} was seen as {was}, and is {job}")
    if promise.id in load.canceled:
        report.check(job.status is JobStatus.CANCELED, f"I2 {name}, canceled, is {job.status}")
    else:
        report.check(job.status is JobStatus.FINISHED, f"I2 {name} is {job.status}: {job.error}")
        result = (job.result or {}).get("predictions")
        report.check(result == [promise.number], f"I2 {name} gave {result}")


def _executions(yard: ChaosYard, version: str) -> Counter[int]:
    """Number of times that a version predicted each job's number."""
    text = yard.journal(version).read_text()
    return Counter(n for n in (int(float(line)) for line in text.split()) if n >= FIRST)


def _check_executions(
    report: Report,
    promise: Promise,
    found: Found,
    executions: dict[str, Counter[int]],
    cuts: int,
) -> None:
    """I5: no other version has run it; I6: no oftener than once and once for each fault.

    A worker begins the batch that it has taken ahead when it has *sent* the end of the one before.
    If that does not reach Redis, and the worker dies then, Redis gives the batch back as not begun.
    """
    for version, counts in executions.items():
        count, name = counts[promise.number], f"job {promise.number} of {promise.version}"
        if version != promise.version:
            report.check(count == 0, f"I5 {name} was run by {version}")
        else:
            most = 1 + found.crashes + min(1, cuts)
            report.check(count <= most, f"I6 {name} was run {count} times, {found.crashes} crashes")


def _check_strangers(
    report: Report,
    yard: ChaosYard,
    load: Load,
    sent: set[int],
    executions: dict[str, Counter[int]],
) -> None:
    """I3: no result for a job that was never submitted."""
    known = {promise.id for promise in load.promises}
    for raw in yard.redis.scan_iter(keys.key("results", "*"), count=1000):
        job_id = raw.decode().removeprefix(keys.PREFIXES["results"])
        is_known = job_id in known or job_id.startswith(PREFIX)
        report.check(is_known, f"I3 a result for {job_id}, which nobody submitted")
    for counts in executions.values():
        report.check(counts.keys() <= sent, f"I3 predicted: {sorted(counts.keys() - sent)[:5]}")


def _check_rest(report: Report, yard: ChaosYard) -> None:
    """I4: queues, batches, leases, registries of what runs, deadlines: all empty."""
    redis = yard.redis
    names = [keys.LEASES, keys.DEADLINES]
    names += [keys.key(family, queue) for family in ("queue", "wip") for queue in QUEUES]
    for name in names:
        report.check(not redis.exists(name), f"I4 {name} is not empty")
    for family in ("batch", "worker"):
        for raw in redis.scan_iter(keys.key(family, "*"), count=1000):
            ttl = redis.ttl(raw)
            is_left = family == "batch" or ttl < 0
            report.check(not is_left, f"I4 {raw.decode()} is left, its TTL is {ttl}")


def _check_logs(report: Report, yard: ChaosYard) -> None:
    """Processes died only of a SIGKILL, and no log has an unexpected error."""
    for place in yard.places:
        log = place.log.read_text(errors="replace")
        odd = Counter(status for status in _DIED.findall(log) if status != "-9")
        report.check(not odd, f"workers ended by themselves, by status: {dict(odd)}")
        start = log.find("Traceback")
        report.check(start < 0, f"a traceback in {place.log.name}: {log[start : start + 2000]}")


def _tell(
    report: Report,
    yard: ChaosYard,
    load: Load,
    faults: Faults,
    found: dict[str, Found],
    executions: dict[str, Counter[int]],
) -> None:
    jobs = [one.job for one in found.values() if one.job is not None]
    runs = Counter[int]()
    for counts in executions.values():
        runs += counts
    again = sum(count > 1 for count in runs.values())
    lost = sum(not job.status.is_terminal for job in jobs) + len(found) - len(jobs)
    struck = yard.to_pools.struck + yard.to_clients.struck
    report.figures |= {
        "seed": yard.plan.seed,
        "jobs accepted": len(load.promises),
        "lost": lost,
        "with two results": sum(one.results > 1 for one in found.values()),
        "ended as": dict(Counter(job.status.value for job in jobs)),
        "run more than once": f"{again} ({100 * again / max(1, len(runs)):.2f} %)",
        "crashes counted, most on one job": max((one.crashes for one in found.values()), default=0),
        "faults": len(faults.done),
        "workers killed, with a batch": sum(bool(hit.ids) for hit in faults.hits),
        "kills at named points": yard.strikes.count,
        "faults of the network": dict(struck),
        "ids pushed again, rubbish pushed": (load.pushed_again, load.rubbish),
    }
    for name, is_seen in (("its pool sees it", True), ("by lease", False)):
        hits = [hit for hit in faults.hits if hit.is_seen is is_seen]
        calm = [hit for hit in hits if not faults.is_disturbed(hit)]
        report.figures[f"recovery, {name}"] = _spread(_recoveries(calm, found))
        report.figures[f"  {name}, in all"] = _spread(_recoveries(hits, found))


def _recoveries(hits: list[Hit], found: dict[str, Found]) -> list[float]:
    """Seconds from a kill to the next claim of each job that it hit, where it was hit only once."""
    times: list[float] = []
    for hit in hits:
        for job_id in hit.ids:
            one = found.get(job_id)
            if one is None or one.job is None or one.job.started_at is None or one.crashes != 1:
                continue
            claimed_s = datetime.fromisoformat(one.job.started_at).timestamp()
            if claimed_s > hit.at_s:
                times.append(claimed_s - hit.at_s)
    return sorted(times)


def _spread(times: list[float]) -> str:
    if not times:
        return "none"
    p50, p99 = (times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99))
    return f"p50 {p50:.3f} s, p99 {p99:.3f} s, max {times[-1]:.3f} s ({len(times)} jobs)"
