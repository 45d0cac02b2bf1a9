"""Charts over time as inline SVG, drawn here: axes, units, tooltips, a text alternative; no script. Pure.

The plot is stretched to the width that it gets, its lines and words are not: it is as readable on a phone as on paper.
Colours are classes, which the page's style gives a value in the light and in the dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

HEIGHT = 180
"""Pixels of a plot, without the words around it."""
_UNITS = 1000.0  # of the plot's own coordinates, in both directions
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Line:
    """One figure over time. values: one a bucket, None where there is none. look: its class in the style."""

    name: str
    values: Sequence[float | None]
    look: str
    filled: bool = False

    @property
    def highest(self) -> float:
        """The highest value, 0 without any."""
        return max((value for value in self.values if value is not None), default=0.0)

    def scaled(self, factor: float) -> Line:
        """The same in another unit."""
        return replace(self, values=[None if value is None else value * factor for value in self.values])


def ticks(highest: float, wanted: int = 4) -> list[float]:
    """Round values from 0 up to the first that is not below `highest`, about `wanted` steps."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest / wanted))
    step = next(factor * power for factor in _STEPS if factor * power * wanted >= highest * (1 - 1e-9))
    return [round(step * n, 9) for n in range(math.ceil(highest / step - 1e-9) + 1)]


def tick_label(value: float, highest: float) -> str:
    """0.5 -> '0.5', 2500 -> '2,500'; in thousands where the axis goes on to 10,000: 2500 -> '2.5k'."""
    if highest >= 10_000:
        return f"{value / 1000:,g}k" if value else "0"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def chart(title: str, unit: str, lines: Sequence[Line], bucket_seconds: float) -> Markup:
    """Return the SVG of some lines that share their axes. unit: of the values; bucket_seconds: of each value."""
    from markupsafe import Markup, escape

    count = max(len(line.values) for line in lines)
    highest = ticks(max(line.highest for line in lines))
    span = count * bucket_seconds
    described = escape(_described(title, unit, lines, span))
    parts = [
        f'<svg class="chart" role="img" width="100%" height="{HEIGHT}" aria-label="{described}">',
        *_axes(highest, span),
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {_UNITS:g} {_UNITS:g}" preserveAspectRatio="none">',
        *(_shape(line, highest[-1], count) for line in lines),
        *_tips(unit, lines, bucket_seconds, count),
        "</svg></svg>",
    ]
    return Markup("".join(parts))


def _axes(values: Sequence[float], span: float) -> Iterable[str]:
    for value in values:
        y = HEIGHT * (1 - value / values[-1])
        yield f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="-8" y="{y + 4:.1f}" text-anchor="end">{tick_label(value, values[-1])}</text>'
    moments = [moment for moment in ticks(span, 5) if moment <= span * (1 + 1e-9)]
    for moment in moments:
        x, edge = 100 * moment / span, "start" if moment == 0 else "end" if moment > 0.97 * span else "middle"
        yield f'<line class="mark" x1="{x:.2f}%" x2="{x:.2f}%" y1="{HEIGHT}" y2="{HEIGHT + 5}"/>'
        label = f"{tick_label(moment, moments[-1])} s"
        yield f'<text class="tick" x="{x:.2f}%" y="{HEIGHT + 18}" text-anchor="{edge}">{label}</text>'


def _shape(line: Line, highest: float, count: int) -> str:
    """A path through the middle of the buckets; over a bucket's width where its neighbours have nothing."""
    runs: list[list[tuple[float, float]]] = [[]]
    for bucket, value in enumerate(line.values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(((bucket + 0.5) * _UNITS / count, _UNITS * (1 - value / highest)))
    drawn, filled = [], []
    half = 0.5 * _UNITS / count
    for run in filter(None, runs):
        points = run if len(run) > 1 else [(run[0][0] - half, run[0][1]), (run[0][0] + half, run[0][1])]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        drawn.append(path)
        filled.append(f"{path}L{points[-1][0]:.1f} {_UNITS:g}L{points[0][0]:.1f} {_UNITS:g}Z")
    area = f'<path class="area {line.look}" d="{"".join(filled)}"/>' if line.filled else ""
    return f'{area}<path class="line {line.look}" d="{"".join(drawn)}"/>'


def _tips(unit: str, lines: Sequence[Line], bucket_seconds: float, count: int) -> Iterable[str]:
    """An invisible strip for each bucket, which tells its values to a pointer."""
    from markupsafe import escape

    width = _UNITS / count
    for bucket in range(count):
        told = [
            f"{line.name}: {shown(line.values[bucket])} {unit}"
            for line in lines
            if bucket < len(line.values) and line.values[bucket] is not None
        ]
        if told:
            title = "\n".join([stretch(bucket, bucket_seconds), *told])
            yield (
                f'<rect class="tip" x="{bucket * width:.2f}" width="{width:.2f}" height="{_UNITS:g}">'
                f"<title>{escape(title)}</title></rect>"
            )


def shown(value: float | None) -> str:
    """A value for tooltips and tables; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"


def stretch(bucket: int, bucket_seconds: float) -> str:
    """From when to when a bucket goes: '0.4 to 0.6 s'."""
    digits = max(0, -math.floor(math.log10(bucket_seconds)))
    return f"{bucket * bucket_seconds:.{digits}f} to {(bucket + 1) * bucket_seconds:.{digits}f} s"


def _described(title: str, unit: str, lines: Sequence[Line], span: float) -> str:
    told = [f"{line.name} at most {shown(line.highest)} {unit}" for line in lines]
    return f"{title} over {span:g} seconds: {', '.join(told)}. The table below has all values."
