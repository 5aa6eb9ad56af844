"""Picture to latent: the mirror image of the decoder, without a condition."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
from .layers import Blocks, DownLevel, Middle, Ops, Stage


class Encoder(nn.Module):
    """Convolution, levels from fine to coarse, middle, convolution.

    Args:
        out_channels: twice the latent's, where there is a posterior.
    """

    conv_in: nn.Conv2d
    conv_out: nn.Conv2d

    def __init__(self, config: Config, blocks: Blocks, ops: Ops, *, out_channels: int):
        super().__init__()
        channels, counts = config.encoder_channels, config.encoder_block_counts
        assert channels is not None
        self.conv_in = ops.Conv2d(config.image_channels, channels[0], kernel_size=3, padding=1)
        last = len(channels) - 1
        self.down = nn.ModuleList(
            DownLevel(
                channels[max(i - 1, 0)], c, counts[i], (i == last and blocks.last_residual) or blocks.residual,
                downsample=None if i == last else partial(blocks.downsample, c),
            )
            for i, c in enumerate(channels)
        )  # fmt: skip
        self.mid = None if blocks.attention is None else Middle(channels[-1], blocks)
        self.norm_out = None if blocks.norm is None else blocks.norm(channels[-1])
        self.conv_out = ops.Conv2d(channels[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the latent (B, C, h, w), or the posterior's mean and log-variance (B, 2·C, …)."""
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        if self.mid is not None:
            h = self.mid(h)
        return Stage(self.conv_out, self.norm_out, None if self.norm_out is None else F.silu)(h)
