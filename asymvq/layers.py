"""The blocks that encoder and decoder are made of.

Every module takes `ops`, the namespace its layers come from: `CastingOps`, or a host's own (off-loading). Attribute
names are those of the LDM checkpoints.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Ops(Protocol):
    """A namespace of layers: `torch.nn` or anything with the same names."""

    Conv2d: Any
    GroupNorm: Any


def _widened(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    if parameter is None or parameter.dtype.itemsize >= x.dtype.itemsize:
        return parameter
    return parameter.to(x.dtype)


class CastingOps:
    """Layers that compute in their input's precision where it is wider than the weights' own.

    So a half-precision network is run once more in float32 without a second copy of its weights.
    """

    class Conv2d(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            weight = _widened(self.weight, input)
            assert weight is not None
            return self._conv_forward(input, weight, _widened(self.bias, input))

    class GroupNorm(nn.GroupNorm):
        def forward(self, input: Tensor) -> Tensor:
            weight, bias = _widened(self.weight, input), _widened(self.bias, input)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def group_norm(channels: int, groups: int, ops: Ops) -> nn.GroupNorm:
    return ops.GroupNorm(num_groups=groups, num_channels=channels, eps=1e-6)


class ResidualBlock(nn.Module):
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    nin_shortcut: nn.Conv2d | None

    def __init__(self, in_channels: int, out_channels: int, groups: int, ops: Ops):
        super().__init__()
        self.norm1 = group_norm(in_channels, groups, ops)
        self.conv1 = ops.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = group_norm(out_channels, groups, ops)
        self.conv2 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = ops.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """Single-head self-attention over all positions; projections are 1×1 convolutions as in LDM."""

    def __init__(self, channels: int, groups: int, ops: Ops):
        super().__init__()
        self.norm = group_norm(channels, groups, ops)
        self.q = ops.Conv2d(channels, channels, kernel_size=1)
        self.k = ops.Conv2d(channels, channels, kernel_size=1)
        self.v = ops.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = ops.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        normed = self.norm(x)
        # (B, C, H, W) -> (B, 1 head, H·W, C)
        q, k, v = (f(normed).flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out.squeeze(1).transpose(1, 2).reshape(b, c, h, w))


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int, ops: Ops):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups, ops)
        self.attn_1 = Attention(channels, groups, ops)
        self.block_2 = ResidualBlock(channels, channels, groups, ops)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halves the size; padded right and below only, as the Stable Diffusion encoder was trained."""

    def __init__(self, channels: int, ops: Ops):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the size: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, ops: Ops):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, then a change of resolution (none at the last level)."""

    recompute = False
    """Training: keep only each block's input, and compute the rest again for the gradient."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int, ops: Ops):
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups, ops) for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = cast(Tensor, checkpoint(block, x, use_reentrant=False)) if self.recompute else block(x)
        return x


class DownLevel(Level):
    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int, ops: Ops, *, last: bool):
        super().__init__(in_channels, out_channels, blocks, groups, ops)
        self.downsample = None if last else Downsample(out_channels, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.downsample is None else self.downsample(x)


class UpLevel(Level):
    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int, ops: Ops, *, last: bool):
        super().__init__(in_channels, out_channels, blocks, groups, ops)
        self.upsample = None if last else Upsample(out_channels, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.upsample is None else self.upsample(x)
