"""Measured points as a picture: labelled axes, linear or logarithmic, a mark for each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from asymvq.training.plot import COLOURS, FAINT_INK, GRID, INK, OVERSAMPLING, PAPER

Points = Sequence[tuple[float, float]]


def draw_chart(
    curves: Mapping[str, Points],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] | None = None,
    from_zero: bool = False,
    size: tuple[int, int] = (820, 460),
) -> Image.Image:
    """One line a curve; the name stands in the legend above.

    Args:
        curves: name to (x, y) points in order of x, at least two x and one y apart; above 0 where an axis is
            logarithmic.
        x_ticks: where the x axis is labelled; round numbers by default.
        from_zero: the y axis begins at 0.
        size: (width, height) in pixels.
    """
    xs, ys = ([point[axis] for points in curves.values() for point in points] for axis in (0, 1))
    scale = OVERSAMPLING
    width, height = (scale * side for side in size)
    left, right, top, bottom = 80 * scale, width - 30 * scale, 76 * scale, height - 60 * scale
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = (ImageFont.load_default(size=points * scale) for points in (18, 14))
    x_of, x_low, x_high = _axis(xs, log_x, left, right, margin=0.0)
    y_of, y_low, y_high = _axis([0, *ys] if from_zero else ys, log_y, bottom, top, margin=0.0 if from_zero else 0.06)

    draw.text((16 * scale, 10 * scale), title, INK, font)
    for y in _ticks(y_low, y_high, log_y):
        draw.line([(left, y_of(y)), (right, y_of(y))], GRID, scale)
        draw.text((left - 8 * scale, y_of(y)), f"{y:.4g}", FAINT_INK, small, anchor="rm")
    for x in _ticks(x_low, x_high, log_x) if x_ticks is None else x_ticks:
        draw.line([(x_of(x), bottom), (x_of(x), bottom + 5 * scale)], FAINT_INK, scale)
        draw.text((x_of(x), bottom + 9 * scale), f"{x:.4g}", FAINT_INK, small, anchor="mt")
    draw.line([(left, top), (left, bottom), (right, bottom)], FAINT_INK, scale)
    draw.text(((left + right) / 2, height - 8 * scale), x_label, FAINT_INK, small, anchor="mb")
    draw.text((16 * scale, 42 * scale), y_label, FAINT_INK, small)

    legend = right
    for i, (name, points) in reversed(list(enumerate(curves.items()))):
        colour = COLOURS[i % len(COLOURS)]
        places = [(x_of(x), y_of(y)) for x, y in points]
        draw.line(places, colour, 2 * scale, joint="curve")
        for x, y in places:
            draw.ellipse([x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale], colour)
        draw.text((legend, 42 * scale), name, colour, small, anchor="rt")
        legend -= draw.textlength(name, small) + 24 * scale
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _axis(
    values: Sequence[float], log: bool, start: float, end: float, *, margin: float
) -> tuple[Callable[[float], float], float, float]:
    """Value to pixel, and the axis's ends."""
    scaled = [math.log(v) for v in values] if log else list(values)
    spare = margin * (max(scaled) - min(scaled))
    low, high = min(scaled) - spare, max(scaled) + spare

    def place(value: float) -> float:
        return start + (end - start) * ((math.log(value) if log else value) - low) / (high - low)

    return place, *((math.exp(low), math.exp(high)) if log else (low, high))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    raw = (high - low) / 6
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if step * m >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
