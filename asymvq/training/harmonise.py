"""The colour shifts that diffusion models bring, imitated, so that a decoder learns to undo them.

The latent is that of a shifted copy of the picture; the kept pixels and the target are the true ones. The idea is
ASUKA's (arXiv 2312.04831), which sees decoding as local harmonisation; these shifts are our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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
