"""The hinge GAN on patches (pix2pix, arXiv 1611.07004) with the adaptive weight of VQGAN (arXiv 2012.09841)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .table import Widget, setting

MAX_WEIGHT = 1e4
GROUPS = 8
SMALLEST_JUDGED = 32
"""Pixels: what the discriminator's convolutions need."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    adversarial: float = setting(
        0.0,
        "Weight of the adversarial loss of a discriminator: sharper pictures, but less stable training. For thousands "
        "of pictures.",
        widget=Widget(100, 0.05),
    )
    """On top of the adaptive weight."""
    adversarial_start: int = setting(
        0, "The step at which the adversarial loss begins.", widget=Widget(maximum=10_000_000)
    )


def check(recipe: Any) -> None:
    """
    Raises:
        ValueError: crops too small to be judged, or a last layer that does not learn.
    """
    if not recipe.adversarial:
        return
    if recipe.crop < SMALLEST_JUDGED:
        raise ValueError(f"Expected crop to be ≥ {SMALLEST_JUDGED} with an adversarial loss, but got {recipe.crop}.")
    if recipe.copying:
        raise ValueError(
            "Expected copying or an adversarial loss, but got both: copying freezes the layer at which the "
            "adversarial loss is weighed. Set one of them to 0."
        )


class PatchDiscriminator(nn.Sequential):
    """Judges overlapping patches: (B, 3, H, W) in [-1, 1] to (B, 1, h, w), high for real ones.

    The PatchGAN of pix2pix with `layers` halvings. It normalises by group where pix2pix does by batch, so that no
    picture's judgement depends on the others of its batch.

    Args:
        channels: of the first layer; doubled by each of the next, up to eightfold.
    """

    def __init__(self, *, image_channels: int = 3, channels: int = 64, layers: int = 3):
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(GROUPS, widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*modules, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def discriminator_loss(
    discriminator: nn.Module, *, real: Tensor, generated: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hinge loss of the discriminator; gradients end at `generated`."""
    on_real, on_generated = discriminator(real), discriminator(generated.detach())
    loss = 0.5 * (F.relu(1 - on_real).mean() + F.relu(1 + on_generated).mean())
    return loss, {"discriminator": loss.detach()}


def generator_loss(discriminator: nn.Module, *, generated: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the decoder minimises: the discriminator's mean judgement, negated."""
    loss = -discriminator(generated).mean()
    return loss, {"adversarial": loss.detach()}


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, *, last_layer: Tensor) -> Tensor:
    """How much the adversarial loss counts, so that both move the last layer alike (VQGAN, equation 7).

    Args:
        reconstruction: a loss that depends on `last_layer`, as `adversarial` does.
        last_layer: the weight of the decoder's last convolution.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (of_reconstruction.norm() / (of_adversarial.norm() + 1e-4)).clamp(max=MAX_WEIGHT).detach()
