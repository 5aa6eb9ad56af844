"""How pipelines scale the latents: kept from file to file, known where the file tells, never guessed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import LATENT_SPACES, PRESETS, AutoencoderConfig
from asymvq.checkpoint import Checkpoint, CheckpointError, Layout, from_tensors, load, read, save, with_encoder
from asymvq.checkpoint.layouts import recognise
from asymvq.cli import main
from asymvq.config import ConditionConfig, LatentSpace
from asymvq.grow import grown_config
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.recipe import Recipe, Start

STOCK = AutoencoderConfig(
    decoder_channels=(32, 64), decoder_blocks=2, encoder_channels=(32, 64), encoder_blocks=1, condition=None
)
FLUX = dataclasses.replace(STOCK, latent_channels=16, quant_conv=False, post_quant_conv=False)
FULL = {
    "scaling_factor": 0.5, "shift_factor": -0.25, "latents_mean": [0.0, 1.0, 2.0, 3.0],
    "latents_std": [1.0, 1.0, 2.0, 2.0], "force_upcast": False, "sample_size": 768,
}  # fmt: skip


def config_json(folder):
    return json.loads((folder / "config.json").read_text())


def diffusers_folder(folder, vae, **settings):
    save(vae, folder, layout="diffusers", latents="sd" if vae.config.latent_channels == 4 else "flux")
    config = {k: v for k, v in config_json(folder).items() if k not in ("scaling_factor", "shift_factor")}
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize("route", [["diffusers"], ["native", "diffusers"], ["native", "native", "diffusers"]], ids=str)
def test_everything_goes_along(route, tmp_path, make_vae):
    path = diffusers_folder(tmp_path / "in", make_vae(STOCK), **FULL)
    for number, layout in enumerate(route):
        target = tmp_path / (f"{number}.safetensors" if layout == "native" else str(number))
        save(load(path), target, layout=layout)
        path = target
    assert {name: config_json(path)[name] for name in FULL} == FULL


def test_through_the_command_line(tmp_path, make_vae, capsys):
    path = diffusers_folder(tmp_path / "in", make_vae(STOCK), **FULL)
    assert main(["convert", str(path), str(tmp_path / "a.safetensors"), "--layout", "native", "--dtype", "fp16"]) == 0
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "out"), "--layout", "diffusers"]) == 0
    assert "scaling factor 0.5, shift factor -0.25" in capsys.readouterr().out
    assert {name: config_json(tmp_path / "out")[name] for name in FULL} == FULL
    main(["info", str(tmp_path / "a.safetensors")])
    assert "scaling factor 0.5, shift factor -0.25" in capsys.readouterr().out
    main(["info", str(tmp_path / "a.safetensors"), "--json"])
    assert json.loads(capsys.readouterr().out)["latents"] == FULL


def test_weights_alone_keep_it_in_their_header(tmp_path, make_vae):
    save(make_vae(STOCK), tmp_path / "a.safetensors", layout="diffusers", latents="sdxl")
    assert load(tmp_path / "a.safetensors").config.latents == LATENT_SPACES["sdxl"]


@pytest.mark.parametrize("start", Start, ids=str)
def test_training_takes_it_along(start, tmp_path, make_vae):
    config = AutoencoderConfig(
        decoder_channels=(8, 16), decoder_blocks=1, encoder_channels=(8, 16), encoder_blocks=1, condition=None,
        norm_groups=4, latents=LATENT_SPACES["sdxl"],
    )  # fmt: skip
    save(make_vae(config), tmp_path / "base.safetensors")
    vae = load(tmp_path / "base.safetensors")
    recipe = Recipe(steps=1, batch=1, crop=16, lpips=0.0, start=start)
    pictures = Pictures([torch.randint(256, (3, 32, 32), dtype=torch.uint8)], crop=16, crop_scale=(1.0, 1.0))
    for _ in Training(vae, grown_config(vae.config, "base"), pictures, recipe, out=tmp_path / "out.safetensors"):
        pass
    assert load(tmp_path / "out.safetensors").config.latents == LATENT_SPACES["sdxl"]


def test_it_is_no_part_of_the_shape():
    assert dataclasses.replace(STOCK, latents=LATENT_SPACES["sd"]) == STOCK
    assert "latents" not in STOCK.to_dict()


def test_older_versions_find_the_config_where_it_was(tmp_path, make_vae):
    save(make_vae(STOCK), tmp_path / "a.safetensors", latents="sd")
    data = json.loads(bytes(load_file(tmp_path / "a.safetensors")["asymvq.config"].tolist()))
    assert data["format"] == 1
    assert data["config"] == json.loads(json.dumps(STOCK.to_dict()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_survives_a_host_that_casts_and_drops_metadata(dtype, tmp_path, make_vae):
    save(make_vae(STOCK), tmp_path / "a.safetensors", latents="sdxl")
    save_file({n: t.to(dtype) for n, t in load_file(tmp_path / "a.safetensors").items()}, tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors").config.latents == LATENT_SPACES["sdxl"]


# Told by the file

PARTS = {
    "sd": "cond_stage_model.transformer.x",
    "sdxl": "conditioner.embedders.0.x",
    "sd3": "model.diffusion_model.joint_blocks.0.x",
    "flux": "model.diffusion_model.double_blocks.0.x",
}


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", ""])
@pytest.mark.parametrize("family", PARTS)
def test_whole_checkpoints_tell(family, prefix, make_vae):
    config = STOCK if family in ("sd", "sdxl") else FLUX
    tensors = {prefix + name: t for name, t in make_vae(config).state_dict().items()}
    assert from_tensors({**tensors, PARTS[family]: torch.zeros(2)}).config.latents == LATENT_SPACES[family]
    # latents of another number of channels are none of this family's
    other = {prefix + name: t for name, t in make_vae(FLUX if config is STOCK else STOCK).state_dict().items()}
    assert from_tensors({**other, PARTS[family]: torch.zeros(2)}).config.latents is None


def test_playground_only_looks_like_sdxl(make_vae):
    tensors = {f"first_stage_model.{name}": t for name, t in make_vae(STOCK).state_dict().items()}
    tensors |= {PARTS["sdxl"]: torch.zeros(2), "edm_mean": torch.zeros(1, 4, 1, 1)}
    assert from_tensors(tensors).config.latents is None


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("stable-diffusion-xl-v1-base/vae", "sdxl"), ("stable-diffusion-v1", "sd"), ("Flux.1-dev", "flux"), ("wan", None),
     ("stable-diffusion-v3.5-large", "sd3"), ("flux-1-schnell", "flux"), ("Flux.2-dev", None)],
)  # fmt: skip
def test_metadata_tells(architecture, family, tmp_path, make_vae):
    config = FLUX if family in ("sd3", "flux") else STOCK
    metadata = {"modelspec.architecture": architecture}
    save_file(make_vae(config).state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    assert read(tmp_path / "a.safetensors").config.latents == (family and LATENT_SPACES[family])


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_decoders_are_for_stable_diffusion(name):
    with torch.device("meta"):
        state = AsymmetricAutoencoder(PRESETS[name]).state_dict()
    paper = {key.replace("decoder.condition_encoder.", "decoder.encoder."): tensor for key, tensor in state.items()}
    assert recognise(paper)[1].latents == LATENT_SPACES["sd"]
    assert recognise(state)[1].latents == LATENT_SPACES["sd"]


def test_asuka_is_for_flux(make_vae):
    state = make_vae(dataclasses.replace(FLUX, condition=ConditionConfig(sees_mask=True))).state_dict()
    assert from_tensors(state).config.latents == LATENT_SPACES["flux"]


@pytest.mark.parametrize("config", [STOCK, FLUX], ids=["4 channels", "16 channels"])
def test_a_stock_vae_alone_does_not_tell(config, make_vae):
    assert from_tensors(make_vae(config).state_dict()).config.latents is None


def test_old_diffusers_configs_mean_stable_diffusion(tmp_path, make_vae):
    folder = diffusers_folder(tmp_path, make_vae(STOCK))
    assert load(folder).config.latents.scaling_factor == 0.18215  # what diffusers takes, too


# Not guessed


def test_a_diffusers_folder_needs_it(tmp_path, make_vae, capsys):
    save(make_vae(STOCK), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r'scaling factor.*"sd" \(0\.18215\), "sdxl" \(0\.13025\), "sd3".*"flux"'):
        save(load(tmp_path / "a.safetensors"), tmp_path / "out", layout="diffusers")
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "out"), "--layout", "diffusers"]
    assert main(command) == 2
    assert "--latents" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--latents", "sdxl"]) == 0
    assert config_json(tmp_path / "out")["scaling_factor"] == 0.13025
    assert main([*command, "--scaling-factor", "0.25", "--shift-factor", "0.5", "--overwrite"]) == 0
    assert (config_json(tmp_path / "out")["scaling_factor"], config_json(tmp_path / "out")["shift_factor"]) == (
        0.25,
        0.5,
    )


def test_what_is_said_goes_before_the_file_and_is_told(tmp_path, make_vae, capsys):
    path = diffusers_folder(tmp_path / "in", make_vae(STOCK), **FULL)
    out = tmp_path / "out"
    assert main(["convert", str(path), str(out), "--layout", "diffusers", "--scaling-factor", "0.75"]) == 0
    assert {name: config_json(out)[name] for name in FULL} == FULL | {"scaling_factor": 0.75}
    assert "where the file said scaling factor 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latents", "flux"], "have 16"),
        (["--shift-factor", "1"], "Say both"),
        (["--scaling-factor", "0"], "above 0"),
        (["--scaling-factor", "nan"], "above 0"),
        (["--scaling-factor", "1", "--shift-factor", "inf"], "shift_factor"),
    ],
)
def test_refuses_other_words(options, message, tmp_path, make_vae, capsys):
    save(make_vae(STOCK), tmp_path / "a.safetensors")
    assert (
        main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b"), "--layout", "diffusers", *options]) == 2
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_factor": "1"}, {"scaling_factor": True}, {"scaling_factor": -1}, {"scaling_factor": 1e999},
        {"shift_factor": []}, {"latents_mean": [1, 2]}, {"latents_mean": ["a"] * 4}, {"latents_std": 3},
        {"force_upcast": 1}, {"sample_size": 0}, {"sample_size": [1, 2, 3]}, {"sample_size": "512"},
    ],
    ids=str,
)  # fmt: skip
def test_refuses_a_config_json_with_other_values(change, tmp_path, make_vae):
    folder = diffusers_folder(tmp_path, make_vae(STOCK), **(FULL | change))
    with pytest.raises(CheckpointError, match=next(iter(change))):
        read(folder)


def test_a_decoder_and_an_encoder_of_one_latent_space(make_vae):
    whole = make_vae(STOCK)
    config = dataclasses.replace(STOCK, encoder_channels=None, quant_conv=False, latents=LATENT_SPACES["sd"])
    decoder = {n: t for n, t in whole.state_dict().items() if n.startswith(("decoder.", "post_quant_conv."))}
    ours = Checkpoint(Layout.PAPER, config, decoder, {})
    donor = Checkpoint(Layout.STOCK_LDM, STOCK, dict(whole.state_dict()), {})
    assert with_encoder(ours, donor).config.latents == LATENT_SPACES["sd"]
    of_another = dataclasses.replace(donor, config=dataclasses.replace(STOCK, latents=LATENT_SPACES["sdxl"]))
    with pytest.raises(ValueError, match=r"scaling factor 0\.18215.*0\.13025"):
        with_encoder(ours, of_another)


def test_round_trip_of_the_object():
    assert LatentSpace.from_dict(FULL).to_dict() == FULL
    assert LatentSpace.from_dict(FULL | {"unknown": 1}) == LatentSpace.from_dict(FULL)
