"""Differences made as visible as a colour curve can make them: PixPerfect's discriminative pixel space.

arXiv 2512.03247; our reading of it, as its code is not public. An edit whose colours are off by little costs little,
but shows. So the difference to the truth is multiplied, a polynomial of the colour is fitted to what becomes of the
picture so, and output and truth are compared under it. Differences that a colour curve can bring out, such as a cast,
count many times; those that look like other colours of the picture are left to the other losses.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .table import Term, setting, weighted

FACTOR = 30.0
"""The middle of the paper's 20 to 40; always the same, so that a step does not depend on chance."""
DEGREE = 5
RIDGE = 1e-4
"""Of the mean square of the polynomials: pictures of few colours leave them undetermined."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    amplified: float = setting(
        0.0, "Weight of colour errors in edited pixels under a strong contrast (PixPerfect).", reconstructs=True
    )


def term(recipe: Any, device: torch.device) -> Term | None:
    return weighted(recipe.amplified, amplified_loss)


def amplified_loss(output: Tensor, target: Tensor, *, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean absolute difference under the curves, over `FACTOR`: up to that of the values themselves.

    Args:
        output: (B, C, H, W), as `target` in [-1, 1]. Only edited pixels count; kept ones are taken as true.
        mask: (B, 1, H, W) of 0 and 1, 1 = edited.
    """
    composed = torch.where(mask > 0, output.float(), target)
    terms, true_terms = _terms(composed), _terms(target)
    with torch.no_grad():
        amplified = (target + FACTOR * (composed - target)).flatten(2).mT
        count = amplified.shape[1]
        gram = terms.mT @ terms / count + RIDGE * torch.eye(terms.shape[-1], device=terms.device)
        curves = torch.linalg.solve(gram, terms.mT @ amplified / count)
    loss = ((terms - true_terms) @ curves).abs().mean() / FACTOR
    return loss, {"amplified": loss.detach()}


def _terms(image: Tensor) -> Tensor:
    """(B, N, terms): products of Chebyshev polynomials of each pixel's channels, of up to `DEGREE` together; of values
    in [-1, 1], beyond which they are cut off."""
    x = image.clamp(-1, 1).flatten(2)
    polynomials = [torch.ones_like(x), x]
    while len(polynomials) <= DEGREE:
        polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
    degrees = itertools.product(range(DEGREE + 1), repeat=x.shape[1])
    columns: list[Tensor] = []
    for each in degrees:
        if sum(each) <= DEGREE:
            column = polynomials[each[0]][:, 0]
            for channel, degree in enumerate(each[1:], start=1):
                column = column * polynomials[degree][:, channel] if degree else column
            columns.append(column)
    return torch.stack(columns, dim=-1)
