"""Random crops of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..masks import random_thick_mask


class RandomCrops:
    """Square crops of random size, place and mirroring, resized to `size`.

    Args:
        paths: pictures, all held in memory.
        size: side of what comes out, pixels.
        scale: range of the crop's side as a multiple of `size`; what does not fit in a picture is limited to it.
    """

    def __init__(self, paths: list[Path], *, size: int, scale: tuple[float, float] = (1.0, 2.0)):
        if not paths:
            raise ValueError("Expected at least one picture to train on, but got none.")
        self.size = size
        self.scale = scale
        self.pictures = [load_picture(path) for path in paths]
        for path, picture in zip(paths, self.pictures, strict=True):
            if min(picture.shape[1:]) < size:
                raise ValueError(f"Expected pictures of at least {size} pixels a side, but {path} has {picture.shape}.")

    def batch(self, count: int, rng: np.random.Generator) -> Tensor:
        """(count, 3, size, size) in [-1, 1]."""
        return torch.stack([self._crop(rng) for _ in range(count)])

    def _crop(self, rng: np.random.Generator) -> Tensor:
        picture = self.pictures[rng.integers(len(self.pictures))]
        _, height, width = picture.shape
        side = min(round(self.size * rng.uniform(*self.scale)), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = picture[:, top : top + side, left : left + side].float().div(127.5).sub(1)
        if side != self.size:
            resized = F.interpolate(crop[None], size=(self.size, self.size), mode="bicubic", antialias=True)
            crop = resized[0].clamp(-1, 1)
        return crop.flip(-1) if rng.random() < 0.5 else crop


def load_picture(path: Path) -> Tensor:
    """(3, H, W) uint8."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def random_masks(count: int, size: int, rng: np.random.Generator) -> Tensor:
    """(count, 1, size, size) thick masks."""
    return torch.stack([random_thick_mask(size, size, rng) for _ in range(count)])
