"""Feature maps of the kept pixels, blended into the decoder's by the mask: the paper's way, and ASUKA's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ConditionConfig, MaskReduction
from ..layers import Ops
from ..stripes import stripes
from ..walk import Change
from .encoder import FULL_RESOLUTION, ConditionEncoder, StripedMaps


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


class Blend(ConditionEncoder):
    """Kept pixels to one feature map a condition point.

    Args:
        config: whether the first convolution sees the mask too, and how the mask is brought to a level's size.
        channels: widths of the maps, fine to coarse, each that of the features it is blended into.
    """

    def __init__(self, config: ConditionConfig, channels: Sequence[int], image_channels: int, ops: Ops):
        super().__init__(image_channels + config.sees_mask, channels, ops)
        self.sees_mask, self.mask_reduction = config.sees_mask, config.mask_reduction

    def seen(self, image: Tensor, mask: Tensor) -> Tensor:
        kept = image * (1 - mask)
        return torch.cat([kept, mask], dim=1) if self.sees_mask else kept

    def prepare(
        self, image: Tensor, mask: Tensor, *, errors: Tensor | None = None, striped: bool = False
    ) -> Maps | Striped:
        """See `asymvq.conditions.Condition`."""
        assert errors is None
        if striped:
            return Striped(self, self.seen(image, mask), mask)
        return Maps(self(self.seen(image, mask)), mask, self.mask_reduction)


class Outside:
    """It changes nothing inside the blocks."""

    def inside(self, level: int, block: int) -> Sequence[Change]:
        return ()


class Maps(Outside):
    """All maps at once."""

    def __init__(self, maps: list[Tensor], mask: Tensor, reduction: MaskReduction):
        self.maps, self.mask, self.reduction = maps, mask, reduction

    def apply(self, level: int, features: Tensor) -> Tensor:
        mask = reduced(self.mask, level, features, self.reduction)
        # popped, so that each map is freed as soon as it is blended in
        return blend(self.maps.pop(), features, mask)


class Striped(Outside):
    """Of one picture, in little memory."""

    def __init__(self, encoder: Blend, seen: Tensor, mask: Tensor):
        self.maps, self.mask, self.reduction = StripedMaps(encoder, seen), mask, encoder.mask_reduction

    def apply(self, level: int, features: Tensor) -> Tensor:
        mask = reduced(self.mask, level, features, self.reduction)
        if level >= FULL_RESOLUTION:
            return blend(self.maps.coarse.pop(), features, mask)
        height, width = features.shape[-2:]
        for first, last in stripes(height, width * features.shape[1], features.device):
            rows = features[..., first:last, :]
            rows.copy_(blend(self.maps.fine(first, last, level + 1), rows, mask[..., first:last, :]))
        return features


def reduced(mask: Tensor, level: int, features: Tensor, reduction: MaskReduction) -> Tensor:
    """The mask at a condition point; before the output it is as it came, soft edges and all."""
    return mask if level == 0 else reduce_mask(mask, (features.shape[-2], features.shape[-1]), reduction)
