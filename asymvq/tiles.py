"""Which parts of a picture are decoded, and how they are joined. Positions are on the latent grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    def grown(self, cells: int, height: int, width: int) -> Tile:
        """This tile with `cells` more on every side, within a grid of that height and width."""
        top, left = max(0, self.top - cells), max(0, self.left - cells)
        bottom = min(height, self.top + self.height + cells)
        right = min(width, self.left + self.width + cells)
        return Tile(top, left, bottom - top, right - left)

    def of(self, tensor: Tensor, factor: int = 1) -> Tensor:
        """This tile's view of `tensor` (…, H, W), whose sides are `factor` times the grid's."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        columns = slice(self.left * factor, (self.left + self.width) * factor)
        return tensor[..., rows, columns]


@dataclass(frozen=True)
class Plan:
    """The tiles to decode: a list for each picture of a batch, or for fewer, which are then taken in turn."""

    pictures: tuple[tuple[Tile, ...], ...]
    overlap: int
    """Cells over which a tile's weight rises from its edges."""

    def of(self, picture: int) -> tuple[Tile, ...]:
        return self.pictures[picture % len(self.pictures)]

    def slice(self, start: int, stop: int) -> Plan:
        """The plan of pictures `start` to `stop`."""
        if len(self.pictures) == 1:
            return self
        return Plan(tuple(self.of(picture) for picture in range(start, stop)), self.overlap)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width that hold any of the tiles, at least one cell."""
        tiles = [tile for tiles in self.pictures for tile in tiles]
        return max((t.height for t in tiles), default=1), max((t.width for t in tiles), default=1)


def plan_full(height: int, width: int, *, tile: int | None, overlap: int) -> Plan:
    """Everything: as a whole, or in tiles. Errors as `plan_tiles`."""
    if tile is None:
        return Plan(((Tile(0, 0, height, width),),), 0)
    return Plan((tuple(plan_tiles(height, width, tile=tile, overlap=overlap)),), overlap)


def plan_masked(cells: Tensor, *, context: int, tile: int | None, overlap: int) -> list[Tile]:
    """Few and small tiles that hold every masked cell with context around it.

    A box around the mask is cut in two wherever that leaves clearly less to decode, and its parts are cut again, so
    that separate blobs get tiles of their own and a thin line is followed by several.

    Args:
        cells: (h, w) bool, the latent's cells that the mask touches.
        context: cells around each box. At the picture's border there are fewer.
        tile: longest side of a tile; None for no limit.
        overlap: what the tiles of one box that is too large share.

    Returns:
        No tiles where nothing is masked.
    """
    grid = cells.cpu().numpy()
    height, width = grid.shape
    boxes, pending = [], [Tile(0, 0, height, width)]
    while pending:
        box = _tight(grid, pending.pop())
        if box is None:
            continue
        parts = _cut(grid, box, context)
        if parts is None:
            boxes.append(box.grown(context, height, width))
        else:
            pending.extend(parts)
    tiles = list(dict.fromkeys(boxes))
    if tile is None:
        return tiles
    small = [
        Tile(box.top + part.top, box.left + part.left, part.height, part.width)
        for box in tiles
        for part in plan_tiles(box.height, box.width, tile=tile, overlap=overlap)
    ]
    return [part for part in dict.fromkeys(small) if _tight(grid, part) is not None]


def _tight(grid: np.ndarray, box: Tile) -> Tile | None:
    """The smallest box around the masked cells in `box`."""
    part = grid[box.top : box.top + box.height, box.left : box.left + box.width]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return Tile(box.top + top, box.left + left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def _cut(grid: np.ndarray, box: Tile, context: int) -> tuple[Tile, Tile] | None:
    """The two halves of `box` that take the least to decode with their context, if that is worth a second tile."""
    part = grid[box.top : box.top + box.height, box.left : box.left + box.width]
    around = 2 * context
    best, found = 0.85 * (box.height + around) * (box.width + around), None
    for axis, lines in enumerate((part, part.T)):
        costs = _halves_cost(lines, around)
        if len(costs) and costs.min() < best:
            best, position = costs.min(), int(costs.argmin()) + 1
            found = axis, position
    if found is None:
        return None
    axis, position = found
    if axis == 0:
        rest = Tile(box.top + position, box.left, box.height - position, box.width)
        return Tile(box.top, box.left, position, box.width), rest
    rest = Tile(box.top, box.left + position, box.height, box.width - position)
    return Tile(box.top, box.left, box.height, position), rest


def _halves_cost(lines: np.ndarray, around: int) -> np.ndarray:
    """For each cut between two rows of `lines`: the area of the tight boxes of both halves, with context."""
    count, width = lines.shape
    filled = np.asarray(lines.any(axis=1))
    first = np.where(filled, lines.argmax(axis=1), width)
    last = np.where(filled, width - lines[:, ::-1].argmax(axis=1), 0)

    def areas(first: np.ndarray, last: np.ndarray, filled: np.ndarray) -> np.ndarray:
        """Of the tight boxes of the first 1, 2, … rows, which begin with a filled one."""
        number = np.arange(1, len(filled) + 1)
        height = np.maximum.accumulate(np.where(filled, number, 0))
        across = np.maximum.accumulate(last) - np.minimum.accumulate(first)
        return (height + around) * (across + around)

    before = areas(first, last, filled)[: count - 1]
    after = areas(first[::-1], last[::-1], filled[::-1])[: count - 1][::-1]
    return before + after


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


def smaller_tile(tile: int | None, side: int, *, first: int, smallest: int) -> int | None:
    """The next side of tiles to try, in pixels: `first`, then halves, until it makes a piece of `side` pixels smaller.

    Args:
        tile: what was tried; None: the whole.

    Returns:
        None where that would be below `smallest`.
    """
    size = first if tile is None else tile // 2
    while size >= side:
        size //= 2
    return size if size >= smallest else None


def feather(tile: Tile, height: int, width: int, *, overlap: int, factor: int) -> Tensor:
    """A tile's weights, (H, W) in pixels: 1 inside, falling over `overlap` cells to each inner edge, never 0."""
    vertical = _ramp(tile.height, tile.top > 0, tile.top + tile.height < height, overlap, factor)
    horizontal = _ramp(tile.width, tile.left > 0, tile.left + tile.width < width, overlap, factor)
    return vertical[:, None] * horizontal[None, :]


def _ramp(size: int, before: bool, after: bool, overlap: int, factor: int) -> Tensor:
    weights = torch.ones(size * factor)
    if overlap:
        length = min(overlap, size) * factor
        rise = torch.arange(1, length + 1) / (length + 1)
        if before:
            weights[:length] = rise
        if after:
            weights[-length:] *= rise.flip(0)
    return weights
