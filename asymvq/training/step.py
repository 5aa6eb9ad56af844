"""What one training step minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoder import AsymmetricAutoencoder
from ..losses import (
    PatchDiscriminator,
    adaptive_weight,
    amplified_loss,
    border_weights,
    generator_loss,
    perceptual_loss,
    pixel_loss,
    structure_loss,
)
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


@dataclass(frozen=True)
class Criterion:
    """The sum of a recipe's losses (arXiv 2306.04632, with the recipe's additions).

    Args:
        lpips: from `asymvq.perceptual.load_lpips`, where the recipe has a weight for it.
        discriminator: likewise.
    """

    recipe: Recipe
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    discriminator: PatchDiscriminator | None = None

    def reconstruction(self, output: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixel errors, LPIPS, SSIM and amplified differences as weighted by the recipe, of (B, 3, H, W) in [-1, 1].

        Args:
            mask: (B, 1, H, W) of 0 and 1, 1 = generated.
        """
        recipe = self.recipe
        weights = None
        if recipe.border:
            weights = border_weights(mask, weight=recipe.border, width=recipe.border_width)
        loss, log = pixel_loss(output, image, mask=mask, weights=weights, l1=recipe.l1, l2=recipe.l2)
        if self.lpips is not None:
            perceptual, figures = perceptual_loss(output, image, distance=self.lpips)
            loss, log = loss + recipe.lpips * perceptual, log | figures
        if recipe.ssim:
            structure, figures = structure_loss(output, image)
            loss, log = loss + recipe.ssim * structure, log | figures
        if recipe.amplified:
            contrast, figures = amplified_loss(output, image, mask=mask)
            loss, log = loss + recipe.amplified * contrast, log | figures
        return loss * (image[0].numel() if recipe.sum_pixels else 1), log

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
