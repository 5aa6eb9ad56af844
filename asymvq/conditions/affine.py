"""Conditional normalisation: a scale and a shift a channel and pixel, from the kept pixels (FiLM, arXiv 1709.07871;
SPADE, arXiv 1903.07291; the asymmetric VQGAN names it as future work, arXiv 2306.04632).

Features h become h · (1 + γ) + β: those at the condition points, and with `in_blocks` also those that each convolution
of the residual blocks behind a point takes, after their norm (SPADE's place). The convolutions that make γ and β start
as zeros, so that a decoder starts as the stock one. None has a bias, and what is edited is seen as zeros: where no kept
pixel is in reach, γ and β are 0, and with nothing kept the conditional decode is the plain one.

Kept pixels tell what is to be continued, not what the decoder makes of the latent beside them. So it can be shown that
too, as the errors that a plain decode makes: how the next pixel's differ from them is then a matter of a few weights.
On edited pixels these are what harmonising changes; with `errors_fade` only as far as kept pixels tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ConditionConfig
from ..detail import reach_of_kept
from ..layers import Ops
from ..stripes import stripes
from ..walk import Change
from ..widening import Widening
from .encoder import FULL_RESOLUTION, ConditionEncoder, StripedMaps, widen


class Affine(ConditionEncoder):
    """Kept pixels to a scale and a shift at every condition point, and perhaps in every residual block.

    Args:
        config: the width of all maps, whether errors are seen and fade, and whether blocks are conditioned inside.
        channels: of the features at each point, fine to coarse.
        stage_channels: of the features that each stage activates, of each residual block of each level, fine to coarse.
    """

    def __init__(
        self,
        config: ConditionConfig,
        channels: Sequence[int],
        stage_channels: Sequence[Sequence[Sequence[int]]],
        image_channels: int,
        ops: Ops,
    ):
        width = config.channels
        assert width is not None
        seen = image_channels * (1 + config.sees_errors) + 1
        super().__init__(seen, [width] * len(channels), ops, bias=False)
        self.sees_errors = config.sees_errors
        self.fading: float | None = None
        """Pixels over which errors on edited pixels fade: a cell of the coarsest map."""
        if config.errors_fade:
            self.fading = 2.0 ** (len(channels) - FULL_RESOLUTION)

        def zeroed(channels: Iterable[int]) -> nn.ModuleList:
            convolutions = nn.ModuleList(ops.Conv2d(width, c, kernel_size=1, bias=False) for c in channels)
            for convolution in convolutions:
                assert isinstance(convolution, nn.Conv2d)
                nn.init.zeros_(convolution.weight)
            return convolutions

        self.scales, self.shifts = zeroed(channels), zeroed(channels)
        self.blocks: nn.ModuleList | None = None
        """Of each level, block and stage: scales, and behind them shifts."""
        if config.in_blocks:
            self.blocks = nn.ModuleList(
                nn.ModuleList(zeroed(2 * c for c in stages) for stages in level) for level in stage_channels
            )

    def seen(self, image: Tensor, mask: Tensor, errors: Tensor | None) -> Tensor:
        """(B, 4 or 7, H, W): the kept pixels, 1 where they are, and the errors."""
        kept = 1 - mask
        assert self.sees_errors == (errors is not None)
        if errors is not None and self.fading is not None:
            errors = errors * reach_of_kept(mask, self.fading).to(errors.dtype)
        return torch.cat([image * kept, kept, *([] if errors is None else [errors])], dim=1)

    def change(self, level: int, features: Tensor, active: Tensor) -> Tensor:
        """The features under a condition point's map, after its ReLU, both (B, C, h, w)."""
        return changed(features, self.scales[level](active), self.shifts[level](active))

    def of_block(self, level: int, block: int) -> nn.ModuleList | None:
        return None if self.blocks is None else cast(nn.ModuleList, cast(nn.ModuleList, self.blocks[level])[block])

    def inside(self, level: int, block: int, active: Tensor) -> Sequence[Change]:
        """What it does in each stage of a block, under the map of the point before."""
        stages = self.of_block(level, block)
        return () if stages is None else [partial(_changed_rows, stage, active) for stage in stages]

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
        if self.blocks is not None and old.blocks is not None:
            for level, old_level in zip(self.blocks, old.blocks, strict=True):
                for block, old_block in zip(cast(nn.ModuleList, level), cast(nn.ModuleList, old_level), strict=False):
                    # what is added there is added to features that are normalised, or not scaled
                    widen(cast(nn.ModuleList, block), cast(nn.ModuleList, old_block), maps, parts=2)

    def prepare(
        self, image: Tensor, mask: Tensor, *, errors: Tensor | None = None, striped: bool = False
    ) -> Maps | Striped:
        """See `asymvq.conditions.Condition`."""
        seen = self.seen(image, mask, errors)
        return Striped(self, seen) if striped else Maps(self, self(seen))


def changed(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """h · (1 + γ) + β."""
    return torch.addcmul(features + shift, features, scale)


def _changed_rows(stage: nn.Module, active: Tensor, rows: Tensor, first: int, last: int) -> Tensor:
    scale, shift = stage(active[..., first:last, :]).to(rows.dtype).chunk(2, dim=1)
    return changed(rows, scale, shift)


class Maps:
    """All maps at once."""

    def __init__(self, encoder: Affine, maps: list[Tensor]):
        self.encoder, self.maps = encoder, maps
        self.active: Tensor | None = None

    def apply(self, level: int, features: Tensor) -> Tensor:
        # popped, so that each map is freed as soon as nothing needs it
        active = F.relu(self.maps.pop())
        self.active = active if self.encoder.blocks is not None else None
        return self.encoder.change(level, features, active)

    def inside(self, level: int, block: int) -> Sequence[Change]:
        return () if self.active is None else self.encoder.inside(level, block, self.active)


class Striped:
    """Of one picture, in little memory. Where blocks are conditioned inside, the map of the level at hand is held."""

    def __init__(self, encoder: Affine, seen: Tensor):
        self.encoder, self.maps = encoder, StripedMaps(encoder, seen)
        self.active: Tensor | None = None

    def apply(self, level: int, features: Tensor) -> Tensor:
        self.active, whole = None, None
        if level >= FULL_RESOLUTION:
            whole = F.relu(self.maps.coarse.pop(), inplace=True)
        elif level > 0 and self.encoder.blocks is not None:
            whole = self._held(level + 1)
        height, width = features.shape[-2:]
        for first, last in stripes(height, width * features.shape[1], features.device):
            rows = features[..., first:last, :]
            active = self._rows(first, last, level + 1) if whole is None else whole[..., first:last, :]
            rows.copy_(self.encoder.change(level, rows, active))
        self.active = whole if self.encoder.blocks is not None else None
        return features

    def inside(self, level: int, block: int) -> Sequence[Change]:
        return () if self.active is None else self.encoder.inside(level, block, self.active)

    def _rows(self, first: int, last: int, layers: int) -> Tensor:
        return F.relu(self.maps.fine(first, last, layers), inplace=True)

    def _held(self, layers: int) -> Tensor:
        """The whole map at full resolution."""
        seen, width = self.maps.seen, self.maps.width
        held = seen.new_empty(1, width, *seen.shape[-2:])
        for first, last in stripes(seen.shape[-2], seen.shape[-1] * width, seen.device):
            held[..., first:last, :] = self._rows(first, last, layers)
        return held
