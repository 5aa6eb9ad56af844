"""Feature maps of the kept pixels, blended into the decoder's by the mask: the paper's way, and ASUKA's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConditionConfig, MaskReduction
from ..layers import Ops
from ..stripes import stripes
from ..widening import Widening

FULL_RESOLUTION = 2
"""The first maps, of 3×3 convolutions, are at full resolution; each later one halves the size."""


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


class Blend(nn.Module):
    """Kept pixels to one feature map a condition point.

    Args:
        config: whether the first convolution sees the mask too, and how the mask is brought to a level's size.
        channels: widths of the maps, fine to coarse, each that of the features it is blended into.
    """

    def __init__(self, config: ConditionConfig, channels: Sequence[int], image_channels: int, ops: Ops):
        super().__init__()
        self.sees_mask, self.mask_reduction = config.sees_mask, config.mask_reduction
        layers: list[nn.Module] = []
        in_channels = image_channels + self.sees_mask
        for i, out_channels in enumerate(channels):
            shape = {"kernel_size": 3} if i < FULL_RESOLUTION else {"kernel_size": 4, "stride": 2}
            layers.append(ops.Conv2d(in_channels, out_channels, padding=1, **shape))
            in_channels = out_channels
        self.layers = nn.ModuleList(layers)

    def seen(self, image: Tensor, mask: Tensor) -> Tensor:
        """What the first layer sees, (B, 3 or 4, H, W)."""
        kept = image * (1 - mask)
        return torch.cat([kept, mask], dim=1) if self.sees_mask else kept

    def forward(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """Maps from fine to coarse, each before its ReLU: widths as `Config.condition_channels`."""
        x = self.seen(image, mask)
        maps: list[Tensor] = []
        for layer in self.layers:
            maps.append(layer(F.relu(maps[-1]) if maps else x))
        return maps

    def prepare(self, image: Tensor, mask: Tensor, *, striped: bool = False) -> Maps | StripedMaps:
        """See `asymvq.conditions.Condition`."""
        if striped:
            return StripedMaps(self, self.seen(image, mask), mask)
        return Maps(self(image, mask), mask, self.mask_reduction)

    def grow_from(self, old: Blend, widening: Widening) -> None:
        for layer, before in zip(self.layers, old.layers, strict=True):
            assert isinstance(layer, nn.Conv2d)
            assert isinstance(before, nn.Conv2d)
            widening.conv(layer, before)


class Maps:
    """All maps at once."""

    def __init__(self, maps: list[Tensor], mask: Tensor, reduction: MaskReduction):
        self.maps, self.mask, self.reduction = maps, mask, reduction

    def apply(self, level: int, features: Tensor) -> Tensor:
        mask = reduced(self.mask, level, features, self.reduction)
        # popped, so that each map is freed as soon as it is blended in
        return blend(self.maps.pop(), features, mask)


class StripedMaps:
    """Maps of one picture in little memory: those at full resolution, the largest, are computed stripe by stripe where
    they are blended in, and never held."""

    def __init__(self, encoder: Blend, seen: Tensor, mask: Tensor):
        self.encoder, self.seen, self.mask = encoder, seen, mask
        self.coarse = self._coarse()

    def apply(self, level: int, features: Tensor) -> Tensor:
        mask = reduced(self.mask, level, features, self.encoder.mask_reduction)
        if level >= FULL_RESOLUTION:
            return blend(self.coarse.pop(), features, mask)
        height, width = features.shape[-2:]
        for first, last in stripes(height, width * features.shape[1], features.device):
            rows = features[..., first:last, :]
            rows.copy_(blend(self._fine(first, last, level + 1), rows, mask[..., first:last, :]))
        return features

    def _fine(self, first: int, last: int, layers: int) -> Tensor:
        """Rows of the map that the first `layers` layers make, before its ReLU."""
        top, bottom = max(0, first - layers), min(self.seen.shape[-2], last + layers)
        rows = self.seen[..., top:bottom, :]
        for i in range(layers):
            rows = self.encoder.layers[i](F.relu(rows) if i else rows)
        return rows[..., first - top : last - top, :]

    def _coarse(self) -> list[Tensor]:
        """The maps below full resolution, fine to coarse."""
        layers = list(self.encoder.layers)[FULL_RESOLUTION:]
        if not layers:
            return []
        half = layers[0]
        assert isinstance(half, nn.Conv2d)
        height, width = self.seen.shape[-2] // 2, self.seen.shape[-1] // 2
        first_map = self.seen.new_empty(1, half.out_channels, height, width)
        for first, last in stripes(height, 4 * width * half.in_channels, self.seen.device):
            top, bottom = max(0, first - 1), min(height, last + 1)
            rows = half(F.relu(self._fine(2 * top, 2 * bottom, FULL_RESOLUTION)))
            first_map[..., first:last, :] = rows[..., first - top : last - top, :]
        maps = [first_map]
        for layer in layers[1:]:
            maps.append(layer(F.relu(maps[-1])))
        return maps


def reduced(mask: Tensor, level: int, features: Tensor, reduction: MaskReduction) -> Tensor:
    """The mask at a condition point; before the output it is as it came, soft edges and all."""
    return mask if level == 0 else reduce_mask(mask, (features.shape[-2], features.shape[-1]), reduction)
