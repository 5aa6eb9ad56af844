"""What the losses see of a decoder that sees errors: nothing of it is left to stray."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import CONFIGS, built
from torch import nn

from asymvq.config import ConditionConfig
from asymvq.training.data import Batch
from asymvq.training.recipe import Recipe
from asymvq.training.seen import SeenByLosses


class Brighter(nn.Module):
    """The decoder's plain picture and a learned brightness."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder, self.brightness = decoder, nn.Parameter(torch.tensor(0.5))

    def forward(self, latent, **condition):
        return self.decoder(latent).detach() + self.brightness


@pytest.mark.parametrize("kept", [True, False])
def test_colours_that_the_losses_do_not_see_are_held(kept, blob_mask):
    vae = built(dataclasses.replace(CONFIGS["KL"], condition=ConditionConfig.affine(8)))
    latent = torch.randn(1, vae.config.latent_channels, 8, 8)
    size = 8 * vae.config.factor
    image, no = torch.rand(1, 3, size, size) * 2 - 1, torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    mask = blob_mask(size, size) if kept else torch.ones(1, 1, size, size)
    batch = Batch(image, image, mask, latent, latent, no, image, no, crops=None)
    network = Brighter(vae.decoder)
    z = vae.network_latent(latent)
    output, strayed = SeenByLosses(vae, Recipe(), torch.device("cpu")).of(network, batch, z)
    plain = vae.decoder(z)
    inside = mask.expand_as(output) > 0
    if kept:  # brightness is not seen, but pulled back
        torch.testing.assert_close(output[inside], plain[inside], atol=1e-4, rtol=0)
        torch.testing.assert_close(strayed, 0.25 * mask.mean(), atol=1e-4, rtol=0)
        (gradient,) = torch.autograd.grad(strayed, network.brightness)
        assert gradient > 0
    else:  # the plain decode is learned as a whole
        torch.testing.assert_close(output, plain + 0.5, atol=1e-5, rtol=0)
        assert strayed == 0
