"""`asymvq.decode`: sizes, batches, tiles, kept pixels and what is refused. Networks are tiny, masks are real."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig, ConditionConfig, MaskReduction
from asymvq.decode import Keep, compose, fit_source
from asymvq.masks import random_thick_mask

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
        torch.testing.assert_close(output, image + soft * (network - image))
        hard = asymvq.decode(vae, latent, image=image, mask=mask)
        assert torch.equal(hard[(mask == 1).expand_as(hard)], network[(mask == 1).expand_as(hard)])

    def test_ten_rounds_of_encoding_and_decoding_leave_them_identical(self, vae):
        _, image, mask = make_case(seed=3)
        current = image
        for _ in range(10):
            current = asymvq.decode(vae, vae.encode(current.clamp(-1, 1)), image=current, mask=mask)
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
        assert "mask is empty" in caplog.text

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
    def test_a_border_that_the_encoder_crops_off_is_put_back(self, vae):
        latent, image, mask = make_case(24, 32)
        large, large_mask = torch.rand(1, 3, 27, 33) * 2 - 1, torch.ones(1, 1, 27, 33)
        large[..., 1:25, 0:32], large_mask[..., 1:25, 0:32] = image, mask
        output = asymvq.decode(vae, latent, image=large, mask=large_mask)
        assert torch.equal(output[..., 1:25, 0:32], asymvq.decode(vae, latent, image=image, mask=mask))
        border = torch.ones_like(large, dtype=torch.bool)
        border[..., 1:25, 0:32] = False
        assert torch.equal(output[border], large[border])

    def test_tiles_are_close_to_the_whole_and_each_is_reported(self, vae):
        # not equal: GroupNorm and attention see a tile's statistics instead of the picture's
        latent, image, mask = make_case(64, 64)
        done = []
        tiled = asymvq.decode(
            vae, latent, image=image, mask=mask, tile=32, overlap=16, region="full",
            progress=lambda *step: done.append(step),
        )  # fmt: skip
        whole = asymvq.decode(vae, latent, image=image, mask=mask, region="full")
        assert done == [(i, 9) for i in range(1, 10)]
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
        for keep in ("exact", "network"):
            output = asymvq.decode(vae, latent, image=image, mask=mask, region="masked", keep=keep)
            far = torch.zeros_like(mask).bool()
            far[..., 130:, :] = True
            assert torch.equal(output[far.expand_as(output)], image[far.expand_as(output)])
            assert not torch.equal(output[..., 40:60, 16:48], image[..., 40:60, 16:48])
        # 20 × 32 pixels with 48 around them, of which 8 lie outside the picture above and 32 on the left
        assert seen == [108 * 96 // FACTOR**2] * 2

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
            assert not torch.isfinite(half.decode(latent.half())).all()
        with caplog.at_level(logging.WARNING):
            output = asymvq.decode(half, latent, image=image, mask=mask)
        assert torch.isfinite(output).all()
        assert "decoding again in float32" in caplog.text
        assert half.decoder.conv_in.weight.dtype == torch.float16

    def test_weights_that_overflow_in_float32_too_are_an_error(self):
        vae = make_vae()
        vae.decoder.conv_out.bias.fill_(float("nan"))
        latent, image, mask = make_case()
        with pytest.raises(ValueError, match="in float32 too"):
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
        with pytest.raises(ValueError, match="one mask, or one for each of the 2 latents, but got 3"):
            asymvq.decode(vae, latent, image=image, mask=mask)

    def test_a_vae_without_a_condition(self):
        stock = make_vae(dataclasses.replace(CONFIG, condition=None))
        latent, image, mask = make_case()
        with pytest.raises(ValueError, match="this one is a stock VAE"):
            asymvq.decode(stock, latent, image=image, mask=mask)
        assert asymvq.decode(stock, latent).shape == (1, 3, 24, 32)

    def test_encoding_with_a_decoder_alone(self):
        vae = make_vae(dataclasses.replace(CONFIG, encoder_channels=None, quant_conv=False))
        with pytest.raises(ValueError, match="holds only a decoder"):
            vae.encode(torch.zeros(1, 3, 24, 32))

    def test_encoding_a_picture_that_is_no_multiple_of_the_factor(self, vae):
        with pytest.raises(ValueError, match="multiples of 4"):
            vae.encode(torch.zeros(1, 3, 25, 32))
