"""The drift that diffusion models bring, imitated, so that a decoder learns to undo it.

The latent is that of a drifting copy of the picture; the kept pixels and the target are the true ones. The idea is
ASUKA's (arXiv 2312.04831), which sees decoding as local harmonisation; these shifts are our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ColourShift:
    """A global change of colour. The default changes nothing."""

    brightness: float = 0.0
    """Added to [-1, 1]."""
    contrast: float = 1.0
    """Factor of the distance from the picture's mean grey."""
    saturation: float = 1.0
    """Factor of the distance from each pixel's grey."""
    hue: float = 0.0
    """Radians, around the grey axis."""

    @classmethod
    def random(cls, rng: np.random.Generator) -> ColourShift:
        """Up to ±0.2 of brightness, ±20 % of contrast, ±30 % of saturation and ±9° of hue."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, size=4)
        return cls(0.2 * brightness, 1 + 0.2 * contrast, 1 + 0.3 * saturation, 0.05 * np.pi * hue)

    def __call__(self, image: Tensor) -> Tensor:
        """(…, 3, H, W) in [-1, 1], cut off there."""
        luma = torch.tensor(_LUMA, device=image.device)[:, None, None]
        image = torch.einsum("ij,...jhw->...ihw", self._hue_matrix().to(image), image)
        grey = (image * luma).sum(dim=-3, keepdim=True)
        image = grey + self.saturation * (image - grey)
        mean = grey.mean(dim=(-2, -1), keepdim=True)
        return (mean + self.contrast * (image - mean) + self.brightness).clamp(-1, 1)

    def _hue_matrix(self) -> Tensor:
        """Rotation around (1, 1, 1)."""
        cos, sin = np.cos(self.hue), np.sin(self.hue)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
        return torch.from_numpy(cos * np.eye(3) + sin * cross + (1 - cos) / 3)


@dataclass(frozen=True)
class Drift:
    """All that happens to a picture before it is encoded. The default changes nothing."""

    shift: ColourShift = ColourShift()
    other: ColourShift | None = None
    """Of the opposite side of the picture, towards which the shift changes linearly."""
    angle: float = 0.0
    """Radians: the direction of that."""
    blur: float | None = None
    """Standard deviation of a Gaussian, pixels; None: neither blurred nor moved."""
    moved: tuple[float, float] = (0.0, 0.0)
    """Right and down, pixels."""

    @classmethod
    def random(cls, rng: np.random.Generator, shift: ColourShift, *, varying: float, softened: float) -> Drift:
        """A shift that varies over the picture, and a blur of up to 0.8 pixels with a move of up to half a pixel, each
        with the given probability."""
        varies, softens = rng.random(size=2)
        other, angle = ColourShift.random(rng), rng.uniform(0, 2 * np.pi)
        blur, right, down = rng.uniform((0.3, -0.5, -0.5), (0.8, 0.5, 0.5))
        return cls(
            shift,
            other if varies < varying else None,
            float(angle),
            float(blur) if softens < softened else None,
            (float(right), float(down)),
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) in [-1, 1]."""
        result = self.shift(image)
        if self.other is not None:
            height, width = image.shape[-2:]
            y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
            cos, sin = np.cos(self.angle), np.sin(self.angle)
            ramp = 0.5 + 0.5 * (cos * x + sin * y) / (abs(cos) + abs(sin))
            result = torch.lerp(result, self.other(image), ramp.to(image))
        return result if self.blur is None else self._softened(result, self.blur)

    def _softened(self, image: Tensor, blur: float) -> Tensor:
        taps = torch.arange(-3.0, 4.0)
        across, down = (torch.exp(-0.5 * ((taps - move) / blur) ** 2) for move in self.moved)
        kernel = (down / down.sum())[:, None] * (across / across.sum())
        padded = F.pad(image[:, None], (3, 3, 3, 3), mode="replicate")
        return F.conv2d(padded, kernel[None, None].to(image))[:, 0]
