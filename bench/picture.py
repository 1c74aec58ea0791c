"""The picture of the report: bars by hand in SVG, one panel for each chart, ours in colour.

Bars are in proportion, never on a logarithmic scale. Beside each stands the ratio and, smaller, the
figure of the machine that it ran on.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.report import OURS, Chart

_WIDTH, _LEFT, _RIGHT = 760, 205, 165
_ROW, _BAR, _HEAD, _GAP = 22, 14, 40, 18
_OURS_COLOUR, _COLOUR = "#c2410c", "#94a3b8"

_STYLE = """\
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif;
       fill: #334155 }
.title { font-weight: 600; font-size: 14px; fill: #0f172a }
.ours { font-weight: 600; fill: #0f172a }
.figure { font-size: 11px; font-weight: 400; fill: #64748b }
.end { text-anchor: end }"""


def picture(charts: Sequence[Chart]) -> str:
    """An SVG document."""
    parts, top = [], _GAP
    for chart in charts:
        parts += _panel(chart, top)
        top += _HEAD + _ROW * len(chart.bars) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" role="img">'
    )
    back = f'<rect width="{_WIDTH}" height="{top}" rx="8" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", back, *parts, "</svg>\n"])


def _panel(chart: Chart, top: int) -> list[str]:
    """One chart, its title at ``top``."""
    parts = [f'<text x="16" y="{top + 16}" class="title">{escape(chart.title)}</text>']
    most = max(value for _, value in chart.bars)
    base = dict(chart.bars).get(chart.base) or most
    for place, (name, value) in enumerate(chart.bars):
        y = top + _HEAD + _ROW * place
        length = max(1.0, (_WIDTH - _LEFT - _RIGHT) * value / most)
        is_ours = name == OURS
        kind, colour = (' class="ours"', _OURS_COLOUR) if is_ours else ("", _COLOUR)
        label_kind = "end ours" if is_ours else "end"
        parts += [
            f'<text x="{_LEFT - 10}" y="{y}" class="{label_kind}">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y - 11}" width="{length:.1f}" height="{_BAR}" rx="2" '
            f'fill="{colour}"/>',
            f'<text x="{_LEFT + length + 8:.1f}" y="{y}"{kind}>'
            f"{_times(value / base)} "
            f'<tspan class="figure">{_figure(value)} {escape(chart.unit)}</tspan></text>',
        ]
    return parts


def _times(ratio: float) -> str:
    return "1" if ratio == 1 else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
