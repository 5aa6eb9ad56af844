"""A wider network takes over the function of a narrower one: channels are repeated, and those who read them share.

What reads a repeated channel shares its weight among the repeats (Net2Net, arXiv 1511.05641), unevenly, so that repeats
can become different. Which layer reads and writes what, each part of a network says itself: `grow_from` in `layers`,
in the conditions and in the families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

UNEVENNESS = 0.5
"""Standard deviation of a repeat's share of a weight, relative to an even share."""


def repeated(old: int, new: int) -> Tensor:
    """(new,) the old channel that each new one repeats, in order; so repeats stay in their GroupNorm group, where the
    number of groups divides both widths."""
    return torch.arange(new) * old // new


def _counts(source: Tensor) -> Tensor:
    """(new,) how many channels repeat what each one does, itself included."""
    return torch.bincount(source)[source].float()


def _shares(source: Tensor, rows: int) -> Tensor:
    """(rows, new) random shares; those of one old channel sum to 1."""
    index, counts = source.expand(rows, -1), _counts(source)
    uneven = UNEVENNESS * torch.randn(rows, len(source), dtype=torch.float64)
    means = torch.zeros(rows, int(source.max()) + 1, dtype=torch.float64).scatter_add_(1, index, uneven)
    return ((1 + uneven - means.gather(1, index) / counts) / counts).float()


@dataclass(frozen=True)
class Widening:
    """How the layers of a family are widened. All methods change the new layer in place.

    Features are in one of two states: as a convolution wrote them, or normalised since. Normalised ones are repeated as
    they are.
    """

    keeps_length: bool = False
    """Whether written features are scaled so that the length of a pixel's vector, which RMS norm divides by, stays the
    same, whatever the widths. Else they are repeated as they are: GroupNorm's statistics stay the same where all
    channels are repeated equally often."""

    def written(self, source: Tensor) -> Tensor:
        """(new,) what a convolution's repeats are scaled by."""
        return _counts(source).rsqrt() if self.keeps_length else torch.ones(len(source))

    def conv(self, new: nn.Conv2d, old: nn.Conv2d, *, normed: bool = False, parts: int = 1) -> None:
        """
        Args:
            normed: the convolution reads features that were normalised since they were written.
            parts: that its outputs consist of, one after the other, each of its own channels.
        """
        bias = None if old.bias is None else _plain(old.bias)
        self._convolution(new, _plain(old.weight), bias, normed, parts)

    def identity(self, new: nn.Conv2d, channels: int) -> None:
        """A 1×1 convolution where there was none, of `channels` old ones: it changes nothing."""
        self._convolution(new, torch.eye(channels)[:, :, None, None], torch.zeros(channels))

    def _convolution(
        self, new: nn.Conv2d, weight: Tensor, bias: Tensor | None,
        normed: bool = False, parts: int = 1,
    ) -> None:  # fmt: skip
        rows = repeated(weight.shape[0] // parts, new.out_channels // parts)
        scale = self.written(rows).repeat(parts)
        rows = torch.cat([rows + part * (weight.shape[0] // parts) for part in range(parts)])
        columns = repeated(weight.shape[1], new.in_channels)
        shares = _shares(columns, len(rows))
        if not normed:
            shares = shares / self.written(columns)
        new.weight.copy_(weight[rows][:, columns] * (scale[:, None] * shares)[:, :, None, None])
        if new.bias is not None:
            new.bias.zero_() if bias is None else new.bias.copy_(scale * bias[rows])

    def norm(self, new: nn.Module, old: nn.Module) -> None:
        """GroupNorm, and norms of each pixel alone with a `gamma`."""
        if isinstance(new, nn.GroupNorm) and isinstance(old, nn.GroupNorm):
            source = repeated(old.num_channels, new.num_channels)
            new.weight.copy_(_plain(old.weight)[source])
            new.bias.copy_(_plain(old.bias)[source])
            return
        gamma, before = new.gamma, old.gamma
        assert isinstance(gamma, Tensor)
        assert isinstance(before, Tensor)
        source = repeated(len(before), len(gamma))
        scale = 1.0
        if self.keeps_length:  # else it grows as the root of the width, which the norm multiplies with
            scale = (len(before) / len(gamma)) ** 0.5 / self.written(source)
        gamma.copy_(_plain(before)[source] * scale)

    def query_scale(self, new: int, old: int) -> Tensor:
        """(new,) what makes attention's products the old ones: it divides by the root of its width, and each repeat
        adds its product once more."""
        source = repeated(old, new)
        return (new / old) ** 0.5 / (_counts(source) * self.written(source).square())


class Part(nn.Module):
    """Of a decoder, that can grow."""

    def grow_from(self, old: Any, widening: Widening) -> None:
        """Takes over the function of `old`, a part of the same kind that is no wider and no deeper."""
        raise NotImplementedError


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()
