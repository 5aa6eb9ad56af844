"""Every family trains: from the command line, on its own latents, in every precision; stopped runs go on bit by bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from families import CONFIGS, TAE, WAN, built
from PIL import Image

import asymvq
from asymvq.autoencoders import AutoencoderConfig
from asymvq.cli import main
from asymvq.config import ConditionConfig
from asymvq.grow import grown_config
from asymvq.training.copying import check_copying, start_with_copying
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.recipe import Precision, Recipe
from asymvq.training.step import sample_latent

RECIPE = Recipe(
    steps=20, batch=2, crop=32, crop_scale=(0.4, 1.0), lpips=0.0, lr=1e-3, decoder_lr=1.0, warm_up=2, measured=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:48, :64]
    for number in range(3):
        waves = 128 + 100 * np.sin(x / (5 + number))[..., None] * np.cos(y[..., None] / (4 + np.arange(3)))
        Image.fromarray((waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)).save(
            path / f"{number}.png"
        )
    return path


@pytest.fixture(scope="module")
def pictures(folder) -> Pictures:
    return Pictures.from_folder(folder, crop=RECIPE.crop, crop_scale=RECIPE.crop_scale)


def run(vae, pictures, out: Path, recipe: Recipe = RECIPE, preset: str = "1.5x", **options) -> Training:
    return Training(vae, grown_config(vae.config, preset), pictures, recipe, out=out, **options)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_run_goes_on_bit_by_bit(name, pictures, tmp_path):
    vae, whole, parts = built(CONFIGS[name]), tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    losses = [report.loss for report in run(vae, pictures, whole)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    for report in (reports := iter(run(vae, pictures, parts))):
        if report.step == 9:
            reports.close()
    second = run(vae, pictures, parts, resume=True)
    assert [report.step for report in second] == list(range(10, 21))
    a, b = (asymvq.load(path) for path in (parts, whole))
    assert a.config == grown_config(vae.config, "1.5x")
    assert all(torch.equal(tensor, b.state_dict()[key]) for key, tensor in a.state_dict().items())
    side = 2 * vae.config.factor
    image = torch.rand(1, 3, side, side) * 2 - 1
    assert torch.equal(a.encode(image), vae.encode(image)), "the encoder stays, and so does the latent's scale"


@pytest.mark.parametrize("name", CONFIGS)
def test_from_the_command_line(name, folder, tmp_path, capsys):
    vae, base, out = built(CONFIGS[name]), tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    asymvq.save(vae, base)

    def train(*more: str) -> int:
        words = ["train", "--base", str(base), "--out", str(out), "--data", str(folder), "--recipe", "fidelity"]
        return main([*words, "--preset", "2x", "--crop", "32", "--batch", "2", "--set", "measured=2", *more])

    assert train("--steps", "0") == 0
    latent = torch.randn(2, vae.config.latent_channels, 5, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vae.decode(latent)
        error = (asymvq.load(out).decode(latent) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-4
    assert train("--steps", "2", "--overwrite") == 0
    assert train("--steps", "3", "--resume") == 0
    assert "step 3 of 3" in capsys.readouterr().out


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_takes_the_same_way(name, precision, pictures, tmp_path):
    """Its losses are those of float32 up to rounding; while float16 finds its scale, steps are skipped."""
    vae, losses = built(CONFIGS[name]), []
    for kind in (Precision.FP32, precision):
        recipe = dataclasses.replace(RECIPE, steps=4, precision=kind)
        training = run(vae, pictures, tmp_path / f"{kind.value}.safetensors", recipe, "base")
        losses.append(np.array([report.loss for report in training]))
        assert training.skipped <= (kind is Precision.FP16)
    made = np.isfinite(losses[1])
    assert losses[1][made] == pytest.approx(losses[0][made], rel=0.05)


@pytest.mark.parametrize("name", ["FLUX.2", "TAESD"])
def test_latents_are_sampled_as_models_see_them(name, pictures):
    """Packed and normalised after the sample is taken, or before, is one."""
    vae = built(CONFIGS[name])
    from asymvq.training.data import Samples

    recipe = dataclasses.replace(RECIPE, harmonise=0.0)
    batch = Samples(pictures, recipe, vae.config, seed=0).batch(0, 2)
    sampled = sample_latent(*vae.posterior(batch.encoded), batch)
    assert sampled.shape == (2, vae.config.latent_channels, *(2 * [RECIPE.crop // vae.config.factor]))
    moments = vae.encoder(batch.encoded)
    moments = moments if vae.quant_conv is None else vae.quant_conv(moments)
    if name == "TAESD":
        assert torch.equal(sampled, vae.codec.encode(moments))
        return
    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.nn.functional.pixel_shuffle(batch.noise, 2)
    expected = vae.codec.encode(mean + (0.5 * log_variance).exp() * noise)
    assert (sampled - vae.encode(batch.encoded)).abs().max() > 0.1
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-5)


class TestCopying:
    CONFIG = AutoencoderConfig(
        latent_channels=16, decoder_channels=(16, 32, 32), decoder_blocks=1, encoder_channels=(16, 16, 16),
        encoder_blocks=1, norm_groups=4, latent_packing=2, condition=ConditionConfig(),
    )  # fmt: skip

    @torch.no_grad()
    def test_packed_latents_are_no_matter(self):
        vae = built(self.CONFIG)
        with pytest.raises(ValueError, match="copies kept pixels"):
            check_copying(vae)
        start_with_copying(vae)
        check_copying(vae)

    @pytest.mark.parametrize("start", ["scratch", "grow"])
    @pytest.mark.parametrize("config", [WAN, TAE], ids=["Wan", "TAESD"])
    def test_without_group_norm_there_is_none(self, config, start, pictures, tmp_path):
        recipe = Recipe.from_dict({**RECIPE.to_dict(), "copying": True, "start": start})
        with pytest.raises(ValueError, match=r"GroupNorm.*Train without copying\.$"):
            run(built(config), pictures, tmp_path / "out.safetensors", recipe)
