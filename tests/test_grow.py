"""Larger decoders start as the smaller one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.checkpoint import load
from asymvq.config import PRESETS, AutoencoderConfig, ConditionConfig
from asymvq.grow import grow, grown_config, match_norms
from asymvq.metrics import psnr

STOCK = AutoencoderConfig(
    decoder_channels=(16, 32, 64, 64),
    decoder_blocks=3,
    encoder_channels=(16, 32, 64, 64),
    encoder_blocks=2,
    condition=None,
    norm_groups=8,
)
SHAPES = {
    "SD1.5 and SDXL": STOCK,
    "SD3 and FLUX": dataclasses.replace(STOCK, latent_channels=16, quant_conv=False, post_quant_conv=False),
}


class TestConfig:
    @pytest.mark.parametrize("preset", ["base", "1.5x", "2x"])
    def test_the_papers_decoders_grow_from_the_stock_one(self, preset):
        stock = dataclasses.replace(PRESETS["base"], condition=None)
        assert grown_config(stock, preset) == PRESETS[preset]

    def test_a_published_decoder_stays_what_it_is(self):
        assert grown_config(PRESETS["1.5x"], "1.5x") == PRESETS["1.5x"]

    def test_any_factor_and_depth(self):
        config = grown_config(STOCK, "3x+2")
        assert config.decoder_channels == (48, 96, 192, 192)
        assert config.decoder_blocks == 5
        assert config.condition == ConditionConfig()

    @pytest.mark.parametrize(
        ("preset", "message"),
        [("huge", "like \"1.5x\\+1\", but got 'huge'"), ("1.1x+0", "multiples of 8"), ("0.5x+1", "1 or more")],
    )
    def test_nonsense_is_refused(self, preset, message):
        with pytest.raises(ValueError, match=message):
            grown_config(STOCK, preset)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preset", ["base", "2x", "3x+1", "1x+2"])
@torch.no_grad()
def test_integer_factors_and_depth_are_exact(make_vae, shape, preset):
    vae = make_vae(SHAPES[shape])
    grown = grow(vae, grown_config(vae.config, preset))
    latent = torch.randn(2, vae.config.latent_channels, 6, 4, generator=torch.Generator().manual_seed(1))
    expected = vae.decode(latent)
    assert expected.std() > 0.01
    torch.testing.assert_close(grown.decode(latent), expected, atol=1e-4, rtol=0)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(grown.encode(image), vae.encode(image))


@torch.no_grad()
def test_the_condition_grows_along(make_vae, blob_mask):
    vae = make_vae(dataclasses.replace(STOCK, condition=ConditionConfig()))
    grown = grow(vae, grown_config(vae.config, "2x"))
    image, mask = torch.rand(1, 3, 32, 48) * 2 - 1, blob_mask(32, 48)
    latent = vae.encode(image)
    expected = vae.decode(latent, image=image, mask=mask)
    torch.testing.assert_close(grown.decode(latent, image=image, mask=mask), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_repeats_can_become_different(make_vae):
    grown = grow(make_vae(STOCK), grown_config(STOCK, "2x"))
    weight = grown.decoder.up[0].block[1].conv1.weight
    assert not torch.allclose(weight[0], weight[1])
    assert not torch.allclose(weight[:, 0], weight[:, 1])


@torch.no_grad()
def test_a_diffusers_autoencoder_doubles_exactly(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 64, 64), layers_per_block=2, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "vae")
    vae = load(tmp_path / "vae")
    grown = grow(vae, grown_config(vae.config, "2x"))
    latent = torch.randn(1, 4, 8, 8)
    assert (grown.decode(latent) - model.decode(latent).sample).abs().max() <= 1e-4


@torch.no_grad()
def test_other_factors_come_close_once_norms_are_matched(make_vae):
    vae = make_vae(STOCK)
    grown = grow(vae, grown_config(vae.config, "1.5x"))
    generator = torch.Generator().manual_seed(2)
    seen, unseen = torch.randn(2, 4, 4, 8, 8, generator=generator)
    before = psnr(grown.decode(unseen), vae.decode(unseen))
    match_norms(grown, vae, seen)
    after = psnr(grown.decode(unseen), vae.decode(unseen))
    assert after > before + 3
    assert after > 30


@pytest.mark.parametrize(
    "changes", [{"decoder_channels": (8, 32, 64, 64)}, {"decoder_blocks": 2}, {"latent_channels": 8}]
)
def test_nothing_else_than_a_larger_decoder_is_grown(make_vae, changes):
    vae = make_vae(STOCK)
    with pytest.raises(ValueError, match="can grow into"):
        grow(vae, dataclasses.replace(STOCK, **changes))


def test_the_given_vae_is_left_alone(make_vae):
    vae = make_vae(STOCK)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    grown = grow(vae, grown_config(vae.config, "base"))
    assert isinstance(grown, AsymmetricAutoencoder)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1.0)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name])
