"""Conditional normalisation: a scale and a shift a channel and pixel, from the kept pixels (FiLM, arXiv 1709.07871;
SPADE, arXiv 1903.07291; the asymmetric VQGAN names it as future work, arXiv 2306.04632).

Features h become h · (1 + γ) + β. The convolutions that make γ and β start as zeros, so that a decoder starts as the
stock one. None has a bias, and what is edited is seen as zeros: where no kept pixel is in reach, γ and β are 0 always,
and with nothing kept the conditional decode is the plain one.

Kept pixels tell what is to be continued, not what the decoder makes of the latent beside them. So it can be shown that
too, as the errors that a plain decode makes: how the next pixel's differ from them is then a matter of a few weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConditionConfig
from ..layers import Ops
from ..stripes import stripes
from ..widening import Widening
from .encoder import FULL_RESOLUTION, ConditionEncoder, StripedMaps, widen


class Affine(ConditionEncoder):
    """Kept pixels to a scale and a shift at every condition point.

    Args:
        config: the width of all maps, and whether errors are seen.
        channels: of the features at each point, fine to coarse.
    """

    def __init__(self, config: ConditionConfig, channels: Sequence[int], image_channels: int, ops: Ops):
        width = config.channels
        assert width is not None
        seen = image_channels * (1 + config.sees_errors) + 1
        super().__init__(seen, [width] * len(channels), ops, bias=False)
        self.sees_errors = config.sees_errors

        def zeroed() -> nn.ModuleList:
            convolutions = nn.ModuleList(ops.Conv2d(width, c, kernel_size=1, bias=False) for c in channels)
            for convolution in convolutions:
                assert isinstance(convolution, nn.Conv2d)
                nn.init.zeros_(convolution.weight)
            return convolutions

        self.scales, self.shifts = zeroed(), zeroed()

    def seen(self, image: Tensor, mask: Tensor, errors: Tensor | None) -> Tensor:
        """(B, 4 or 7, H, W): the kept pixels, 1 where they are, and the errors."""
        kept = 1 - mask
        assert self.sees_errors == (errors is not None)
        return torch.cat([image * kept, kept, *([] if errors is None else [errors])], dim=1)

    def change(self, level: int, features: Tensor, condition_map: Tensor) -> Tensor:
        """The features under a condition point's map, both (B, C, h, w)."""
        active = F.relu(condition_map)
        return torch.addcmul(features + self.shifts[level](active), features, self.scales[level](active))

    def grow_from(self, old: ConditionEncoder, widening: Widening) -> None:
        assert isinstance(old, Affine)
        maps = Widening()  # of its own, and scales: only what is added to features takes part in their length
        first, before = self.layers[0], old.layers[0]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(before, nn.Conv2d)
        seen = nn.Conv2d(before.in_channels, first.out_channels, kernel_size=3, bias=False)
        maps.conv(seen, before)
        first.weight.zero_()  # what was not seen, such as errors, counts nothing yet
        first.weight[:, : before.in_channels].copy_(seen.weight)
        widen(self.layers[1:], old.layers[1:], maps)
        widen(self.scales, old.scales, maps)
        widen(self.shifts, old.shifts, widening, normed=True)

    def prepare(
        self, image: Tensor, mask: Tensor, *, errors: Tensor | None = None, striped: bool = False
    ) -> Maps | Striped:
        """See `asymvq.conditions.Condition`."""
        seen = self.seen(image, mask, errors)
        return Striped(self, seen) if striped else Maps(self, self(seen))


class Maps:
    """All maps at once."""

    def __init__(self, encoder: Affine, maps: list[Tensor]):
        self.encoder, self.maps = encoder, maps

    def apply(self, level: int, features: Tensor) -> Tensor:
        # popped, so that each map is freed as soon as it is used
        return self.encoder.change(level, features, self.maps.pop())


class Striped:
    """Of one picture, in little memory."""

    def __init__(self, encoder: Affine, seen: Tensor):
        self.encoder, self.maps = encoder, StripedMaps(encoder, seen)

    def apply(self, level: int, features: Tensor) -> Tensor:
        coarse = self.maps.coarse.pop() if level >= FULL_RESOLUTION else None
        height, width = features.shape[-2:]
        for first, last in stripes(height, width * features.shape[1], features.device):
            rows = features[..., first:last, :]
            condition_map = self.maps.fine(first, last, level + 1) if coarse is None else coarse[..., first:last, :]
            rows.copy_(self.encoder.change(level, rows, condition_map))
        return features
