"""What the steps of a decode take, so that progress runs evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .layers import AnyAttention, Stage, Upsample
from .walk import Run, Step

if TYPE_CHECKING:
    from .decoder import Decoder


def step_costs(decoder: Decoder, steps: Sequence[Step], latent: Tensor, *, conditioned: bool) -> list[float]:
    """Multiplications of each step for one picture: its weights at every pixel, and in attention every pixel with every
    other one. A condition's maps count where they are made, at its first point, and what it does inside a block there.

    Args:
        steps: `decoder.walk()`.
        latent: (B, C, h, w), as the decoder takes it.
        conditioned: whether kept pixels are shown.
    """
    pixels, costs = latent.shape[-2] * latent.shape[-1], list[float]()
    encoder = decoder.condition_encoder if conditioned else None
    first, maps = -1, 0.0
    for number, step in enumerate(steps):
        if isinstance(step, Run):
            part = step.part.conv if isinstance(step.part, Stage) else step.part
            pixels *= 4 if isinstance(part, Upsample) else 1
            inside = None if encoder is None or step.place is None else encoder.of_block(*step.place)
            costs.append((_weights(part) + _weights(inside)) * pixels)
            if isinstance(part, AnyAttention):
                costs[-1] += 2 * part.channels * pixels**2
        else:
            costs.append(0.0)
            if encoder is not None:
                first = number if first < 0 else first
                maps += _weights(encoder.layers[step.level]) * pixels
    if maps:
        costs[first] = maps
    return costs


def _weights(part: object) -> int:
    return sum(p.numel() for p in part.parameters()) if isinstance(part, nn.Module) else 0
