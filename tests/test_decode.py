"""`asymvq.decode`: sizes, batches, tiles, kept pixels and what is refused. Networks are tiny, masks are real."""

import dataclasses
import io
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.config import ConditionConfig, MaskReduction
from asymvq.decode import Keep, Region, compose, fit_source, make_plan
from asymvq.masks import MASK_FLOOR, alpha, edited, random_thick_mask
from asymvq.pictures import to_pillow

CONFIG = AutoencoderConfig(
    decoder_channels=(8, 8, 16),
    decoder_blocks=1,
    encoder_channels=(8, 8, 8),
    encoder_blocks=1,
    norm_groups=4,
)
FACTOR = CONFIG.factor


def make_vae(config: AutoencoderConfig = CONFIG) -> AsymmetricAutoencoder:
    torch.manual_seed(0)
    return AsymmetricAutoencoder(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> AsymmetricAutoencoder:
    return make_vae()


def make_case(height=24, width=32, count=1, seed=0, config=CONFIG):
    """A latent, a picture in [-1, 1] and a binary mask."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(
        count, config.latent_channels, height // config.factor, width // config.factor, generator=generator
    )
    image = torch.rand(count, 3, height, width, generator=generator) * 2 - 1
    mask = torch.stack([random_thick_mask(height, width, rng) for _ in range(count)])
    return latent, image, mask


class TestKeptPixels:
    @settings(max_examples=50, deadline=None)
    @given(
        height=st.integers(8, 41),
        width=st.integers(8, 41),
        count=st.integers(1, 3),
        one_image=st.booleans(),
        one_mask=st.booleans(),
        soft=st.booleans(),
        tile=st.sampled_from([None, 8, 16]),
        region=st.sampled_from(["auto", "masked", "full"]),
        seed=st.integers(0, 10**6),
    )
    def test_exact_returns_them_bit_for_bit(
        self, vae, height, width, count, one_image, one_mask, soft, tile, region, seed
    ):
        latent, _, _ = make_case(height, width, count, seed)
        _, image, mask = make_case(height, width, count, seed + 1)
        image = image[:1] if one_image else image
        mask = mask[:1] if one_mask else mask
        if soft:
            mask = torch.nn.functional.avg_pool2d(mask, 3, stride=1, padding=1)
        output = asymvq.decode(vae, latent, image=image, mask=mask, tile=tile, region=region)
        kept = (mask == 0).expand_as(output)
        assert output.shape == (count, 3, height, width)
        assert torch.equal(output[kept], image.expand_as(output)[kept])
        assert torch.isfinite(output).all()

    def test_inside_it_is_the_networks_picture_and_a_soft_mask_is_the_alpha(self, vae):
        latent, image, mask = make_case()
        network = asymvq.decode(vae, latent, image=image, mask=mask, keep="network")
        soft = torch.nn.functional.avg_pool2d(mask, 5, stride=1, padding=2)
        soft = torch.where(mask > 0, soft.clamp(min=0.1), torch.zeros_like(soft))  # the same pixels, softer
        output = asymvq.decode(vae, latent, image=image, mask=soft)
        torch.testing.assert_close(output, image + alpha(soft) * (network - image))
        hard = asymvq.decode(vae, latent, image=image, mask=mask)
        assert torch.equal(hard[(mask == 1).expand_as(hard)], network[(mask == 1).expand_as(hard)])

    def test_ten_rounds_of_encoding_and_decoding_leave_them_identical(self, vae):
        _, image, mask = make_case(seed=3)
        current = image
        for _ in range(10):
            current = asymvq.decode(vae, vae.encode(current), image=current, mask=mask).clamp(-1, 1)
        kept = (mask == 0).expand_as(image)
        assert torch.equal(current[kept], image[kept])
        assert not torch.equal(current[~kept], image[~kept])

    def test_in_unit_range_the_hosts_values_come_back_too(self, vae):
        latent, _, mask = make_case()
        image = torch.rand(1, 3, 24, 32)
        source = fit_source(vae.config, latent, image=image, mask=mask)
        output = compose(torch.rand(1, 3, 24, 32), source, Keep.EXACT)
        kept = (mask == 0).expand_as(output)
        assert torch.equal(output[kept], image[kept])

    @pytest.mark.parametrize("keep", list(Keep))
    @pytest.mark.parametrize("spare", [(0, 0), (2, 3)])
    def test_composing_in_place_gives_the_same_and_otherwise_leaves_its_input(self, vae, keep, spare):
        latent, image, _ = make_case(count=2)
        image = torch.nn.functional.pad(image, (0, spare[1], 0, spare[0]))
        rng = np.random.default_rng(5)
        masks = torch.stack([random_thick_mask(*image.shape[-2:], rng) for _ in range(2)])
        source = fit_source(vae.config, latent, image=image, mask=masks)
        decoded = torch.rand(2, 3, 24, 32)
        before = decoded.clone()
        output = compose(decoded, source, keep)
        assert torch.equal(decoded, before)
        assert output.data_ptr() != decoded.data_ptr()
        reused = compose(decoded, source, keep, in_place=True)
        assert torch.equal(reused, output)
        assert (reused.data_ptr() == decoded.data_ptr()) == (spare == (0, 0))


class TestMasks:
    def test_a_mask_of_ones_is_a_plain_decode(self, vae):
        latent, image, _ = make_case()
        output = asymvq.decode(vae, latent, image=image, mask=torch.ones(1, 1, 24, 32))
        assert torch.equal(output, asymvq.decode(vae, latent))

    def test_an_empty_mask_gives_the_source_and_a_warning(self, vae, caplog):
        latent, image, _ = make_case(count=2)
        with caplog.at_level(logging.WARNING):
            output = asymvq.decode(vae, latent, image=image, mask=torch.zeros(1, 1, 24, 32))
        assert torch.equal(output, image)
        assert "The mask is empty" in caplog.text

    @pytest.mark.parametrize("reduction", list(MaskReduction))
    @pytest.mark.parametrize("sees_mask", [False, True])
    def test_generated_pixels_depend_on_kept_ones_but_never_on_masked_ones(self, reduction, sees_mask):
        vae = make_vae(dataclasses.replace(CONFIG, condition=ConditionConfig(sees_mask, reduction)))
        latent, image, mask = make_case()
        noise = torch.rand_like(image) - 0.5
        network = asymvq.decode(vae, latent, image=image, mask=mask, keep="network")
        hidden = asymvq.decode(vae, latent, image=image + noise * mask, mask=mask, keep="network")
        shown = asymvq.decode(vae, latent, image=image + noise * (1 - mask), mask=mask, keep="network")
        assert torch.equal(network, hidden)
        inside = (mask == 1).expand_as(network)
        assert not torch.allclose(network[inside], shown[inside], atol=1e-3)


class TestSizes:
    @settings(max_examples=25, deadline=None)
    @given(
        spare=st.tuples(st.integers(0, FACTOR - 1), st.integers(0, FACTOR - 1)),
        padded=st.booleans(),
        keep=st.sampled_from(list(Keep)),
        soft=st.booleans(),
        seed=st.integers(0, 10**6),
    )
    def test_every_edited_pixel_is_the_nearest_decoded_one_and_every_kept_one_the_sources(
        self, vae, spare, padded, keep, soft, seed
    ):
        """The rim that an encoder crops off in the middle, or pads on the right and at the bottom."""
        latent, _, _ = make_case(24, 32, seed=seed)
        height, width = (size - s if padded else size + s for size, s in zip((24, 32), spare, strict=True))
        top, left = (0, 0) if padded else (spare[0] // 2, spare[1] // 2)
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
        mask = random_thick_mask(height, width, np.random.default_rng(seed))[None]
        if soft:
            mask = torch.nn.functional.avg_pool2d(mask, 3, stride=1, padding=1)

        y = (torch.arange(24) + top).clamp(0, height - 1)[:, None]
        x = (torch.arange(32) + left).clamp(0, width - 1)
        with torch.no_grad():
            network = vae.decode(latent, image=image[..., y, x], mask=edited(mask[..., y, x]).float())
        continued = network[
            ..., (torch.arange(height) - top).clamp(0, 23)[:, None], (torch.arange(width) - left).clamp(0, 31)
        ]
        expected = torch.where(edited(mask), torch.lerp(image, continued, alpha(mask)), image)
        if keep is Keep.NETWORK:
            inside = (slice(None), slice(None), slice(top, top + min(24, height)), slice(left, left + min(32, width)))
            expected[inside] = continued[inside]

        output = asymvq.decode(vae, latent, image=image, mask=mask, keep=keep, region="full")
        torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)
        kept = ~edited(mask).expand_as(output)
        if keep is Keep.EXACT:
            assert torch.equal(output[kept], image[kept])

    @settings(max_examples=25, deadline=None)
    @given(
        height=st.integers(8, 90), width=st.integers(8, 90), padded=st.booleans(), soft=st.booleans(),
        tile=st.sampled_from([None, 16]), region=st.sampled_from(["auto", "masked"]), seed=st.integers(0, 10**6),
    )  # fmt: skip
    def test_no_pixel_under_the_mask_is_left_to_the_source(self, vae, height, width, padded, soft, tile, region, seed):
        """Also at the rim alone, and where only a part is decoded: NaN is in the source wherever the mask edits."""
        rng = np.random.default_rng(seed)
        h, w = (-(-size // FACTOR) if padded else size // FACTOR for size in (height, width))
        latent = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(seed))
        mask = torch.zeros(1, 1, height, width)
        y, x = rng.integers(height), rng.integers(width)
        mask[..., y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = 1
        mask[..., 0, 0] = rng.integers(2)
        mask[..., -1, -1] = rng.integers(2)
        if soft:
            mask = torch.nn.functional.avg_pool2d(mask, 3, stride=1, padding=1)
        image = torch.rand(1, 3, height, width).masked_fill(edited(mask), float("nan"))
        output = asymvq.decode(vae, latent, image=image, mask=mask, region=region, tile=tile)
        assert torch.isfinite(output).all()

    def test_an_object_at_the_edge_leaves_no_line(self, vae):
        """The rim of 27×33 pixels, which a latent of 6×8 leaves out: 1 line above, 2 below, 1 column on the right."""
        latent, _, _ = make_case(24, 32)
        image, mask = torch.full((1, 3, 27, 33), 0.9), torch.zeros(1, 1, 27, 33)
        mask[..., 20:, 25:] = 1
        output = asymvq.decode(vae, latent, image=image, mask=mask, region="masked")
        assert torch.equal(output[..., 25, 25:32], output[..., 24, 25:32])
        assert torch.equal(output[..., 26, 25:32], output[..., 24, 25:32])
        assert torch.equal(output[..., 20:, 32], output[..., 20:, 31])
        assert not (output[..., 20:, 25:] == 0.9).any()
        assert (output[..., :20, :] == 0.9).all()

    @pytest.mark.parametrize("size", [(23, 33), (28, 32), (24, 28), (20, 32)])
    def test_other_sizes_are_refused(self, vae, size):
        latent, _, _ = make_case(24, 32)
        arguments = {"image": torch.zeros(1, 3, *size), "mask": torch.ones(1, 1, *size)}
        with pytest.raises(ValueError, match=r"32×24 pixels .* or of less than 4 more or less on both sides"):
            asymvq.decode(vae, latent, **arguments)

    def test_tiles_are_close_to_the_whole_and_each_is_reported(self, vae):
        # not equal: GroupNorm and attention see a tile's statistics instead of the picture's
        latent, image, mask = make_case(64, 64)
        done = []
        tiled = asymvq.decode(
            vae, latent, image=image, mask=mask, tile=32, overlap=16, region="full",
            progress=lambda *step: done.append(step),
        )  # fmt: skip
        whole = asymvq.decode(vae, latent, image=image, mask=mask, region="full")
        assert [step for step in done if step[0] == int(step[0])] == [(i, 9) for i in range(1, 10)]
        assert tiled.shape == whole.shape
        assert (tiled - whole).abs().mean() < 0.25 * whole[(mask > 0).expand_as(whole)].std()

    def test_one_tile_is_the_whole(self, vae):
        latent, image, mask = make_case()
        whole = asymvq.decode(vae, latent, image=image, mask=mask)
        assert torch.equal(asymvq.decode(vae, latent, image=image, mask=mask, tile=64), whole)

    def test_a_batch_gives_what_its_pictures_give(self, vae):
        latent, image, mask = make_case(count=3)
        together = asymvq.decode(vae, latent, image=image, mask=mask, batch=2)
        for i in range(3):
            one = slice(i, i + 1)
            alone = asymvq.decode(vae, latent[one], image=image[one], mask=mask[one])
            torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)


class TestCounts:
    @settings(max_examples=25, deadline=None)
    @given(
        counts=st.sampled_from([(4, 2, 1), (4, 1, 2), (4, 4, 2), (1, 1, 2), (2, 1, 4), (1, 4, 2), (2, 4, 4)]),
        # "auto" is decided for all of a batch together
        keep=st.sampled_from(list(Keep)), region=st.sampled_from(["masked", "full"]), batch=st.integers(1, 3),
        empty=st.booleans(), tile=st.sampled_from([None, 16]),
    )  # fmt: skip
    def test_those_that_divide_the_largest_are_taken_in_turn(self, vae, counts, keep, region, batch, empty, tile):
        """Latents, images and masks: a b a b, as the host's own nodes do."""
        latent, image, mask = make_case(24, 32, count=4)
        latent, image, mask = (t[:count] for t, count in zip((latent, image, mask), counts, strict=True))
        if empty:
            mask = mask.clone()
            mask[-1] = 0
        options = {"keep": keep, "region": region, "tile": tile}
        output = asymvq.decode(vae, latent, image=image, mask=mask, batch=batch, **options)
        assert len(output) == max(counts)
        for i in range(max(counts)):
            one = [t[i % len(t) :][:1] for t in (latent, image, mask)]
            alone = asymvq.decode(vae, one[0], image=one[1], mask=one[2], **options)
            torch.testing.assert_close(output[i : i + 1], alone, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("counts", [(2, 3, 1), (3, 2, 2), (4, 3, 1), (1, 2, 3)])
    def test_others_are_an_error_that_names_all(self, vae, counts):
        latent, image, mask = (t[:n] for t, n in zip(make_case(count=4), counts, strict=True))
        with pytest.raises(ValueError, match=f"got {counts[0]}, {counts[1]} and {counts[2]}"):
            asymvq.decode(vae, latent, image=image, mask=mask)


class TestFloor:
    """Noise in a mask's black and white is none of the artist's."""

    @pytest.mark.parametrize("noise", [1e-7, 1 / 255, 8 / 255])
    def test_up_to_the_floor_a_pixel_is_kept_and_near_white_is_white(self, vae, noise):
        latent, image, mask = make_case()
        noisy = mask.clamp(noise, 1 - noise)
        for options in ({}, {"keep": "network"}, {"region": "masked"}):
            clean = asymvq.decode(vae, latent, image=image, mask=mask, **options)
            assert torch.equal(asymvq.decode(vae, latent, image=image, mask=noisy, **options), clean)

    def test_above_it_the_network_sees_an_edited_pixel_and_alpha_starts_at_zero(self):
        levels = torch.arange(256) / 255
        assert edited(levels).tolist() == [False] * 9 + [True] * 247
        assert torch.equal(alpha(levels) > 0, edited(levels))
        assert alpha(levels)[9] < 0.5 / 255 * 1.1
        assert alpha(levels)[128:129].item() == pytest.approx(128 / 255, abs=1e-3)
        assert (alpha(levels) == 1).tolist() == [False] * 247 + [True] * 9
        assert alpha(levels).diff().max() < 1.1 / 255
        assert 8 / 255 < MASK_FLOOR < 9 / 255

    @pytest.mark.parametrize("quality", [75, 30])
    def test_a_mask_saved_as_jpeg_plans_and_edits_nearly_the_same(self, vae, quality):
        mask = torch.zeros(1, 1, 256, 256)
        mask[..., 101:150, 61:110] = 1
        file = io.BytesIO()
        Image.fromarray((mask[0, 0] * 255).byte().numpy()).save(file, "JPEG", quality=quality)
        lossy = torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32) / 255)[None, None]
        near = torch.nn.functional.max_pool2d(mask, 33, stride=1, padding=16) > 0
        assert not edited(lossy)[~near].any()
        latent, image, _ = make_case(256, 256)
        plans = [
            make_plan(CONFIG, latent, fit_source(CONFIG, latent, image=image, mask=each), region=Region.MASKED)
            for each in (mask, lossy)
        ]
        clean, noisy = (sum(tile.area for tile in plan.of(0)) for plan in plans)
        assert noisy <= 1.15 * clean

    def test_a_mask_that_keeps_nothing_says_so(self, vae, caplog):
        latent, image, mask = make_case(count=2)
        mask[1] = 0.5
        with caplog.at_level(logging.WARNING):
            asymvq.decode(vae, latent, image=image, mask=mask)
        assert "1 of 2 masks is white all over: no pixel of the source is kept there." in caplog.text


class TestValues:
    @settings(max_examples=30, deadline=None)
    @given(
        image_type=st.sampled_from([torch.uint8, torch.uint16, torch.int16, torch.float16, torch.float64]),
        mask_type=st.sampled_from(
            [torch.bool, torch.uint8, torch.uint16, torch.int16, torch.int64, torch.float16, torch.float64]
        ),
        binary=st.booleans(),
    )  # fmt: skip
    def test_any_type_gives_what_floats_in_range_give(self, vae, image_type, mask_type, binary):
        latent, image, mask = make_case()

        def stored(tensor, dtype, one):
            """`tensor` in [0, 1] as `dtype` has it, `one` being 1."""
            if dtype.is_floating_point or dtype == torch.bool:
                return tensor.to(dtype)
            return (tensor * one).round().to(torch.int64).to(dtype)

        one = None if image_type.is_floating_point else torch.iinfo(image_type).max
        given_image = image.to(image_type) if one is None else stored(image / 2 + 0.5, image_type, one)
        as_float = given_image.float() if one is None else given_image.float() / (one / 2) - 1
        small = binary or mask_type in (torch.int64, torch.bool) or mask_type.is_floating_point
        given_mask = stored(mask, mask_type, 1 if small else torch.iinfo(mask_type).max)
        output = asymvq.decode(vae, latent, image=given_image, mask=given_mask)
        assert output.dtype == torch.float32
        assert torch.equal(output, asymvq.decode(vae, latent, image=as_float, mask=mask))
        assert torch.equal(output[(mask == 0).expand_as(output)], as_float[(mask == 0).expand_as(output)])

    def test_bytes_of_a_picture_come_back_as_they_were(self, vae):
        latent, _, mask = make_case()
        image = (torch.rand(1, 3, 24, 32) * 255).byte()
        output = asymvq.decode(vae, latent, image=image, mask=mask)
        kept = (mask == 0).expand_as(output)
        assert torch.equal(to_pillow_bytes(output)[kept], image[kept])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": lambda image: (image + 1) * 127.5}, r"values in \[-1, 1\], but got .* to 25\d.* v / 127.5 - 1"),
            ({"mask": lambda mask: mask * 255}, r"values in \[0, 1\], but got 0 to 255. .* v / 255"),
            ({"mask": lambda mask: mask * 2 - 1}, "but got -1 to 1"),
            ({"mask": lambda mask: mask * float("nan")}, "finite mask"),
            ({"mask": lambda mask: (mask * 255).short()}, "torch.int16 with values up to 255: white .* 32767"),
            ({"mask": lambda mask: (mask * 255).long()}, "torch.int64 with values up to 255"),
            ({"mask": lambda mask: -mask.char()}, "from 0 on, but got -1 to 0"),
            ({"image": lambda image: ((image + 1) * 127.5).int()}, "torch.int32 with values up to 25"),
            ({"image": lambda image: image.to(torch.float8_e4m3fn)}, "a tensor of torch.float8_e4m3fn"),
            ({"image": lambda image: image.to_sparse()}, "sparse"),
            ({"image": lambda image: image.to("meta")}, "without values"),
            ({"image": lambda image: image[:0]}, r"an empty tensor of shape \(0, 3, 24, 32\)"),
            ({"image": lambda image: image[..., :0]}, "an empty tensor"),
            ({"image": lambda image: image.numpy()}, "but got ndarray"),
            ({"mask": lambda mask: mask[:0]}, "a mask .* an empty tensor"),
            ({"mask": lambda mask: mask.to_sparse()}, "a mask .* sparse"),
            ({"mask": lambda mask: mask.to(torch.float8_e5m2)}, "a mask .* torch.float8_e5m2"),
            ({"latent": lambda latent: latent[:0]}, "a latent .* an empty tensor"),
            ({"latent": lambda latent: latent[..., :0, :]}, "a latent .* an empty tensor"),
            ({"latent": lambda latent: latent.to_sparse()}, "a latent .* sparse"),
            ({"latent": lambda latent: latent.to("meta")}, "a latent .* without values"),
            ({"latent": lambda latent: latent.to(torch.float8_e4m3fn)}, "a latent .* torch.float8"),
            ({"latent": lambda latent: latent.int()}, "a latent .* torch.int32"),
            ({"latent": lambda latent: None}, "a latent .* but got None"),
        ],
    )  # fmt: skip
    def test_others_are_refused_in_words(self, vae, change, message):
        latent, image, mask = make_case()
        arguments = {"latent": latent, "image": image, "mask": mask}
        for name, make in change.items():
            arguments[name] = make(arguments[name])
        with pytest.raises(ValueError, match=message):
            asymvq.decode(vae, arguments.pop("latent"), **arguments)

    def test_small_overshoots_pass_and_kept_pixels_keep_theirs(self, vae):
        latent, image, mask = make_case()
        output = asymvq.decode(vae, latent, image=image * 1.4, mask=mask * 1.3 - 0.1)
        kept = (mask == 0).expand_as(output)
        assert torch.equal(output[kept], (image * 1.4)[kept])

    def test_a_mask_of_0_and_1_in_bytes_is_said(self, vae, caplog):
        latent, image, mask = make_case()
        with caplog.at_level(logging.WARNING):
            output = asymvq.decode(vae, latent, image=image, mask=mask.byte())
        assert "taken as a mask of 0 and 1" in caplog.text
        assert torch.equal(output, asymvq.decode(vae, latent, image=image, mask=mask))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("soft", [False, True])
    def test_what_is_not_finite_matters_in_kept_pixels_alone(self, vae, value, soft):
        latent, image, mask = make_case(count=2)
        if soft:
            mask = torch.nn.functional.avg_pool2d(mask, 5, stride=1, padding=2)
        broken = torch.where(edited(mask), value, image)
        for keep in Keep:
            output = asymvq.decode(vae, latent, image=broken, mask=mask, keep=keep)
            assert torch.isfinite(output).all()
        y, x = (~edited(mask)[1, 0]).nonzero()[0].tolist()
        broken[1, 0, y, x] = value
        with pytest.raises(ValueError, match="finite source image, but picture 2 holds NaN or infinity"):
            asymvq.decode(vae, latent, image=broken, mask=mask)

    def test_encoding_takes_integers_and_refuses_what_decoding_does(self, vae):
        image = (torch.rand(1, 3, 24, 32) * 255).byte()
        assert torch.equal(vae.encode(image), vae.encode(image.float() / 127.5 - 1))
        for broken, message in ((image.float(), "to 25"), (image[:0], "empty"), (image.to("meta"), "without values")):
            with pytest.raises(ValueError, match=message):
                vae.encode(broken)


def to_pillow_bytes(picture: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(to_pillow(each))).permute(2, 0, 1) for each in picture])


class TestRegion:
    def small_mask(self, size: int) -> torch.Tensor:
        mask = torch.zeros(1, 1, size, size)
        mask[..., 40:60, 16:48] = 1
        return mask

    def test_masked_decodes_little_and_leaves_the_source_elsewhere(self, vae, monkeypatch):
        latent, image, _ = make_case(256, 256)
        mask = self.small_mask(256)
        seen = []
        whole = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z, **more: seen.append(z.shape[-2:].numel()) or whole(z, **more))
        output = asymvq.decode(vae, latent, image=image, mask=mask, region="masked")
        far = torch.zeros_like(mask).bool()
        far[..., 130:, :] = True
        assert torch.equal(output[far.expand_as(output)], image[far.expand_as(output)])
        assert not torch.equal(output[..., 40:60, 16:48], image[..., 40:60, 16:48])
        # 20 × 32 pixels with 48 around them, of which 8 lie outside the picture above and 32 on the left
        assert seen == [108 * 96 // FACTOR**2]

    @pytest.mark.parametrize("region", ["auto", "masked", "full"])
    def test_the_networks_picture_is_always_a_full_decode(self, vae, region):
        latent, image, _ = make_case(256, 256)
        mask = self.small_mask(256)
        with torch.no_grad():
            expected = vae.decode(latent, image=image, mask=mask)
        output = asymvq.decode(vae, latent, image=image, mask=mask, region=region, keep="network")
        assert torch.equal(output, expected)

    def test_auto_takes_what_is_less(self, vae, monkeypatch):
        latent, image, _ = make_case(256, 256)
        sizes = []
        whole = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z, **more: sizes.append(tuple(z.shape[-2:])) or whole(z, **more))
        asymvq.decode(vae, latent, image=image, mask=self.small_mask(256))
        scattered = torch.zeros(1, 1, 256, 256)
        scattered[..., ::30, ::30] = 1
        asymvq.decode(vae, latent, image=image, mask=scattered)
        asymvq.decode(vae, latent)
        assert sizes == [(27, 24), (64, 64), (64, 64)]

    def test_each_picture_of_a_batch_has_its_own_region_and_equal_tiles_go_together(self, vae, monkeypatch):
        latent, image, _ = make_case(256, 256, count=3)
        mask = torch.zeros(3, 1, 256, 256)
        mask[0, :, 100:120, 100:120] = 1
        mask[2, :, 100:120, 140:160] = 1
        counts = []
        whole = vae.decode
        monkeypatch.setattr(vae, "decode", lambda z, **more: counts.append(len(z)) or whole(z, **more))
        output = asymvq.decode(vae, latent, image=image, mask=mask, region="masked", batch=4)
        assert counts == [2]
        assert torch.equal(output[1], image[1])
        for i in (0, 2):
            alone = asymvq.decode(vae, latent[i : i + 1], image=image[i : i + 1], mask=mask[i : i + 1], region="masked")
            torch.testing.assert_close(output[i : i + 1], alone, atol=1e-5, rtol=0)


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_decodes_close_to_float32(self, vae, dtype):
        latent, image, mask = make_case()
        half = asymvq.decode(make_vae().to(dtype), latent, image=image, mask=mask, keep="network")
        full = asymvq.decode(vae, latent, image=image, mask=mask, keep="network")
        assert half.dtype == torch.float32
        assert (half - full).abs().mean() < 0.03

    def test_overflow_in_half_precision_is_decoded_again_in_float32(self, caplog):
        vae = make_vae()
        # 1e5 is beyond float16's 65504; the next GroupNorm brings it back to size
        vae.decoder.mid.block_1.conv2.weight.mul_(1e6)
        latent, image, mask = make_case()
        half = make_vae().half()
        half.load_state_dict({k: v.clamp(-6e4, 6e4) for k, v in vae.state_dict().items()})
        with torch.no_grad():
            assert not torch.isfinite(half.decoder(half.post_quant_conv(latent.half()))).all()
        with caplog.at_level(logging.WARNING):
            output = asymvq.decode(half, latent, image=image, mask=mask)
        assert torch.isfinite(output).all()
        assert "decoding again in float32" in caplog.text
        assert half.decoder.conv_in.weight.dtype == torch.float16

    def test_broken_weights_are_an_error(self):
        vae = make_vae()
        vae.decoder.conv_out.bias.fill_(float("nan"))
        latent, image, mask = make_case()
        with pytest.raises(ValueError, match=r"Expected finite weights, but decoder\.conv_out\.bias"):
            asymvq.decode(vae, latent, image=image, mask=mask)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": None}, "only the mask"),
            ({"mask": None}, "only the image"),
            ({"latent": torch.zeros(1, 16, 6, 8)}, "4 channels, but got 16"),
            ({"latent": torch.zeros(1, 4, 1, 6, 8)}, "5-D"),
            ({"latent": torch.full((1, 4, 6, 8), float("nan"))}, "finite latent"),
            ({"image": torch.zeros(1, 3, 24, 40), "mask": torch.zeros(1, 1, 24, 40)}, "32×24 pixels .* got 40×24"),
            ({"mask": torch.ones(1, 1, 24, 24)}, "image of 32×24 and a mask of 24×24"),
            ({"image": torch.zeros(1, 4, 24, 32)}, r"image of shape \(B, 3, H, W\)"),
            ({"mask": torch.zeros(24, 32)}, r"mask of shape \(B, 1, H, W\)"),
            ({"keep": "pixels"}, "'exact' or 'network'"),
            ({"region": "half"}, "region to be 'auto' or 'masked' or 'full'"),
            ({"tile": 8, "overlap": 8}, "overlap below it"),
        ],
    )
    def test_what_does_not_fit_says_so(self, vae, change, message):
        latent, image, mask = make_case()
        arguments = {"latent": latent, "image": image, "mask": mask, **change}
        with pytest.raises(ValueError, match=message):
            asymvq.decode(vae, arguments.pop("latent"), **arguments)

    def test_three_masks_for_two_pictures(self, vae):
        latent, image, _ = make_case(count=2)
        _, _, mask = make_case(count=3)
        with pytest.raises(ValueError, match="divide the largest and are taken in turn, but got 2, 2 and 3"):
            asymvq.decode(vae, latent, image=image, mask=mask)

    def test_only_asking_the_stock_network_itself_for_a_condition_is_an_error(self):
        stock = make_vae(dataclasses.replace(CONFIG, condition=None))
        latent, image, mask = make_case()
        with pytest.raises(ValueError, match="this one is a stock VAE"):
            stock.decode(latent, image=image, mask=mask)
        assert asymvq.decode(stock, latent).shape == (1, 3, 24, 32)

    def test_encoding_with_a_decoder_alone(self):
        vae = make_vae(dataclasses.replace(CONFIG, encoder_channels=None, quant_conv=False))
        with pytest.raises(ValueError, match="holds only a decoder"):
            vae.encode(torch.zeros(1, 3, 24, 32))

    def test_encoding_a_picture_that_is_no_multiple_of_the_factor(self, vae):
        with pytest.raises(ValueError, match="multiples of 4"):
            vae.encode(torch.zeros(1, 3, 25, 32))
