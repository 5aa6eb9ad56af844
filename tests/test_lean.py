import dataclasses

import pytest
import torch

from asymvq import lean
from asymvq import stripes as stripes_module
from asymvq.autoencoders import AutoencoderConfig
from asymvq.config import ConditionConfig, MaskReduction

TINY = AutoencoderConfig(
    decoder_channels=(32, 64, 64), decoder_blocks=2, encoder_channels=(32, 32, 64), encoder_blocks=1, norm_groups=16
)
CONFIGS = {
    "paper": TINY,
    "stock": dataclasses.replace(TINY, condition=None, post_quant_conv=False),
    "ASUKA": dataclasses.replace(TINY, condition=ConditionConfig(True, MaskReduction.ANY)),
    "one level": dataclasses.replace(TINY, decoder_channels=(32,), encoder_channels=(32,)),
    "finest level the widest": dataclasses.replace(TINY, decoder_channels=(64, 32, 64)),
}


@pytest.fixture(params=[1, 2**10, 2**14], ids="stripes of {} values".format)
def stripes(request, monkeypatch):
    monkeypatch.setitem(stripes_module.VALUES, "cpu", request.param)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_it_is_the_decoder_up_to_rounding(name, stripes, make_vae, blob_mask):
    config = CONFIGS[name]
    vae = make_vae(config)
    generator = torch.Generator().manual_seed(1)
    height, width = 9 * config.factor, 7 * config.factor
    latent = torch.randn(2, config.latent_channels, 9, 7, generator=generator)
    condition = {}
    if config.condition is not None:
        image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
        condition = {"image": image, "mask": blob_mask(height, width).expand(2, -1, -1, -1)}
    for given in ({}, condition):
        expected = vae.decode(latent, **given, striped=False)
        assert expected.std() > 0.01
        torch.testing.assert_close(lean.decode(vae, latent, **given), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_half_precision_is_as_close_as_the_decoders(dtype, stripes, make_vae, blob_mask):
    vae, half = make_vae(TINY), make_vae(TINY).to(dtype)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    side = 8 * TINY.factor
    image, mask = torch.rand(1, 3, side, side) * 2 - 1, blob_mask(side, side)
    exact = vae.decode(latent, image=image, mask=mask, striped=False)
    args = latent.to(dtype), {"image": image.to(dtype), "mask": mask.to(dtype)}
    plain = half.decode(args[0], **args[1], striped=False).float()
    striped = lean.decode(half, args[0], **args[1]).float()
    assert (striped - exact).square().mean() <= 1.5 * (plain - exact).square().mean()


@torch.no_grad()
def test_arguments_are_left_alone(stripes, make_vae, blob_mask):
    vae = make_vae(TINY)
    side = 4 * TINY.factor
    arguments = torch.randn(1, 4, 4, 4), torch.rand(1, 3, side, side), blob_mask(side, side)
    before = [t.clone() for t in arguments]
    lean.decode(vae, arguments[0], image=arguments[1], mask=arguments[2])
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))
