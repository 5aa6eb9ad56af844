"""*Asymmetric VQGAN Decode* with VAEs of the host's own loaders, and *Harmonise Edit*, in a real ComfyUI."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import KL, built

import asymvq
from asymvq.autoencoders import wan
from asymvq.compose import paste
from asymvq.decode import decode_source, fit_source

from .synthetic import VAE, noise

WAN = wan.Config(decoder_channels=(16, 32, 64, 64), encoder_channels=(16, 32, 64, 64))

PICTURES = dataclasses.replace(
    KL, latent_channels=4, decoder_channels=(16, 16, 32, 32), encoder_channels=(16, 16, 32, 32)
)
"""As Stable Diffusion's in its latents."""


def run(host, node: str, **inputs):
    """What a node's first output is."""
    with torch.inference_mode():
        return host.nodes.NODE_CLASS_MAPPINGS[node].execute(**inputs).args[0]


def stock(host, node: str, **inputs):
    cls = host.nodes.NODE_CLASS_MAPPINGS[node]
    with torch.inference_mode():
        return getattr(cls(), cls.FUNCTION)(**inputs)[0]


def kl_tensors(**more):
    """As the published files have them: widths are the host's, values noise."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = VAE | more
    with torch.device("meta"):
        shapes = AutoencoderKL(ddconfig=config, embed_dim=config["z_channels"]).state_dict()
    tensors = {name: noise(tuple(t.shape), name) for name, t in shapes.items() if t.is_floating_point()}
    return {name: t.abs() + 0.5 if name.endswith("running_var") else t for name, t in tensors.items()}


def wan_tensors(**more):
    vae = built(dataclasses.replace(WAN, **more))
    tensors, _ = wan.write(vae.state_dict(), vae.config, "Wan")
    generator = torch.Generator().manual_seed(0)
    # what one frame does not meet, too
    return {name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


KINDS = {
    "sdxl": (lambda: kl_tensors(), (1, 4, 8, 8)),
    "flux2": (lambda: kl_tensors(z_channels=32, batch_norm_latent=True), (1, 128, 4, 4)),
    "wan, one frame": (wan_tensors, (1, 16, 1, 8, 8)),
    "wan, 5 frames": (wan_tensors, (1, 16, 2, 8, 8)),
    "wan with alpha": (lambda: wan_tensors(image_channels=4), (1, 16, 1, 8, 8)),
}


@pytest.fixture(scope="module", params=KINDS)
def stock_case(host, request):
    """A VAE through Load VAE, a latent, and what VAE Decode makes of it."""
    tensors, shape = KINDS[request.param]
    torch.save(tensors(), host.base / "models" / "vae" / f"{request.param}.ckpt")
    vae = stock(host, "VAELoader", vae_name=f"{request.param}.ckpt")
    samples = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(1))}
    return vae, samples, stock(host, "VAEDecode", vae=vae, samples=samples)


def picture(height: int, width: int, channels: int = 3, count: int = 1):
    """(B, H, W, C) and a mask (B, H, W) that reaches the frame."""
    image = torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(count, height, width)
    mask[:, : height // 2, width // 4 : 3 * width // 4] = 1
    mask[:, height // 2, width // 4 : 3 * width // 4] = 0.5
    return image, mask


class TestStockVaes:
    def test_the_hosts_own_decode_inside_and_the_source_outside(self, host, stock_case):
        vae, samples, decoded = stock_case
        image, mask = picture(64, 64, decoded.shape[-1])
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        assert output.shape == decoded.shape
        assert decoded.std() > 0.01
        inside, outside = (mask == 1).expand(len(decoded), -1, -1), (mask == 0).expand(len(decoded), -1, -1)
        assert torch.equal(output[inside], decoded[inside])
        assert torch.equal(output[outside], image.expand_as(output)[outside])
        harmonised = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, harmonise=1.0)
        assert torch.equal(harmonised[outside], image.expand_as(output)[outside])
        assert not torch.equal(harmonised[inside], output[inside])
        assert torch.equal(harmonised[..., 3:], output[..., 3:])
        for noise_mask in (False, True):
            given = {**samples, "noise_mask": mask[:, None]} if noise_mask else samples
            expected = paste(
                decoded.movedim(-1, 1), image=image.movedim(-1, 1), mask=mask[:, None], harmonise=1.0,
                noise_mask=noise_mask, factor=vae.spacial_compression_encode(), image_range=(0.0, 1.0),
                frames=len(decoded),
            )  # fmt: skip
            result = run(host, "AsymVQDecode", samples=given, vae=vae, image=image, mask=mask, harmonise=1.0)
            torch.testing.assert_close(result, expected.movedim(1, -1))

    def test_a_size_that_the_host_crops_comes_back_whole(self, host, stock_case):
        vae, samples, decoded = stock_case
        ratio = vae.spacial_compression_encode()
        image, mask = picture(64 + ratio - 1, 64 + 3, decoded.shape[-1])
        # where the host's own crop lies
        numbers = torch.arange(image.shape[1] * image.shape[2]).reshape(1, *image.shape[1:3], 1).expand_as(image)
        window = vae.vae_encode_crop_pixels(numbers)
        assert window.shape[1:3] == (64, 64)
        top, left = divmod(int(window[0, 0, 0, 0]), image.shape[2])
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        assert output.shape == (len(decoded), *image.shape[1:])
        inside = mask[:, top : top + 64, left : left + 64].expand(len(decoded), -1, -1) == 1
        assert torch.equal(output[:, top : top + 64, left : left + 64][inside], decoded[inside])
        kept = (mask == 0).expand(len(decoded), -1, -1)
        assert torch.equal(output[kept], image.expand_as(output)[kept])

    def test_tiled_as_the_host_does_plain_and_as_the_network_has_it(self, host, stock_case):
        vae, samples, decoded = stock_case
        image, mask = picture(64, 64, decoded.shape[-1])
        assert torch.equal(run(host, "AsymVQDecode", samples=samples, vae=vae), decoded)
        options = {"tile_size": 128, "overlap": 16}
        tiled = stock(host, "VAEDecodeTiled", vae=vae, samples=samples, **options)
        assert torch.equal(run(host, "AsymVQDecode", samples=samples, vae=vae, tiling="on", **options), tiled)
        inputs = {"samples": samples, "vae": vae, "image": image, "mask": mask}
        output = run(host, "AsymVQDecode", keep="network", harmonise=1.0, **inputs)
        assert torch.equal(output, decoded)

    def test_what_the_vae_does_by_itself_is_no_change(self, host, stock_case):
        vae = stock_case[0]
        image, _ = picture(64, 96)
        latent = stock(host, "VAEEncode", vae=vae, pixels=image)
        edited = stock(host, "VAEDecode", vae=vae, samples=latent)[..., :3].clone()
        assert not run(host, "AsymVQChangeMask", edited=edited, source=image, vae=vae).any()
        edited[:, 16:48, 24:72] = 1 - edited[:, 16:48, 24:72]
        mask = run(host, "AsymVQChangeMask", edited=edited, source=image, vae=vae, grow=0, feather=0)
        assert mask[:, 20:44, 28:68].mean() > 0.9
        assert mask.mean() < 0.5

    def test_another_size_is_an_error_with_both(self, host, stock_case):
        vae, samples, decoded = stock_case
        image, mask = picture(128, 96, decoded.shape[-1])
        with pytest.raises(ValueError, match=r"image of 64×64 pixels .*, but got 96×128"):
            run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_pictures_that_are_frames_of_a_video_are_kept_steady(host, kind):
    """As of a model of pictures that makes videos: one latent a frame, and it wavers in colour."""
    folder = host.base / "models" / "vae"
    if kind == "ours":
        asymvq.save(built(PICTURES), folder / "pictures.safetensors")
        vae = run(host, "AsymVQLoader", vae_name="pictures.safetensors", dtype="fp32")
    else:
        torch.save(kl_tensors(), folder / "pictures.ckpt")
        vae = stock(host, "VAELoader", vae_name="pictures.ckpt")
    generator = torch.Generator().manual_seed(5)
    latent = torch.randn(1, 4, 8, 8, generator=generator) + 0.3 * torch.randn(4, 4, 1, 1, generator=generator)
    image, mask = picture(64, 64)
    given = {"samples": {"samples": latent}, "vae": vae, "image": image, "mask": mask, "harmonise": 1.0}
    single, steady = (run(host, "AsymVQDecode", video=video, **given) for video in (False, True))
    source = {"image": image.movedim(-1, 1), "mask": mask[:, None], "image_range": (0.0, 1.0)}
    as_video = {"harmonise": 1.0, "frames": 4, "image_range": (0.0, 1.0)}
    if kind == "ours":
        network = built(PICTURES)
        expected = decode_source(network, latent, fit_source(network, latent, **source), **as_video)
    else:
        plain = stock(host, "VAEDecode", vae=vae, samples={"samples": latent})
        expected = paste(plain.movedim(-1, 1), factor=8, **{**source, **as_video})
    expected = expected.movedim(1, -1)
    torch.testing.assert_close(steady, expected, atol=1e-4, rtol=0)
    assert (steady - single).abs().max() > 1e-3
    # four frames in three pictures' places are told of as without it
    with pytest.raises(ValueError, match="3"):
        run(host, "AsymVQDecode", video=True, **{**given, "image": image.repeat(3, 1, 1, 1)})


class TestFrames:
    @pytest.fixture
    def video(self, host):
        torch.save(wan_tensors(), host.base / "models" / "vae" / "video.ckpt")
        vae = stock(host, "VAELoader", vae_name="video.ckpt")
        samples = {"samples": torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(3))}
        return vae, samples, stock(host, "VAEDecode", vae=vae, samples=samples)

    @pytest.mark.parametrize("counts", [(5, 1), (1, 5), (5, 5), (1, 1)])
    def test_pictures_and_masks_are_taken_in_turn(self, host, video, counts):
        vae, samples, decoded = video
        assert len(decoded) == 5
        image, mask = picture(64, 64, count=5)
        mask = torch.stack([one.roll(i, -1) for i, one in enumerate(mask)])
        image, mask = image[: counts[0]], mask[: counts[1]]
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        masks, images = mask.expand(5, -1, -1), image.expand(5, -1, -1, -1)
        assert torch.equal(output[masks == 1], decoded[masks == 1])
        assert torch.equal(output[masks == 0], images[masks == 0])

    def test_colours_are_kept_steady(self, host, video):
        vae, samples, decoded = video
        image, mask = picture(64, 64)
        batch = {"samples": samples["samples"].repeat(2, 1, 1, 1, 1)}  # two videos
        output = run(host, "AsymVQDecode", samples=batch, vae=vae, image=image, mask=mask, harmonise=1.0)
        steady, single = (
            paste(
                decoded.movedim(-1, 1), image=image.movedim(-1, 1), mask=mask[:, None], harmonise=1.0, factor=8,
                image_range=(0.0, 1.0), frames=frames,
            ).movedim(1, -1)
            for frames in (5, 1)
        )  # fmt: skip
        torch.testing.assert_close(output, steady.repeat(2, 1, 1, 1), atol=1e-4, rtol=0)
        assert (steady - single).abs().max() > 1e-3
        # what a video's latent is anyway
        again = run(host, "AsymVQDecode", samples=batch, vae=vae, image=image, mask=mask, harmonise=1.0, video=True)
        assert torch.equal(again, output)

    def test_counts_that_do_not_divide(self, host, video):
        vae, samples, _ = video
        image, mask = picture(64, 64, count=7)
        with pytest.raises(ValueError, match="divide the largest and are taken in turn, but got 5, 7 and 7"):
            run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)

    def test_long_videos_show_progress_and_can_be_interrupted(self, host, video, monkeypatch):
        import comfy.model_management
        import comfy.utils

        vae, samples, _ = video
        reported = []
        monkeypatch.setattr(
            comfy.utils.ProgressBar, "update_absolute", lambda bar, value, total=None, *rest: reported.append(value)
        )
        image, mask = picture(64, 64)
        run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, harmonise=1.0)
        assert reported[-5:] == [200, 400, 600, 800, 1000]
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(host, "AsymVQHarmonise", edited=image, source=image, mask=mask)


def test_the_pixel_space_vae(host):
    vae = stock(host, "VAELoader", vae_name="pixel_space")
    image, mask = picture(40, 50)
    pixels = torch.rand(1, 3, 40, 50)
    samples = {"samples": pixels * 2 - 1}
    output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
    torch.testing.assert_close(output[mask == 1], pixels.movedim(1, -1)[mask == 1])
    assert torch.equal(output[mask == 0], image[mask == 0])


def test_what_is_no_picture_is_said(host):
    class OfSound:
        """As other packs have them: no subclass of the host's."""

        def decode(self, latent):
            return latent.new_zeros(1, 100, 2)

    samples = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="VAE of pictures or videos"):
        run(host, "AsymVQDecode", samples=samples, vae=OfSound())
    with pytest.raises(ValueError, match="Expected a latent, but got"):
        run(host, "AsymVQDecode", samples="none", vae=OfSound())


def test_nan_is_said_not_shown_as_black(host):
    vae = stock(host, "VAELoader", vae_name="pixel_space")
    image, mask = picture(40, 50)
    with pytest.raises(ValueError, match=r"NaN or infinity: its half precision .* --fp32-vae"):
        run(
            host, "AsymVQDecode", samples={"samples": torch.full((1, 3, 40, 50), torch.nan)}, vae=vae, image=image,
            mask=mask,
        )  # fmt: skip


class TestHarmoniseEdit:
    def test_drift_goes_and_kept_pixels_stay(self, host):
        image, mask = picture(96, 128)
        image = image * 0.1 + 0.4
        edited = image + 0.1
        pasted = run(host, "AsymVQHarmonise", edited=edited, source=image, mask=mask, strength=0.0)
        assert torch.equal(pasted[mask == 1], edited[mask == 1])
        output = run(host, "AsymVQHarmonise", edited=edited, source=image, mask=mask)
        assert torch.equal(output[mask == 0], image[mask == 0])
        assert (output - image)[mask == 1].abs().mean() < 0.01

    def test_one_source_serves_a_batch(self, host):
        image, mask = picture(64, 64)
        edited = torch.rand(3, 64, 64, 3)
        output = run(host, "AsymVQHarmonise", edited=edited, source=image, mask=mask)
        for one, edit in zip(output, edited, strict=True):
            assert torch.equal(one[None], run(host, "AsymVQHarmonise", edited=edit[None], source=image, mask=mask))

    @pytest.mark.parametrize("node", ["AsymVQHarmonise", "AsymVQStitch"])
    def test_frames_of_a_video_are_kept_steady(self, host, node):
        image, mask = picture(64, 64)
        image = image * 0.2 + 0.4
        noise = torch.randn(4, 64, 64, 3, generator=torch.Generator().manual_seed(4))
        edited = (image + 0.05 * noise).clamp(0, 1)
        given = {"edited": edited, "source": image, "mask": mask}
        if node == "AsymVQStitch":
            size = {"size": "width and height", "width": 64, "height": 64}
            _, _, crop = (
                host.nodes.NODE_CLASS_MAPPINGS["AsymVQInpaintCrop"].execute(image=image, mask=mask, size=size).args
            )
            given = {"image": edited, "crop": crop}
        changes = [(run(host, node, video=video, **given) - edited)[:, mask[0] == 1] for video in (False, True)]
        flicker = [change.mean(dim=1).diff(dim=0).square().mean() for change in changes]
        assert 0 < flicker[1] < 0.5 * flicker[0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"edited": torch.rand(1, 64, 72, 3)}, "one size, but got 72×64 and 64×64 .* Align Edit to Source"),
            ({"mask": torch.ones(1, 60, 64)}, "a mask of 64×60"),
            ({"edited": torch.rand(2, 64, 64, 3), "source": torch.rand(3, 64, 64, 3)}, "2 of edited, 3 of source"),
            ({"edited": torch.rand(1, 64, 64, 3) * 255}, "The node that made it"),
            ({"edited": torch.full((1, 64, 64, 3), torch.nan)}, "finite edited pictures"),
        ],
    )
    def test_what_does_not_fit_says_so(self, host, change, message):
        image, mask = picture(64, 64)
        with pytest.raises(ValueError, match=message):
            run(host, "AsymVQHarmonise", **{"edited": image, "source": image, "mask": mask, **change})
