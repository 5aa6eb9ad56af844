"""The latents that a decoder is trained on: of a picture, of its drifting copy, or of both, the mask deciding cell by
cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from .data import Batch
from .step import sample_latent


class Latents:
    """
    Args:
        vae: that encodes.
        mixed: whether batches may ask for the picture's own cells outside the mask (`Batch.inside`).
        cached: whether fixed crops are encoded once and remembered, on the CPU.
    """

    def __init__(self, vae: AsymmetricAutoencoder, *, mixed: bool, cached: bool):
        self._vae, self._mixed, self._cached = vae, mixed, cached
        self._known: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        """Mean and deviation of a fixed crop's own latent, and of that of its drifting copy."""

    @torch.no_grad()
    def of(self, batch: Batch) -> Tensor:
        """(B, C, h, w), sampled as the batch says."""
        crops = batch.crops if self._cached else None
        drifting = None if crops is None else [(crop, "drifting") for crop in crops]
        mean, deviation = self._posterior(batch.encoded, drifting)
        rows = batch.inside.flatten().nonzero().flatten().tolist() if self._mixed else []
        if not rows:
            return sample_latent(mean, deviation, batch)
        names = None if crops is None else [(crops[row], "own") for row in rows]
        own = mean.clone(), deviation.clone()
        for whole, part in zip(own, self._posterior(batch.source[rows], names), strict=True):
            whole[rows] = part.to(whole)
        return sample_latent(mean, deviation, batch, own)

    def _posterior(self, images: Tensor, names: Sequence[tuple[int, str]] | None) -> tuple[Tensor, Tensor]:
        """Mean and deviation; those with names are remembered."""
        if names is None:
            return self._vae.posterior(images)
        new = [i for i, name in enumerate(names) if name not in self._known]
        if new:
            moments = self._vae.posterior(images[new])
            for i, mean, deviation in zip(new, *(m.cpu() for m in moments), strict=True):
                self._known[names[i]] = mean, deviation
        means, deviations = zip(*(self._known[name] for name in names), strict=True)
        return torch.stack(means).to(images.device), torch.stack(deviations).to(images.device)
