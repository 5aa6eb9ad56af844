"""Decoding with a condition that sees errors: a plain decode first, then one that is shown what is missing from it.

Colours and light of edited pixels are the plain decode's, or what harmonising makes of it; what is finer is the
conditional decode's. So the condition cannot take part in what drifts, which it would correct a second time.

What learns by squared errors blurs what it is not sure of. So where a conditional decode has less fine detail than the
plain one, its own is made as strong: it can move texture and correct it, but not leave it out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import Box

DETAIL = 0.5
"""Latent cells: what is finer in a conditional decode is its own."""
FINE = 1.5
"""Pixels: what is finer is texture, whose energy is kept."""
WINDOW = 8.0
"""Pixels: the standard deviation of the window in which energies are compared."""
MADE_UP = 1.2
"""Of the energy that texture lacks. What is above 1 makes up for a mask's edge, whose windows see the inside too."""
STRONGEST = 2.0
"""What texture is multiplied by at most."""
TINY = 1e-8
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


def reach_of_kept(mask: Tensor, sigma: float) -> Tensor:
    """How far kept pixels tell of edited ones, (B, 1, H, W) float32: 1 on kept pixels and beside a straight border of
    them, falling to nothing within three `sigma`, in pixels.

    It is twice the share of kept pixels in a Gaussian window, at most 1. What lies beyond the picture does not count.

    Args:
        mask: (B, 1, H, W), above 0 = edited.
    """
    result = torch.ones_like(mask, dtype=torch.float32)
    margin = _window(sigma)
    for i, inside in enumerate(mask[:, 0] > 0):
        box = Box.around(inside)
        if not box.height:
            continue
        around = box.grown(margin, inside.shape)
        kept = (~around.of(inside)).float()
        counted, whole = _blurred(torch.stack([kept, torch.ones_like(kept)]), sigma)
        share = around.of(result)[i, 0]
        share.copy_(torch.where(kept > 0, 1, (2 * counted / whole).clamp(max=1)))
    return result


def with_detail_of(
    conditional: Tensor,
    plain: Tensor,
    *,
    mask: Tensor,
    factor: int,
    harmonised: Tensor | None = None,
    fitted: Tensor | None = None,
) -> Tensor:
    """Edited pixels of the conditional decode with colours and light of `harmonised`, kept ones of the plain decode.

    Where the conditional decode has less fine detail than the plain one, its own is multiplied by up to STRONGEST to
    make up for it. Gradients flow through `conditional`. Arguments as `errors_of`; (B, 3, H, W) float32.

    Args:
        factor: pixels a latent cell.
        fitted: (B, 3, H, W), `asymvq.fitted.fitted_errors`, added where kept pixels do not reach.
    """
    if fitted is not None:
        fitted = (1 - reach_of_kept(mask, factor * DETAIL)) * fitted
    base = (plain if harmonised is None else harmonised).float()
    result = plain.float().clone()
    for i, inside in enumerate(mask[:, 0] > 0):
        box = Box.around(inside)
        if not box.height:
            continue
        own, reference, inside = (box.of(t) for t in (conditional[i].float(), plain[i].float(), inside))
        change = own - reference + _missing_texture(own, reference, inside)
        if fitted is not None:
            change = change + box.of(fitted)[i]
        finer = change - low_pass(change, inside, factor * DETAIL)
        box.of(result)[i] = torch.where(inside, box.of(base[i]) + finer, reference)
    return result


def _missing_texture(picture: Tensor, reference: Tensor, inside: Tensor) -> Tensor:
    """What to add to `picture` (3, h, w) so that its texture has the energy of the reference's, where it has less."""

    def texture(values: Tensor) -> Tensor:
        return values - low_pass(values, inside, FINE)

    def around(product: Tensor) -> Tensor:
        # sums over the same window, so that only their ratios tell
        return _blurred((product.sum(dim=0) * inside)[None], WINDOW)[0]

    own, wanted = texture(torch.cat([picture, reference])).chunk(2)
    added = texture(own)  # is what a multiple of `own` adds
    # |own + x added|² = |own|² + lacking, a quadratic equation in x
    square, cross = around(added.square()), around(own * added)
    lacking = MADE_UP * (around(wanted.square()) - around(own.square())).clamp(min=0)
    factor = lacking / (cross + (cross.square() + square * lacking + TINY).sqrt() + TINY)
    return factor.clamp(max=STRONGEST - 1) * own


def low_pass(picture: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """(C, h, w) blurred over the pixels `inside` (h, w) alone, of use there; `sigma` in pixels.

    Each pixel takes as much from its neighbours as it gives them, so that the sum inside stays the same, and with it
    the mean colour; and what is constant stays as it is. For that the kernel is scaled on both sides by one factor a
    pixel (Knight, Ruiz and Uçar, "A symmetry preserving algorithm for matrix scaling", SIAM Journal on Matrix Analysis
    35, 2014; here by fixed-point steps), and the little that a pixel then gathers too much or too little is its own.
    """
    inside = inside[None]
    picture, scale = torch.where(inside, picture, 0), inside.to(picture)
    for _ in range(BALANCING_STEPS):
        scale = torch.where(inside, (scale / _blurred(scale, sigma).clamp(min=1e-6)).sqrt(), 0)
    *smooth, gathered = scale * _blurred(scale * torch.cat([picture, inside.to(picture)]), sigma)
    return torch.stack(smooth) + (1 - gathered) * picture


def _window(sigma: float) -> int:
    """Pixels that a Gaussian reaches to each side."""
    return max(1, math.ceil(3 * sigma))


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """(C, h, w) after a Gaussian that is 1 in its middle, zeros around the picture."""
    reach = _window(sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=values.device) / sigma) ** 2)
    values = values[:, None]
    for kernel, padding in ((taps[:, None], (reach, 0)), (taps[None], (0, reach))):
        values = F.conv2d(values, kernel[None, None], padding=padding)
    return values[:, 0]
