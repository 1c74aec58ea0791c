"""One worker against RQ's own, on the same jobs: drained jobs a second, and an idle round trip.

``python -m bench.engine`` prints a table. Rounds go turn about, so that a slow moment of the
machine hits both; quote the ratios, not the figures.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from rq.suspension import resume, suspend

from bench.yard import (
    Spread,
    Yard,
    ended,
    machine,
    open_yard,
    percentile,
    publish_examples,
    wait_until,
)
from producer import keys
from producer.client import Client, Handle
from producer.contract import Request

ROW = [5.1, 3.5, 1.4, 0.2]
QUEUE = "iris@v1"
ROUNDS = 5
OUR_JOBS, STOCK_JOBS = 20_000, 400
ROUND_TRIPS = 300


def main() -> None:
    """Run all of it and print the table."""
    with open_yard() as yard:
        publish_examples(yard)
        client = Client(yard.url, settings=yard.settings)
        ours, stock = [], []
        for _ in range(ROUNDS):
            ours.append(drain(yard, client, yard.worker(), OUR_JOBS))
            stock.append(drain(yard, client, yard.stock_worker(QUEUE), STOCK_JOBS))
        idle = {
            "modelyard": round_trips(yard, client, yard.worker()),
            "rq SimpleWorker": round_trips(yard, client, yard.stock_worker(QUEUE)),
        }
    report(Spread(tuple(ours)), Spread(tuple(stock)), idle)


def drain(yard: Yard, client: Client, argv: list[str], count: int) -> float:
    """Jobs a second of one worker, from its first start of a job to its last end, queued before."""
    yard.redis.delete(keys.key("finished", QUEUE), keys.key("failed", QUEUE))
    with yard.running(argv, "worker"):
        client.submit("iris", instances=[ROW]).wait(60)  # it has loaded the model
        suspend(yard.redis)
        handles = submit(client, count)
        resume(yard.redis)
        wait_until(lambda: ended(yard.redis, QUEUE) > count, 300)
    started = min(moment(yard, handle, "started_at") for handle in handles[:64])
    finished = max(moment(yard, handle, "ended_at") for handle in handles[-64:])
    return count / (finished - started)


def submit(client: Client, count: int) -> list[Handle]:
    """So many one-row jobs, queued."""
    outcomes = client.submit_many(Request("iris", instances=[ROW]) for _ in range(count))
    return [outcome for outcome in outcomes if isinstance(outcome, Handle)]


def moment(yard: Yard, handle: Handle, field: str) -> float:
    """A time stamp of a job, in seconds."""
    text: Any = yard.redis.hget(keys.key("job", handle.id), field)
    return datetime.fromisoformat(text.decode()).timestamp()


def round_trips(yard: Yard, client: Client, argv: list[str]) -> list[float]:
    """Milliseconds from submission to result on an idle system, one job after the other."""
    with yard.running(argv, "worker"):
        for _ in range(20):
            client.submit("iris", instances=[ROW]).wait(60)
        taken = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            client.submit("iris", instances=[ROW]).wait(60)
            taken.append((time.perf_counter() - started) * 1000)
    return taken


def report(ours: Spread, stock: Spread, idle: dict[str, list[float]]) -> None:
    """The table."""
    print(f"{machine()}; iris@v1, one row a job, {ROUNDS} rounds turn about\n")
    print("| worker | jobs drained a second, median (min-max) | ratio |")
    print("|---|---|---|")
    print(f"| modelyard | {ours.show()} | {ours.median / stock.median:.0f} x |")
    print(f"| rq SimpleWorker | {stock.show()} | 1 |\n")
    print("| idle system | submit to result, p50 / p99 ms | ratio of p50 |")
    print("|---|---|---|")
    base = percentile(idle["rq SimpleWorker"], 0.5)
    for name, taken in idle.items():
        p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
        print(f"| {name} | {p50:.1f} / {p99:.1f} | {p50 / base:.2f} |")


if __name__ == "__main__":
    main()
