"""Feature maps of the kept pixels: one a condition point, fine to coarse, whole or in stripes of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Ops
from ..stripes import stripes
from ..widening import Widening

FULL_RESOLUTION = 2
"""The first maps, of 3×3 convolutions, are at full resolution; each later one halves the size."""


class ConditionEncoder(nn.Module):
    """Convolutions, each of the ReLU of the one before.

    Args:
        in_channels: of what it sees.
        channels: widths of the maps, fine to coarse.
        bias: without one, a map is 0 wherever nothing is seen.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], ops: Ops, *, bias: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        for i, out_channels in enumerate(channels):
            shape = {"kernel_size": 3} if i < FULL_RESOLUTION else {"kernel_size": 4, "stride": 2}
            layers.append(ops.Conv2d(in_channels, out_channels, padding=1, bias=bias, **shape))
            in_channels = out_channels
        self.layers = nn.ModuleList(layers)

    sees_errors = False
    """See `asymvq.conditions.Condition`."""

    def forward(self, seen: Tensor) -> list[Tensor]:
        """Maps from fine to coarse, each before its ReLU, of what the first layer sees, (B, in_channels, H, W)."""
        maps: list[Tensor] = []
        for layer in self.layers:
            maps.append(layer(F.relu(maps[-1]) if maps else seen))
        return maps

    def of_block(self, level: int, block: int) -> nn.ModuleList | None:
        """Its convolutions for the stages of a residual block of the decoder's, where it works inside."""
        return None

    def grow_from(self, old: ConditionEncoder, widening: Widening) -> None:
        """Takes over the function of one of the same kind, whose decoder is no wider."""
        widen(self.layers, old.layers, widening)


def widen(
    new: Iterable[nn.Module], old: Iterable[nn.Module], widening: Widening, *, normed: bool = False, parts: int = 1
) -> None:
    """Convolution by convolution; `normed` and `parts` as in `Widening.conv`."""
    for convolution, before in zip(new, old, strict=True):
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(before, nn.Conv2d)
        widening.conv(convolution, before, normed=normed, parts=parts)


class StripedMaps:
    """Maps of one picture in little memory: those at full resolution, the largest, are computed stripe by stripe where
    they are needed, and not held here."""

    def __init__(self, encoder: ConditionEncoder, seen: Tensor):
        self.layers = list(encoder.layers)
        self.seen = seen
        self.coarse = self._coarse()
        """Those below full resolution, fine to coarse."""

    @property
    def width(self) -> int:
        """Channels of the maps at full resolution."""
        last = self.layers[FULL_RESOLUTION - 1]
        assert isinstance(last, nn.Conv2d)
        return last.out_channels

    def fine(self, first: int, last: int, layers: int) -> Tensor:
        """Rows of the map that the first `layers` layers make, before its ReLU; `layers` up to `FULL_RESOLUTION`."""
        top, bottom = max(0, first - layers), min(self.seen.shape[-2], last + layers)
        rows = self.seen[..., top:bottom, :]
        for i in range(layers):
            rows = self.layers[i](F.relu(rows) if i else rows)
        return rows[..., first - top : last - top, :]

    def _coarse(self) -> list[Tensor]:
        layers = self.layers[FULL_RESOLUTION:]
        if not layers:
            return []
        half = layers[0]
        assert isinstance(half, nn.Conv2d)
        height, width = self.seen.shape[-2] // 2, self.seen.shape[-1] // 2
        first_map = self.seen.new_empty(1, half.out_channels, height, width)
        for first, last in stripes(height, 4 * width * half.in_channels, self.seen.device):
            top, bottom = max(0, first - 1), min(height, last + 1)
            rows = half(F.relu(self.fine(2 * top, 2 * bottom, FULL_RESOLUTION)))
            first_map[..., first:last, :] = rows[..., first - top : last - top, :]
        maps = [first_map]
        for layer in layers[1:]:
            maps.append(layer(F.relu(maps[-1])))
        return maps
