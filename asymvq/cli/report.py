"""What `evaluate` measured, as tables and JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import preset_name
from ..evaluation import DRIFT, LPIPS, MEASURES, Contestant, Measure, Way

FID = Measure("fid", "all pictures: FID", ".2f")
RATIO = Measure("border_ratio", "border error ÷ the first column's", ".3g")
SECONDS = Measure("seconds", "seconds a decode, median", ".3g")

PAPER_MEASURES = {"FID": FID, "LPIPS": LPIPS, "preservation error": Measure("kept_error", "kept: squared error")}
PAPER = {
    "stock": (9.57, 0.255, 1082.8e-5),
    "base": (7.60, 0.137, 5.7e-5),
    "1.5x": (7.55, 0.136, 2.6e-5),
    "2x": (7.49, 0.134, 2.1e-5),
}
"""`PAPER_MEASURES` on ImageNet at 224², inpainted by Stable Diffusion 1.5 (arXiv 2306.04632)."""


@dataclass(frozen=True)
class Measured:
    """One picture with one mask."""

    picture: str
    mask: int
    """Its number, from 0."""
    results: list[dict[str, float]]
    """A contestant's measures by their keys, and `seconds`."""


@dataclass(frozen=True)
class Report:
    settings: dict[str, Any]
    contestants: list[Contestant]
    """The baseline first."""
    measured: list[Measured]
    fid: list[float]
    """One a contestant; empty where it was not asked for."""

    def value(self, measure: Measure, index: int) -> float:
        """Of the contestant of that index, over all pictures; NaN where nothing was measured."""
        if measure is FID:
            return self.fid[index] if self.fid else math.nan
        if measure is RATIO:
            baseline = statistics.fmean(self._values("border_error", 0) or [math.nan])
            return statistics.fmean(self._values("border_error", index) or [math.nan]) / (baseline or math.nan)
        values = self._values(measure.key, index)
        if not values:
            return math.nan
        return statistics.median(values) if measure is SECONDS else statistics.fmean(values)

    def rows(self) -> list[Measure]:
        """The table's: what was measured at least once."""
        measures = (*MEASURES, LPIPS, FID, DRIFT, SECONDS, RATIO)
        return [m for m in measures if any(not math.isnan(self.value(m, i)) for i in range(len(self.contestants)))]

    def headlines(self) -> list[str]:
        """The border's error against pasting, a line for each conditional decoder."""
        baseline = self.contestants[0]
        return [
            f"Border error of {c.name}: {RATIO.text(self.value(RATIO, i))} × that of {baseline.name}'s plain decode "
            "with the source pasted back."
            for i, c in enumerate(self.contestants)
            if c.way is Way.EXACT
        ]

    def text(self) -> str:
        """A table for the terminal."""
        heads = [["", ""], *[[c.name, c.way.value] for c in self.contestants]]
        cells = [[m.title, *self._cells(m)] for m in self.rows()]
        widths = [max(map(len, [*head, *column])) for head, column in zip(heads, zip(*cells, strict=True), strict=True)]
        lines = [*zip(*heads, strict=True), ["─" * width for width in widths], *cells]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """The same, and what it was measured with."""
        heads = ["", *[f"{c.name}<br>{c.way.value}" for c in self.contestants]]
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            *(f"**{headline}**\n" for headline in self.headlines()),
            f"Means over {len(self.measured)} decodes, squared errors of values in [-1, 1]. Settings: {settings}.\n",
            _markdown_table([heads, *([m.title, *self._cells(m)] for m in self.rows())]),
        ]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Everything, picture by picture. null: infinite (no error), or nothing to measure."""
        contestants = [
            {
                "vae": c.name,
                "way": c.way.value,
                "preset": preset_name(c.vae.config),
                **{m.key: _finite(self.value(m, i)) for m in self.rows()},
            }
            for i, c in enumerate(self.contestants)
        ]
        pictures = [
            {
                "picture": one.picture,
                "mask": one.mask,
                "results": [{key: _finite(value) for key, value in each.items()} for each in one.results],
            }
            for one in self.measured
        ]
        data = {"settings": self.settings, "baseline": 0, "contestants": contestants, "pictures": pictures}
        return json.dumps(data, indent=2, allow_nan=False) + "\n"

    def paper(self) -> str:
        """Our numbers beside the paper's: stock VAEs decoded plainly, asymmetric ones as the network gives it."""
        ours: list[tuple[str | None, list[str]]] = [
            (preset_name(c.vae.config), [c.name, *(m.text(self.value(m, i)) for m in PAPER_MEASURES.values())])
            for i, c in enumerate(self.contestants)
            if c.way is (Way.PLAIN if c.vae.config.condition is None else Way.NETWORK)
        ]
        lines = [["", *PAPER_MEASURES]]
        for preset, numbers in PAPER.items():
            published = (m.text(number) for m, number in zip(PAPER_MEASURES.values(), numbers, strict=True))
            lines += [[f"**{preset}**, the paper's", *published], *(line for name, line in ours if name == preset)]
        return _markdown_table([*lines, *(line for name, line in ours if name not in PAPER)])

    def _values(self, key: str, index: int) -> list[float]:
        """What was measured of the contestant of that index, decode by decode."""
        values = (one.results[index].get(key, math.nan) for one in self.measured)
        return [value for value in values if not math.isnan(value)]

    def _cells(self, measure: Measure) -> list[str]:
        return [measure.text(self.value(measure, i)) for i in range(len(self.contestants))]


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
