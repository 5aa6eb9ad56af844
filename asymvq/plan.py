"""What of a picture is decoded, and in which tiles."""

from __future__ import annotations

from enum import Enum

from torch import Tensor

from .compose import Keep
from .config import CONTEXT
from .network import Grid
from .source import Source
from .tiles import Plan, plan_full, plan_masked


class Region(str, Enum):
    """What is decoded of a picture with a mask."""

    AUTO = "auto"
    """MASKED where that is less to decode, and the network does not have to see all of the picture."""
    MASKED = "masked"
    """Only tiles that touch the mask, with context around them; the rest is the source. Not under `Keep.NETWORK`."""
    FULL = "full"
    """All of it."""


AUTO_SHARE = 0.8
"""Of the full decode's area: what a mask-local one may take at most to be chosen."""


def make_plan(
    grid: Grid,
    latent: Tensor,
    source: Source | None,
    *,
    keep: Keep = Keep.EXACT,
    region: Region = Region.AUTO,
    tile: int | None = None,
    overlap: int | None = None,
    context: int | None = None,
) -> Plan:
    """Which tiles to decode.

    Arguments and errors as `decode`; `grid` is the network or its config, `source` what `fit_source` made of image and
    mask, `context` the pixels around the mask that a mask-local decode is shown, in whole cells of the latent; None: as
    many as the network needs.
    """
    needed = getattr(grid, "context", CONTEXT)
    factor = grid.factor
    height, width = latent.shape[-2:]
    cells = None if tile is None else tile // factor
    shared = 0 if tile is None else (tile // 4 if overlap is None else overlap) // factor
    full = plan_full(height, width, tile=cells, overlap=shared)
    if source is None or region is Region.FULL or keep is Keep.NETWORK or (region is Region.AUTO and needed is None):
        return full
    around = -(-(context if context is not None else needed or CONTEXT) // factor)
    pictures = tuple(
        tuple(plan_masked(touched, context=around, tile=cells, overlap=min(shared, around)))
        for touched in source.touched(factor)
    )
    if region is Region.AUTO:
        areas = [sum(part.area for part in tiles) for tiles in pictures]
        if sum(areas) / len(areas) > AUTO_SHARE * sum(part.area for part in full.of(0)):
            return full
    return Plan(pictures, around)
