"""What the losses see of a decoder's output: harmonised, with its kept pixels put back, as the recipe says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..autoencoder import AsymmetricAutoencoder
from ..detail import errors_of, with_detail_of
from ..harmonise import harmonise
from .computing import autocast
from .data import Batch
from .recipe import Recipe


@dataclass(frozen=True)
class SeenByLosses:
    """
    Args:
        vae: whose decoder is trained.
        device: what it computes on.
    """

    vae: AsymmetricAutoencoder
    recipe: Recipe
    device: torch.device

    def of(self, network: nn.Module, batch: Batch, latent: Tensor) -> tuple[Tensor, Tensor | float]:
        """(B, 3, H, W); and the mean square of what is not seen: changes of colour and light that a conditional decode
        does not take part in, and which nothing else would hold.

        Args:
            network: the decoder, or what wraps it.
            latent: as the decoder takes it.
        """
        plain = harmonised = errors = None
        strayed: Tensor | float = 0.0
        if self.vae.sees_errors or self.recipe.through_harmonise:
            with torch.no_grad(), autocast(self.device, self.recipe):
                plain = self.vae.decoder(latent).float()
        if self.vae.sees_errors and plain is not None:
            harmonised = self._harmonised(plain, batch)
            errors = errors_of(plain, image=batch.image, mask=batch.mask, harmonised=harmonised)
        with autocast(self.device, self.recipe):
            output = network(latent, image=batch.image, mask=batch.mask, errors=errors)
        if plain is not None and harmonised is not None:
            whole = output.float() - plain + harmonised
            detailed = with_detail_of(
                output,
                plain,
                mask=batch.mask,
                factor=self.vae.config.factor,
                harmonised=harmonised,
                fitted=self.vae.fitted(plain, batch.image, batch.mask),
            )
            # with nothing kept it is the plain decode, and all of it is to be learned
            nothing_kept = batch.mask.amin(dim=(1, 2, 3), keepdim=True) > 0
            output = torch.where(nothing_kept, whole, detailed)
            strayed = ((whole - output) * batch.mask).square().mean()
        elif plain is not None:
            output = self._harmonised(output.float(), batch, plain=plain)
        if self.recipe.composed:
            output = torch.where(batch.mask > 0, output, batch.image.to(output))
        return output, strayed

    def _harmonised(self, decoded: Tensor, batch: Batch, plain: Tensor | None = None) -> Tensor:
        """Of a batch, those that the recipe says."""
        rows = list(decoded.split(1))
        for i in batch.harmonised.flatten().nonzero().flatten().tolist():
            rows[i] = harmonise(
                rows[i], image=batch.image[i : i + 1], mask=batch.mask[i : i + 1],
                plain=None if plain is None else plain[i : i + 1], factor=self.vae.config.factor,
                noise_mask=bool(batch.inside[i]),
            )  # fmt: skip
        return torch.cat(rows)


def raw_decode(vae: AsymmetricAutoencoder, latent: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """As `vae.decode`, NaN and all: what has diverged is the trainer's to judge."""
    z = vae.network_latent(latent)
    if not vae.sees_errors:
        return vae.decoder(z, image=image, mask=mask)
    plain = vae.decoder(z)
    decoded = vae.decoder(z, image=image, mask=mask, errors=errors_of(plain, image=image, mask=mask))
    fitted = vae.fitted(plain, image, mask)
    return with_detail_of(decoded, plain, mask=mask, factor=vae.factor, fitted=fitted)
