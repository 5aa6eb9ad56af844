"""Every family of autoencoders: the peers' latents and pictures from the same weights, and its files there and back."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import CONFIGS, FLUX2, TAE, TAEF2, WAN, built, shaken

from asymvq import lean
from asymvq import stripes as stripes_module
from asymvq.autoencoders import FAMILIES, AutoencoderConfig, config_from_dict, config_to_dict, family_of, tiny, wan
from asymvq.autoencoders.codec import LatentCodec, NormalisedLatent, ScaledLatent
from asymvq.autoencoders.hints import Hints
from asymvq.checkpoint import Layout, build, from_tensors
from asymvq.config import ConditionConfig, LatentSpace, MaskReduction
from asymvq.walk import ConditionPoint, Run

RELATIVE = 1e-5
CELLS = [(8, 8), (9, 7)]
"""Sizes in cells of the network's latent; odd ones where the latent is not packed."""

PAPER, ASUKA = ConditionConfig(), ConditionConfig(True, MaskReduction.ANY)


def assert_same(got, expected, relative=RELATIVE):
    assert got.shape == expected.shape
    assert expected.std() > 1e-3, "a constant picture proves nothing"
    assert (got - expected).abs().max() <= relative * expected.abs().max()


def picture(config, cells, count=2):
    height, width = (n * config.network_factor for n in cells)
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, config.image_channels, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("peer", ["AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLWan, wider decoder"])
@torch.inference_mode()
def test_one_frame_of_wan_agrees_with_diffusers(peer):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    shape = {"z_dim": 4, "num_res_blocks": 1, "base_dim": 16}
    kind, _, wider = peer.partition(",")
    model = shaken(getattr(diffusers, kind)(**shape, **({"decoder_base_dim": 24} if wider else {})))
    config, state = wan.read(model.state_dict(), wan.recognise(model.state_dict()))
    assert config == (dataclasses.replace(WAN, decoder_channels=(24, 48, 96, 96)) if wider else WAN)
    vae = built(config, state)
    for cells in CELLS:
        image = picture(config, cells)
        latent = vae.encode(image)
        assert_same(latent, model.encode(image[:, :, None]).latent_dist.mode()[:, :, 0])
        # diffusers clamps, which our own decoder leaves to the host
        assert_same(vae.decode(latent).clamp(-1, 1), model.decode(latent[:, :, None]).sample[:, :, 0])


@torch.inference_mode()
def test_tiny_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = shaken(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=TAE.encoder_channels, decoder_block_out_channels=TAE.decoder_channels,
            num_encoder_blocks=TAE.encoder_blocks, num_decoder_blocks=TAE.decoder_blocks[::-1],
        )
    )  # fmt: skip
    config, state = tiny.read(model.state_dict(), tiny.recognise(model.state_dict()), Hints("madebyollin--taesdxl"))
    assert config == TAE
    vae = built(config, state)
    for cells in CELLS:
        image = picture(config, cells)
        latent = vae.encode(image)
        assert_same(latent * config.latent_scale, model.encode(image).latents)
        assert_same(vae.decode(latent), model.decode(latent * config.latent_scale).sample)


@torch.inference_mode()
def test_flux2_agrees_with_diffusers_and_its_pipeline():
    diffusers = pytest.importorskip("diffusers")
    pipeline = "diffusers.pipelines.flux2.pipeline_flux2"  # which needs a transformers of its age
    Flux2Pipeline = pytest.importorskip(pipeline, exc_type=ImportError).Flux2Pipeline
    torch.manual_seed(0)
    model = shaken(
        diffusers.AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=FLUX2.encoder_channels, decoder_block_out_channels=FLUX2.decoder_channels,
            layers_per_block=1, latent_channels=4, norm_num_groups=8,
        )
    )  # fmt: skip
    checkpoint = from_tensors(model.state_dict(), norm_groups=8)
    assert checkpoint.layout is Layout.STOCK_DIFFUSERS
    assert checkpoint.config == FLUX2
    assert checkpoint.config.latents == LatentSpace(1.0)
    vae = build(checkpoint)
    mean, deviation = model.bn.running_mean.view(1, -1, 1, 1), (model.bn.running_var + 1e-4).sqrt().view(1, -1, 1, 1)
    for cells in ((8, 8), (10, 6)):
        image = picture(FLUX2, cells)
        latent = vae.encode(image)
        assert latent.shape == (2, 16, cells[0] // 2, cells[1] // 2)
        raw = model.encode(image).latent_dist
        assert_same(latent, (Flux2Pipeline._patchify_latents(raw.mode()) - mean) / deviation)
        assert_same(vae.posterior(image)[1], Flux2Pipeline._patchify_latents(raw.std) / deviation)
        expected = model.decode(Flux2Pipeline._unpatchify_latents(latent * deviation + mean)).sample
        assert_same(vae.decode(latent), expected)


def taesd_reference(state, part, x):
    """Either half of a tiny autoencoder as published, as plain functions of its raw state dict."""

    def conv(name, x, **how):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, **how)

    last = max(int(name.split(".")[0]) for name in state)
    if part == "decoder":
        x = torch.tanh(x / 3) * 3
    for i in range(last + 1):
        if f"{i}.conv.0.weight" in state:
            if f"{i}.pool.0.weight" in state:
                pooled = conv(f"{i}.pool.0", x)
                pooled = F.group_norm(pooled, 4, state[f"{i}.pool.1.weight"], state[f"{i}.pool.1.bias"])
                x = x + conv(f"{i}.pool.3", pooled.relu())
            h = conv(f"{i}.conv.2", conv(f"{i}.conv.0", x).relu()).relu()
            x = (conv(f"{i}.conv.4", h) + x).relu()
        elif f"{i}.weight" in state:
            strided = part == "encoder" and f"{i}.bias" not in state
            x = conv(f"{i}", x, stride=2 if strided else 1)
            if part == "decoder" and i == 1:
                x = x.relu()
        elif part == "decoder" and i > 2:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    return x


def taef2_reference(encoder, decoder, image):
    """FLUX.2's latent and the picture of it, as the host has them."""
    z = taesd_reference(encoder, "encoder", image * 0.5 + 0.5)
    b, c, h, w = z.shape
    latent = z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    return latent, taesd_reference(decoder, "decoder", z) * 2 - 1


def halves(vae):
    """A tiny autoencoder's two published files."""
    state = vae.state_dict()
    return tuple(tiny.write(state, vae.config, f"TAESD {part}")[0] for part in ("encoder", "decoder"))


@torch.inference_mode()
def test_taef2_agrees_with_a_plain_reference():
    vae = built(TAEF2)
    encoder, decoder = halves(vae)
    image = picture(TAEF2, (10, 6))
    expected_latent, expected = taef2_reference(encoder, decoder, image)
    latent = vae.encode(image)
    assert latent.shape == (2, 128, 5, 3)
    assert_same(latent, expected_latent)
    assert_same(vae.decode(latent), expected)


def shared(folder):
    """Files that are beside the repository or where $ASYMVQ_WEIGHTS says, and nowhere in it."""
    root = Path(__file__).parents[1]
    given = os.environ.get("ASYMVQ_WEIGHTS")
    candidates = [root.parent / "shared" / folder, *([Path(given), Path(given).parent / folder] if given else [])]
    return next((path for path in candidates if path.is_dir()), Path("absent"))


@pytest.mark.parametrize("number", [13, 14, 15, 16])
@torch.inference_mode()
def test_taef2_as_published_is_as_good_as_its_reference(number):
    files = [shared("weights") / f"taef2_{part}.pth" for part in ("encoder", "decoder")]
    photo = shared("photos") / f"kodim{number}.png"
    if not all(path.is_file() for path in (*files, photo)):
        pytest.skip("needs TAEF2's weights and Kodak's photos: set ASYMVQ_WEIGHTS to the folder of taef2_*.pth")
    from asymvq.pictures import read_picture

    encoder, decoder = ({k: v.float() for k, v in torch.load(f, weights_only=True).items()} for f in files)
    config, state = tiny.read(tiny.together(encoder, decoder), "TAESD")
    assert config == tiny.Config(latent_channels=128, latent_packing=2, pooled=True)
    vae = built(config, state)
    image = read_picture(photo)
    latent, expected = taef2_reference(encoder, decoder, image)
    assert_same(vae.encode(image), latent)
    psnr = [10 * torch.log10(4 / (p.clamp(-1, 1) - image).square().mean()) for p in (vae.decode(latent), expected)]
    print(f"kodim{number}: {psnr[0]:.3f} dB, reference {psnr[1]:.3f} dB")
    assert psnr[0] > 23
    assert abs(psnr[0] - psnr[1]) < 0.01


LAYOUTS = [
    ("Wan", WAN),
    ("Wan diffusers", WAN),
    ("TAESD", TAE),
    ("TAESD", TAEF2),
    ("TAESD diffusers", TAE),
]


@pytest.mark.parametrize(("layout", "config"), LAYOUTS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("alone", [False, True], ids=["whole", "decoder alone"])
def test_files_there_and_back(layout, config, alone):
    family = family_of(config)
    if alone:
        config = dataclasses.replace(config, encoder_channels=None, **({"quant_conv": False} if family is wan else {}))
    vae = built(config)
    tensors, _ = family.write(vae.state_dict(), vae.config, layout)
    assert family.recognise(tensors) == layout
    assert all(other.recognise(tensors) is None for other in (wan, tiny) if other is not family)
    read, state = family.read(tensors, layout, Hints("taesdxl_decoder"))
    if alone:  # what an encoder would be is no part of the shape
        read = dataclasses.replace(read, encoder_blocks=vae.config.encoder_blocks)
    assert read == vae.config
    assert state.keys() == vae.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in vae.state_dict().items())
    again, _ = family.write(state, read, layout)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("layout", wan.LAYOUTS)
def test_wan_goes_back_into_the_taps_of_a_base(layout):
    base, metadata = wan.write(built(WAN).state_dict(), WAN, layout)
    assert metadata == {"asymvq.temporal_taps": "zeros"}
    assert any("time_conv" in name for name in base)
    filled = {name: torch.randn(t.shape) if t.ndim == 5 or "time_conv" in name else t for name, t in base.items()}
    config, state = wan.read(filled, layout)
    assert config.temporal == WAN.temporal
    again, metadata = wan.write(state, config, layout, base=filled)
    assert metadata == {"asymvq.temporal_taps": "base"}
    assert all(torch.equal(again[name], filled[name]) for name in filled)
    with pytest.raises(ValueError, match="Expected a base file with the model's tensors"):
        wan.write(state, config, layout, base={k: v for k, v in filled.items() if "time_conv" not in k})


def test_unknown_names_keep_their_own():
    tensors, _ = wan.write(built(WAN).state_dict(), WAN, "Wan")
    strange = {"decoder.upsamples.0.time_conv.weight": torch.zeros(1), "decoder.middle.3.gamma": torch.zeros(1)}
    _, state = wan.read(tensors | strange, "Wan")
    assert strange.keys() <= state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.upsamples.0.upsamples.0.residual.2.weight": torch.zeros(1)}, "Wan 2.2"),
        ({"decoder.head.2.weight": torch.zeros(12, 16, 3, 3, 3)}, "upscaling decoders"),
    ],
)
def test_relatives_are_refused_by_name(change, message):
    tensors, _ = wan.write(built(WAN).state_dict(), WAN, "Wan")
    with pytest.raises(ValueError, match=message):
        wan.read(tensors | change, "Wan")


@pytest.mark.parametrize(
    ("name", "space"), [(f"{s}_decoder", s) for s in tiny.SPACES] + [("madebyollin/TAEF1", "taef1")]
)
def test_names_tell_the_latents_of_tiny_autoencoders(name, space):
    config = dataclasses.replace(TAEF2 if space == "taef2" else TAE, encoder_channels=None)
    tensors, _ = tiny.write(built(config).state_dict(), config, "TAESD decoder")
    read, _ = tiny.read(tensors, tiny.recognise(tensors), Hints(name))
    assert read.latents == tiny.SPACES[space]
    assert (read.latent_scale, read.latent_shift) == (read.latents.scaling_factor, read.latents.shift_factor or 0.0)


def test_tiny_autoencoders_of_unknown_latents_are_refused():
    encoder, decoder = halves(built(TAE))
    with pytest.raises(ValueError, match="Expected to know which VAE's latents"):
        tiny.read(decoder, "TAESD decoder", Hints("model"))
    config, state = tiny.read(encoder, tiny.recognise(encoder), Hints("taesd_encoder"))
    assert not any(name.startswith("decoder.") for name in state)
    assert (config.encoder_channels, config.latent_scale) == (TAE.encoder_channels, 0.18215)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("condition", [None, PAPER, ASUKA], ids=["plain", "paper", "ASUKA"])
@pytest.mark.parametrize("size", [1, 2**12], ids="stripes of {} values".format)
@torch.no_grad()
def test_stripes_are_the_decoder_up_to_rounding(name, condition, size, monkeypatch, blob_mask):
    monkeypatch.setitem(stripes_module.VALUES, "cpu", size)
    vae = built(dataclasses.replace(CONFIGS[name], condition=condition))
    config, generator = vae.config, torch.Generator().manual_seed(1)
    latent = torch.randn(2, config.latent_channels, 5, 7, generator=generator)
    height, width = 5 * config.factor, 7 * config.factor
    image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    given = {"image": image, "mask": blob_mask(height, width).expand(2, -1, -1, -1)}
    for how in ({}, given) if condition else ({},):
        expected = vae.decode(latent, **how)
        assert expected.std() > 0.01
        torch.testing.assert_close(lean.decode(vae, latent, **how), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_half_precision(name, dtype):
    """As near as its rounding; and in float32 once more with the same weights."""
    vae, half = built(CONFIGS[name]), built(CONFIGS[name]).to(dtype)
    latent = torch.randn(1, vae.config.latent_channels, 6, 6, generator=torch.Generator().manual_seed(1))
    exact = vae.decode(latent)
    for decode in (half.decode, lambda z: lean.decode(half, z)):
        decoded = decode(latent.to(dtype))
        assert decoded.dtype == dtype
        assert (decoded.float() - exact).abs().max() < 16 * torch.finfo(dtype).eps * exact.abs().max()
        assert decode(latent).dtype == torch.float32
    large = half.decode(latent.to(dtype) * 100)
    if name == "Wan":  # squares of such features overflow in half precision
        assert large.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_level_has_a_condition_point(name, blob_mask):
    config = dataclasses.replace(CONFIGS[name], condition=PAPER)
    vae = built(config)
    seen = {}

    class Recorder:
        def apply(self, level, features):
            seen[level] = features.shape[1], features.shape[-1]
            return features

    h = vae.network_latent(torch.randn(1, config.latent_channels, 4, 4))
    for step in vae.decoder.walk():
        if isinstance(step, ConditionPoint):
            h = Recorder().apply(step.level, h)
        else:
            assert isinstance(step, Run)
            h = step(h)
    side = 4 * config.factor
    assert seen == {
        level: (channels, side // 2 ** max(0, level - 1)) for level, channels in enumerate(config.condition_channels)
    }
    image = picture(config, (4 * config.latent_packing,) * 2, count=1)
    latent = torch.randn(1, config.latent_channels, 4, 4)
    plain, shown = vae.decode(latent), vae.decode(latent, image=image, mask=blob_mask(side, side))
    assert (plain - shown).abs().max() > 1e-3


def test_wan_condition_widths_are_those_of_the_published_decoder():
    assert wan.Config().condition_channels == (96, 96, 192, 192, 384)


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputing_gives_the_same_gradients(name):
    vae = built(CONFIGS[name]).requires_grad_(True)
    latent = torch.randn(1, vae.config.latent_channels, 2, 2)
    gradients = []
    for recompute in (False, True):
        for level in vae.decoder.up:
            level.recompute = recompute
        vae.zero_grad()
        vae.decode(latent).square().mean().backward()
        gradients.append([p.grad.clone() for p in vae.decoder.parameters()])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_there_and_back(name):
    for condition in (None, ASUKA):
        config = dataclasses.replace(CONFIGS[name], condition=condition)
        assert config_from_dict(config_to_dict(config)) == config
    assert {family.NAME for family in FAMILIES} == {"kl", "wan", "tiny"}
    with pytest.raises(ValueError, match="known family"):
        config_from_dict({"family": "other"})


def test_configs_from_before_there_were_families():
    config = AutoencoderConfig()
    assert "family" not in config_to_dict(config)
    assert "latent_packing" not in config.to_dict()


@pytest.mark.parametrize(
    "codec", [LatentCodec(), LatentCodec(2), NormalisedLatent(16, 2), ScaledLatent(0.3611, 0.1159, 2)], ids=str
)
def test_codecs_there_and_back(codec):
    shaken(codec)
    z = torch.randn(2, 4, 6, 10)
    latent = codec.encode(z)
    assert latent.shape[1] * latent.shape[2] * latent.shape[3] == 4 * 6 * 10
    torch.testing.assert_close(codec.decode(latent), z)
    # a deviation is what the latent moves by when z does
    step = torch.full_like(z, 1e-2)
    torch.testing.assert_close(codec.encode(z + step) - latent, codec.deviation(step), atol=1e-5, rtol=1e-3)
