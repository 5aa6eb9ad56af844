"""What one training step minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder import AsymmetricAutoencoder
from ..losses import LOSSES, PatchDiscriminator, Term, adaptive_weight, generator_loss
from .data import Batch
from .recipe import Recipe


def autoencoder_loss(vae: AsymmetricAutoencoder, image: Tensor, *, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    """L1 and a light KL term for a symmetric VAE: encoder and decoder learn together, without a condition."""
    mean, deviation = vae.posterior(image)
    output = vae.decode(mean + deviation * torch.randn_like(mean))
    l1 = (output.float() - image).abs().mean()
    variance = deviation.float().square()
    kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).mean()
    return l1 + kl_weight * kl, {"l1": l1.item(), "kl": kl.item()}


@torch.no_grad()
def sample_latent(mean: Tensor, deviation: Tensor, batch: Batch, own: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """A sample of the posterior with the batch's own noise, (B, C, h, w).

    Args:
        own: mean and deviation of the true pictures' latents, for samples that drift inside the mask only; where they
            drift everywhere, any.
    """
    spread = mean.std(dim=(1, 2, 3), keepdim=True)
    noise, extra = batch.noise.to(mean), spread * batch.extra_noise.to(mean)
    latent = mean + deviation * noise + extra
    if own is None:
        return latent
    # as the host's noise mask: cells that the mask does not touch are the source's
    kept = (F.max_pool2d(batch.mask, batch.mask.shape[-1] // mean.shape[-1]) == 0) & batch.inside
    return torch.where(kept, own[0] + own[1] * noise, latent)


def reconstruction_terms(recipe: Recipe, device: torch.device) -> list[Term]:
    """What the losses of the table compute under a recipe, with the networks that they need.

    Raises:
        ValueError: weights of such a network are not there.
    """
    terms = (loss.term(recipe, device) for loss in LOSSES)
    return [term for term in terms if term is not None]


@dataclass(frozen=True)
class Criterion:
    """The sum of a recipe's losses (arXiv 2306.04632, with the recipe's additions).

    Args:
        terms: from `reconstruction_terms`, of the recipe.
        discriminator: where the recipe has a weight for it.
    """

    recipe: Recipe
    terms: Sequence[Term]
    discriminator: PatchDiscriminator | None = None

    def reconstruction(self, output: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """All losses but the adversarial one, as weighted by the recipe, of (B, 3, H, W) in [-1, 1].

        Args:
            mask: (B, 1, H, W) of 0 and 1, 1 = edited.
        """
        terms = [term(output, image, mask) for term in self.terms]
        loss = sum((loss for loss, _ in terms[1:]), terms[0][0])
        log = {name: figure for _, figures in terms for name, figure in figures.items()}
        return loss * (image[0].numel() if self.recipe.sum_pixels else 1), log

    def adversarial(
        self, reconstruction: Tensor, output: Tensor, *, last_layer: nn.Conv2d
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's part of the hinge GAN, weighted so that it moves `last_layer` as much as `reconstruction`."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(False)  # this loss is not for it to learn from
        loss, log = generator_loss(self.discriminator, generated=output)
        self.discriminator.requires_grad_(True)
        weight = adaptive_weight(reconstruction, loss, last_layer=last_layer.weight)
        return self.recipe.adversarial * weight * loss, log
