"""``make bench``: measures all parts, or those that are named, and writes what they say.

A run of all parts writes ``bench/RESULTS.md`` and ``bench/results.svg``. A run of some, or a quick
one, writes the same under ``build/bench``, so that nothing that is committed changes by a trial.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import (
    capacity,
    cold,
    engine,
    idle,
    memory,
    models,
    queues,
    scale,
    scaling,
    serving,
    sharing,
    submit,
)
from bench.drivers import BATCHES, PEERS
from bench.environments import installed, versions
from bench.picture import picture
from bench.progress import say
from bench.report import Section, goal_table, report

_HERE = Path(__file__).resolve().parent
_TRIALS = _HERE.parent / "build" / "bench"

#: The parts in the order in which they run and are reported.
PARTS: Mapping[str, Callable[[bool], Section]] = {
    "engine": engine.run,
    "peers": queues.run,
    "submit": submit.run,
    "idle": idle.run,
    "http": serving.run,
    "scale": scale.run,
    "cold": cold.run,
    "scaling": scaling.run,
    "memory": memory.run,
    "redis": capacity.run,
    "models": models.run,
    "sharing": sharing.run,
}


def main(arguments: Sequence[str]) -> int:
    """Measure and write; the exit status is 1 if a part did not come to its end."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=_about())
    parser.add_argument("parts", nargs="*", metavar="PART", help="by default all")
    parser.add_argument("--quick", action="store_true", help="a trial of everything, in 3 minutes")
    chosen = parser.parse_args(arguments)
    unknown = [part for part in chosen.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl-C does: everything that was started ends
    started = datetime.now(UTC)
    folder = _TRIALS if chosen.parts or chosen.quick else _HERE
    sections, is_whole = [], True
    for section, is_good in measured(chosen.parts or list(PARTS), chosen.quick):
        sections.append(section)
        is_whole &= is_good
        write(folder, sections, started)  # a run that is broken off leaves what it has
    print(goal_table([goal for section in sections for goal in section.goals]).markdown())
    return 0 if is_whole else 1


def measured(parts: Sequence[str], quick: bool) -> Iterator[tuple[Section, bool]]:
    """The report of each part, printed when it is made, and whether the part succeeded."""
    for part in parts:
        started, is_good = time.monotonic(), True
        try:
            section = PARTS[part](quick)
        except Exception as error:  # the other parts are worth having
            section, is_good = Section(part, f"Did not come to its end: {error!r}"), False
        print(section.markdown(), flush=True)
        say(f"{part} took {time.monotonic() - started:.0f} s")
        yield section, is_good


def write(folder: Path, sections: Sequence[Section], started: datetime) -> None:
    """The report and its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    homes = dict.fromkeys([*(peer.home for peer in (*PEERS, BATCHES)), "fastapi", "mlserver"])
    peers = [versions(home) for home in homes if installed(home)]
    (folder / "RESULTS.md").write_text(report(sections, peers, started), encoding="utf-8")
    charts = [chart for section in sections for chart in section.charts]
    (folder / "results.svg").write_text(picture(charts), encoding="utf-8")
    say(f"written: {folder / 'RESULTS.md'}")


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _about() -> str:
    return f"Measure Modelyard side by side with its peers. Parts: {', '.join(PARTS)}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
