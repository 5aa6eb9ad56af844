"""The affine condition: it starts as the stock decoder, and changes only what kept pixels reach."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from test_families import CONFIGS, built

import asymvq
from asymvq import stripes as stripes_module
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import family_of
from asymvq.checkpoint import CheckpointError
from asymvq.checkpoint.native import CONFIG_KEY, from_native, to_native
from asymvq.cli import main
from asymvq.config import ConditionConfig, ConditionKind, MaskReduction
from asymvq.detail import low_pass, reach_of_kept, with_detail_of
from asymvq.grow import grow, grown_config

AFFINE = ConditionConfig.affine(16)
OUTSIDE = ConditionConfig.affine(16, in_blocks=False)
BLIND = ConditionConfig.affine(16, sees_errors=False, in_blocks=False)
FADING = ConditionConfig.affine(16, errors_fade=True)
FITTING = ConditionConfig.affine(16, errors_fade=True, fits_errors=True)
KINDS = pytest.mark.parametrize(
    "kind", [AFFINE, FADING, OUTSIDE, BLIND], ids=["in blocks", "errors fade", "sees errors", "does neither"]
)


def striped(vae, latent, **condition):
    return vae.decode(latent, **condition, striped=True)


def given(config, blob_mask, cells=(5, 7), count=2):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(count, config.latent_channels, *cells, generator=generator)
    height, width = (n * config.factor for n in cells)
    image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    return latent, {"image": image, "mask": blob_mask(height, width).expand(count, -1, -1, -1)}


def fresh(name: str, kind: ConditionConfig) -> AsymmetricAutoencoder:
    """Of a stock VAE, an affine one."""
    stock = built(dataclasses.replace(CONFIGS[name], condition=None))
    vae = AsymmetricAutoencoder(dataclasses.replace(CONFIGS[name], condition=kind))
    vae.load_state_dict(stock.state_dict(), strict=False)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def stir(vae: AsymmetricAutoencoder) -> None:
    """Everything of the condition that starts as zeros does something."""
    encoder = vae.decoder.condition_encoder
    for head in (*encoder.scales, *encoder.shifts, *([] if encoder.blocks is None else encoder.blocks.modules())):
        if isinstance(head, torch.nn.Conv2d):
            head.weight.normal_(0, 0.1)


@pytest.mark.parametrize("name", CONFIGS)
@KINDS
@torch.no_grad()
def test_it_starts_as_the_stock_decoder(name, kind, blob_mask):
    vae = fresh(name, kind)
    latent, condition = given(vae.config, blob_mask)
    plain = vae.decode(latent)
    assert plain.std() > 0.01
    assert torch.equal(vae.decode(latent, **condition), plain)
    torch.testing.assert_close(striped(vae, latent, **condition), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [1, 2**12], ids="stripes of {} values".format)
@KINDS
@torch.no_grad()
def test_stripes_are_the_decoder_up_to_rounding(name, size, kind, monkeypatch, blob_mask):
    vae = built(dataclasses.replace(CONFIGS[name], condition=kind))
    stir(vae)
    latent, condition = given(vae.config, blob_mask)
    expected = vae.decode(latent, **condition, striped=False)
    assert (expected - vae.decode(latent)).abs().max() > 1e-3
    monkeypatch.setitem(stripes_module.VALUES, "cpu", size)
    torch.testing.assert_close(striped(vae, latent, **condition), expected, atol=1e-4, rtol=1e-4)


@KINDS
@torch.no_grad()
def test_with_nothing_kept_in_reach_nothing_changes(kind, blob_mask):
    vae = built(dataclasses.replace(CONFIGS["TAESD"], condition=kind))
    stir(vae)
    latent, condition = given(vae.config, blob_mask, cells=(4, 24), count=1)
    condition["mask"] = torch.ones_like(condition["mask"])
    assert torch.equal(vae.decode(latent, **condition), vae.decode(latent))
    # a network without norms: what is far from the kept pixels is as if there were none
    condition["mask"][..., :8] = 0
    change = (vae.decode(latent, **condition) - vae.decode(latent)).abs().amax(dim=(0, 1, 2))
    assert change[8:12].max() > 1e-3
    assert change[-32:].max() == 0


@KINDS
@torch.no_grad()
def test_what_is_edited_is_not_seen(kind, blob_mask):
    vae = built(dataclasses.replace(CONFIGS["KL"], condition=kind))
    stir(vae)
    latent, condition = given(vae.config, blob_mask)
    other = condition["image"] + condition["mask"]
    expected = vae.decode(latent, **condition)
    assert torch.equal(vae.decode(latent, **{**condition, "image": other}), expected)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_files_there_and_back(name, tmp_path):
    vae = built(dataclasses.replace(CONFIGS[name], condition=AFFINE))
    asymvq.save(vae, tmp_path / "vae.safetensors")
    read = asymvq.load(tmp_path / "vae.safetensors")
    assert read.config == vae.config
    assert read.config.condition.kind is ConditionKind.AFFINE
    for key, tensor in vae.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor)
    family = family_of(vae.config)
    if hasattr(family, "write"):
        with pytest.raises(ValueError, match="without a condition"):
            family.write(vae.state_dict(), vae.config, family.LAYOUTS[0] if hasattr(family, "LAYOUTS") else "TAESD")


def test_diffusers_cannot_hold_it(tmp_path):
    config = dataclasses.replace(CONFIGS["KL"], decoder_channels=(16, 32, 32), condition=AFFINE)
    with pytest.raises(ValueError, match="blends feature maps in, but got one that scales and shifts"):
        asymvq.save(built(config), tmp_path / "vae", layout="diffusers", latents=asymvq.LatentSpace(1.0))


def test_only_what_needs_it_is_written_in_the_newer_format():
    affine = (BLIND, OUTSIDE, AFFINE, FADING, FITTING)
    for condition, version in ((None, 1), (ConditionConfig(), 1), *zip(affine, range(2, 7), strict=True)):
        vae = built(dataclasses.replace(CONFIGS["KL"], condition=condition))
        tensors = to_native(vae, vae.config)
        data = json.loads(bytes(tensors[CONFIG_KEY].tolist()))
        assert data["format"] == version
        assert from_native(tensors)[0] == vae.config
        data["format"] = 7
        tensors[CONFIG_KEY] = torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8)
        with pytest.raises(CheckpointError, match="format version 6 or older, but got 7"):
            from_native(tensors)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": ConditionKind.AFFINE},
        {"kind": ConditionKind.AFFINE, "channels": 0},
        {"kind": ConditionKind.AFFINE, "channels": 8, "sees_mask": True},
        {"kind": ConditionKind.AFFINE, "channels": 8, "mask_reduction": MaskReduction.ANY},
        {"kind": ConditionKind.AFFINE, "channels": 8, "sees_errors": 1},
        {"kind": ConditionKind.AFFINE, "channels": 8, "in_blocks": "yes"},
        {"kind": ConditionKind.AFFINE, "channels": 8, "sees_errors": True, "errors_fade": 1},
        {"kind": ConditionKind.AFFINE, "channels": 8, "errors_fade": True},
        {"kind": ConditionKind.AFFINE, "channels": 8, "fits_errors": True},
        {"errors_fade": True},
        {"channels": 8},
        {"sees_errors": True},
        {"in_blocks": True},
        {"kind": "affine", "channels": 8},
    ],
)
def test_impossible_conditions_are_refused(values):
    with pytest.raises(ValueError, match="Expected"):
        ConditionConfig(**values)


@pytest.mark.parametrize(
    "data", [{"kind": "affine"}, {"kind": "affine", "channels": 8, "sees_mask": True}, {"kind": "x"}]
)
def test_unreadable_conditions_are_refused(data):
    with pytest.raises(ValueError, match="Expected a"):
        ConditionConfig.from_dict(data)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("preset", ["base", "2x", "1x+2"])
@torch.no_grad()
def test_it_grows_along(name, preset, blob_mask):
    vae = built(dataclasses.replace(CONFIGS[name], condition=AFFINE))
    stir(vae)
    grown = grow(vae, grown_config(vae.config, preset))
    latent, condition = given(vae.config, blob_mask)
    for how in ({}, condition):
        expected = vae.decode(latent, **how)
        torch.testing.assert_close(grown.decode(latent, **how), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("start", [AFFINE, OUTSIDE, BLIND], ids=["in blocks", "seeing", "blind"])
@torch.no_grad()
def test_it_can_be_wider(name, start, blob_mask):
    vae = built(dataclasses.replace(CONFIGS[name], condition=start))
    stir(vae)
    wider = ConditionConfig.affine(AFFINE.channels + 5)
    grown, seeing = (grow(vae, vae.config.replaced(condition=condition)) for condition in (wider, AFFINE))
    latent, condition = given(vae.config, blob_mask)
    expected = seeing.decode(latent, **condition)
    assert (expected - vae.decode(latent)).abs().max() > 1e-3
    torch.testing.assert_close(grown.decode(latent, **condition), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="can grow into"):
        grow(grown, vae.config.replaced(condition=AFFINE))


@torch.no_grad()
def test_one_without_errors_can_learn_to_see_them(blob_mask):
    vae = built(dataclasses.replace(CONFIGS["KL"], condition=BLIND))
    stir(vae)
    seeing = grow(vae, vae.config.replaced(condition=AFFINE))
    latent, condition = given(vae.config, blob_mask)
    mask, plain = condition["mask"], vae.decode(latent)
    expected = with_detail_of(vae.decode(latent, **condition), plain, mask=mask, factor=vae.factor)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(seeing.decode(latent, **condition), expected, atol=1e-4, rtol=0)
    fading = grow(seeing, vae.config.replaced(condition=FADING))  # and what harmonising changes, to fade
    torch.testing.assert_close(fading.decode(latent, **condition), expected, atol=1e-4, rtol=0)
    for smaller, config in ((seeing, vae.config), (fading, seeing.config)):
        with pytest.raises(ValueError, match="can grow into"):
            grow(smaller, config)


@KINDS
@torch.no_grad()
def test_errors_are_seen_where_they_should(kind, blob_mask):
    """What harmonising did leads to other detail, and edited pixels have its colours; kept ones are plainly decoded."""
    vae = built(dataclasses.replace(CONFIGS["KL"], condition=kind))
    stir(vae)
    latent, condition = given(vae.config, blob_mask)
    plain = vae.decode(latent)
    if not kind.sees_errors:
        with pytest.raises(ValueError, match="whose condition sees errors"):
            vae.decode(latent, **condition, plain=plain)
        return
    own = vae.decode(latent, **condition)
    assert torch.equal(own[condition["mask"].expand_as(own) == 0], plain[condition["mask"].expand_as(own) == 0])
    assert torch.equal(vae.decode(latent, **condition, plain=plain), own)
    harmonised = plain + 0.5 * condition["mask"]
    change = vae.decode(latent, **condition, plain=plain, harmonised=harmonised) - own
    edited = condition["mask"].expand(-1, 3, -1, -1) > 0
    assert change[~edited].abs().max() == 0
    assert change[edited].std() > 1e-4
    torch.testing.assert_close(change[edited].mean(), torch.tensor(0.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_errors_fade_where_no_kept_pixel_is_near(name):
    """There the decode is the plain one with the harmonised one's colours, whatever harmonising does."""
    vae = built(dataclasses.replace(CONFIGS[name], condition=FADING))
    lasting = grow(vae, vae.config)
    lasting.decoder.condition_encoder.fading = None
    stir(vae)
    lasting.load_state_dict(vae.state_dict())
    right = lambda height, width: (torch.arange(width) >= 16).float().expand(1, 1, height, -1)  # noqa: E731
    latent, condition = given(vae.config, right, cells=(4, 16))
    edited = condition["mask"] > 0
    plain, generator = vae.decode(latent), torch.Generator().manual_seed(2)
    harmonised = plain + torch.where(edited, 0.5 * torch.randn(plain.shape, generator=generator), 0)
    shown = {**condition, "plain": plain, "harmonised": harmonised}
    unchanged = with_detail_of(plain, plain, mask=condition["mask"], factor=vae.factor, harmonised=harmonised)
    for how in (False, True):
        own, others = ((v.decode(latent, **shown, striped=how) - unchanged).abs() for v in (vae, lasting))
        assert own[..., 16:20].max() > 1e-3
        assert own[..., -8:].mean() < 0.25 * others[..., -8:].mean()  # norms and attention see the whole picture


@torch.no_grad()
def test_how_far_kept_pixels_reach():
    mask = torch.zeros(2, 1, 48, 160)
    mask[0, ..., 40:] = 1
    reach = reach_of_kept(mask, 8.0)
    assert reach.shape == mask.shape
    assert (reach[1] == 1).all()
    row = reach[0, 0, 24]
    assert (row[:40] == 1).all()
    assert row[40] > 0.94
    assert (row[40:64].diff() < 0).all()
    assert (row[64:] == 0).all()
    # nothing lies beyond the picture, neither kept nor edited
    torch.testing.assert_close(reach[0, 0, 0], row)
    torch.testing.assert_close(row[48], torch.tensor(0.288), atol=0.01, rtol=0)  # 8.5 pixels in
    assert (reach_of_kept(torch.ones(1, 1, 20, 30), 8.0) == 0).all()


def test_the_mean_colour_is_the_harmonised_one(blob_mask):
    mask, generator = blob_mask(64, 80), torch.Generator().manual_seed(0)
    plain, noise = torch.randn(2, 1, 3, 64, 80, generator=generator)
    ramp = torch.linspace(-1, 1, 80).expand_as(plain)
    edited = mask.expand(-1, 3, -1, -1) > 0
    detailed = with_detail_of(plain + 0.3 * noise + ramp + 0.5, plain, mask=mask, factor=8, harmonised=plain - 0.2)
    change = (detailed - plain)[edited].unflatten(0, (3, -1))
    torch.testing.assert_close(change.mean(dim=1), torch.full((3,), -0.2), atol=1e-5, rtol=0)
    assert change.std(dim=1).min() > 0.2


def test_texture_is_not_left_out(blob_mask):
    """A conditional decode that blurs gets the energy of the plain one's fine detail back, in the place it gives it."""
    mask, generator = blob_mask(96, 96), torch.Generator().manual_seed(0)
    plain, other = torch.randn(2, 1, 3, 96, 96, generator=generator)
    blurred = (0.6 * (0.5**0.5) * (plain + other)).requires_grad_()
    detailed = with_detail_of(blurred, plain, mask=mask, factor=8)
    detailed.square().mean().backward()
    assert blurred.grad.isfinite().all()
    edited = mask[0, 0] > 0
    energy = {name: fine_detail(x.detach())[0][:, edited].mean().item() for name, x in
              {"plain": plain, "blurred": blurred, "detailed": detailed}.items()}  # fmt: skip
    assert energy["blurred"] < 0.5 * energy["plain"]
    assert 1 <= energy["detailed"] / energy["plain"] < 1.2
    told = torch.corrcoef(torch.stack([x.detach()[0][:, edited].flatten() for x in (blurred, detailed)]))[0, 1]
    assert told > 0.97
    # what is as strong already stays as it is, and flat pictures are no trouble
    assert torch.equal(with_detail_of(plain, plain, mask=mask, factor=8), plain)
    flat = torch.zeros_like(plain).requires_grad_()
    result = with_detail_of(flat, plain, mask=mask, factor=8)
    result.sum().backward()
    assert result.isfinite().all()
    assert flat.grad.isfinite().all()


def fine_detail(picture):
    """(B, 3, H, W) energies of what is finer than a Gaussian of 1.5 pixels."""
    smooth = torch.stack([low_pass(one, torch.ones(one.shape[1:], dtype=torch.bool), 1.5) for one in picture])
    return (picture - smooth).square()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_blend_can_be_replaced(name, blob_mask):
    vae = built(dataclasses.replace(CONFIGS[name], condition=ConditionConfig()))
    grown = grow(vae, vae.config.replaced(condition=AFFINE))
    latent, condition = given(vae.config, blob_mask)
    with torch.no_grad():
        expected = vae.decode(latent)
        torch.testing.assert_close(grown.decode(latent), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(grown.decode(latent, **condition), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_no_steps_of_training_give_the_base_in_every_family(name, tmp_path, blob_mask):
    vae = built(dataclasses.replace(CONFIGS[name], condition=None))
    asymvq.save(vae, tmp_path / "base.safetensors")
    argv = ["train", "--base", str(tmp_path / "base.safetensors"), "--out", str(tmp_path / "out.safetensors")]
    assert main([*argv, "--steps", "0", "--preset", "2x", "--device", "cpu"]) == 0
    trained = asymvq.load(tmp_path / "out.safetensors")
    assert trained.config.condition.kind is ConditionKind.AFFINE
    latent, condition = given(vae.config, blob_mask)
    expected = vae.decode(latent)
    for how in ({}, condition):
        torch.testing.assert_close(trained.decode(latent, **how), expected, atol=1e-4, rtol=0)
