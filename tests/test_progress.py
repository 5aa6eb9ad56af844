"""How far a decode says that it is, and where it can be stopped."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from families import CONFIGS, built
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import asymvq
from asymvq import stripes as stripes_module
from asymvq.config import ConditionConfig
from asymvq.cost import step_costs
from asymvq.decode import HARMONISE_COST
from asymvq.walk import Run

MODELS = {**CONFIGS, "conditional": dataclasses.replace(CONFIGS["KL"], condition=ConditionConfig())}


@pytest.fixture(params=[2**21, 2**8], ids=["plain", "striped"])
def executor(request, monkeypatch):
    """Small stripes make the decode go by them."""
    monkeypatch.setitem(stripes_module.VALUES, "cpu", request.param)


@pytest.fixture(params=MODELS)
def vae(request):
    return built(MODELS[request.param])


def case(vae, blob_mask, count=1):
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(count, vae.latent_channels, 6, 5, generator=generator)
    height, width = 6 * vae.factor, 5 * vae.factor
    image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    return latent, {"image": image, "mask": blob_mask(height, width), "region": "full"}


@pytest.mark.usefixtures("executor")
def test_one_full_decode_is_reported_step_by_step(vae, blob_mask):
    latent, given = case(vae, blob_mask)
    seen = []
    picture = asymvq.decode(vae, latent, **given, progress=lambda *step: seen.append(step))
    done = [part for part, _ in seen]
    assert {total for _, total in seen} == {1}
    assert done[-1] == 1
    assert all(0 < before < after for before, after in itertools.pairwise(done))
    assert len(done) > 8
    assert max(after - before for before, after in itertools.pairwise([0, *done])) < 0.5
    assert torch.equal(picture, asymvq.decode(vae, latent, **given))


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_that_is_decoded_twice_goes_on_evenly(blob_mask, batch):
    vae = built(MODELS["conditional"])
    latent, given = case(vae, blob_mask, count=4)
    seen = []
    asymvq.decode(vae, latent, **given, batch=batch, harmonise=1.0, progress=lambda *step: seen.append(step))
    runs = 2 * 4 // batch  # with the condition and without it
    assert {total for _, total in seen} == {runs}
    done = [part for part, _ in seen]
    assert all(before < after for before, after in itertools.pairwise(done))
    assert len(done) > 8 * runs
    # after each run, and after each picture that is harmonised: the last of those is the end
    works = itertools.accumulate([1, 1, *[HARMONISE_COST] * batch] * (4 // batch))
    whole = runs + HARMONISE_COST * 4
    assert {round(work * runs / whole, 6) for work in works} <= {round(part, 6) for part in done}
    assert done[-1] == runs


@pytest.mark.usefixtures("executor")
def test_it_can_be_stopped_between_two_steps(vae, blob_mask):
    latent, given = case(vae, blob_mask)
    ended = []
    vae.decoder.conv_out.register_forward_hook(lambda *_: ended.append(True))

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        asymvq.decode(vae, latent, **given, progress=stop)
    assert not ended
    asymvq.decode(vae, latent, **given)
    assert ended


@torch.no_grad()
def test_costs_are_what_torch_counts(vae):
    """As shares of all."""
    h = torch.randn(1, vae.config.network_latent_channels, 16, 12)
    steps, counted = vae.decoder.walk(), []
    costs = step_costs(vae.decoder, steps, h, conditioned=False)
    for step in steps:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            h = step(h) if isinstance(step, Run) else h
        counted.append(counter.get_total_flops())
    shares = [[part / sum(parts) for part in parts] for parts in (costs, counted)]
    assert max(shares[1]) < 0.5
    torch.testing.assert_close(*map(torch.tensor, shares), atol=0.02, rtol=0)


@torch.no_grad()
def test_a_conditions_maps_count_at_its_first_point(blob_mask):
    decoder = built(MODELS["conditional"]).decoder
    steps, latent, image = decoder.walk(), torch.randn(1, 16, 16, 12), torch.rand(1, 3, 64, 48)
    given, without = (step_costs(decoder, steps, latent, conditioned=shown) for shown in (True, False))
    more = [a - b for a, b in zip(given, without, strict=True)]
    first = next(number for number, step in enumerate(steps) if not isinstance(step, Run))
    with FlopCounterMode(display=False) as counter:
        encoder = decoder.condition_encoder
        encoder(encoder.seen(image, blob_mask(64, 48)))
    assert more[first] == pytest.approx(counter.get_total_flops() / 2, rel=0.02)  # it counts additions too
    assert not any(more[:first] + more[first + 1 :])
