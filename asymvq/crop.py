"""Parts of pictures: what an encoder takes, and what surrounds a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import edited


def centre_crop(tensor: Tensor, factor: int) -> Tensor:
    """(…, H, W) with both sides cut to multiples of `factor`, as ComfyUI does before it encodes.

    Raises:
        ValueError: a side is shorter than `factor`.
    """
    height, width = tensor.shape[-2:]
    if min(height, width) < factor:
        raise ValueError(f"Expected a picture of at least {factor}×{factor} pixels, but got {width}×{height}.")
    top, left = height % factor // 2, width % factor // 2
    return tensor[..., top : top + height // factor * factor, left : left + width // factor * factor]


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, pixels: Tensor) -> Box:
        """The smallest that holds every True of (…, H, W) bool; an empty one where there is none. Of a tensor without
        values (meta): all of it.
        """
        if pixels.is_meta:
            return cls(0, 0, *pixels.shape[-2:])
        touched = pixels.reshape(-1, *pixels.shape[-2:]).any(dim=0)
        lines = [torch.nonzero(touched.any(dim=dim)).flatten() for dim in (1, 0)]
        first, sides = zip(
            *((int(line[0]), int(line[-1] - line[0]) + 1) if len(line) else (0, 0) for line in lines), strict=True
        )
        return cls(*first, *sides)

    def of(self, tensor: Tensor) -> Tensor:
        """That part of (…, H, W), a view."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def grown(self, margin: int, size: Sequence[int]) -> Box:
        """With so many pixels more on each side, as far as a picture of `size`, (height, width), goes."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = (
            min(whole, start + length + margin)
            for whole, start, length in zip(size, (self.top, self.left), (self.height, self.width), strict=True)
        )
        return Box(top, left, bottom - top, right - left)

    def stripes(self, rows: int) -> list[Box]:
        """Its parts of up to so many rows."""
        return [
            Box(self.top + first, self.left, min(rows, self.height - first), self.width)
            for first in range(0, self.height, rows)
        ]


def box_around(mask: Tensor, *, size: int, margin: int = 64, multiple: int = 8) -> Box:
    """A square of at least `size` pixels a side in the middle of which the mask lies.

    It grows until `margin` pixels surround the mask, to sides that are multiples of `multiple`. At the picture's border
    it is moved inwards; where the picture is smaller, so is the box.

    Args:
        mask: (…, H, W) in [0, 1]; what it edits (`asymvq.masks.edited`) counts, of all pictures together.

    Raises:
        ValueError: the mask is empty.
    """
    touched = Box.around(edited(mask))
    if not touched.height:
        raise ValueError(
            "Expected a mask to crop around, but got an empty one. Paint it: right-click the Load Image node and open "
            "the mask editor."
        )
    side = max(size, touched.height + 2 * margin, touched.width + 2 * margin)
    side = -(-side // multiple) * multiple
    starts, sides = [], []
    spans = ((touched.top, touched.height), (touched.left, touched.width))
    for (start, span), whole in zip(spans, mask.shape[-2:], strict=True):
        length = min(side, whole)
        starts.append(min(max(0, (2 * start + span - length) // 2), whole - length))
        sides.append(length)
    return Box(*starts, *sides)
