"""Harmonising: drift goes, what was meant to change stays, and any mask gives a sound result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import built, shared
from torch import Tensor

import asymvq
from asymvq.autoencoders import tiny
from asymvq.harmonise import FRAMES, Picture, harmonise_each
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, colour_error, masked_error
from asymvq.pictures import cover, read_picture

ASSETS = Path(asymvq.__file__).parent / "assets"
SIZE = 128
RED = torch.tensor([0.8, -0.8, -0.8])[:, None, None]


def picture(seed: int = 0, size: int = SIZE) -> Tensor:
    """(1, 3, size, size): soft blobs of colour."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator) * 1.2 - 0.6
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True).clamp(-1, 1)


def noise(scale: float, seed: int = 0, size: int = SIZE) -> Tensor:
    return scale * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def box(top: int, left: int, height: int, width: int, size: int = SIZE) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., top : top + height, left : left + width] = 1
    return mask


def ramp(size: int = SIZE) -> Tensor:
    return torch.linspace(-0.2, 0.2, size)[None, None, None, :].expand(1, 3, size, size)


MASKS = {
    "middle": box(40, 40, 48, 48),
    "at the frame": box(0, 50, 60, 40),
    "a corner": box(70, 70, 58, 58),
    "all but a strip": box(0, 0, SIZE, SIZE - 20),
    "two": torch.maximum(box(10, 10, 20, 30), box(80, 90, 30, 30)),
}


@pytest.fixture(params=["bundled", "TAEF2"], scope="module")
def panned(request):
    """A VAE, six frames that pan over a photo, masks of them, pixels a frame, and by how much flicker may grow."""
    if request.param == "bundled":
        vae, most = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32), 1.4
    else:
        files = [shared("weights") / f"taef2_{part}.pth" for part in ("encoder", "decoder")]
        if not all(path.is_file() for path in files):
            pytest.skip("needs TAEF2's weights: set ASYMVQ_WEIGHTS to the folder of taef2_*.pth")
        halves = ({k: v.float() for k, v in torch.load(f, weights_only=True).items()} for f in files)
        vae, most = built(*tiny.read(tiny.together(*halves), "TAESD")), 1.02
    step, side = 3, SIZE + 16
    photo = cover(read_picture(ASSETS / "picture.png"), (side, side))
    mask = box(40, 36, 64, 60, side)
    at = [slice(t * step, t * step + SIZE) for t in range(6)]
    images, masks = (torch.cat([picture[..., part, part] for part in at]) for picture in (photo, mask))
    return vae, images, masks, step, most


class TestDrift:
    @pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
    @pytest.mark.parametrize("kind", ["global", "varying"])
    def test_goes(self, mask: Tensor, kind: str) -> None:
        image = picture()
        drift = ramp() if kind == "varying" else torch.tensor([0.2, -0.1, 0.15])[:, None, None]
        decoded = image + drift + noise(0.03)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        own = 0.03**2  # the noise's
        assert masked_error(after, image, mask) - own < 0.25 * (masked_error(decoded, image, mask) - own)

    def test_contrast_and_tint_go(self) -> None:
        image, mask = picture(), MASKS["middle"]
        decoded = 0.7 * image * torch.tensor([1.1, 1.0, 0.8])[:, None, None] + noise(0.02)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert masked_error(after, image, mask) < 0.2 * masked_error(decoded, image, mask)

    def test_without_drift_nothing_is_made_worse(self) -> None:
        for seed in range(5):
            image = picture(seed)
            decoded, mask = image + noise(0.1, seed), MASKS["middle"]
            after = asymvq.harmonise(decoded, image=image, mask=mask)
            assert masked_error(after, image, mask) < 1.02 * masked_error(decoded, image, mask)

    def test_seen_at_the_border_only(self) -> None:
        """As with a noise mask: kept latent cells are the source's, edited ones reach a little over the border."""
        image, mask = picture(), box(42, 42, 45, 45)
        touched = F.interpolate(F.max_pool2d(mask, 8), scale_factor=8)
        decoded = image + 0.2 * touched + noise(0.02)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert colour_error(after, image, mask) < 0.3 * colour_error(decoded, image, mask)

    def test_with_a_noise_mask_other_content_goes_by_the_masks_surroundings(self) -> None:
        """Kept pixels err all over, as normalisation makes them, and the edit does not: nothing is to be corrected."""
        image, mask = picture(), MASKS["middle"]
        truth = torch.where(mask > 0, picture(seed=7) * 0.5 + 0.3, image)
        decoded = truth + 0.15 * (1 - mask) + noise(0.02)
        blind, told = (
            masked_error(asymvq.harmonise(decoded, image=image, mask=mask, noise_mask=n), truth, mask)
            for n in (False, True)
        )
        assert blind > 10 * masked_error(decoded, truth, mask)
        assert told < 0.002

    def test_with_a_noise_mask_the_same_content_is_seen_from_all_kept_pixels(self) -> None:
        image, mask = picture(), MASKS["middle"]
        decoded = image + torch.tensor([0.2, -0.1, 0.15])[:, None, None] + noise(0.02)
        blind, told = (asymvq.harmonise(decoded, image=image, mask=mask, noise_mask=n) for n in (False, True))
        torch.testing.assert_close(told, blind, atol=0.02, rtol=0)

    def test_of_a_conditional_decode_is_seen_in_the_plain_one(self) -> None:
        image, mask = picture(), MASKS["middle"]
        plain = image + 0.2 + noise(0.02)
        conditional = torch.where(mask > 0, plain, image)
        alone = asymvq.harmonise(conditional, image=image, mask=mask)
        both = asymvq.harmonise(conditional, image=image, mask=mask, plain=plain)
        torch.testing.assert_close(alone, conditional, atol=1e-3, rtol=0)
        assert masked_error(both, image, mask) < 0.05 * masked_error(conditional, image, mask)

    def test_what_a_conditional_decode_has_corrected_is_not_corrected_again(self) -> None:
        image, mask = picture(), MASKS["middle"]
        detail = noise(0.05, seed=1)
        plain, conditional = image + 0.2 + noise(0.02), image + 0.05 * mask + detail
        both = asymvq.harmonise(conditional, image=image, mask=mask, plain=plain)
        after = (both - image - detail).masked_select(mask > 0)
        assert after.abs().mean() < 0.02

    def test_where_nothing_tells_of_drift_nothing_is_changed(self) -> None:
        image, mask = picture(), MASKS["middle"]
        nowhere = torch.zeros_like(mask) > 0
        for plain in (None, image + 0.2):
            after = asymvq.harmonise(image + 0.1, image=image, mask=mask, plain=plain, witness=nowhere)
            assert torch.equal(after, image + 0.1)

    def test_large_surroundings_are_seen_as_small_ones(self) -> None:
        size = 768
        image = picture(size=size)
        decoded, mask = image + ramp(size) + noise(0.03, size=size), box(200, 150, 300, 400, size)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert masked_error(after, image, mask) < 0.0015
        assert border_error(after, image, mask) < 0.0015

    def test_of_the_bundled_vae(self) -> None:
        vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
        image = cover(read_picture(ASSETS / "picture.png"), (SIZE, SIZE))
        with torch.no_grad():
            decoded = asymvq.decode(vae, vae.encode((image + 0.2).clamp(-1, 1)))
        mask = MASKS["middle"]
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert masked_error(after, image, mask) < 0.8 * masked_error(decoded, image, mask)


class TestWhatWasMeantToChange:
    @pytest.mark.parametrize("drift", [0.0, 0.15])
    def test_a_red_object_that_touches_the_kept_region_keeps_its_colour(self, drift: float) -> None:
        """A decoder that mixes neighbours, as a blur does: the object's red runs into kept pixels."""
        image = (0.2 * picture()).clamp(-1, 1)
        mask, thing = box(30, 40, 70, 60), box(45, 40, 40, 30)
        truth = torch.where(thing > 0, RED, image)
        decoded = F.avg_pool2d(F.pad(truth, (3, 3, 3, 3), mode="replicate"), 7, 1) + drift + noise(0.02)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        error, pasted = (masked_error(x, truth, thing) for x in (after, decoded))
        assert error < 1.5 * pasted
        if drift:
            beside = mask * (1 - thing)
            assert colour_error(after, truth, beside) < 0.2 * colour_error(decoded, truth, beside)

    @pytest.mark.parametrize("drift", [0.0, 0.15])
    def test_a_red_object_in_a_grey_picture(self, drift: float) -> None:
        """What red the decoder mixes into kept pixels is all the chroma there is, and tells nothing of colours."""
        image = (0.8 * picture()).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        mask, thing = box(30, 40, 70, 60), box(45, 40, 40, 30)
        truth = torch.where(thing > 0, RED, image)
        decoded = F.avg_pool2d(F.pad(truth, (3, 3, 3, 3), mode="replicate"), 7, 1) + drift + noise(0.02)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert masked_error(after, truth, thing) < 1.1 * masked_error(decoded, truth, thing)

    def test_colours_that_are_kept_nowhere_are_corrected_no_further_than_kept_ones(self) -> None:
        grey = 0.1 * picture().mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        mask = MASKS["middle"]
        decoded = torch.where(mask > 0, RED, 1.3 * grey + noise(0.01))
        after = asymvq.harmonise(decoded, image=grey, mask=mask)
        assert (after - decoded).abs().max() < 0.1

    def test_kept_pixels_stay_as_decoded(self) -> None:
        image, mask = picture(), MASKS["two"]
        decoded = image + 0.2
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert torch.equal(after[(mask <= 0).expand(-1, 3, -1, -1)], decoded[(mask <= 0).expand(-1, 3, -1, -1)])


class TestStrength:
    def test_none_changes_nothing(self) -> None:
        decoded = picture(1)
        assert torch.equal(asymvq.harmonise(decoded, image=picture(), mask=MASKS["middle"], strength=0), decoded)

    def test_is_linear(self) -> None:
        decoded, image, mask = picture() + ramp(), picture(), MASKS["middle"]
        changes = [asymvq.harmonise(decoded, image=image, mask=mask, strength=s) - decoded for s in (0.25, 1.0)]
        torch.testing.assert_close(4 * changes[0], changes[1], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
    def test_out_of_range(self, strength: float) -> None:
        with pytest.raises(ValueError, match="strength from 0 to 1"):
            asymvq.harmonise(picture(), image=picture(), mask=MASKS["middle"], strength=strength)


class TestAnyMask:
    @pytest.mark.parametrize("mask", [torch.zeros(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)])
    def test_nothing_edited_or_nothing_kept_is_unchanged(self, mask: Tensor) -> None:
        decoded = picture(1)
        assert torch.equal(asymvq.harmonise(decoded, image=picture(), mask=mask), decoded)

    @settings(max_examples=60, deadline=None)
    @given(
        height=st.integers(1, 150),
        width=st.integers(1, 150),
        kind=st.sampled_from(["thick", "islands", "gaps", "soft", "noise"]),
        seed=st.integers(0, 1000),
    )
    def test_gives_finite_and_bounded_pixels(self, height: int, width: int, kind: str, seed: int) -> None:
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        mask = torch.ones(1, height, width)
        if kind == "thick" and min(height, width) >= 8:
            mask = random_thick_mask(height, width, rng)
        elif kind == "islands":
            for _ in range(3):
                mask[:, rng.integers(height), rng.integers(width)] = 0
        elif kind == "gaps":
            mask[..., :: rng.integers(2, 20)] = 0
        elif kind == "soft":
            mask = torch.linspace(-0.5, 1, width).clamp(min=0).expand(1, height, width)
        elif kind == "noise":
            mask = (torch.rand(1, height, width, generator=generator) > 0.5).float()
        image, decoded = (torch.rand(1, 3, height, width, generator=generator) * 2 - 1 for _ in range(2))
        after = asymvq.harmonise(decoded, image=image, mask=mask[None])
        assert torch.isfinite(after).all()
        assert (after - decoded).abs().max() <= 4  # twice the largest residual

    def test_a_tiny_island_of_kept_pixels_is_no_reason_to_extrapolate(self) -> None:
        image = picture()
        decoded, mask = image + 0.1 + noise(0.05), torch.ones(1, 1, SIZE, SIZE)
        mask[..., 60:63, 60:63] = 0
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert (after - decoded).abs().max() < 0.5

    def test_a_soft_rim_counts_as_edited(self) -> None:
        image, mask = picture(), F.avg_pool2d(MASKS["middle"], 9, 1, 4)
        decoded = image + 0.2
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert masked_error(after, image, mask) < 0.001

    def test_what_is_no_number_under_the_mask_counts_nothing(self) -> None:
        image, mask = picture(), MASKS["middle"]
        decoded = image + 0.2
        hole = torch.where(mask > 0, float("nan"), image)
        assert torch.equal(
            asymvq.harmonise(decoded, image=hole, mask=mask), asymvq.harmonise(decoded, image=image, mask=mask)
        )


class TestVideo:
    @staticmethod
    def clip(frames: int = 6) -> tuple[Tensor, Tensor, Tensor]:
        """(decoded, image, mask): a mask that moves, noise of each frame's own."""
        image = picture()
        mask = torch.cat([box(36 + 2 * t, 40 - 2 * t, 48, 48) for t in range(frames)])
        return torch.cat([image + 0.1 + noise(0.1, t) for t in range(frames)]), image, mask

    def test_a_cut_and_a_sudden_light_are_followed(self) -> None:
        decoded, image, mask = self.clip()
        decoded[3:] -= 0.3
        single, video = (asymvq.harmonise(decoded, image=image, mask=mask, frames=frames) for frames in (1, 6))
        assert masked_error(video, image.expand(6, -1, -1, -1), mask) < 1.01 * masked_error(
            single, image.expand(6, -1, -1, -1), mask
        )

    def test_videos_of_a_batch_do_not_mix(self) -> None:
        decoded, image, mask = self.clip()
        both = asymvq.harmonise(decoded, image=image, mask=mask, frames=3)
        for part in (slice(3), slice(3, 6)):
            alone = asymvq.harmonise(decoded[part], image=image, mask=mask[part], frames=3)
            assert torch.equal(both[part], alone)
        assert not torch.equal(both, asymvq.harmonise(decoded, image=image, mask=mask, frames=6))

    def test_a_long_one_takes_the_memory_of_a_few_frames(self) -> None:
        decoded, image, mask = self.clip(9)
        whole = asymvq.harmonise(decoded, image=image, mask=mask, frames=9)
        taken = 0

        def pictures() -> Iterator[Picture]:
            nonlocal taken
            for one, covered in zip(decoded, mask, strict=True):
                taken += 1
                yield Picture(one.clone(), image[0], covered)

        result = harmonise_each(pictures(), strength=1.0, factor=8, noise_mask=False, frames=9)
        for t, one in enumerate(result):
            assert taken == min(t + 1 + FRAMES, 9)
            assert torch.equal(one, whole[t])

    def test_of_each_frame_a_part_may_be_there(self) -> None:
        """Of a large picture, what a mask-local decode saw: the parts begin elsewhere in each frame."""
        size, top = 384, 120
        image = picture(size=size)
        mask = torch.cat([box(top + 9 * t, 150, 64, 64, size) for t in range(4)])
        decoded = torch.cat([image + 0.1 + ramp(size) + noise(0.1, t, size) for t in range(4)])
        whole = asymvq.harmonise(decoded, image=image, mask=mask, frames=4)
        parts = [(..., slice(top + 9 * t - 70 - t, top + 9 * t + 64 + 70), slice(80, 290)) for t in range(4)]
        given = (
            Picture(decoded[t][part].clone(), image[0][part], mask[t][part], at=(part[1].start, part[2].start))
            for t, part in enumerate(parts)
        )
        for t, one in enumerate(harmonise_each(given, strength=1.0, factor=8, noise_mask=False, frames=4)):
            torch.testing.assert_close(one, whole[t][parts[t]], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("region", ["full", "masked"])
    def test_a_decode_does_not_depend_on_how_the_batch_is_cut(self, region: str) -> None:
        vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
        image = cover(read_picture(ASSETS / "picture.png"), (SIZE, SIZE))
        mask = torch.cat([box(30 + 4 * t, 40, 40, 40) for t in range(5)])
        with torch.inference_mode():
            latent = vae.encode(torch.cat([(image + 0.1 + noise(0.05, t)).clamp(-1, 1) for t in range(5)]))
            whole, *parts = (
                asymvq.decode(vae, latent, image=image, mask=mask, region=region, harmonise=1, frames=5, batch=batch)
                for batch in (5, 1, 2)
            )
            single = asymvq.decode(vae, latent, image=image, mask=mask, region=region, harmonise=1, batch=5)
        for part in parts:
            torch.testing.assert_close(part, whole, atol=1e-4, rtol=0)
        flicker = [colour_error(x.diff(dim=0), x[1:] * 0, mask[1:] * mask[:-1]) for x in (single, whole)]
        assert flicker[1] < flicker[0]
        assert torch.equal(whole[(mask == 0).expand_as(whole)], image.expand_as(whole)[(mask == 0).expand_as(whole)])

    def test_frames_without_an_edit_are_passed_over(self) -> None:
        decoded, image, mask = self.clip()
        mask[2] = 0
        after = asymvq.harmonise(decoded, image=image, mask=mask, frames=6)
        assert torch.equal(after[2], decoded[2])
        assert masked_error(after[[1, 3]], image.expand(2, -1, -1, -1), mask[[1, 3]]) < 0.011

    @pytest.mark.parametrize("frames", [0, 4, 12])
    def test_frames_that_do_not_divide(self, frames: int) -> None:
        decoded, image, mask = self.clip()
        with pytest.raises(ValueError, match=f"frames to divide the number of pictures, 6, but got {frames}"):
            asymvq.harmonise(decoded, image=image, mask=mask, frames=frames)


class TestTensors:
    def test_in_place(self) -> None:
        image, mask = picture(), MASKS["middle"]
        decoded = image + 0.2 + noise(0.02)
        expected = asymvq.harmonise(decoded, image=image, mask=mask)
        assert not torch.equal(expected, decoded)
        given = decoded.clone()
        assert asymvq.harmonise(given, image=image, mask=mask, in_place=True) is given
        assert torch.equal(given, expected)

    def test_a_batch_is_its_pictures(self) -> None:
        image, mask = picture(), torch.cat([MASKS["middle"], MASKS["two"]])
        decoded = torch.cat([image + 0.2, image + ramp()])
        whole = asymvq.harmonise(decoded, image=image, mask=mask)
        for i in range(2):
            alone = asymvq.harmonise(decoded[i : i + 1], image=image, mask=mask[i : i + 1])
            torch.testing.assert_close(whole[i : i + 1], alone)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_in_and_out(self, dtype: torch.dtype) -> None:
        image, mask = picture().to(dtype), MASKS["middle"].bool()
        decoded = (picture() + ramp()).to(dtype)
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        assert after.dtype == dtype
        full = asymvq.harmonise(decoded.float(), image=image.float(), mask=mask)
        torch.testing.assert_close(after.float(), full, atol=0.01, rtol=0.01)

    @pytest.mark.parametrize("size", [64, 512])
    def test_gradients_reach_the_decode(self, size: int) -> None:
        image, mask = picture(size=size), box(size // 4, size // 4, size // 2, size // 2, size)
        decoded = (image + 0.2 + noise(0.02, size=size)).requires_grad_()
        asymvq.harmonise(decoded, image=image, mask=mask).square().mean().backward()
        assert decoded.grad is not None
        assert torch.isfinite(decoded.grad).all()
        # edited pixels matter, and kept ones through what they tell of drift
        edited = (mask > 0).expand(-1, 3, -1, -1)
        assert decoded.grad[edited].abs().max() > 0
        assert decoded.grad[~edited].abs().max() > 0

    def test_frames_are_steady(self) -> None:
        """A decode whose frames drift differently: the correction moves as the drift does, and no more."""
        image, mask = picture(), MASKS["middle"]
        drift = torch.stack([0.1 + 0.03 * torch.sin(torch.tensor(t / 2.0)) for t in range(6)])[:, None, None, None]
        decoded = torch.cat([image + d + noise(0.03, t) for t, d in enumerate(drift)])
        after = asymvq.harmonise(decoded, image=image, mask=mask)
        inside = (mask > 0).expand(6, 3, -1, -1)
        before_flicker, flicker = (
            (x - image).mul(inside).mean(dim=(2, 3)).diff(dim=0).square().mean() for x in (decoded, after)
        )
        assert flicker < 0.3 * before_flicker
        # pixel by pixel: the noise is the decode's own
        assert (after.diff(dim=0)[inside[1:]]).square().mean() < (decoded.diff(dim=0)[inside[1:]]).square().mean()

    @pytest.mark.parametrize("drift", ["none", "one", "trembling"])
    def test_frames_that_pan_over_a_photo(self, panned, drift: str) -> None:
        """Flicker: what a pixel of the photo errs by, less what it erred by in the frame before."""
        vae, images, masks, step, most = panned
        rng = np.random.default_rng(3)
        shifts = {"none": torch.zeros(6, 3), "one": torch.tensor([0.15, -0.1, 0.05]).expand(6, 3)}
        shift = shifts.get(drift, torch.from_numpy(rng.uniform(-0.2, 0.2, (6, 3))).float())[:, :, None, None]
        with torch.inference_mode():
            decoded = asymvq.decode(vae, vae.encode((images + shift).clamp(-1, 1)))
        after = asymvq.harmonise(decoded, image=images, mask=masks, factor=vae.factor)
        video = asymvq.harmonise(decoded, image=images, mask=masks, factor=vae.factor, frames=6)

        def flicker(frames: Tensor, patch: int = 1) -> float:
            errors = (frames - images) * masks
            change = errors[1:, ..., :-step, :-step] - errors[:-1, ..., step:, step:]
            return F.avg_pool2d(change, patch).square().mean().item()

        assert flicker(after) < (0.8 if drift == "trembling" else most) * flicker(decoded)
        for patch in (1, 16):
            assert flicker(video, patch) < (0.8 if drift == "trembling" else 1.1) * flicker(decoded, patch)
        one_by_one, steady = (masked_error(frames, images, masks) for frames in (after, video))
        assert steady < 1.02 * one_by_one

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((1, 3, 8, 8), (1, 3, 8, 9), (1, 1, 8, 8)), "image of shape"),
            (((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)), "mask of shape"),
            (((3, 3, 8, 8), (2, 3, 8, 8), (1, 1, 8, 8)), "image of shape"),
            (((1, 4, 8, 8), (1, 3, 8, 8), (1, 1, 8, 8)), "decoded of shape"),
        ],
    )
    def test_shapes_that_do_not_fit(self, shapes: tuple[tuple[int, ...], ...], message: str) -> None:
        decoded, image, mask = (torch.zeros(shape) for shape in shapes)
        with pytest.raises(ValueError, match=message):
            asymvq.harmonise(decoded, image=image, mask=mask)

    def test_a_plain_decode_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match="plain of the shape"):
            asymvq.harmonise(picture(), image=picture(), mask=MASKS["middle"], plain=picture()[..., :-1])
