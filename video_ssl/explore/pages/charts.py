"""Drawings of the report as inline SVG: curves over steps, bars of shares, confusions.

A curve carries its numbers in a `data-points` attribute, from which the page's script shows the value
under the pointer; without a script the drawing is complete.  Names are escaped here: a page takes a drawing as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from markupsafe import Markup, escape

COLORS = ("#2a6fdb", "#e07b39", "#2f9e6e", "#a155b9", "#c2405b", "#7a8599")
#: Colors that people with any kind of color blindness tell apart (Okabe and Ito), darkened where they would be pale.
CALM = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6878", "#b8a800")
WIDTH, HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 28
#: More points than pixels are thinned, keeping the extremes.
_MAX_POINTS = 400

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points],
    *,
    percent: bool = False,
    log: bool = False,
    colors: Sequence[str] = COLORS,
) -> Markup:
    """Returns an SVG of curves over steps, without the values that are not finite; empty if none is left.

    Args:
        series: name -> (step, value) pairs in order of steps.
        percent: values are shares, shown in percent from 0 to 100.
        log: a logarithmic axis, if all values are positive.
        colors: of the curves, in turn; from the second turn on they are dashed.
    """
    clean = {name: _thin(_finite(points)) for name, points in series.items()}
    values = [y for points in clean.values() for _, y in points]
    if not values:
        return Markup()
    log = log and min(values) > 0
    scale = math.log10 if log else float
    low, high, ticks = _axis(values, percent=percent, log=log)
    first = min(points[0][0] for points in clean.values() if points)
    last = max(points[-1][0] for points in clean.values() if points)
    span_x, span_y = max(last - first, 1e-9), max(scale(high) - scale(low), 1e-12)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / span_x if last > first else 0.5
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - (scale(y) - scale(low)) / span_y * (HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_grid_line(place(first, tick)[1], _number(tick, percent)) for tick in ticks]
    parts += [
        f'<text class="tick" x="{place(step, low)[0]:.1f}" y="{HEIGHT - 8}" '
        f'text-anchor="{anchor}">{_count(step)}</text>'
        for step, anchor in _step_ticks(first, last)
    ]
    for number, points in enumerate(clean.values()):
        drawn = _curve([place(x, y) for x, y in points], colors[number % len(colors)])
        dashed = number >= len(colors)
        parts.append(drawn.replace("/>", ' stroke-dasharray="5 4"/>') if dashed else drawn)
    data = [
        {
            "name": name,
            "color": colors[number % len(colors)],
            "points": [
                [*(round(v, 1) for v in place(x, y)), x, _number(y, percent)] for x, y in points
            ],
        }
        for number, (name, points) in enumerate(clean.items())
    ]
    points_text = escape(json.dumps(data))
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" data-points="{points_text}">'
        f'{"".join(parts)}<line class="cursor" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/></svg>'
    )


def series_colors(names: Sequence[str], colors: Sequence[str] = COLORS) -> list[tuple[str, str]]:
    """Returns the names, each with the color that `line_chart` gives it."""
    return [(name, colors[n % len(colors)]) for n, name in enumerate(names)]


class Dot(TypedDict):
    """A row of `dot_plot`: a mean with its interval, the single numbers, and what it is held against."""

    mean: float
    interval: tuple[float, float] | None
    seeds: list[float]
    untrained: float | None
    baseline: float | None


def dot_plot(
    rows: Mapping[str, Dot], *, chance: float | None, written: Callable[[float], str]
) -> Markup:
    """Returns a drawing with a line for each row: the mean as a filled dot on its interval, single seeds as small dots,
    the untrained twin as a ring, the best that never learned as a cross, guessing as a dashed line through all.

    Shapes and not colors say what is what.  Empty without rows.
    """
    if not rows:
        return Markup()
    values = [
        v for row in rows.values() for v in (row["mean"], *row["seeds"], *(row["interval"] or ()))
    ]
    values += [
        v for row in rows.values() for v in (row["untrained"], row["baseline"]) if v is not None
    ]
    values += [chance] if chance is not None else []
    values = [v for v in values if math.isfinite(v)]
    low, high, ticks = _axis(values, percent=False, log=False)
    left, line, width = 96, 24, 440
    height = line * len(rows) + 34

    def across(value: float) -> float:
        clipped = min(max(value, low), high)
        return left + (clipped - low) / (high - low) * (width - left - 16)

    parts = [
        f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="4" y2="{height - 24}"/>'
        f'<text class="tick" x="{across(tick):.1f}" y="{height - 8}" text-anchor="middle">{written(tick)}</text>'
        for tick in ticks
    ]
    if chance is not None:
        parts.append(
            f'<line class="guess" x1="{across(chance):.1f}" x2="{across(chance):.1f}" y1="4" y2="{height - 24}"/>'
        )
    for number, (name, row) in enumerate(rows.items()):
        y = 4 + line * (number + 0.5)
        title = f"{name}: {written(row['mean'])}"
        parts.append(
            f'<text class="tick" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        )
        if row["interval"] is not None:
            x1, x2 = (across(end) for end in row["interval"])
            parts.append(f'<line class="range" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}"/>')
        parts += [
            f'<circle class="seed" cx="{across(v):.1f}" cy="{y}" r="2"/>' for v in row["seeds"]
        ]
        if row["untrained"] is not None:
            parts.append(
                f'<circle class="twin" cx="{across(row["untrained"]):.1f}" cy="{y}" r="4.5">'
                f"<title>untrained: {written(row['untrained'])}</title></circle>"
            )
        if row["baseline"] is not None:
            x = across(row["baseline"])
            parts.append(
                f'<path class="cross" d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8"><title>without learning: '
                f"{written(row['baseline'])}</title></path>"
            )
        parts.append(
            f'<circle class="mean" cx="{across(row["mean"]):.1f}" cy="{y}" r="5.5">'
            f"<title>{escape(title)}</title></circle>"
        )
    return Markup(
        f'<svg class="dots" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
    )


def share_bar(share: float, *, chance: float | None = None, color: str = COLORS[0]) -> Markup:
    """Returns a bar of a share in 0..1, with a mark at what guessing gives."""
    mark = (
        f'<rect x="{100 * chance:.2f}" width="0.7" height="10" class="chance"/>' if chance else ""
    )
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none"><rect width="100" height="10" rx="1" '
        f'class="track"/><rect width="{100 * share:.2f}" height="10" rx="1" fill="{color}"/>{mark}</svg>'
    )


def interval_bar(share: float, interval: Sequence[float], *, chance: float) -> Markup:
    """Returns the bar of a share in 0..1 with its interval as a line, and a mark at what guessing gives."""
    low, high = (100 * end for end in interval)
    bar = str(share_bar(share, chance=chance)).removesuffix("</svg>")
    line = f'<rect x="{low:.2f}" width="{max(high - low, 0.3):.2f}" y="4.4" height="1.2" class="interval"/>'
    return Markup(f"{bar}{line}</svg>")


def confusion_chart(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Returns a heat map: rows are the true classes, columns the predicted ones; shares of each row."""
    count = len(confusion)
    cell = max(6, min(26, 420 // max(count, 1)))
    margin = min(200, 14 + 7 * max((len(name) for name in names), default=0)) if cell >= 10 else 4
    parts = []
    for row, line in enumerate(confusion):
        total = max(sum(line), 1)
        if cell >= 10:
            parts.append(
                f'<text class="tick" x="{margin - 6}" y="{row * cell + cell / 2 + 4:.1f}" text-anchor="end">'
                f"{escape(names[row])}</text>"
            )
        for column, value in enumerate(line):
            share = value / total
            right = row == column
            fill = "#2f9e6e" if right else "#c2405b"
            title = f"{names[row]} → {names[column]}: {value} of {sum(line)}"
            parts.append(
                f'<rect x="{margin + column * cell}" y="{row * cell}" width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'fill="{fill}" fill-opacity="{0.06 + 0.94 * share if value else 0.05:.2f}"><title>{escape(title)}'
                "</title></rect>"
            )
            if cell >= 20 and value:
                ink = "#fff" if share > 0.55 else "var(--ink)"
                parts.append(
                    f'<text x="{margin + column * cell + cell / 2 - 0.5}" y="{row * cell + cell / 2 + 3.5}" '
                    f'class="cell" fill="{ink}">{value}</text>'
                )
    width, height = margin + count * cell, count * cell
    return Markup(
        f'<svg class="confusion" viewBox="0 0 {width} {height}" style="max-width:{width}px">{"".join(parts)}</svg>'
    )


def pair_chart(shares: Sequence[Sequence[float]], names: Sequence[str]) -> Markup:
    """Returns a heat map of how much things belong together in pairs: shares in [0, 1], rows and columns alike."""
    count = len(shares)
    cell = max(6, min(22, 360 // max(count, 1)))
    margin = min(150, 14 + 6 * max((len(name) for name in names), default=0)) if cell >= 10 else 4
    parts = []
    for row, line in enumerate(shares):
        if cell >= 10:
            parts.append(
                f'<text class="tick" x="{margin - 6}" y="{row * cell + cell / 2 + 4:.1f}" text-anchor="end">'
                f"{escape(names[row])}</text>"
            )
        for column, share in enumerate(line):
            title = f"{names[row]} and {names[column]}: {share:.2f}"
            parts.append(
                f'<rect x="{margin + column * cell}" y="{row * cell}" width="{cell - 1}" height="{cell - 1}" rx="2" '
                f'fill="{COLORS[0]}" fill-opacity="{0.04 + 0.96 * share:.2f}"><title>{escape(title)}</title></rect>'
            )
    width, height = margin + count * cell, count * cell
    return Markup(
        f'<svg class="confusion" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img">'
        f"{''.join(parts)}</svg>"
    )


def _grid_line(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def _curve(places: Sequence[tuple[float, float]], color: str) -> str:
    if len(places) == 1:
        x, y = places[0]
        return f'<circle class="curve" cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>'
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="curve" points="{text}" fill="none" stroke="{color}"/>'


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(y)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about `_MAX_POINTS`: the lowest and the highest of every stretch, in their order."""
    if len(points) <= _MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MAX_POINTS)
    kept = [points[0]]
    for begin in range(0, len(points), size):
        piece = points[begin : begin + size]
        kept += sorted({min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])})
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _axis(values: Sequence[float], *, percent: bool, log: bool) -> tuple[float, float, list[float]]:
    """Lowest and highest value of the axis, and where its lines are."""
    low, high = min(values), max(values)
    if percent:
        high = next(top for top in (0.05, 0.1, 0.25, 0.5, 1.0, max(high, 1.0)) if high <= top)
        return 0.0, high, [high * part / 4 for part in range(5)]
    if log and high / low > 3:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1, 2, 5) if len(exponents) <= 3 else (1,)
        ticks = [f * 10.0**e for e in exponents for f in factors]
        bottom = max([t for t in ticks if t <= low], default=low)
        top = min([t for t in ticks if t >= high], default=high)
        return bottom, top, [t for t in ticks if bottom <= t <= top]
    if low > 0 and low < 0.6 * high and not log:
        low = 0.0
    step = _nice((high - low) / 4 or abs(high) / 4 or 0.25)
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if log and bottom <= 0:
        bottom = low
    if top <= bottom:
        top = bottom + step
    lines = round((top - bottom) / step)
    return bottom, top, [bottom + n * step for n in range(lines + 1)]


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= step * 0.999)


def _step_ticks(first: float, last: float) -> list[tuple[float, str]]:
    if last <= first:
        return [(first, "middle")]
    return [(first, "start"), ((first + last) / 2, "middle"), (last, "end")]


def _count(value: float) -> str:
    return f"{round(value):,}".replace(",", " ")


def _number(value: float, percent: bool = False) -> str:
    if percent:
        return f"{100 * value:.3g} %"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"
