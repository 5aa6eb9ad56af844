"""Picture to the moments of its latent: the encoder of Stable Diffusion's VAE, at any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import AutoencoderConfig
from .layers import DownLevel, Middle, Ops, group_norm


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, ops: Ops):
        super().__init__()
        channels, groups = config.encoder_channels, config.norm_groups
        assert channels is not None
        self.conv_in = ops.Conv2d(config.image_channels, channels[0], kernel_size=3, padding=1)
        last = len(channels) - 1
        self.down = nn.ModuleList(
            DownLevel(channels[max(i - 1, 0)], c, config.encoder_blocks, groups, ops, last=i == last)
            for i, c in enumerate(channels)
        )
        self.mid = Middle(channels[-1], groups, ops)
        self.norm_out = group_norm(channels[-1], groups, ops)
        self.conv_out = ops.Conv2d(channels[-1], 2 * config.latent_channels, kernel_size=3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the posterior's mean and log-variance, (B, 2·C, h, w)."""
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h)), inplace=True))
