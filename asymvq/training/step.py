"""What one optimisation step minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder


def autoencoder_loss(vae: AsymmetricAutoencoder, image: Tensor, *, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    """L1 and a light KL term for a symmetric VAE: encoder and decoder learn together, without a condition."""
    mean, deviation = vae.posterior(image)
    output = vae.decode(mean + deviation * torch.randn_like(mean))
    l1 = (output.float() - image).abs().mean()
    variance = deviation.float().square()
    kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).mean()
    return l1 + kl_weight * kl, {"l1": l1.item(), "kl": kl.item()}


def decoder_loss(
    vae: AsymmetricAutoencoder, image: Tensor, mask: Tensor, *, kept_weight: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """L1 for a decoder on a frozen encoder (arXiv 2306.04632, without its perceptual and adversarial terms).

    Args:
        image: (B, 3, H, W) in [-1, 1], source and target at once.
        mask: (B, 1, H, W) of 0 and 1, 1 = generated. A sample whose mask is all ones is decoded without condition.
        kept_weight: weight of kept pixels against generated ones.
    """
    with torch.no_grad():
        mean, deviation = vae.posterior(image)
        latent = mean + deviation * torch.randn_like(mean)
    output = vae.decode(latent, image=image, mask=mask).float()
    error = (output - image).abs()
    weight = mask + kept_weight * (1 - mask)
    loss = (error * weight).mean()
    with torch.no_grad():
        kept, generated = (error * m for m in (1 - mask, mask))
        log = {
            "kept_l1": (kept.sum() / (3 * (1 - mask).sum()).clamp(min=1)).item(),
            "generated_l1": (generated.sum() / (3 * mask.sum()).clamp(min=1)).item(),
        }
    return loss, log
