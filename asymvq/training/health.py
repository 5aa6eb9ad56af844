"""Whether the weights of a run still decode a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder

WORST_ERROR = 2.0
"""Mean error of a decoded picture, in values of [-1, 1], that no picture has: the weights have diverged."""

Decode = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A latent under an image and a mask to a picture, all as `asymvq.decoder.Decoder` takes them."""


class Health:
    """
    Args:
        image: (1, 3, H, W) in [-1, 1], which is decoded with its right half masked.
        vae: whose encoder stays.
        decoders: as they are before training.
    """

    @torch.no_grad()
    def __init__(self, image: Tensor, vae: AsymmetricAutoencoder, decoders: Sequence[Decode]):
        self.image = image
        self.mask = torch.ones_like(image[:, :1])
        self.mask[..., : image.shape[-1] // 2] = 0
        self.latent = vae.encode(image)
        self.worst_error = max(WORST_ERROR, 2 * self._error(decoders))

    @torch.no_grad()
    def _error(self, decoders: Sequence[Decode]) -> float:
        """Mean error of the worst in values of [-1, 1]; NaN or infinite where one cannot decode the picture."""
        pictures = [decode(self.latent, self.image, self.mask) for decode in decoders]
        errors = torch.stack([(picture.float() - self.image).abs().mean() for picture in pictures])
        return errors.max().item()  # NaN, if any is

    def fault(self, decoders: Sequence[Decode]) -> str | None:
        """What is wrong with these decoders, in words."""
        try:
            error = self._error(decoders)
        except torch.OutOfMemoryError:  # a step was too large; that its weights are finite must do
            return None
        if not error <= self.worst_error:
            return f"weights that decode a picture, but they are off by {error:.2g} in values of [-1, 1]"
        return None
