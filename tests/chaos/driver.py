"""One round of chaos: load and faults side by side, then peace, then the checks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.chaos.checks import Report, examine
from tests.chaos.faults import Faults
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.plan import Plan
from tests.chaos.yard import QUEUES, ChaosYard, open_yard
from tests.helpers.waiting import wait_until


def run(plan: Plan, folder: Path) -> Report:
    """Run a round and check it.

    Args:
        plan: What to do.
        folder: An empty folder; what is in it afterwards tells more.
    """
    with open_yard(plan, folder) as yard:
        history = History(folder / "history.jsonl")
        load, faults = Load(yard, history), Faults(yard, history)
        load.start()
        try:
            _break(yard, load, faults)
            yard.heal()
            load.join_submitters(120)
            _settle(yard, load)
        finally:
            load.close()
            history.close()
        statuses = yard.stop()
        report = examine(yard, load, faults)
        report.check(not any(statuses), f"pools left with {statuses}")
        return report


def _break(yard: ChaosYard, load: Load, faults: Faults) -> None:
    """One fault after the other, spread over the time that submitting takes."""
    plan = yard.plan
    sequence = plan.sequence()
    begun = time.monotonic()
    for place, name in enumerate(sequence, start=1):
        due_s = begun + plan.seconds * (place - plan.random.random()) / len(sequence)
        _pass(yard, max(0.0, due_s - time.monotonic()))
        faults.do(name)
        if not load.is_submitting:
            break


def _pass(yard: ChaosYard, for_s: float) -> None:
    """Let time pass, and start pools again that have killed themselves."""
    ends = time.monotonic() + for_s
    while True:
        yard.tend()
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return
        threading.Event().wait(min(0.2, left_s))


def _settle(yard: ChaosYard, load: Load) -> None:
    """Wait until all that was accepted has ended, or nothing moves any more."""

    def is_over() -> bool:
        yard.tend()
        return len(load.ended) >= len(load.promises) and not any(
            yard.redis.exists(f"rq:queue:{queue}") for queue in QUEUES
        )

    try:
        wait_until(is_over, 60, interval_s=0.1)
    except AssertionError:
        return  # the checks name what is missing
