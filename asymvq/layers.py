"""The blocks that encoder and decoder are made of.

Every module takes `ops`, the namespace its layers come from: `CastingOps`, or a host's own (off-loading). What differs
from family to family, norms and residual blocks, comes as `Blocks`. Attribute names are those of the LDM checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .walk import Change, Run
from .widening import Part, Widening


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


class RMSNorm(nn.Module):
    """Each pixel's channels, divided by their root mean square; no bias. Half precision is normalised in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=exact).clamp(min=1e-12)
        gamma = (self.gamma.to(x.device, exact) * x.shape[1] ** 0.5)[:, None, None]
        widened = x.to(exact)
        if torch.is_grad_enabled() and (x.requires_grad or gamma.requires_grad):
            return (widened / length * gamma).to(x.dtype)
        normed = widened / length if widened is x else widened.div_(length)
        return normed.mul_(gamma).to(x.dtype)


class Stage(NamedTuple):
    """A convolution of what is first normalised and activated."""

    conv: nn.Conv2d
    norm: nn.Module | None = None
    activation: Callable[..., Tensor] | None = None

    def __call__(self, x: Tensor, change: Change | None = None) -> Tensor:
        normed = x if self.norm is None else self.norm(x)
        return self.conv(self.activated(x, normed if change is None else change(normed, 0, x.shape[-2])))

    def activated(self, x: Tensor, normed: Tensor) -> Tensor:
        """`x` is what `normed` was made of: it is left alone, `normed` is not, where it is another tensor."""
        return normed if self.activation is None else self.activation(normed, inplace=normed is not x)

    def grow_from(self, old: Stage, widening: Widening) -> None:
        if self.norm is not None and old.norm is not None:
            widening.norm(self.norm, old.norm)
        widening.conv(self.conv, old.conv, normed=self.norm is not None)


class Residual(Part):
    """Stages, and their input added to what they give."""

    after: Callable[..., Tensor] | None = None
    """Activation of the sum."""
    local = True
    """Whether a row needs no more than its neighbours, but for a GroupNorm's statistics at the head of a stage."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        raise NotImplementedError

    @property
    def shortcut(self) -> nn.Conv2d | None:
        """Of 1×1, where the widths differ."""
        raise NotImplementedError

    def forward(self, x: Tensor, changes: Sequence[Change] = ()) -> Tensor:
        """`changes`: what a condition does to the features that each stage activates, or none."""
        h = x
        for number, stage in enumerate(self.stages):
            h = stage(h, changes[number] if changes else None)
        shortcut = self.shortcut
        h = h + (x if shortcut is None else shortcut(x))
        return h if self.after is None else self.after(h, inplace=True)

    def grow_from(self, old: Residual, widening: Widening) -> None:
        for stage, before in zip(self.stages, old.stages, strict=True):
            stage.grow_from(before, widening)
        if self.shortcut is None:
            assert old.shortcut is None
        elif old.shortcut is None:
            widening.identity(self.shortcut, old.stages[-1].conv.out_channels)
        else:
            widening.conv(self.shortcut, old.shortcut)

    def start_as_identity(self) -> None:
        """What the block adds is zero, and can be learned. Where `after` is a ReLU, that is the identity of what left
        another one."""
        for parameter in self.stages[-1].conv.parameters():
            parameter.zero_()


class ResidualBlock(Residual):
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    nin_shortcut: nn.Conv2d | None

    def __init__(self, in_channels: int, out_channels: int, norm: Callable[[int], nn.Module], ops: Ops):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = ops.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = norm(out_channels)
        self.conv2 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = ops.Conv2d(in_channels, out_channels, kernel_size=1)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return Stage(self.conv1, self.norm1, F.silu), Stage(self.conv2, self.norm2, F.silu)

    @property
    def shortcut(self) -> nn.Conv2d | None:
        return self.nin_shortcut


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-head attention over all positions; all (B, C, H, W)."""
    b, c, h, w = q.shape
    # (B, C, H, W) -> (B, 1 head, H·W, C)
    q, k, v = (t.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.squeeze(1).transpose(1, 2).reshape(b, c, h, w)


class AnyAttention(Part):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels


class Attention(AnyAttention):
    """Its projections are 1×1 convolutions as in LDM."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module], ops: Ops):
        super().__init__(channels)
        self.norm = norm(channels)
        self.q = ops.Conv2d(channels, channels, kernel_size=1)
        self.k = ops.Conv2d(channels, channels, kernel_size=1)
        self.v = ops.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = ops.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.proj_out(attend(self.q(normed), self.k(normed), self.v(normed)))

    def grow_from(self, old: Attention, widening: Widening) -> None:
        widening.norm(self.norm, old.norm)
        for new, before in ((self.q, old.q), (self.k, old.k), (self.v, old.v)):
            widening.conv(new, before, normed=True)
        scale = widening.query_scale(self.q.out_channels, old.q.out_channels)
        self.q.weight.mul_(scale[:, None, None, None])
        self.q.bias.mul_(scale)
        widening.conv(self.proj_out, old.proj_out)


class FusedAttention(AnyAttention):
    """With one projection for query, key and value."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module], ops: Ops):
        super().__init__(channels)
        self.norm = norm(channels)
        self.to_qkv = ops.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj = ops.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(attend(*self.to_qkv(self.norm(x)).chunk(3, dim=1)))

    def grow_from(self, old: FusedAttention, widening: Widening) -> None:
        widening.norm(self.norm, old.norm)
        widening.conv(self.to_qkv, old.to_qkv, normed=True, parts=3)
        width = self.proj.in_channels
        scale = widening.query_scale(width, old.proj.in_channels)
        self.to_qkv.weight[:width].mul_(scale[:, None, None, None])
        self.to_qkv.bias[:width].mul_(scale)
        widening.conv(self.proj, old.proj)


class Downsample(nn.Module):
    """Halves the size; padded right and below only, as the Stable Diffusion encoder was trained."""

    def __init__(self, channels: int, ops: Ops):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(Part):
    """Doubles the size: nearest neighbour, then a convolution."""

    conv: nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int, ops: Ops, *, bias: bool = True):
        super().__init__()
        self.conv = ops.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def grow_from(self, old: Upsample, widening: Widening) -> None:
        widening.conv(self.conv, old.conv)


@dataclass(frozen=True)
class Blocks:
    """What a family makes its networks of. Each call takes channels, in and out where they may differ."""

    residual: Callable[[int, int], Residual]
    upsample: Callable[[int, int], Part]
    downsample: Callable[[int], nn.Module]
    norm: Callable[[int], nn.Module] | None = None
    """Before the last convolution of either network, with a SiLU; None: neither."""
    attention: Callable[[int], Part] | None = None
    """In the middle, between two residual blocks; None: no middle."""
    last_residual: Callable[[int, int], Residual] | None = None
    """At the coarsest level; None: as everywhere."""


class Middle(Part):
    block_1: Residual
    attn_1: Part
    block_2: Residual

    def __init__(self, channels: int, blocks: Blocks):
        super().__init__()
        assert blocks.attention is not None
        self.block_1 = blocks.residual(channels, channels)
        self.attn_1 = blocks.attention(channels)
        self.block_2 = blocks.residual(channels, channels)

    def walk(self) -> list[Run]:
        return [Run(self.block_1), Run(self.attn_1), Run(self.block_2)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.walk():
            x = step(x)
        return x

    def grow_from(self, old: Middle, widening: Widening) -> None:
        self.block_1.grow_from(old.block_1, widening)
        self.attn_1.grow_from(old.attn_1, widening)
        self.block_2.grow_from(old.block_2, widening)


class Level(Part):
    """Residual blocks of one resolution, then a change of resolution (none at the last level)."""

    recompute = False
    """Training: keep only each block's input, and compute the rest again for the gradient."""

    def __init__(self, in_channels: int, out_channels: int, count: int, residual: Callable[[int, int], Residual]):
        super().__init__()
        self.block = nn.ModuleList(
            residual(in_channels if i == 0 else out_channels, out_channels) for i in range(count)
        )

    @property
    def resample(self) -> nn.Module | None:
        """The change of resolution."""
        raise NotImplementedError

    def walk(self, level: int | None = None) -> list[Run]:
        """`level`: this one's number in a decoder, where a condition may change what is inside its blocks."""
        places = [None if level is None else (level, number) for number in range(len(self.block))]
        steps = [Run(block, self.recompute, place) for block, place in zip(self.block, places, strict=True)]
        return steps if self.resample is None else [*steps, Run(self.resample)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.walk():
            x = step(x)
        return x

    def grow_from(self, old: Level, widening: Widening) -> None:
        """Blocks that the old level does not have start as the identity."""
        for number, block in enumerate(self.block):
            assert isinstance(block, Residual)
            if number < len(old.block):
                before = old.block[number]
                assert isinstance(before, Residual)
                block.grow_from(before, widening)
            else:
                block.start_as_identity()
        if self.resample is not None:
            assert isinstance(self.resample, Part)
            self.resample.grow_from(old.resample, widening)


class DownLevel(Level):
    def __init__(
        self, in_channels: int, out_channels: int, count: int, residual: Callable[[int, int], Residual],
        downsample: Callable[[], nn.Module] | None,
    ):  # fmt: skip
        super().__init__(in_channels, out_channels, count, residual)
        self.downsample = None if downsample is None else downsample()

    @property
    def resample(self) -> nn.Module | None:
        return self.downsample


class UpLevel(Level):
    def __init__(
        self, in_channels: int, out_channels: int, count: int, residual: Callable[[int, int], Residual],
        upsample: Callable[[], nn.Module] | None,
    ):  # fmt: skip
        super().__init__(in_channels, out_channels, count, residual)
        self.upsample = None if upsample is None else upsample()

    @property
    def resample(self) -> nn.Module | None:
        return self.upsample
