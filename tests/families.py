"""A small shape of every family, and models of it with random weights."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig, tiny, wan

WAN = wan.Config(
    latent_channels=4, decoder_channels=(16, 32, 64, 64), decoder_blocks=2, encoder_channels=(16, 32, 64, 64),
    encoder_blocks=1,
)  # fmt: skip
TAE = tiny.Config(
    decoder_channels=(16,) * 4, decoder_blocks=(1, 2, 1, 2), encoder_channels=(16,) * 4, encoder_blocks=(1, 2, 1, 2),
    latent_scale=0.13025,
)  # fmt: skip
TAEF2 = dataclasses.replace(
    TAE, latent_channels=128, latent_packing=2, pooled=True, latent_scale=1.0,
)  # fmt: skip
FLUX2 = AutoencoderConfig(
    latent_channels=16, decoder_channels=(16, 16, 32), decoder_blocks=2, encoder_channels=(16, 32, 32),
    encoder_blocks=1, condition=None, norm_groups=8, latent_packing=2,
)  # fmt: skip
KL = dataclasses.replace(FLUX2, latent_packing=1)
CONFIGS = {"KL": KL, "FLUX.2": FLUX2, "Wan": WAN, "TAESD": TAE, "TAEF2": TAEF2}


def shaken(module: nn.Module) -> nn.Module:
    """No parameter is left at 0 or 1, where a swapped pair would not be noticed."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.squeeze().ndim < 2:
            noise = torch.randn(parameter.shape, generator=generator)
            middle = 1.0 if name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1) else 0.0
            parameter.data = middle + 0.1 * noise
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module.eval().requires_grad_(False)


def built(config, state=None) -> AsymmetricAutoencoder:
    torch.manual_seed(0)
    vae = AsymmetricAutoencoder(config)
    if state is None:
        shaken(vae)
    else:
        vae.load_state_dict(state, strict=True)
    return vae.eval().requires_grad_(False)
