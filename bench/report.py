"""The report of a part of the benchmark: goals first, then ratios and figures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from modelyard.up.redis_server import find_server

#: Name of our system in the tables.
OURS = "Modelyard"

#: Packages that Modelyard's own side of the comparison is made of.
_LIBRARIES = ("rq", "redis", "hiredis", "orjson", "scikit-learn", "numpy", "flask", "granian")

_HEAD = """\
# What it measures

Made by `make bench`; every figure is from one run on one machine. Systems that are compared take
turns within the run, on the same model, the same rows and the same Redis server without
persistence. Figures are medians of the rounds with the least and the most in brackets. **Quote the
ratios**: the figures are this machine's.

![Ratios](results.svg)
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the columns' names, and the rows, each with as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As GitHub shows it, and as it can be read on a terminal."""
        cells = [list(self.columns), *[list(row) for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        ]
        lines = [f"{line} |" for line in lines]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass(frozen=True, slots=True)
class Goal:
    """Something that was promised, and what was measured of it."""

    what: str
    asked: str
    measured: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars of one kind, for the picture.

    Attributes:
        title: What is measured, and whether more is better.
        unit: Of the values.
        bars: Names and values in order; one is `OURS`.
        base: The bar that the others are so many times of.
    """

    title: str
    unit: str
    bars: Sequence[tuple[str, float]]
    base: str = OURS


@dataclass(frozen=True, slots=True)
class Section:
    """The report of one part.

    Attributes:
        title: Of the section.
        text: How it was measured.
        tables: The figures.
        goals: The goals for the figures.
        charts: For the picture.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    goals: Sequence[Goal] = ()
    charts: Sequence[Chart] = field(default=())

    def markdown(self) -> str:
        """The section without its goals, which stand at the top of the report."""
        parts = [f"## {self.title}", self.text, *(table.markdown() for table in self.tables)]
        return "\n\n".join(part for part in parts if part) + "\n"


def report(sections: Sequence[Section], versions: Iterable[str], started: datetime) -> str:
    """The whole report."""
    about = [
        f"- {started:%Y-%m-%d %H:%M} UTC, {minutes(started)} minutes",
        f"- {machine()}",
        f"- {software()}",
        *(f"- {line}" for line in versions),
    ]
    goals = [goal for section in sections for goal in section.goals]
    parts = [_HEAD, goal_table(goals).markdown() + "\n" if goals else "", "\n".join(about) + "\n"]
    return "\n".join([part for part in parts if part] + [part.markdown() for part in sections])


def goal_table(goals: Sequence[Goal]) -> Table:
    """Promised and measured, side by side."""
    rows = [[goal.what, goal.asked, goal.measured, _verdict(goal)] for goal in goals]
    return Table(["what", "goal", "measured", ""], rows)


def _verdict(goal: Goal) -> str:
    return "met" if goal.is_met else "**missed**"


def minutes(started: datetime) -> int:
    """Minutes since ``started``, at least 1."""
    return max(1, round((datetime.now(UTC) - started).total_seconds() / 60))


def machine() -> str:
    """One line that says where this ran."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{os.cpu_count()} CPUs ({_cpu()}), {memory_gib:.0f} GiB, {system}; load {load}"


def software() -> str:
    """One line with the versions of what Modelyard is made of."""
    known = {name: metadata.version(name) for name in _LIBRARIES}
    listed = ", ".join(f"{name} {version}" for name, version in known.items())
    server = find_server()
    redis = f"{server.path.name} {'.'.join(map(str, server.version))}"
    return f"Python {sys.version.split()[0]}, {redis}, {listed}"


def _cpu() -> str:
    """The processor's name, where the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
