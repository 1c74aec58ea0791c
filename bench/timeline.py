"""The picture of changing loads: arrivals, numbers of workers, and waits of jobs.

Drawn by hand in SVG from the JSON that `bench.scaling` leaves; ``python -m bench.timeline
build/bench/scaling.json docs/autoscaling.svg`` draws it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _LEFT, _RIGHT = 760, 64, 24
_PANEL, _HEAD, _GAP = 96, 30, 12
_ROOM = 22  # for what is written at the top of a panel
_OURS, _ORACLE, _TARGET = "#c2410c", "#64748b", "#0f766e"
_VERSIONS = ("#1d4ed8", "#7c3aed", "#0891b2")

_STYLE = """\
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif;
       fill: #334155 }
.title { font-weight: 600; font-size: 14px; fill: #0f172a }
.small { font-size: 11px; fill: #64748b }
.end { text-anchor: end }
.middle { text-anchor: middle }
path { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.frame { fill: #f8fafc; stroke: #e2e8f0; stroke-width: 1 }"""

_Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One load as it went.

    Attributes:
        title: What it was, and what came of it.
        seconds: How long it took.
        loads: For each version, jobs a second, second by second.
        workers: When there were how many.
        oracle: The oracle's, second by second.
        waits: For each second the wait that 99 of 100 jobs did not exceed, where there were any.
        target_s: The target wait.
    """

    title: str
    seconds: int
    loads: Mapping[str, Sequence[float]]
    workers: _Points
    oracle: Sequence[int]
    waits: Sequence[float | None]
    target_s: float

    @classmethod
    def of(cls, told: Mapping[str, Any], target_s: float) -> Timeline:
        """The timeline of the JSON that `bench.scaling` has left."""
        title = (
            f"{told['load'].capitalize()}: {told['cost']:.2f} x the oracle's worker-seconds, "
            f"{told['starts']} starts, {told['stops']} stops"
        )
        sizes = [(float(at), float(size)) for at, size in told["sizes"]]
        return cls(
            title,
            len(told["oracle"]),
            told["submitted"],
            sizes,
            told["oracle"],
            told["wait_p99_s"],
            target_s,
        )


def draw(timelines: Sequence[Timeline]) -> str:
    """An SVG document: three panels for each timeline."""
    parts, top = [], 2 * _GAP
    for timeline in timelines:
        parts.append(f'<text x="16" y="{top + 8}" class="title">{escape(timeline.title)}</text>')
        top += _HEAD
        for panel in (_loads, _workers, _waits):
            parts += panel(timeline, top)
            top += _PANEL + _GAP
        parts += _seconds(timeline, top)
        top += 2 * _GAP + _HEAD
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" role="img">'
    )
    back = f'<rect width="{_WIDTH}" height="{top}" rx="8" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", back, *parts, "</svg>\n"])


def _loads(timeline: Timeline, top: int) -> list[str]:
    most = max(max(rates) for rates in timeline.loads.values()) or 1
    lines = [
        _line(timeline, top, _held(rates), most, colour)
        for rates, colour in zip(timeline.loads.values(), _VERSIONS, strict=False)
    ]
    return [*_frame(top, "jobs/s", f"{most:,.0f}"), *lines]


def _workers(timeline: Timeline, top: int) -> list[str]:
    most = max(*(size for _, size in timeline.workers), *timeline.oracle, 1)
    ours = [
        point
        for (at, size), (after, _) in zip(timeline.workers, timeline.workers[1:], strict=False)
        for point in ((at, size), (after, size))
    ]
    return [
        *_frame(top, "workers", f"{most:g}"),
        _line(timeline, top, _held(timeline.oracle), most, _ORACLE),
        _line(timeline, top, ours, most, _OURS),
        f'<text x="{_WIDTH - _RIGHT - 6}" y="{top + 14}" class="small end">'
        f'<tspan fill="{_OURS}">the pool\'s</tspan>, <tspan fill="{_ORACLE}">the oracle\'s</tspan>'
        "</text>",
    ]


def _waits(timeline: Timeline, top: int) -> list[str]:
    most = max(2 * timeline.target_s, *(wait or 0.0 for wait in timeline.waits))
    points = [(second + 0.5, wait or 0.0) for second, wait in enumerate(timeline.waits)]
    target = [(0.0, timeline.target_s), (float(timeline.seconds), timeline.target_s)]
    return [
        *_frame(top, "wait p99, s", f"{most:.1f}"),
        _line(timeline, top, target, most, _TARGET, ' stroke-dasharray="4 3"'),
        _line(timeline, top, points, most, _OURS),
        f'<text x="{_WIDTH - _RIGHT - 6}" y="{top + 14}" class="small end">'
        f'<tspan fill="{_TARGET}">dashed: the target</tspan></text>',
    ]


def _frame(top: int, name: str, most: str) -> list[str]:
    width = _WIDTH - _LEFT - _RIGHT
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_PANEL}" class="frame"/>',
        f'<text x="{_LEFT - 6}" y="{top + _ROOM + 4}" class="small end">{most}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _PANEL}" class="small end">0</text>',
        f'<text x="{_LEFT + 6}" y="{top + 14}" class="small">{escape(name)}</text>',
    ]


def _seconds(timeline: Timeline, top: int) -> list[str]:
    every = 10 if timeline.seconds > 40 else 5
    return [
        f'<text x="{_x(timeline, second):.0f}" y="{top + 4}" class="small middle">{second} s</text>'
        for second in range(0, timeline.seconds + 1, every)
    ]


def _line(
    timeline: Timeline, top: int, points: _Points, most: float, colour: str, more: str = ""
) -> str:
    inside = [(at, value) for at, value in points if 0 <= at <= timeline.seconds]
    path = " ".join(
        f"{_x(timeline, at):.1f},{top + _PANEL - (_PANEL - _ROOM) * value / most:.1f}"
        for at, value in inside
    )
    return f'<path d="M {path}" stroke="{colour}"{more}/>'


def _held(values: Sequence[float]) -> list[tuple[float, float]]:
    """Each second's value from its beginning to its end."""
    return [
        point
        for second, value in enumerate(values)
        for point in ((float(second), value), (second + 1.0, value))
    ]


def _x(timeline: Timeline, at: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / timeline.seconds


def main(arguments: Sequence[str]) -> None:
    """Draw one file from the other."""
    source, target = map(Path, arguments)
    told = json.loads(source.read_text(encoding="utf-8"))
    target.write_text(draw([Timeline.of(one, 1.0) for one in told]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
