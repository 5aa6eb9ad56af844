"""Crop for Inpainting, Stitch Back, Align Edit to Source and Mask From Change, in a real ComfyUI in this process."""

from __future__ import annotations

import pytest
import torch


def run(host, node_id: str, **inputs):
    with torch.inference_mode():
        return host.nodes.NODE_CLASS_MAPPINGS[node_id].execute(**inputs).args


@pytest.fixture
def case():
    """A picture (1, 80, 120, 3) and a mask (1, 80, 120) at its rim."""
    image = torch.rand(1, 80, 120, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 80, 120)
    mask[:, 30:60, 90:] = 1
    return image, mask


@pytest.mark.parametrize(
    "size",
    [
        {"size": "as it is", "aspect": "1:1"},
        {"size": "megapixels", "megapixels": 0.05, "aspect": "free"},
        {"size": "width and height", "width": 96, "height": 64},
    ],
)
def test_kept_pixels_come_back_bit_for_bit(host, case, size):
    image, mask = case
    part, part_mask, crop = run(host, "AsymVQInpaintCrop", image=image, mask=mask, size=size, context=8)
    assert part.shape[1] % 16 == part.shape[2] % 16 == 0
    assert part_mask.shape == part.shape[:3]
    (result,) = run(host, "AsymVQStitch", crop=crop, image=1 - part)
    assert result.shape == image.shape
    kept = mask == 0
    assert torch.equal(result[kept], image[kept])
    assert not torch.equal(result, image)


@pytest.mark.parametrize("harmonise", [0.0, 1.0])
def test_an_identity_edit_changes_nothing(host, case, harmonise):
    image, mask = case
    part, _, crop = run(host, "AsymVQInpaintCrop", image=image, mask=mask, size={"size": "as it is", "aspect": "free"})
    (result,) = run(host, "AsymVQStitch", crop=crop, image=part, harmonise=harmonise)
    assert torch.equal(result, image)


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 64, 64)], ids=["none", "Load Image's own"])
def test_outpainting_needs_no_mask(host, case, mask):
    image, _ = case
    size = {"size": "as it is", "aspect": "free"}
    part, _, crop = run(host, "AsymVQInpaintCrop", image=image, mask=mask, size=size, right=40, context=256)
    (result,) = run(host, "AsymVQStitch", crop=crop, image=torch.zeros_like(part))
    assert result.shape == (1, 80, 160, 3)
    assert torch.equal(result[:, :, :120], image)


def test_neither_mask_nor_side(host, case):
    with pytest.raises(ValueError, match="open the mask editor"):
        run(host, "AsymVQInpaintCrop", image=case[0], size={"size": "as it is", "aspect": "free"})


def test_something_else_in_the_crops_place(host, case):
    with pytest.raises(ValueError, match="Connect Crop for Inpainting"):
        run(host, "AsymVQStitch", crop=3, image=case[0])


def test_aligning_gives_the_librarys_picture_and_numbers(host):
    noise = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(noise, (160, 192), mode="bicubic").clamp(0, 1).movedim(1, -1)
    edited = torch.roll(image, (3, -5), (1, 2))
    aligned, x, y, scale, rotation = run(host, "AsymVQAlign", edited=torch.cat([edited, image]), source=image)
    assert aligned.shape == (2, 160, 192, 3)
    assert (x, y, scale, rotation) == pytest.approx((-5, 3, 1, 0), abs=0.1)
    assert torch.equal(aligned[1], image[0])


def test_the_mask_of_a_change_is_the_librarys(host):
    noise = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(noise, (160, 192), mode="bicubic").clamp(0, 1).movedim(1, -1)
    edited = image * 0.9 + 0.05
    changed = edited.clone()
    changed[:, 40:100, 50:120] = 1 - changed[:, 40:100, 50:120]
    output = host.nodes.NODE_CLASS_MAPPINGS["AsymVQChangeMask"].execute(
        edited=torch.cat([changed, edited]), source=image, grow=0, feather=0
    )
    (mask,) = output.args
    assert mask.shape == (2, 160, 192)
    assert mask[0, 45:95, 55:115].mean() > 0.95
    assert mask[0].mean() == pytest.approx(60 * 70 / (160 * 192), rel=0.25)
    assert not mask[1].any()
    lines = "".join(output.ui["text"]).split("\n")
    assert lines[0].startswith("The mask covers 1")
    assert lines[1] == "Nothing changed: the mask is empty."


def test_what_the_vae_does_by_itself_is_no_change(host, case):
    """The edit is what comes back of the source: with the VAE nothing is left to compare."""
    vae = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"].execute(vae_name="demo (bundled)").args[0]
    image = host.nodes.NODE_CLASS_MAPPINGS["AsymVQDemoPictures"].execute().args[0][:, :256, :256]
    with torch.inference_mode():
        edited = vae.decode(vae.encode(image)).clamp(0, 1)
    (mask,) = run(host, "AsymVQChangeMask", edited=edited, source=image, vae=vae)
    assert not mask.any()
    edited = edited.clone()
    edited[:, 40:140, 60:160] = 1 - edited[:, 40:140, 60:160]
    (mask,) = run(host, "AsymVQChangeMask", edited=edited, source=image, vae=vae, grow=0, feather=0)
    assert mask[0, 45:135, 65:155].mean() > 0.95


def test_a_change_needs_a_vae_where_there_is_something_else(host, case):
    with pytest.raises(ValueError, match="Expected a VAE, but got str"):
        run(host, "AsymVQChangeMask", edited=case[0] * 0.9, source=case[0], vae="vae")


def test_a_change_needs_one_size(host, case):
    with pytest.raises(ValueError, match="Give both to Align Edit to Source first"):
        run(host, "AsymVQChangeMask", edited=case[0][:, :40], source=case[0])
