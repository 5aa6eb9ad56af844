"""Loss curves as a picture: logarithmic, smoothed, labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT_INK, GRID = (250, 250, 248), (28, 29, 33), (96, 98, 104), (224, 224, 220)
COLOURS = ((31, 94, 168), (214, 96, 20), (38, 132, 82), (140, 60, 140), (150, 120, 30))
OVERSAMPLING = 2
"""Drawn so many times larger and reduced, for smooth lines."""
SMOOTHING = 0.02
"""Width of the moving average as a share of the curve."""
SPAN = 1.25
"""Least ratio of the axis's ends, for curves that hardly change."""


def draw_losses(
    curves: Mapping[str, Sequence[float]],
    *,
    size: tuple[int, int] = (960, 480),
    title: str = "Training loss",
    first_step: int = 1,
) -> Image.Image:
    """One smoothed line a curve over its faint single values.

    Args:
        curves: values step by step. NaN, infinity and values of 0 or less leave gaps: the axis is logarithmic.
        size: (width, height) in pixels.
        first_step: the number of the first value.
    """
    values = {name: _positive(curve) for name, curve in curves.items()}
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in values.values()] or [np.empty(0)])
    width, height = (OVERSAMPLING * side for side in size)
    unit = OVERSAMPLING * min(size) / 480
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = (ImageFont.load_default(size=max(9 * OVERSAMPLING, round(s * unit))) for s in (20, 16))
    draw.text((round(20 * unit), round(12 * unit)), title, INK, font)
    left, right = round(88 * unit), width - round(24 * unit)
    top, bottom = round(56 * unit), height - round(58 * unit)
    steps = max((len(curve) for curve in values.values()), default=0)
    if finite.size == 0:
        message = "no finite value above 0" if steps else "no values yet"
        draw.text(((left + right) / 2, (top + bottom) / 2), message, FAINT_INK, font, anchor="mm")
        return canvas.resize(size, Image.Resampling.LANCZOS)

    low, high = _range(finite, values.values())

    def x_of(index: float) -> float:
        return left + (right - left) * (index / (steps - 1) if steps > 1 else 0.5)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))

    for tick in _ticks(low, high):
        y = y_of(tick)
        draw.line([(left, y), (right, y)], GRID, OVERSAMPLING)
        draw.text((left - 8 * unit, y), f"{tick:.4g}", FAINT_INK, small, anchor="rm")
    for index in _step_ticks(steps, first_step):
        x = x_of(index)
        draw.line([(x, bottom), (x, bottom + 6 * unit)], FAINT_INK, OVERSAMPLING)
        draw.text((x, bottom + 10 * unit), str(index + first_step), FAINT_INK, small, anchor="mt")
    draw.text((right, height - 6 * unit), "step", FAINT_INK, small, anchor="rb")
    draw.line([(left, top), (left, bottom), (right, bottom)], FAINT_INK, OVERSAMPLING)

    legend = right
    for (name, curve), colour in reversed(list(zip(values.items(), _cycled(len(values)), strict=True))):
        faint = tuple(round(0.3 * c + 0.7 * p) for c, p in zip(colour, PAPER, strict=True))
        smooth = _smoothed(curve)
        _polyline(draw, curve, x_of, y_of, (low, high), faint, OVERSAMPLING)
        _polyline(draw, smooth, x_of, y_of, (low, high), colour, round(2.5 * OVERSAMPLING))
        last = smooth[np.isfinite(smooth)]
        label = f"{name} {last[-1]:.4g}" if last.size else name
        draw.text((legend, 14 * unit), label, colour, small, anchor="rt")
        legend -= draw.textlength(label, small) + 24 * unit
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _positive(curve: Sequence[float]) -> np.ndarray:
    values = np.asarray(curve, dtype=np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _smoothed(curve: np.ndarray) -> np.ndarray:
    """A centred moving average in the logarithm; gaps count for nothing and stay gaps."""
    half = max(0, round(SMOOTHING * len(curve)))
    known = np.isfinite(curve)
    sums = np.concatenate([[0.0], np.cumsum(np.log(np.where(known, curve, 1.0)))])
    counts = np.concatenate([[0], np.cumsum(known)])
    start = np.clip(np.arange(len(curve)) - half, 0, len(curve))
    stop = np.clip(np.arange(len(curve)) + half + 1, 0, len(curve))
    means = (sums[stop] - sums[start]) / np.maximum(counts[stop] - counts[start], 1)
    return np.where(known, np.exp(means), np.nan)


def _range(finite: np.ndarray, curves: object) -> tuple[float, float]:
    """The axis's ends: all but the most extreme values, and never empty."""
    low, high = (float(v) for v in np.quantile(finite, [0.002, 0.998]))
    if high / low < SPAN:
        middle = math.sqrt(low * high)
        low, high = middle / SPAN**0.5, middle * SPAN**0.5
    margin = (high / low) ** 0.04
    return low / margin, high * margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends: 1, 2 and 5 of each decade, or evenly spaced ones where those are too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    if len(ticks) > 8:
        ticks = [10.0**d for d in decades if low <= 10.0**d <= high][:: max(1, len(decades) // 6)]
    if len(ticks) >= 3:
        return ticks
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 5)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _step_ticks(steps: int, first_step: int) -> list[int]:
    if steps <= 1:
        return [0]
    raw = steps / 6
    step = 10 ** math.floor(math.log10(max(raw, 1)))
    step *= next(m for m in (1, 2, 5, 10) if step * m >= raw)
    round_numbers = range(-(-first_step // step) * step, first_step + steps, step)
    return [number - first_step for number in round_numbers]


def _cycled(count: int) -> list[tuple[int, int, int]]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _polyline(draw, curve, x_of, y_of, limits, colour, width) -> None:
    """Runs of known values; a value alone is a dot. Where none has a neighbour, as where one is measured now and then,
    the dots are joined."""

    def point(index: np.intp) -> tuple[float, float]:
        return x_of(int(index)), y_of(min(max(curve[index], limits[0]), limits[1]))

    known = np.flatnonzero(np.isfinite(curve))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    alone = [run[0] for run in runs if len(run) == 1]
    if len(alone) == len(known):
        runs = [known]
    for run in runs:
        if len(run) > 1:
            draw.line([point(index) for index in run], colour, width, joint="curve")
    for index in alone:
        (x, y), radius = point(index), 1.5 * width
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)
