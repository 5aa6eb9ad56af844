"""Parts of pictures cut out, edited and put back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asymvq.stitch import crop_for_inpainting, stitch


def picture_and_mask(height: int, width: int, seed: int, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """With a mask that touches the frame."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, height, width)
    top, left = (int(torch.randint(0, n, (1,), generator=generator)) for n in (height, width))
    bottom, right = (top + 1 + height // 3, width) if seed % 2 else (height, left + 1 + width // 3)
    mask[..., top:bottom, left:right] = 1
    mask[..., top : top + 1, left:right] = 0.5
    return image, mask


sizes = st.integers(8, 90)


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, seed=st.integers(0, 999), data=st.data())
def test_an_identity_edit_comes_back_bit_for_bit(height, width, seed, data):
    image, mask = picture_and_mask(height, width, seed, count=data.draw(st.integers(1, 2)))
    aspect = data.draw(st.sampled_from([None, 1.0, 16 / 9, 2 / 3]))
    multiple = data.draw(st.sampled_from([8, 16, 32]))
    part, part_mask, crop = crop_for_inpainting(image, mask, context=5, aspect=aspect, multiple=multiple)
    assert part.shape[-2] % multiple == part.shape[-1] % multiple == 0
    assert part_mask.sum() == mask.sum()
    assert torch.equal(stitch(crop, part), image)


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, seed=st.integers(0, 999), data=st.data())
def test_kept_pixels_of_a_scaled_part_come_back_bit_for_bit(height, width, seed, data):
    image, mask = picture_and_mask(height, width, seed)
    size = (data.draw(st.integers(8, 120)), data.draw(st.integers(8, 120)))
    expand = data.draw(st.sampled_from([(0, 0, 0, 0), (7, 0, 3, 0), (0, 11, 0, 0)]))
    part, _, crop = crop_for_inpainting(image, mask, size=size, multiple=8, expand=expand)
    result = stitch(crop, -part)
    left, top, right, bottom = expand
    assert result.shape[-2:] == (height + top + bottom, width + left + right)
    inner = result[..., top : top + height, left : left + width]
    kept = (mask == 0).expand_as(image)
    assert torch.equal(inner[kept], image[kept])
    assert not torch.equal(inner, image)


def test_harmonising_is_reported_and_can_be_stopped():
    image, mask = picture_and_mask(60, 70, seed=1, count=3)
    part, _, crop = crop_for_inpainting(image, mask)
    seen = []
    stitch(crop, part * 0.9, strength=1.0, frames=3, progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    class Stopped(Exception):
        pass

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        stitch(crop, part * 0.9, strength=1.0, progress=stop)


def test_megapixels_scale_the_part_without_stretching():
    image, mask = torch.zeros(1, 3, 300, 500), torch.zeros(1, 1, 300, 500)
    mask[..., 100:140, 200:300] = 1
    part, _, crop = crop_for_inpainting(image, mask, megapixels=0.25, multiple=32)
    assert part[0, 0].numel() == pytest.approx(250_000, rel=0.1)
    assert crop.box.width / crop.box.height == pytest.approx(part.shape[-1] / part.shape[-2], rel=0.01)


def test_outpainting_needs_no_mask_and_continues_the_border():
    image = torch.rand(1, 3, 40, 48)
    part, mask, crop = crop_for_inpainting(image, expand=(0, 0, 24, 0), context=200, multiple=8)
    assert part.shape[-2:] == (40, 72)
    assert torch.equal(part[..., 48:], image[..., -1:].expand(-1, -1, -1, 24))
    assert mask[..., 48:].eq(1).all()
    assert mask[..., :48].eq(0).all()
    assert torch.equal(stitch(crop, torch.zeros_like(part))[..., :48], image)


def test_growing_paints_some_of_a_widened_picture_anew():
    _, mask, _ = crop_for_inpainting(torch.rand(1, 3, 40, 48), expand=(0, 0, 24, 0), context=200, grow=3)
    assert mask[..., 45:].eq(1).all()
    assert mask[..., :45].eq(0).all()


def test_several_edits_of_one_picture():
    image, mask = picture_and_mask(50, 60, 3)
    part, _, crop = crop_for_inpainting(image, mask)
    results = stitch(crop, torch.cat([part, -part, part * 0]))
    assert len(results) == 3
    assert torch.equal(results[0], image[0])


@pytest.mark.parametrize("noise", [0.0, 8 / 255])
def test_an_empty_mask_is_an_error(noise: float):
    with pytest.raises(ValueError, match="mask is empty"):
        crop_for_inpainting(torch.zeros(1, 3, 16, 16), torch.full((1, 1, 16, 16), noise))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (64, 64), "megapixels": 1.0}, "but got both"),
        ({"mask": torch.ones(1, 1, 9, 9)}, "Use the mask that was made for it"),
        ({"expand": (0, -1, 0, 0)}, "0 or more"),
        ({"aspect": 0.0}, "above 0"),
        ({"size": (1 << 15, 1 << 15)}, "smaller one"),
    ],
)
def test_bad_input(change, message):
    image, mask = picture_and_mask(16, 16, 1)
    with pytest.raises(ValueError, match=message):
        crop_for_inpainting(**{"image": image, "mask": mask} | change)


def test_edits_that_do_not_divide_the_pictures_are_refused():
    image, mask = picture_and_mask(16, 16, 1, count=2)
    part, _, crop = crop_for_inpainting(image, mask)
    with pytest.raises(ValueError, match="for 2"):
        stitch(crop, part[:1].repeat(3, 1, 1, 1))
