"""Larger decoders start as the smaller one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import CONFIGS, TAE, TAEF2, WAN, built

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import PRESETS, AutoencoderConfig
from asymvq.checkpoint import load
from asymvq.config import ConditionConfig
from asymvq.grow import grow, grown_config, match_norms, shifts_norms
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


def spread(name, count=2):
    """Latents of an odd size, and a VAE whose decode of them depends on every part of the network."""
    vae = built(CONFIGS[name])
    return vae, torch.randn(count, vae.config.latent_channels, 5, 7, generator=torch.Generator().manual_seed(1))


def relative(got, expected):
    assert got.shape == expected.shape
    assert expected.std() > 1e-2
    return ((got - expected).abs().max() / expected.abs().max()).item()


class TestFamilies:
    @pytest.mark.parametrize("name", CONFIGS)
    @pytest.mark.parametrize("preset", ["base", "2x", "3x+1", "1x+2"])
    @torch.no_grad()
    def test_integer_factors_and_depth_are_exact(self, name, preset):
        vae, latent = spread(name)
        grown = grow(vae, grown_config(vae.config, preset))
        assert not shifts_norms(vae, grown.config)
        assert grown.config.condition is not None
        assert relative(grown.decode(latent), vae.decode(latent)) <= 1e-4
        assert relative(grown.decode(latent, striped=True), vae.decode(latent)) <= 1e-4
        side = 4 * vae.config.factor
        image = torch.rand(1, vae.config.image_channels, side, side) * 2 - 1
        assert torch.equal(grown.encode(image), vae.encode(image))

    @pytest.mark.parametrize("config", [WAN, TAE], ids=["Wan", "TAESD"])
    @pytest.mark.parametrize("preset", ["1.5x", "1.25x+0", "2.5x+1"])
    @torch.no_grad()
    def test_any_factor_is_exact_without_group_norm(self, config, preset):
        vae = built(config)
        grown = grow(vae, grown_config(config, preset))
        assert not shifts_norms(vae, grown.config)
        latent = torch.randn(2, config.latent_channels, 5, 7, generator=torch.Generator().manual_seed(1))
        assert relative(grown.decode(latent), vae.decode(latent)) <= 1e-4

    @pytest.mark.parametrize("name", ["FLUX.2", "TAEF2"])
    @torch.no_grad()
    def test_elsewhere_norms_are_matched(self, name):
        vae, latent = spread(name, count=8)
        grown = grow(vae, grown_config(vae.config, "1.5x"))
        assert shifts_norms(vae, grown.config)
        seen, unseen = latent.chunk(2)
        before = psnr(grown.decode(unseen), vae.decode(unseen))
        match_norms(grown, vae, seen)
        after = psnr(grown.decode(unseen), vae.decode(unseen))
        assert after > before + 3
        assert after > 30

    @pytest.mark.parametrize("name", CONFIGS)
    @torch.no_grad()
    def test_the_condition_grows_along(self, name, blob_mask):
        config = dataclasses.replace(CONFIGS[name], condition=ConditionConfig(sees_mask=True))
        vae = built(config)
        grown = grow(vae, grown_config(config, "2x"))
        side = 4 * config.factor
        given = {"image": torch.rand(1, 3, side, side) * 2 - 1, "mask": blob_mask(side, side)}
        latent = vae.encode(given["image"])
        assert relative(grown.decode(latent, **given), vae.decode(latent, **given)) <= 1e-4

    @pytest.mark.parametrize("name", CONFIGS)
    def test_what_was_added_learns(self, name):
        """Every weight, but those behind what starts as zero, has a gradient."""
        vae, latent = spread(name)
        grown = grow(vae, grown_config(dataclasses.replace(vae.config, condition=None), "2x"))
        grown.decoder.requires_grad_(True)
        optimizer = torch.optim.SGD(grown.decoder.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            grown.decode(latent).square().mean().backward()
            optimizer.step()
        parameters = {k: p for k, p in grown.decoder.named_parameters() if not k.startswith("condition_encoder")}
        assert all(p.grad is not None and p.grad.any() for p in parameters.values())

    @pytest.mark.parametrize(
        ("name", "channels"), [("FLUX.2", (16, 32, 64)), ("Wan", (16, 64, 128, 128)), ("TAESD", (16, 16, 16, 32))]
    )
    @torch.no_grad()
    def test_a_shortcut_may_become_necessary(self, name, channels):
        vae, latent = spread(name)
        wider = grow(vae, vae.config.replaced(decoder_channels=channels))
        assert wider.decoder.state_dict().keys() > vae.decoder.state_dict().keys()
        assert relative(wider.decode(latent), vae.decode(latent)) <= 1e-4

    @torch.no_grad()
    def test_a_shortcut_is_not_lost(self, make_vae):
        with pytest.raises(ValueError, match="can grow into"):
            grow(make_vae(STOCK), dataclasses.replace(STOCK, decoder_channels=(32, 32, 64, 64)))

    def test_widths_keep_to_the_family(self):
        with pytest.raises(ValueError, match="multiples of 2"):
            grown_config(dataclasses.replace(WAN, decoder_channels=(2, 2, 2, 2)), "1.5x")
        assert grown_config(TAEF2, "1.5x").decoder_blocks == (2, 3, 2, 3)


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
