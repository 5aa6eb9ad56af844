"""Decoding with a condition that sees errors: a plain decode first, then one that is shown what is missing from it.

Colours and light of edited pixels are the plain decode's, or what harmonising makes of it; what is finer is the
conditional decode's. So the condition cannot take part in what drifts, which it would correct a second time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DETAIL = 0.5
"""Latent cells: what is finer in a conditional decode is its own."""
BALANCING_STEPS = 3
"""After which pixels gather 0.5 % too much or too little on average, and at most 4 %."""


def errors_of(plain: Tensor, *, image: Tensor, mask: Tensor, harmonised: Tensor | None = None) -> Tensor:
    """What the condition is shown, (B, 3, H, W): on kept pixels image - plain, on edited ones harmonised - plain.

    Args:
        plain: (B, 3, H, W), the latent's decode without its condition.
        image: (B, 3, H, W) in [-1, 1]. Under the mask, values that are not finite do not matter.
        mask: (B, 1, H, W), 0 and 1 or bool, 1 = edited.
        harmonised: (B, 3, H, W), what harmonising makes of `plain`; None: it is not harmonised.
    """
    return torch.where(mask > 0, plain if harmonised is None else harmonised, image) - plain


def with_detail_of(
    conditional: Tensor, plain: Tensor, *, mask: Tensor, factor: int, harmonised: Tensor | None = None
) -> Tensor:
    """Edited pixels of the conditional decode with colours and light of `harmonised`, kept ones of the plain decode.

    Gradients flow through `conditional`. Arguments as `errors_of`; (B, 3, H, W) float32.

    Args:
        factor: pixels a latent cell.
    """
    base = (plain if harmonised is None else harmonised).float()
    change = conditional.float() - plain.float()
    inside = mask[:, 0] > 0
    smooth = torch.stack([low_pass(*one, factor * DETAIL) for one in zip(change, inside, strict=True)])
    return torch.where(mask > 0, base + change - smooth, plain.float())


def low_pass(picture: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """(3, h, w) blurred over the pixels `inside` (h, w) alone, of use there; `sigma` in pixels.

    Each pixel takes as much from its neighbours as it gives them, so that the sum inside stays the same, and with it
    the mean colour; and what is constant stays as it is. For that the kernel is scaled on both sides by one factor a
    pixel (Knight, Ruiz and Uçar, "A symmetry preserving algorithm for matrix scaling", SIAM Journal on Matrix Analysis
    35, 2014; here by fixed-point steps), and the little that a pixel then gathers too much or too little is its own.
    """
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=picture.device) / sigma) ** 2)

    def blurred(values: Tensor) -> Tensor:
        values = values[:, None]
        for kernel, padding in ((taps[:, None], (reach, 0)), (taps[None], (0, reach))):
            values = F.conv2d(values, kernel[None, None], padding=padding)
        return values[:, 0]

    inside = inside[None]
    picture, scale = torch.where(inside, picture, 0), inside.to(picture)
    for _ in range(BALANCING_STEPS):
        scale = torch.where(inside, (scale / blurred(scale).clamp(min=1e-6)).sqrt(), 0)
    *smooth, gathered = scale * blurred(scale * torch.cat([picture, inside.to(picture)]))
    return torch.stack(smooth) + (1 - gathered) * picture
