"""Files of every family as people have them: each layout, wrapped, halved, damaged; written for other loaders."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
import torch
from clock import measured
from families import CONFIGS, FLUX2, KL, TAE, TAEF2, WAN, built
from safetensors.torch import load_file, save_file
from test_families import assert_same, picture, shared

import asymvq
from asymvq.autoencoders import FAMILIES, LATENT_SPACES, Layout, family_of, tiny, wan
from asymvq.autoencoders.hints import Hints
from asymvq.checkpoint import CheckpointError, from_tensors, read, save, with_encoder
from asymvq.cli import main
from asymvq.config import ConditionConfig, LatentSpace

WAN16 = dataclasses.replace(
    WAN, latent_channels=16, decoder_blocks=3, encoder_blocks=2, decoder_channels=(8, 16, 32, 32),
    encoder_channels=(8, 16, 32, 32),
)  # fmt: skip
PLAIN = dataclasses.replace(KL, decoder_channels=KL.encoder_channels)
FILES = [
    (Layout.STOCK_LDM, FLUX2),
    (Layout.STOCK_DIFFUSERS, FLUX2),
    (Layout.STOCK_LDM, PLAIN),
    (Layout.WAN, WAN),
    (Layout.WAN_DIFFUSERS, WAN),
    (Layout.TAESD, TAE),
    (Layout.TAESD, TAEF2),
    (Layout.TAESD_MODULE, TAEF2),
    (Layout.TAESD_DIFFUSERS, TAE),
]


def named(config, layout, vae=None):
    """A file's tensors, in a name that tells the latents."""
    vae = vae or built(config)
    return vae, family_of(config).write(vae.state_dict(), config, layout)[0]


def write_file(tmp_path, tensors, name="taesdxl_decoder"):
    path = tmp_path / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def assert_equal_states(got, expected):
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("layout", "config"), FILES, ids=lambda value: str(value) if type(value) is Layout else "")
@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_files_are_read_whatever_is_around(layout, config, prefix, tmp_path):
    if config.family == "kl":
        config = dataclasses.replace(config, norm_groups=32, decoder_channels=(32, 64), encoder_channels=(32, 64))
    vae, tensors = named(config, layout)
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    tensors |= {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2), "step": torch.tensor(3)}
    checkpoint = read(write_file(tmp_path, tensors))
    assert (checkpoint.layout, checkpoint.config) == (layout, config)
    assert_equal_states(checkpoint.state_dict, vae.state_dict())
    torch.save(tensors, tmp_path / "taesdxl.ckpt")
    assert_equal_states(read(tmp_path / "taesdxl.ckpt").state_dict, vae.state_dict())
    bits = read(tmp_path / "taesdxl_decoder.safetensors")
    assert all(tensor.is_contiguous() for tensor in bits.state_dict.values())


@pytest.mark.parametrize(("layout", "config"), FILES, ids=lambda value: str(value) if type(value) is Layout else "")
def test_files_with_other_tensors_are_refused(layout, config):
    _, tensors = named(config, layout)
    groups = getattr(config, "norm_groups", None)
    kwargs = {"norm_groups": groups, "name": "taesdxl"}
    assert from_tensors(tensors, **kwargs).config == config
    root = next(name for name in tensors if "." in name).split(".")[0]
    missing = max(name for name in tensors if "weight" in name and tensors[name].ndim > 3)
    for change in (
        {f"{root}.something.weight": torch.zeros(2)},
        {missing: torch.zeros(1, 1, 1, 1)},
        {"vae_scale": torch.zeros(3)},
    ):
        with pytest.raises(CheckpointError) as caught:
            from_tensors(tensors | change, **kwargs)
        assert len(str(caught.value)) < 500
    for name in tensors:
        if "num_batches" in name or "time_conv" in name or name.startswith("vae_s"):
            continue
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        with pytest.raises(CheckpointError):
            from_tensors(rest, **kwargs)


@pytest.mark.parametrize(("layout", "config"), FILES, ids=lambda value: str(value) if type(value) is Layout else "")
def test_halves_under_two_prefixes_are_refused(layout, config):
    _, tensors = named(config, layout)
    torn = {("" if "encoder" in name else "vae.") + name: tensor for name, tensor in tensors.items()}
    with pytest.raises(CheckpointError, match="under one prefix"):
        from_tensors(torn, norm_groups=getattr(config, "norm_groups", None), name="taesdxl")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("condition", [None, ConditionConfig()], ids=["plain", "conditional"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_our_own_files(name, condition, dtype, tmp_path):
    vae = built(dataclasses.replace(CONFIGS[name], condition=condition))
    save(vae, tmp_path / "a.safetensors", dtype=dtype)
    again = asymvq.load(tmp_path / "a.safetensors")
    assert again.config == vae.config
    assert_equal_states(again.state_dict(), {k: v.to(dtype) for k, v in vae.state_dict().items()})
    save(again, tmp_path / "b.safetensors")
    for file in (first := load_file(tmp_path / "a.safetensors"), second := load_file(tmp_path / "b.safetensors")):
        del file["asymvq.config"]
    assert_equal_states(first, second)


# FLUX.2


def bfl_names(tensors):
    inside = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
    return {inside.get(n.split(".")[0], n.split(".")[0]) + n[n.index(".") :]: t for n, t in tensors.items()}


def test_flux2_as_its_authors_name_it():
    vae, tensors = named(FLUX2, Layout.STOCK_LDM)
    assert tensors["bn.num_batches_tracked"].dtype == torch.int64
    for variant in (tensors, bfl_names(tensors), {k: v for k, v in tensors.items() if "num_batches" not in k}):
        checkpoint = from_tensors(variant, norm_groups=8)
        assert checkpoint.config == FLUX2
        assert checkpoint.config.latents == LatentSpace(1.0)
        assert_equal_states(checkpoint.state_dict, vae.state_dict())


def test_a_conditional_decoder_of_packed_latents():
    config = dataclasses.replace(FLUX2, condition=ConditionConfig())
    state = {name.replace("codec.", "bn."): tensor for name, tensor in built(config).state_dict().items()}
    checkpoint = from_tensors(state, norm_groups=8)
    assert (checkpoint.layout, checkpoint.config) == (Layout.PAPER, config)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("own_statistics", [True, False])
@torch.inference_mode()
def test_a_small_decoder_takes_encoder_and_statistics_from_its_vae(bare, own_statistics):
    whole = dataclasses.replace(FLUX2, decoder_channels=(16, 32, 32))
    vae, tensors = named(whole, Layout.STOCK_LDM)
    _, small = named(FLUX2, Layout.STOCK_LDM)
    small = {name: tensor for name, tensor in small.items() if name.startswith(("decoder.", "post_quant_conv.", "bn."))}
    small |= {name: tensor for name, tensor in tensors.items() if name.startswith("bn.")}
    if not own_statistics:
        small = {name: tensor for name, tensor in small.items() if not name.startswith("bn.")}
    if bare:
        small = {name.removeprefix("decoder."): tensor for name, tensor in small.items()}
    decoder = from_tensors(small, norm_groups=8)
    assert decoder.config.encoder_channels is None
    assert decoder.config.latent_packing == (2 if own_statistics else 1)
    if not own_statistics:
        with pytest.raises(ValueError, match="base_vae"):
            asymvq.checkpoint.build(decoder).decode(torch.zeros(1, 16, 2, 2))
    both = with_encoder(decoder, from_tensors(tensors, norm_groups=8))
    assert both.config == FLUX2
    joined = asymvq.checkpoint.build(both)
    image = picture(FLUX2, (8, 8))
    assert_same(joined.encode(image), vae.encode(image))
    outer = {name: tensor for name, tensor in tensors.items() if not name.startswith(("decoder.", "post_quant_conv."))}
    inner = {name: tensor for name, tensor in named(FLUX2, Layout.STOCK_LDM)[1].items() if name not in outer}
    full = from_tensors(outer | inner, norm_groups=8)
    latent = joined.encode(image)
    assert_same(joined.decode(latent), asymvq.checkpoint.build(full).decode(latent))


def test_a_decoder_of_other_statistics_is_refused():
    _, tensors = named(FLUX2, Layout.STOCK_LDM)
    alone = {name: t for name, t in tensors.items() if name.startswith(("decoder.", "post_quant_conv.", "bn."))}
    alone["bn.running_mean"] = alone["bn.running_mean"] + 1
    with pytest.raises(ValueError, match="statistics"):
        with_encoder(from_tensors(alone, norm_groups=8), from_tensors(tensors, norm_groups=8))


# Tiny: two files


def write_halves(tmp_path, config, name):
    state = built(config).state_dict()
    halves = {part: tiny.write(state, config, f"TAESD {part}")[0] for part in ("encoder", "decoder")}
    return {part: write_file(tmp_path, tensors, f"{name}_{part}") for part, tensors in halves.items()}


@pytest.mark.parametrize(("name", "config"), [("taesdxl", TAE), ("taef2", TAEF2)])
def test_tiny_encoder_and_decoder_as_two_files(name, config, tmp_path, capsys):
    files = write_halves(tmp_path, config, name)
    vae = asymvq.load(files["decoder"], base=files["encoder"])
    assert vae.config == config
    assert_equal_states(vae.state_dict(), built(config).state_dict())
    alone = asymvq.load(files["decoder"])
    assert alone.config == dataclasses.replace(config, encoder_channels=None)
    with pytest.raises(CheckpointError, match=r"encoder alone.*base_vae"):
        asymvq.load(files["encoder"])
    with pytest.raises(CheckpointError, match=r"taes?\w+_encoder.*encoder alone"):
        asymvq.load(files["encoder"], base=files["decoder"])
    out = tmp_path / "out.safetensors"
    command = ["convert", str(files["decoder"]), str(out), "--base-vae", str(files["encoder"]), "--layout", "native"]
    assert main(command) == 0
    assert_equal_states(asymvq.load(out).state_dict(), vae.state_dict())


def test_halves_of_two_latent_spaces_are_refused(tmp_path):
    files = write_halves(tmp_path, TAE, "taesdxl")
    other = files["encoder"].rename(tmp_path / "taesd_encoder.safetensors")
    with pytest.raises(CheckpointError, match="scaling factor"):
        asymvq.load(files["decoder"], base=other)


def test_names_of_folders_tell_too(tmp_path):
    _, tensors = named(TAE, Layout.TAESD_DIFFUSERS)
    folder = tmp_path / "models--madebyollin--taesdxl" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    write_file(folder, tensors, "diffusion_pytorch_model")
    (folder / "config.json").write_text(json.dumps(tiny.diffusers_config(TAE)))
    assert read(folder).config.latents == LATENT_SPACES["sdxl"]


@pytest.mark.parametrize("number", [13, 14, 15, 16])
@torch.inference_mode()
def test_taef2_as_published_is_loaded(number):
    files = [shared("weights") / f"taef2_{part}.pth" for part in ("decoder", "encoder")]
    photo = shared("photos") / f"kodim{number}.png"
    if not all(path.is_file() for path in (*files, photo)):
        pytest.skip("needs TAEF2's weights and Kodak's photos: set ASYMVQ_WEIGHTS to the folder of taef2_*.pth")
    from asymvq.pictures import read_picture

    vae = asymvq.load(files[0], base=files[1], dtype=torch.float32)
    image = read_picture(photo)
    psnr = 10 * torch.log10(4 / (vae.decode(vae.encode(image)).clamp(-1, 1) - image).square().mean())
    assert float(psnr) == pytest.approx({13: 23.604, 14: 29.069, 15: 31.078, 16: 31.955}[number], abs=0.01)


# Written for other loaders


@pytest.mark.parametrize("config", [WAN16, TAE, FLUX2], ids=["Wan", "TAESD", "FLUX.2"])
@torch.inference_mode()
def test_diffusers_reads_what_is_exported(config, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vae = built(config)
    vae.config = config.replaced(latents=family_of(config).latents(config, Layout.NATIVE, Hints())
                                 or LATENT_SPACES["sdxl"])  # fmt: skip
    folder = tmp_path / "taesdxl"
    save(vae, folder, layout="diffusers")
    settings = json.loads((folder / "config.json").read_text())
    kind = getattr(diffusers, settings["_class_name"])
    if not {name for name in settings if not name.startswith("_")} <= inspect.signature(kind).parameters.keys():
        pytest.skip(f"diffusers {diffusers.__version__} does not know all settings of {kind.__name__}")
    model = kind.from_pretrained(folder).eval()
    image = picture(config, (8, 8))
    if config is WAN16:
        assert settings["latents_mean"] == list(wan.LATENTS.latents_mean)
        expected = model.encode(image[:, :, None]).latent_dist.mode()
        assert_same(vae.encode(image), expected[:, :, 0])
        decoded = vae.decode(expected[:, :, 0]).clamp(-1, 1)
        assert_same(decoded, model.decode(expected).sample[:, :, 0], 2e-5)  # its convolutions have three dimensions
    elif config is TAE:
        expected = model.encode(image).latents
        assert_same(vae.encode(image) * config.latent_scale, expected)
        assert_same(vae.decode(expected / config.latent_scale), model.decode(expected).sample)
    else:
        assert model.bn.eps == 1e-4
        assert torch.equal(model.bn.running_mean, vae.codec.running_mean)
        assert_same(
            vae.network_latent(vae.encode(image)), model.post_quant_conv(model.encode(image).latent_dist.mode())
        )
    again = asymvq.load(folder)
    assert again.config == config
    assert again.config.latents == vae.config.latents
    assert_equal_states(again.state_dict(), vae.state_dict())


@pytest.mark.parametrize("config", [WAN16, TAE, TAEF2], ids=["Wan", "TAESD", "TAEF2"])
def test_the_original_names_come_back(config, tmp_path):
    vae = built(config)
    save(vae, tmp_path / "a.safetensors", layout="original")
    again = asymvq.load(tmp_path / "a.safetensors")
    assert again.config == config
    assert_equal_states(again.state_dict(), vae.state_dict())
    with pytest.raises(ValueError, match=r"Expected a path that ends in \.safetensors"):
        save(vae, tmp_path / "folder", layout="original")


def test_wan_takes_what_joins_frames_from_its_base(tmp_path, caplog):
    _, tensors = named(WAN16, Layout.WAN)
    filled = {name: torch.randn(t.shape) if t.ndim == 5 or "time_conv" in name else t for name, t in tensors.items()}
    base = write_file(tmp_path, filled, "wan")
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(base), str(out), "--layout", "original", "--base-vae", str(base)]) == 0
    assert_equal_states(load_file(out), filled)
    assert main(["convert", str(base), str(out), "--layout", "original", "--overwrite"]) == 0
    assert "Wrote zeros for what joins frames" in caplog.text
    assert not any(tensor.any() for name, tensor in load_file(out).items() if "time_conv" in name)


@pytest.mark.parametrize("name", ["Wan", "TAESD", "TAEF2", "FLUX.2", "KL"])
def test_a_condition_is_for_our_own_files(name, tmp_path):
    vae = built(dataclasses.replace(CONFIGS[name], condition=ConditionConfig(sees_mask=True)))
    for layout in ("original", "diffusers"):
        with pytest.raises(ValueError, match="condition"):
            save(vae, tmp_path / "a.safetensors", layout=layout)
        assert not any(tmp_path.iterdir())


# Cost


@pytest.mark.parametrize(
    "names",
    [
        ["decoder.middle.0.residual.0.gamma", "encoder.downsamples.9999.resample.1.weight"],
        ["decoder.middle.0.residual.0.gamma", "decoder.upsamples.9999.resample.1.weight"],
        ["decoder.middle.0.residual.0.gamma", "encoder.downsamples." + "9" * 5000 + ".resample.1.weight"],
        ["decoder.middle.0.residual.0.gamma", *(f"decoder.upsamples.{i}.resample.1.weight" for i in range(5000))],
        ["decoder.mid_block.resnets.0.norm1.gamma",
         *(f"decoder.up_blocks.{i}.resnets.0.conv1.weight" for i in range(5000))],
        ["1.weight", *(f"{2 * i + 1}.conv.0.weight" for i in range(4000))],
        ["taesd_decoder.1.weight", *(f"taesd_decoder.{i}.conv.0.weight" for i in range(3, 5000))],
    ],
    ids=lambda names: names[-1][:40],
)  # fmt: skip
def test_names_that_imply_more_than_there_is(names):
    with measured() as cost, pytest.raises(CheckpointError) as caught:
        from_tensors(dict.fromkeys(names, torch.zeros(32, 32, 3, 3)), name="taesd")
    assert len(str(caught.value)) < 500
    assert cost.seconds < 1


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(0), torch.zeros(()), torch.zeros(2, 2, 0, 3, 3), torch.zeros(3, 2).T, torch.zeros(1).expand(4, 4, 1),
     torch.zeros(2, dtype=torch.complex64), torch.tensor(float("nan")), torch.tensor(True)],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.dtype}",
)  # fmt: skip
@pytest.mark.parametrize("layout", [Layout.WAN, Layout.TAESD, Layout.STOCK_LDM], ids=str)
def test_tensors_of_any_shape_end_in_words(layout, tensor, tmp_path):
    config = {Layout.WAN: WAN, Layout.TAESD: TAE, Layout.STOCK_LDM: FLUX2}[layout]
    _, tensors = named(config, layout)
    for name in [
        n for n in tensors if n.endswith(("gamma", "vae_scale", "running_mean", "conv_in.weight", "1.weight"))
    ]:
        torch.save(tensors | {name: tensor}, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / "a.ckpt")
        assert len(str(caught.value)) < 500


def test_every_layout_is_some_familys():
    layouts = [layout for family in FAMILIES for layout in family.LAYOUTS]
    assert sorted([*layouts, Layout.NATIVE]) == sorted(Layout)
    for family in FAMILIES:
        assert set(family.EXPORTS) == {"diffusers", "original"}
        assert set(family.EXPORTS.values()) <= set(family.LAYOUTS)
