"""Which tiles a picture is decoded in, and how they are joined. Positions are on the latent grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor, factor: int = 1) -> Tensor:
        """This tile's view of `tensor` (…, H, W), whose sides are `factor` times the grid's."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        columns = slice(self.left * factor, (self.left + self.width) * factor)
        return tensor[..., rows, columns]


def plan_tiles(height: int, width: int, *, tile: int, overlap: int) -> list[Tile]:
    """Evenly spaced tiles of one size that cover the grid; neighbours share `overlap` cells or more.

    Raises:
        ValueError: a tile of less than one cell, or an overlap that leaves it nothing of its own.
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"Expected a tile of at least 1 and an overlap below it, but got {tile} and {overlap}.")
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    return [Tile(top, left, min(tile, height), min(tile, width)) for top in rows for left in columns]


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def feather(tile: Tile, height: int, width: int, *, overlap: int, factor: int) -> Tensor:
    """A tile's weights, (H, W) in pixels: 1 inside, falling towards each neighbour, never 0."""
    vertical = _ramp(tile.height, tile.top > 0, tile.top + tile.height < height, overlap, factor)
    horizontal = _ramp(tile.width, tile.left > 0, tile.left + tile.width < width, overlap, factor)
    return vertical[:, None] * horizontal[None, :]


def _ramp(size: int, before: bool, after: bool, overlap: int, factor: int) -> Tensor:
    weights = torch.ones(size * factor)
    if overlap:
        length = overlap * factor
        rise = torch.arange(1, length + 1) / (length + 1)
        if before:
            weights[:length] = rise
        if after:
            weights[-length:] *= rise.flip(0)
    return weights
