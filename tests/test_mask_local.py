"""A mask-local decode is the full one where the network is local, as far as its convolutions reach."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import CONFIGS, FLUX2, KL, TAE, TAEF2, WAN, built

import asymvq
from asymvq.autoencoders import AutoencoderConfig, tiny, wan
from asymvq.config import CONTEXT, ConditionConfig, MaskReduction
from asymvq.decode import Region, decode_network, fit_source, make_plan

PAPER, ASUKA, AFFINE = ConditionConfig(), ConditionConfig(True, MaskReduction.ANY), ConditionConfig.affine(8)
SMALL = dataclasses.replace(
    TAE, decoder_channels=(16, 16), decoder_blocks=(1, 1), encoder_channels=(16, 16), encoder_blocks=(1, 1)
)


def case(vae, cells, edited):
    """Latent, picture, and a mask of `edited` cells and a thin line beside them."""
    factor, generator = vae.config.factor, torch.Generator().manual_seed(1)
    latent = torch.randn(1, vae.config.latent_channels, cells, cells, generator=generator)
    side, (first, last) = cells * factor, (n * factor for n in edited)
    image = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, side, side)
    mask[..., first:last, first + 3 : last] = 1
    mask[..., last : last + factor, first] = 1
    return latent, image, mask


@torch.no_grad()
def difference(vae, context, cells=34, edited=(16, 18)):
    """Largest in the mask, between a mask-local and a full decode, relative to the largest value."""
    latent, image, mask = case(vae, cells, edited)
    source = fit_source(vae.config, latent, image=image, mask=mask)
    plans = [
        make_plan(vae, latent, source, region=Region.MASKED, context=context),
        make_plan(vae, latent, source, region=Region.FULL),
    ]
    assert plans[0].largest < plans[1].largest, "the whole picture was decoded"
    local, full = (decode_network(vae, latent, source, plan) for plan in plans)
    assert full.std() > 1e-2
    return ((local - full) * mask).abs().max() / full.abs().max()


@pytest.mark.parametrize("condition", [None, PAPER, ASUKA, AFFINE], ids=["plain", "paper", "ASUKA", "affine"])
@pytest.mark.parametrize("config", [WAN, TAE, SMALL], ids=["Wan", "TAESD", "small"])
def test_as_far_as_the_convolutions_reach_it_is_the_full_decode(config, condition):
    vae = built(dataclasses.replace(config, condition=condition))
    if vae.decoder.mid is not None:  # all but the attention is local
        for parameter in vae.decoder.mid.attn_1.proj.parameters():
            parameter.zero_()
    if condition is AFFINE:
        for part in (*vae.decoder.condition_encoder.scales, *vae.decoder.condition_encoder.shifts):
            part.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    assert vae.config.reach is not None
    assert difference(vae, vae.config.reach) <= 1e-6
    assert difference(vae, 0) > 1e-3


@pytest.mark.parametrize("config", [TAE, SMALL], ids=["TAESD", "small"])
def test_they_reach_as_far_as_is_said_and_no_farther(config):
    """Where a value of the latent changes the picture, with weights that all have one sign."""
    vae = built(config)
    for parameter in vae.decoder.parameters():
        parameter.abs_().add_(0.01)
    latent = torch.full((1, config.latent_channels, 1, 61), 0.1, dtype=torch.float64)
    latent[..., 30] += 1
    vae.double()
    still = torch.full_like(latent, 0.1)
    changed = (vae.decode(latent) != vae.decode(still)).any(dim=1).any(dim=1)[0].nonzero()
    first, last = 30 * config.factor, 31 * config.factor - 1
    assert (first - changed.min(), changed.max() - last) == (config.reach, config.reach)


@pytest.mark.parametrize("config", [KL, TAEF2], ids=["KL", "TAEF2"])
def test_statistics_of_the_whole_picture_are_seen_from_anywhere(config):
    assert config.reach is None
    assert difference(built(config), 10 * config.factor) > 1e-5


def test_what_has_to_be_seen():
    assert (tiny.Config().reach, wan.Config().reach) == (145, 138)
    contexts = {name: config.context for name, config in CONFIGS.items()}
    assert contexts == {"KL": CONTEXT, "FLUX.2": CONTEXT, "Wan": CONTEXT, "TAESD": CONTEXT, "TAEF2": None}
    assert SMALL.context == SMALL.reach < CONTEXT
    assert AutoencoderConfig().reach is FLUX2.reach is None


def test_a_network_that_has_to_see_all_is_decoded_in_full():
    vae = built(TAEF2)
    latent, image, mask = case(vae, 20, (8, 9))
    source = fit_source(vae.config, latent, image=image, mask=mask)
    assert make_plan(vae, latent, source).largest == (20, 20)
    assert max(make_plan(vae, latent, source, region=Region.MASKED).largest) < 20
    local = built(TAE)
    latent, image, mask = case(local, 40, (18, 19))
    plan = make_plan(local, latent, fit_source(local.config, latent, image=image, mask=mask))
    assert max(plan.largest) < 40


def test_a_small_network_is_shown_no_more_than_it_sees():
    vae = built(SMALL)
    latent, image, mask = case(vae, 40, (18, 19))
    plan = make_plan(vae, latent, fit_source(vae.config, latent, image=image, mask=mask), region=Region.MASKED)
    around = -(-SMALL.reach // SMALL.factor)
    assert max(plan.largest) <= 2 + 2 * around
    with torch.no_grad():
        local = asymvq.decode(vae, latent, image=image, mask=mask)
        torch.testing.assert_close(local, asymvq.decode(vae, latent, image=image, mask=mask, region="full"))
