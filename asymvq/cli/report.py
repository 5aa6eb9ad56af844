"""What `evaluate` measured, as tables and JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..autoencoders import preset_name
from ..evaluation import DRIFT, LPIPS, MEASURES, Contestant, Measure, Way
from ..intervals import DRAWS, interval

FID = Measure("fid", "all pictures: FID", ".2f")
RATIO = Measure("border_ratio", "border error ÷ the first column's", ".3g")
RATIOS: dict[Measure, str] = {
    Measure("masked_ratio", "error in the mask ÷ the first column's", ".3g"): "masked_error",
    RATIO: "border_error",
    Measure("seam_ratio", "seam ÷ the first column's", ".3g"): "seam_error",
    Measure("colour_ratio", "mean colour ÷ the first column's", ".3g"): "colour_error",
    Measure("gradient_ratio", "Grad ÷ the first column's", ".3g"): "gradient_error",
}
"""What is compared with the baseline, and the measure that it is a ratio of."""
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
        if measure in RATIOS:
            ours, baseline, _ = self._pairs(RATIOS[measure], index)
            return sum(ours) / (sum(baseline) or math.nan)
        values = self._values(measure.key, index)
        if not values:
            return math.nan
        return statistics.median(values) if measure is SECONDS else statistics.fmean(values)

    def interval(self, measure: Measure, index: int) -> tuple[float, float] | None:
        """95 % over the pictures, of means and ratios; None where fewer than two tell, or all the same."""
        if measure in (FID, SECONDS):
            return None
        if measure in RATIOS:
            if index == 0:
                return None
            ours, over, pictures = self._pairs(RATIOS[measure], index)
        else:
            ours, pictures = self._values(measure.key, index), self._pictures(measure.key, index)
            over = [1.0] * len(ours)
        if len(set(pictures)) < 2 or not all(map(math.isfinite, ours)) or not all(value > 0 for value in over):
            return None
        low, high = interval(ours, over, pictures)
        return None if low == high else (low, high)

    def rows(self) -> list[Measure]:
        """The table's: what was measured at least once."""
        measures = (*MEASURES, LPIPS, FID, DRIFT, SECONDS, *RATIOS)
        return [m for m in measures if any(not math.isnan(self.value(m, i)) for i in range(len(self.contestants)))]

    def headlines(self) -> list[str]:
        """The border's error against pasting, a line for each way of mending it."""
        baseline = self.contestants[0]
        return [
            f"Border error of {c.title}: {_with_ends(RATIO, self.value(RATIO, i), self.interval(RATIO, i))} × that of "
            f"{baseline.name}'s plain decode with the source pasted back."
            for i, c in enumerate(self.contestants)
            if c.way in (Way.HARMONISED, Way.EXACT, Way.BOTH)
        ]

    def text(self) -> str:
        """A table for the terminal."""
        heads = [["", ""], *[[c.name, c.way.value] for c in self.contestants]]
        cells = [line for m in self.rows() for line in ([m.title, *self._cells(m)], ["", *self._ends(m)]) if any(line)]
        widths = [max(map(len, [*head, *column])) for head, column in zip(heads, zip(*cells, strict=True), strict=True)]
        lines = [*zip(*heads, strict=True), ["─" * width for width in widths], *cells]
        table = "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return "\n".join([table, *self._remarks()])

    def markdown(self) -> str:
        """The same, and what it was measured with."""
        heads = ["", *[f"{c.name}<br>{c.way.value}" for c in self.contestants]]
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            *(f"**{headline}**\n" for headline in self.headlines()),
            f"Means over {len(self.measured)} decodes, squared errors of values in [-1, 1]. Settings: {settings}.\n",
            _markdown_table([heads, *([m.title, *self._tall_cells(m)] for m in self.rows())]),
            *(f"\n{remark}" for remark in self._remarks()),
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
                "intervals": {m.key: found for m in self.rows() if (found := self.interval(m, i)) is not None},
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

    def _pictures(self, key: str, index: int) -> list[str]:
        """The picture of each of these."""
        return [one.picture for one in self.measured if not math.isnan(one.results[index].get(key, math.nan))]

    def _pairs(self, key: str, index: int) -> tuple[list[float], list[float], list[str]]:
        """What was measured of the contestant and of the baseline, where both were, and the picture of each pair."""
        pairs = [
            (one.results[index].get(key, math.nan), one.results[0].get(key, math.nan), one.picture)
            for one in self.measured
        ]
        kept = [pair for pair in pairs if not (math.isnan(pair[0]) or math.isnan(pair[1]))]
        return [ours for ours, _, _ in kept], [baseline for _, baseline, _ in kept], [name for _, _, name in kept]

    def _cells(self, measure: Measure) -> list[str]:
        return [measure.text(self.value(measure, i)) for i in range(len(self.contestants))]

    def _ends(self, measure: Measure) -> list[str]:
        """Of each contestant's interval; empty where there is none."""
        found = (self.interval(measure, i) for i in range(len(self.contestants)))
        return ["" if ends is None else _ends_text(measure, ends) for ends in found]

    def _tall_cells(self, measure: Measure) -> list[str]:
        pairs = zip(self._cells(measure), self._ends(measure), strict=True)
        return [f"{cell}<br>{ends}" if ends else cell for cell, ends in pairs]

    def _remarks(self) -> list[str]:
        pictures = len({one.picture for one in self.measured})
        if pictures < 2:
            return []
        return [
            f"Second lines: 95 % intervals over the {pictures} pictures (bootstrap, {DRAWS} draws; a picture's masks "
            "stay together)."
        ]


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_ends(measure: Measure, value: float, ends: tuple[float, float] | None) -> str:
    return measure.text(value) + ("" if ends is None else f" ({_ends_text(measure, ends)})")


def _ends_text(measure: Measure, ends: tuple[float, float]) -> str:
    return " to ".join(map(measure.text, ends))
