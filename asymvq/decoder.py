"""Latent to picture, with the kept pixels as a condition (arXiv 2306.04632)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .conditions import condition_of
from .conditions.blend import blend, reduce_mask
from .config import Config
from .cost import step_costs
from .layers import Blocks, Middle, Ops, Residual, Stage, UpLevel
from .walk import ConditionPoint, Report, Run, Step, reported
from .widening import Widening

__all__ = ["Decoder", "blend", "reduce_mask"]


class Decoder(nn.Module):
    """Convolution, middle, levels from coarse to fine, convolution: of whatever blocks its family has."""

    conv_in: nn.Conv2d
    conv_out: nn.Conv2d

    def __init__(self, config: Config, blocks: Blocks, ops: Ops):
        super().__init__()
        channels, entering, counts = config.decoder_channels, config.entering_channels, config.decoder_block_counts
        last = len(channels) - 1
        self.conv_in = ops.Conv2d(config.network_latent_channels, entering[-1], kernel_size=3, padding=1)
        self.mid = None if blocks.attention is None else Middle(entering[-1], blocks)
        self.up = nn.ModuleList(
            UpLevel(
                entering[i], c, counts[i], (i == last and blocks.last_residual) or blocks.residual,
                upsample=partial(blocks.upsample, c, entering[i - 1]) if i else None,
            )
            for i, c in enumerate(channels)
        )  # fmt: skip
        self.norm_out = None if blocks.norm is None else blocks.norm(channels[0])
        self.conv_out = ops.Conv2d(channels[0], config.image_channels, kernel_size=3, padding=1)
        self.condition_encoder = condition_of(config, ops, self.stage_channels)

    @property
    def stage_channels(self) -> list[list[list[int]]]:
        """Of the features that each stage activates, of each residual block of each level, fine to coarse."""
        levels = cast(Iterable[UpLevel], self.up)
        return [
            [[stage.conv.in_channels for stage in cast(Residual, block).stages] for block in level.block]
            for level in levels
        ]

    def enter(self, latent: Tensor) -> Tensor:
        """The latent's first features."""
        return self.conv_in(latent)

    def walk(self) -> list[Step]:
        """All of the decoder, in order: the one description that every way to run it follows."""
        steps: list[Step] = [Run(self.enter), *([] if self.mid is None else self.mid.walk())]
        for i, level in reversed(list(enumerate(self.up))):
            assert isinstance(level, UpLevel)
            steps += [ConditionPoint(i + 1), *level.walk(i)]
        return [*steps, ConditionPoint(0), Run(self.last_stage)]

    @property
    def last_stage(self) -> Stage:
        return Stage(self.conv_out, self.norm_out, None if self.norm_out is None else F.silu)

    @property
    def sees_errors(self) -> bool:
        """Whether its condition is shown what a plain decode gets wrong."""
        return self.condition_encoder is not None and self.condition_encoder.sees_errors

    def reported_walk(self, latent: Tensor, report: Report | None, *, conditioned: bool) -> Iterable[Step]:
        """The walk; `report` hears of each step's end."""
        steps = self.walk()
        if report is None:
            return steps
        return reported(steps, step_costs(self, steps, latent, conditioned=conditioned), report, latent.device)

    def forward(
        self,
        latent: Tensor,
        *,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        errors: Tensor | None = None,
        report: Report | None = None,
    ) -> Tensor:
        """(B, C, h, w) to (B, 3, H, W) in about [-1, 1].

        `image` (B, 3, H, W) in [-1, 1] and `mask` (B, 1, H, W) in [0, 1], 1 = edited, are given both or neither;
        with them `errors`, where it `sees_errors`: see `asymvq.conditions.Condition`.
        """
        condition = None
        if image is not None and mask is not None:
            assert self.condition_encoder is not None
            condition = self.condition_encoder.prepare(image, mask, errors=errors)
        h = latent
        for step in self.reported_walk(latent, report, conditioned=condition is not None):
            if isinstance(step, Run):
                h = step(h, () if condition is None or step.place is None else condition.inside(*step.place))
            elif condition is not None:
                h = condition.apply(step.level, h)
        return h

    def grow_from(self, old: Decoder, widening: Widening) -> None:
        """Takes over the function of a decoder with the same levels, none of them wider or deeper. A condition that
        `old` does not have, or has of another kind, keeps its fresh weights."""
        widening.conv(self.conv_in, old.conv_in)
        if self.mid is not None:
            assert old.mid is not None
            self.mid.grow_from(old.mid, widening)
        for level, before in zip(self.up, old.up, strict=True):
            assert isinstance(level, UpLevel)
            assert isinstance(before, UpLevel)
            level.grow_from(before, widening)
        self.last_stage.grow_from(old.last_stage, widening)
        if self.condition_encoder is not None and isinstance(old.condition_encoder, type(self.condition_encoder)):
            self.condition_encoder.grow_from(old.condition_encoder, widening)
