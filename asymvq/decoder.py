"""Latent to picture, with the kept pixels as a condition (arXiv 2306.04632)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AutoencoderConfig, MaskReduction
from .layers import Middle, Ops, UpLevel, group_norm


class ConditionEncoder(nn.Module):
    """Kept pixels to one feature map per blend of the decoder."""

    def __init__(self, config: AutoencoderConfig, ops: Ops):
        super().__init__()
        assert config.condition is not None
        self.sees_mask = config.condition.sees_mask
        layers: list[nn.Module] = []
        in_channels = config.image_channels + self.sees_mask
        for i, out_channels in enumerate(config.condition_channels):
            # The first two maps are at full resolution, each later one at half the size of the one before.
            shape = {"kernel_size": 3} if i < 2 else {"kernel_size": 4, "stride": 2}
            layers.append(ops.Conv2d(in_channels, out_channels, padding=1, **shape))
            in_channels = out_channels
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """Maps from fine to coarse, each before its ReLU: widths as `AutoencoderConfig.condition_channels`."""
        x = image * (1 - mask)
        if self.sees_mask:
            x = torch.cat([x, mask], dim=1)
        maps: list[Tensor] = []
        for layer in self.layers:
            maps.append(layer(F.relu(maps[-1]) if maps else x))
        return maps


def reduce_mask(mask: Tensor, size: tuple[int, int], reduction: MaskReduction) -> Tensor:
    """(B, 1, H, W) to (B, 1, *size)."""
    if mask.shape[-2:] == size:
        return (mask > 0).to(mask.dtype) if reduction is MaskReduction.ANY else mask
    if reduction is MaskReduction.ANY:
        return (F.adaptive_max_pool2d(mask, size) > 0).to(mask.dtype)
    return F.interpolate(mask, size=size, mode="nearest")


def blend(kept: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """`generated` where the mask is 1, `kept` where it is 0; exactly so at both ends."""
    return torch.lerp(kept, generated, mask.to(generated.dtype))


class Decoder(nn.Module):
    conv_in: nn.Conv2d
    norm_out: nn.GroupNorm
    conv_out: nn.Conv2d

    def __init__(self, config: AutoencoderConfig, ops: Ops):
        super().__init__()
        channels, groups = config.decoder_channels, config.norm_groups
        coarsest = len(channels) - 1
        self.conv_in = ops.Conv2d(config.latent_channels, channels[-1], kernel_size=3, padding=1)
        self.mid = Middle(channels[-1], groups, ops)
        self.up = nn.ModuleList(
            UpLevel(channels[min(i + 1, coarsest)], c, config.decoder_blocks, groups, ops, last=i == 0)
            for i, c in enumerate(channels)
        )
        self.norm_out = group_norm(channels[0], groups, ops)
        self.conv_out = ops.Conv2d(channels[0], config.image_channels, kernel_size=3, padding=1)
        self.condition_encoder = None
        self.mask_reduction = MaskReduction.NEAREST
        if config.condition is not None:
            self.condition_encoder = ConditionEncoder(config, ops)
            self.mask_reduction = config.condition.mask_reduction

    def forward(self, latent: Tensor, *, image: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to (B, 3, H, W) in about [-1, 1].

        `image` (B, 3, H, W) in [-1, 1] and `mask` (B, 1, H, W) in [0, 1], 1 = generated, are given both or neither.
        """
        conditions: list[Tensor] = []
        if image is not None and mask is not None:
            assert self.condition_encoder is not None
            conditions = self.condition_encoder(image, mask)
        h = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            if conditions and mask is not None:
                # popped, so that each map is freed as soon as it is blended in
                h = blend(conditions.pop(), h, reduce_mask(mask, h.shape[-2:], self.mask_reduction))
            h = level(h)
        if conditions and mask is not None:
            h = blend(conditions.pop(), h, mask)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))
