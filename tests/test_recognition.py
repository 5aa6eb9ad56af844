"""Weights as people have them: wrapped, nested, sharded, mixed up; and what is refused, by its name."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from clock import measured
from safetensors.torch import save_file
from torch import Tensor

from asymvq.autoencoders import AutoencoderConfig
from asymvq.autoencoders.kl import to_diffusers
from asymvq.checkpoint import CheckpointError, Layout, from_tensors, load, read, save, to_native

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = AutoencoderConfig(decoder_channels=(32, 64), decoder_blocks=2, encoder_channels=(32, 64), encoder_blocks=1)
STOCK = dataclasses.replace(TINY, condition=None)
OF_A_CHECKPOINT = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}


def tensors_of(config: AutoencoderConfig) -> dict[str, Tensor]:
    from asymvq.autoencoder import AsymmetricAutoencoder

    torch.manual_seed(0)
    return dict(AsymmetricAutoencoder(config).eval().requires_grad_(False).state_dict())


STATE = tensors_of(TINY)
PAPER = {name.replace("decoder.condition_encoder.", "decoder.encoder."): t for name, t in STATE.items()}
DIFFUSERS = to_diffusers(STATE, TINY)
NATIVE = to_native(STATE, TINY)
LAYOUTS = {Layout.PAPER: PAPER, Layout.DIFFUSERS: DIFFUSERS, Layout.NATIVE: NATIVE}


def assert_tiny(checkpoint) -> None:
    assert checkpoint.config == TINY
    assert checkpoint.state_dict.keys() == STATE.keys()
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in checkpoint.state_dict.items())


# Wrappers


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "ae.", "vae.", "first_stage_model.", "module._orig_mod.net.vae."]
)
def test_any_prefix_is_stripped(layout, prefix):
    checkpoint = from_tensors({prefix + name: t for name, t in LAYOUTS[layout].items()} | OF_A_CHECKPOINT)
    assert checkpoint.layout is layout
    assert_tiny(checkpoint)


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_characters="\0"), max_size=12), st.sampled_from(list(LAYOUTS)))
def test_any_text_is_a_prefix(text, layout):
    prefix = f"{text}." if text else ""
    hypothesis.assume(layout is Layout.NATIVE or not prefix.endswith(("asymvq.", "encoder.", "decoder.")))
    assert_tiny(from_tensors({prefix + name: t for name, t in LAYOUTS[layout].items()}))


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module"])
def test_wrappers_of_parts(wrapper):
    tensors = {name.replace("decoder.", f"decoder.{wrapper}.", 1): t for name, t in PAPER.items()}
    assert_tiny(from_tensors(tensors))


@pytest.mark.parametrize("key", ["model", "ema", "state_dict", "weights", "vae", "net"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_nested_dicts_of_a_pickle(key, depth, tmp_path):
    content: dict[str, object] = {**PAPER}
    for _ in range(depth):
        content = {key: content, "epoch": 3}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    torch.save(content, tmp_path / "a.pt")
    assert_tiny(read(tmp_path / "a.pt"))


def test_baked_into_a_checkpoint_by_the_host(tmp_path):
    tensors = {f"first_stage_model.{name}": t for name, t in NATIVE.items()} | OF_A_CHECKPOINT
    save_file(tensors, tmp_path / "a.safetensors", metadata={"prompt": "{}"})
    assert_tiny(read(tmp_path / "a.safetensors"))


# Several copies


def altered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t if t.dtype == torch.uint8 else t + 1 for name, t in tensors.items()}


@pytest.mark.parametrize(
    "names", [("model", "ema"), ("non_ema", "model_ema2"), ("state.raw", "state.averaged")], ids=str
)
def test_averaged_weights_go_first(names, caplog):
    raw, averaged = names
    tensors = {f"{raw}.{n}": t for n, t in altered(PAPER).items()} | {f"{averaged}.{n}": t for n, t in PAPER.items()}
    with caplog.at_level(logging.INFO):
        assert_tiny(from_tensors(tensors))
    assert raw in caplog.text


def test_a_complete_copy_goes_before_a_decoder():
    decoder = {f"ema.{n}": t for n, t in altered(PAPER).items() if n.startswith("decoder.")}
    assert_tiny(from_tensors({**PAPER, **decoder}))


def test_copies_that_nothing_tells_apart_are_refused():
    with pytest.raises(CheckpointError, match=r"got 2: under '[ab]\.' and '[ab]\.'"):
        from_tensors({f"{p}.{n}": t for p in "ab" for n, t in PAPER.items()})


# Names


NEW = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
OLD = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}


@pytest.mark.parametrize("names", [NEW, OLD, NEW | OLD], ids=["new", "old", "mixed"])
def test_ldm_names_with_diffusers_attention(names):
    tensors = dict(PAPER)
    for name, theirs in names.items():
        for part in ("encoder", "decoder"):
            for kind in ("weight", "bias"):
                tensors[f"{part}.mid.attn_1.{theirs}.{kind}"] = tensors.pop(f"{part}.mid.attn_1.{name}.{kind}")
    assert_tiny(from_tensors(tensors))


def test_quantisation_convolutions_inside_the_halves():
    inside = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    assert_tiny(
        from_tensors({inside.get(n.split(".")[0], n.split(".")[0]) + n[n.index(".") :]: t for n, t in PAPER.items()})
    )


@pytest.mark.parametrize("layout", [Layout.PAPER, Layout.DIFFUSERS], ids=str)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_decoder_alone_with_bare_names(layout, prefix):
    kept = {n: t for n, t in LAYOUTS[layout].items() if n.startswith(("decoder.", "post_quant_conv."))}
    checkpoint = from_tensors({prefix + name.removeprefix("decoder."): t for name, t in kept.items()})
    assert checkpoint.config == dataclasses.replace(
        TINY, encoder_channels=None, encoder_blocks=checkpoint.config.encoder_blocks, quant_conv=False
    )
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in checkpoint.state_dict.items())


@pytest.mark.parametrize("layout", [Layout.PAPER, Layout.DIFFUSERS], ids=str)
@pytest.mark.parametrize("bare", [True, False])
def test_an_encoder_alone_is_told_apart(layout, bare):
    names = {
        n.removeprefix("encoder.") if bare else n: t for n, t in LAYOUTS[layout].items() if n.startswith("encoder.")
    }
    with pytest.raises(CheckpointError, match="an encoder alone"):
        from_tensors(names)


def test_two_names_of_one_tensor():
    extra = {"decoder.mid.attn_1.to_q.weight": PAPER["decoder.mid.attn_1.q.weight"]}
    with pytest.raises(CheckpointError, match=r"one tensor for decoder\.mid\.attn_1\.q\.weight"):
        from_tensors({**PAPER, **extra})


# What may be left out, and what may not

REMAINS = [
    "loss.perceptual_loss.lin0.model.1.weight", "loss.discriminator.main.0.weight", "losses.disc.weight",
    "discriminator.main.0.weight", "model_ema.decoderconv_inweight", "decoder.up_layers.0.deconv.weight",
    "decoder.encoder_up_layers.0.weight", "optimizer.state.0.exp_avg", "lr_scheduler.x",
    "model.diffusion_model.out.0.weight", "cond_stage_model.transformer.x", "conditioner.embedders.0.x",
    "text_encoders.t5xxl.x", "alphas_cumprod", "sqrt_alphas_cumprod", "posterior_variance",
]  # fmt: skip
UNKNOWN = [
    "decoder.up.0.attn.0.q.weight", "decoder.extra.weight", "quantize.embedding.weight", "bn.running_mean",
    "something", "scale.weight", "latents_mean", "encoder.time_conv.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", REMAINS)
def test_remains_are_left_out(name):
    assert_tiny(from_tensors({**PAPER, name: torch.zeros(3)}))


@pytest.mark.parametrize("name", ["global_step", "epoch", "num_updates"])
def test_counters_are_left_out(name):
    assert_tiny(from_tensors({**PAPER, name: torch.tensor(5)}))


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "a.b."])
@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_tensors_refuse_the_file(name, prefix):
    with pytest.raises(CheckpointError) as caught:
        from_tensors({prefix + n: t for n, t in PAPER.items()} | {prefix + name: torch.zeros(3)})
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["bn.running_mean", "quantize.embedding.weight", "encoder.conv_in.weight"])
def test_half_an_autoencoder_beside_the_prefix(name):
    with pytest.raises(CheckpointError, match=rf"under 'a\.vae\.'.*a\.{name}"):
        from_tensors({f"a.vae.{n}": t for n, t in PAPER.items()} | {f"a.{name}": torch.zeros(3)})


CONV = torch.zeros(2, 2, 3, 3)
KINDS = {
    "Wan 2.2": ["decoder.upsamples.0.upsamples.0.residual.2.weight", "decoder.middle.0.residual.0.gamma"],
    "VQ model": ["quantize.embedding.weight", "decoder.conv_in.weight"],
    "Stable Cascade": ["vquantizer.codebook.weight"],
    "CogVideoX": ["decoder.conv_in.conv.weight", "decoder.mid_block.resnets.0.norm1.norm_layer.weight"],
    "HunyuanVideo": ["decoder.conv_in.conv.weight"],
    "HunyuanImage": ["decoder.conv_in.weight", "decoder.up.0.upsample.conv.weight"],
    "Stable Video Diffusion": ["decoder.conv_in.weight", "decoder.mid.block_1.time_stack.in_layers.0.weight"],
    "SeedVR2": ["decoder.conv_in.weight", "decoder.up_blocks.2.upsamplers.0.upscale_conv.weight"],
    "LTX": ["per_channel_statistics.mean-of-means", "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight"],
    "a LoRA": ["lora_unet_x.lora_down.weight"],
    "text encoder": ["text_model.embeddings.x"],
    "a diffusion model": ["conv_in.weight", "down_blocks.0.x", "time_embedding.linear_1.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_other_models_are_named(kind, prefix):
    with pytest.raises(CheckpointError, match=f"got .*{kind}"):
        from_tensors({prefix + name: CONV for name in KINDS[kind]})


@pytest.mark.parametrize("scale", ["decoder.conv_in.scale_weight", "decoder.conv_in.weight_scale", "scaled_fp8"])
def test_scaled_weights_are_called_quantised(scale):
    with pytest.raises(CheckpointError, match=rf"quantised ones \({scale}"):
        from_tensors({**PAPER, scale: torch.ones(2)})


def test_gguf(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(600))
    with pytest.raises(CheckpointError, match="GGUF weights, which are quantised"):
        read(tmp_path / "a.gguf")


def test_fp8_pickle(tmp_path):
    torch.save({n: t.to(torch.float8_e4m3fn) for n, t in PAPER.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"is torch\.float8_e4m3fn"):
        read(tmp_path / "a.pt")


# Folders


def write_shards(folder: Path, stem: str, index: str, count: int = 3) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    names = {name: f"{stem}-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(sorted(DIFFUSERS))}
    for file in set(names.values()):
        save_file({n: t for n, t in DIFFUSERS.items() if names[n] == file}, folder / file)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


STEM = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("stem", "index"),
    [
        (STEM, f"{STEM}.safetensors.index.json"),
        (f"{STEM}.fp16", f"{STEM}.safetensors.index.fp16.json"),
        (STEM, ""),
        ("model", "model.safetensors.index.json"),
    ],
)
def test_sharded_folder(stem, index, tmp_path):
    names = write_shards(tmp_path, stem, index)
    (tmp_path / "config.json").write_text('{"scaling_factor": 0.5}')
    assert_tiny(read(tmp_path))
    assert read(tmp_path).config.latents.scaling_factor == 0.5
    assert_tiny(read(tmp_path / next(iter(names.values()))))
    if index:
        assert_tiny(read(tmp_path / index))


def test_a_shard_without_the_others(tmp_path):
    names = sorted(set(write_shards(tmp_path, "vae", "").values()))
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"one part of several.*{names[1]}"):
        read(tmp_path / names[0])


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "..", "b/a.safetensors", "a\\b", "", "a\0"])
def test_an_index_names_nothing_outside_its_folder(name, tmp_path):
    (tmp_path / "in").mkdir()
    save_file(PAPER, tmp_path / "a.safetensors")
    index = tmp_path / "in" / f"{STEM}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"decoder.conv_in.weight": name}}))
    with pytest.raises(CheckpointError, match=r"index.*(outside its folder|is missing)"):
        read(tmp_path / "in")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_a_broken_index(text, tmp_path):
    (tmp_path / "a.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="index of a sharded model"):
        read(tmp_path / "a.safetensors.index.json")


def test_an_index_that_says_what_is_not_there(tmp_path):
    write_shards(tmp_path, STEM, index := f"{STEM}.safetensors.index.json")
    content = json.loads((tmp_path / index).read_text())
    content["weight_map"]["more.weight"] = f"{STEM}-00001-of-00003.safetensors"
    (tmp_path / index).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"more\.weight.*as the index says"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name",
    [f"{STEM}.{variant}.safetensors" for variant in ("bf16", "fp16", "non_ema", "ema_only", "int1")]
    + ["ae.safetensors"],
)
def test_variants(name, tmp_path):
    save_file(DIFFUSERS, tmp_path / name)
    assert_tiny(read(tmp_path))


def test_of_several_variants_the_fullest(tmp_path):
    for name in ("bf16", "fp16", "non_ema"):
        save_file(altered(DIFFUSERS), tmp_path / f"{STEM}.{name}.safetensors")
    torch.save(altered(DIFFUSERS), tmp_path / f"{STEM}.bin")
    save_file(DIFFUSERS, tmp_path / f"{STEM}.safetensors")
    assert_tiny(read(tmp_path))


def test_a_pipelines_folder(tmp_path, make_vae):
    vae = make_vae(STOCK)
    save(vae, tmp_path / "vae", layout="diffusers", latents="sdxl")
    (tmp_path / "model_index.json").write_text("{}")
    assert load(tmp_path).config == STOCK
    assert load(tmp_path).config.latents.scaling_factor == 0.13025


# Cost


@pytest.mark.parametrize(("levels", "blocks"), [(300, 300), (9, 64), (2, 60)])
def test_names_that_imply_more_than_there_is(levels, blocks):
    conv = torch.zeros(32, 32, 3, 3)
    names = ["decoder.conv_in.weight", "decoder.conv_out.weight"]
    names += [f"decoder.up.{i}.block.0.conv1.weight" for i in range(levels)]
    names += [f"decoder.up.0.block.{i}.conv1.weight" for i in range(1, blocks)]
    with (
        measured() as cost,
        pytest.raises(CheckpointError, match=r"Expected (decoder_channels|decoder_blocks|at least \d+ tensors)"),
    ):
        from_tensors(dict.fromkeys(names, conv))
    assert cost.seconds < 0.5


@pytest.mark.parametrize(
    "name",
    ["." * 10**6 + "decoder.conv_in.weight", "a." * 10**6, "decoder.up_blocks." + "9" * 10**5 + ".resnets.0.x"],
    ids=["dots", "parts", "digits"],
)
@pytest.mark.parametrize("others", [{}, PAPER], ids=["alone", "beside a VAE"])
def test_long_names_cost_little(name, others):
    with measured() as cost, pytest.raises(CheckpointError) as caught:
        from_tensors({**others, name: torch.zeros(1)})
    assert len(str(caught.value)) < 500
    assert cost.seconds < 1


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=20) | st.sampled_from(sorted(PAPER)), max_size=30), st.text(max_size=5))
def test_any_names_end_in_words(names, prefix):
    with pytest.raises(CheckpointError) as caught:
        from_tensors({prefix + name: torch.zeros(1) for name in names})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("variant", [None, "fp16", "non_ema"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_as_diffusers_writes_them(variant, safe, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, layers_per_block=1,
        block_out_channels=[32, 64], scaling_factor=0.25,
    )  # fmt: skip
    vae.save_pretrained(tmp_path, max_shard_size="200KB", variant=variant, safe_serialization=safe)
    assert len(list(tmp_path.iterdir())) > 3
    checkpoint = read(tmp_path)
    assert (checkpoint.config, checkpoint.config.latents.scaling_factor) == (STOCK, 0.25)
    assert torch.equal(checkpoint.state_dict["decoder.conv_in.weight"], vae.decoder.conv_in.weight)
