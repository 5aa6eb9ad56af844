"""What several test files share: models with random weights, and masks that look like an artist's."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _shake_norms(module: nn.Module) -> None:
    """Away from ones and zeros, so that a swapped pair of norms is noticed."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            nn.init.normal_(part.weight, 1.0, 0.1)
            nn.init.normal_(part.bias, 0.0, 0.1)


@pytest.fixture(scope="session")
def shake_norms() -> Callable[[nn.Module], None]:
    return _shake_norms


@pytest.fixture(scope="session")
def make_vae() -> Callable[..., AsymmetricAutoencoder]:
    def make(config: AutoencoderConfig, seed: int = 0) -> AsymmetricAutoencoder:
        torch.manual_seed(seed)
        vae = AsymmetricAutoencoder(config)
        _shake_norms(vae)
        return vae.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def blob_mask() -> Callable[[int, int], Tensor]:
    def make(height: int, width: int) -> Tensor:
        """(1, 1, H, W): an ellipse and a thin diagonal, 1 = edited."""
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        ellipse = (x - 0.2) ** 2 / 0.3 + (y + 0.1) ** 2 / 0.15 < 1
        return (ellipse | ((x + y).abs() < 0.05)).float()[None, None]

    return make
