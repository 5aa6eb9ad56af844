"""The nodes and the VAE object, in a real ComfyUI in this process."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import asymvq
from asymvq.autoencoders import LATENT_SPACES, AutoencoderConfig
from asymvq.config import ConditionConfig, MaskReduction

CONFIG = AutoencoderConfig(
    decoder_channels=(16, 16, 32, 32),
    decoder_blocks=1,
    encoder_channels=(8, 8, 16, 16),
    encoder_blocks=1,
    norm_groups=4,
)
DIFFUSERS = AutoencoderConfig(
    decoder_channels=(32, 64, 128, 128), decoder_blocks=2, encoder_channels=(32, 64, 128, 128)
)
"""A shape that diffusers knows too: its condition encoder's widths double up to the coarsest."""


def write_vae(host, name: str, config: AutoencoderConfig = CONFIG, **options) -> asymvq.AsymmetricAutoencoder:
    torch.manual_seed(0)
    vae = asymvq.AsymmetricAutoencoder(config).eval().requires_grad_(False)
    asymvq.save(vae, host.base / "models" / "vae" / name, **options)
    return vae


def run(host, node: str, **inputs):
    """What a node's first output is."""
    with torch.inference_mode():
        return host.nodes.NODE_CLASS_MAPPINGS[node].execute(**inputs).args[0]


def stock(host, node: str, **inputs):
    cls = host.nodes.NODE_CLASS_MAPPINGS[node]
    with torch.inference_mode():
        return getattr(cls(), cls.FUNCTION)(**inputs)


@pytest.fixture(scope="module")
def reference(host):
    return write_vae(host, "tiny.safetensors")


@pytest.fixture(scope="module")
def vae(host, reference):
    return run(host, "AsymVQLoader", vae_name="tiny.safetensors", dtype="fp32")


@pytest.fixture
def case(reference):
    """A picture (1, H, W, 3), an elliptic mask (1, H, W) and an edited latent."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 48, 64, 3, generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    mask = (((x - 0.1) / 0.6) ** 2 + ((y + 0.2) / 0.5) ** 2 < 1).float()[None]
    latent = reference.encode(image.movedim(-1, 1) * 2 - 1)
    return image, mask, {"samples": latent + 0.5 * torch.randn(latent.shape, generator=generator)}


class TestLoader:
    def test_offers_the_vae_folder_and_the_bundled_demo(self, host, reference):
        info = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"].GET_NODE_INFO_V1()
        options = info["input"]["required"]["vae_name"][1]["options"]
        assert "tiny.safetensors" in options
        assert options[-1] == "demo (bundled)"

    def test_says_what_it_recognised(self, host, reference, caplog):
        with caplog.at_level(logging.INFO):
            run(host, "AsymVQLoader", vae_name="tiny.safetensors")
        assert "native layout, custom decoder 16/16/32/32, 1 blocks a level, 4 latent channels" in caplog.text

    def test_a_decoder_alone_takes_its_encoder_from_base_vae(self, host, reference):
        config = AutoencoderConfig(**{**vars(CONFIG), "encoder_channels": None, "quant_conv": False})
        write_vae(host, "decoder.safetensors", config)
        alone = run(host, "AsymVQLoader", vae_name="decoder.safetensors", dtype="fp32")
        image = torch.rand(1, 32, 32, 3)
        with pytest.raises(ValueError, match="holds only a decoder"):
            stock(host, "VAEEncode", vae=alone, pixels=image)
        whole = run(host, "AsymVQLoader", vae_name="decoder.safetensors", base_vae="tiny.safetensors", dtype="fp32")
        latent = stock(host, "VAEEncode", vae=whole, pixels=image)[0]["samples"]
        torch.testing.assert_close(latent, reference.encode(image.movedim(-1, 1) * 2 - 1), atol=1e-5, rtol=0)

    def test_very_small_vaes_are_computed_in_fp32_unless_told_otherwise(self, host, reference, monkeypatch):
        import comfy.model_management

        # as on a GPU, where the host computes VAEs in bfloat16
        monkeypatch.setattr(comfy.model_management, "vae_dtype", lambda *_: torch.bfloat16)
        assert run(host, "AsymVQLoader", vae_name="tiny.safetensors").vae_dtype == torch.float32
        assert run(host, "AsymVQLoader", vae_name="tiny.safetensors", dtype="bf16").vae_dtype == torch.bfloat16
        monkeypatch.setattr(host.pack("asymvq.precision"), "SMALL_VAE", 1)
        assert run(host, "AsymVQLoader", vae_name="tiny.safetensors").vae_dtype == torch.bfloat16

    def test_says_that_a_cpu_takes_long_in_fp16(self, host, reference, monkeypatch):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"]
        for dtype in ("auto", "fp16"):
            (text,) = node.execute(vae_name="tiny.safetensors", dtype=dtype).ui["text"]
            assert ("hundreds of times" in text) == (dtype == "fp16")

    def test_a_file_written_anew_is_loaded_anew(self, host, reference):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"]
        before = node.fingerprint_inputs(vae_name="tiny.safetensors")
        assert before == node.fingerprint_inputs(vae_name="tiny.safetensors")
        file = host.base / "models/vae/tiny.safetensors"
        file.touch()
        touched = node.fingerprint_inputs(vae_name="tiny.safetensors")
        assert before != touched
        # as long as before and with the old time, over it and in its place
        stat, content = file.stat(), file.read_bytes()
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        rewritten = node.fingerprint_inputs(vae_name="tiny.safetensors")
        assert rewritten != touched
        other = file.with_suffix(".new")
        other.write_bytes(content)
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.rename(file)
        assert node.fingerprint_inputs(vae_name="tiny.safetensors") != rewritten

    def test_every_input_of_every_node_has_a_tooltip(self, host):
        for name in ("AsymVQLoader", "AsymVQDecode", "AsymVQSave", "AsymVQCompare", "AsymVQRandomMask"):
            inputs = host.nodes.NODE_CLASS_MAPPINGS[name].define_schema().inputs
            assert all(i.tooltip for i in inputs), name


class TestStockNodes:
    """Every stock node that takes a VAE gives what the library gives."""

    def test_decode_and_encode(self, host, reference, vae, case):
        image, _, samples = case
        decoded = stock(host, "VAEDecode", vae=vae, samples=samples)[0]
        expected = (asymvq.decode(reference, samples["samples"]) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)
        latent = stock(host, "VAEEncode", vae=vae, pixels=image)[0]["samples"]
        torch.testing.assert_close(latent, reference.encode(image.movedim(-1, 1) * 2 - 1), atol=1e-5, rtol=0)

    def test_tiled(self, host, vae, case):
        image, _, samples = case
        decoded = stock(host, "VAEDecodeTiled", vae=vae, samples=samples, tile_size=512, overlap=64)[0]
        torch.testing.assert_close(decoded, vae.decode(samples["samples"]), atol=1e-4, rtol=0)
        encoded = stock(host, "VAEEncodeTiled", vae=vae, pixels=image, tile_size=512, overlap=64)[0]["samples"]
        torch.testing.assert_close(encoded, vae.encode(image), atol=1e-4, rtol=0)

    def test_encoding_values_out_of_range_speaks_of_the_nodes(self, host, vae, case):
        image, _, _ = case
        for node, more in (("VAEEncode", {}), ("VAEEncodeTiled", {"tile_size": 512, "overlap": 64})):
            with pytest.raises(ValueError, match=r"values in \[0, 1\], but got .* The node that made it"):
                stock(host, node, vae=vae, pixels=image * 255, **more)

    def test_inpainting(self, host, vae, case):
        image, mask, _ = case
        inpaint = stock(host, "VAEEncodeForInpaint", vae=vae, pixels=image, mask=mask, grow_mask_by=6)[0]
        assert inpaint["samples"].shape == (1, 4, 6, 8)
        text = [[torch.zeros(1, 77, 768), {}]]
        positive, _, latent = stock(
            host, "InpaintModelConditioning", positive=text, negative=text, pixels=image, vae=vae, mask=mask,
            noise_mask=True,
        )  # fmt: skip
        assert positive[0][1]["concat_latent_image"].shape == latent["samples"].shape == (1, 4, 6, 8)

    def test_what_vae_save_writes_our_loader_reads_and_the_stock_loader_refuses(self, host, vae, case):
        stock(host, "VAESave", vae=vae, filename_prefix="vae/stock_saved")
        name = "stock_saved_00001_.safetensors"
        written = host.base / "output" / "vae" / name
        written.rename(host.base / "models" / "vae" / name)
        again = run(host, "AsymVQLoader", vae_name=name, dtype="fp32")
        image, mask, samples = case
        first, second = (
            run(host, "AsymVQDecode", samples=samples, vae=v, image=image, mask=mask) for v in (vae, again)
        )
        assert torch.equal(first, second)
        with pytest.raises(RuntimeError, match="VAE is invalid"):
            stock(host, "VAELoader", vae_name=name)

    def test_baked_into_a_checkpoint_by_the_host_our_loader_reads_it(self, host, reference, vae):
        import comfy.supported_models

        kind = comfy.supported_models.SD15  # as the host's Save Checkpoint names the VAE's tensors
        tensors = kind.process_vae_state_dict_for_saving(kind, vae.get_sd())
        assert "first_stage_model.asymvq.config" in tensors
        tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(320, 4, 3, 3)
        save_file({name: t.contiguous() for name, t in tensors.items()}, host.base / "models/vae/baked.safetensors")
        again = run(host, "AsymVQLoader", vae_name="baked.safetensors", dtype="fp32")
        assert all(torch.equal(t, reference.state_dict()[n]) for n, t in again.first_stage_model.state_dict().items())


class TestDecode:
    @pytest.mark.parametrize("keep", ["exact", "network"])
    def test_gives_the_librarys_picture(self, host, reference, vae, case, keep):
        image, mask, samples = case
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, keep=keep)
        expected = asymvq.decode(
            reference, samples["samples"], image=image.movedim(-1, 1) * 2 - 1, mask=mask[:, None], keep=keep
        )
        torch.testing.assert_close(output, (expected / 2 + 0.5).clamp(0, 1).movedim(1, -1), atol=1e-5, rtol=0)
        if keep == "exact":
            assert torch.equal(output[mask == 0], image[mask == 0])

    @pytest.mark.parametrize(("region", "noise_mask"), [("masked", False), ("full", False), ("full", True)])
    def test_harmonises_as_the_library_does(self, host, reference, vae, case, region, noise_mask):
        image, mask, samples = case
        if noise_mask:
            samples = {**samples, "noise_mask": mask[:, None]}
        inputs = {"samples": samples, "vae": vae, "image": image, "mask": mask, "region": region}
        output = run(host, "AsymVQDecode", **inputs, harmonise=1.0)
        expected = asymvq.decode(
            reference, samples["samples"], image=image.movedim(-1, 1) * 2 - 1, mask=mask[:, None], region=region,
            harmonise=1.0, noise_mask=noise_mask,
        )  # fmt: skip
        torch.testing.assert_close(output, (expected / 2 + 0.5).clamp(0, 1).movedim(1, -1), atol=1e-4, rtol=0)
        assert torch.equal(output[mask == 0], image[mask == 0])
        assert not torch.equal(output, run(host, "AsymVQDecode", **inputs))

    def test_one_frame_of_a_video_model_is_a_picture(self, host, vae, case):
        image, mask, samples = case
        frame = {"samples": samples["samples"][:, :, None]}
        outputs = [run(host, "AsymVQDecode", samples=s, vae=vae, image=image, mask=mask) for s in (samples, frame)]
        assert torch.equal(*outputs)

    def test_without_image_and_mask_it_is_a_plain_decode(self, host, vae, case):
        _, _, samples = case
        assert torch.equal(run(host, "AsymVQDecode", samples=samples, vae=vae), vae.decode(samples["samples"]))

    def test_a_size_that_the_encoder_crops_comes_back_whole(self, host, vae):
        image = torch.rand(1, 51, 77, 3)
        mask = torch.zeros(1, 51, 77)
        mask[:, 10:30, 20:50] = 1
        samples = stock(host, "VAEEncode", vae=vae, pixels=image)[0]
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        assert output.shape == image.shape
        assert torch.equal(output[mask == 0], image[mask == 0])
        assert not torch.equal(output[mask == 1], image[mask == 1])

    @pytest.mark.parametrize("region", ["masked", "full"])
    def test_outpainting_leaves_no_column_of_grey(self, host, vae, region):
        """Pad Image for Outpainting, of a picture whose sides are no multiples of 8."""
        image = torch.rand(1, 51, 77, 3) * 0.3
        image, mask = stock(
            host, "ImagePadForOutpaint", image=image, left=16, top=0, right=24, bottom=8, feathering=12
        )  # fmt: skip
        assert image.shape[1:3] == (59, 117)
        samples = stock(host, "VAEEncode", vae=vae, pixels=image)[0]
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, region=region)
        assert output.shape == image.shape
        assert (output[mask == 1] != 0.5).all()
        # what the encoder cropped off: 1 row above and 2 below, 2 columns on the left and 3 on the right
        rows, columns = torch.arange(59).clamp(1, 56)[:, None], torch.arange(117).clamp(2, 113)
        painted = mask[0] == 1
        assert torch.equal(output[0][painted], output[0][rows, columns][painted])
        kept = mask <= 8 / 255
        assert torch.equal(output[kept], image[kept])

    def test_a_crop_around_the_mask_in_a_small_picture_is_edited_to_its_edge(self, host, vae):
        image, mask = torch.full((1, 51, 300, 3), 0.75), torch.zeros(1, 51, 300)
        mask[:, 40:, 100:130] = 1
        cropped = host.nodes.NODE_CLASS_MAPPINGS["AsymVQCropAroundMask"].execute(image=image, mask=mask, size=64)
        part, part_mask, x, y = cropped.args
        assert part.shape == (1, 51, 160, 3)
        samples = stock(host, "VAEEncode", vae=vae, pixels=part)[0]
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=part, mask=part_mask)
        assert (output[part_mask == 1] != 0.75).all()
        assert (output[part_mask == 0] == 0.75).all()
        assert torch.equal(output[:, 50][part_mask[:, 50] == 1], output[:, 48][part_mask[:, 50] == 1])
        assert (x, y) == (35, 0)

    def test_counts_that_divide_the_largest_are_taken_in_turn(self, host, vae, case):
        image, mask, samples = case
        images, masks = torch.cat([image, 1 - image]), torch.cat([mask, mask.flip(-1)])
        latents = torch.cat([samples["samples"] + i for i in range(4)])
        arguments = {"vae": vae, "region": "full"}
        output = run(host, "AsymVQDecode", samples={"samples": latents}, image=images, mask=masks, **arguments)
        assert len(output) == 4
        for i in range(4):
            one = {"samples": latents[i : i + 1]}
            alone = run(
                host, "AsymVQDecode", samples=one, image=images[i % 2][None], mask=masks[i % 2][None], **arguments
            )
            torch.testing.assert_close(output[i : i + 1], alone, atol=1e-5, rtol=0)
        two = run(host, "AsymVQDecode", samples=samples, image=image, mask=masks, **arguments)
        assert len(two) == 2
        for i in range(2):
            assert torch.equal(two[i][masks[i] == 0], image[0][masks[i] == 0])
        nothing = run(host, "AsymVQDecode", samples=samples, image=images, mask=mask * 0.02, **arguments)
        assert torch.equal(nothing, images)

    @pytest.mark.parametrize("source", [torch.float32, torch.float16])
    @pytest.mark.parametrize("mask_value", [0.0, 1.0])
    def test_kept_pixels_are_the_sources_also_with_fp16_intermediates(
        self, host, vae, case, monkeypatch, source, mask_value
    ):
        import comfy.cli_args

        monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
        image, mask, samples = case
        image, mask = image.to(source), mask * mask_value
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        assert output.dtype == source
        assert torch.equal(output[mask == 0], image[mask == 0])
        plain = run(host, "AsymVQDecode", samples=samples, vae=vae)
        assert plain.dtype == torch.float16

    def test_nan_in_the_source_under_the_mask_does_not_matter(self, host, vae, case):
        image, mask, samples = case
        broken = torch.where(mask[..., None] > 0, torch.nan, image)
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=broken, mask=mask)
        assert torch.equal(output, run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask))

    def test_bytes_are_scaled(self, host, vae, case):
        image, mask, samples = case
        image = (image * 255).round() / 255
        output = run(
            host, "AsymVQDecode", samples=samples, vae=vae, image=(image * 255).round().byte(), mask=mask.bool()
        )
        torch.testing.assert_close(
            output, run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask), atol=1e-6, rtol=0
        )

    def test_a_large_odd_picture(self, host, vae):
        image = torch.rand(1, 513, 769, 3)
        mask = torch.zeros(1, 513, 769)
        mask[:, 200:300, 300:500] = 1
        samples = {"samples": torch.randn(1, 4, 64, 96)}
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        assert output.shape == image.shape
        assert torch.equal(output[mask == 0], image[mask == 0])

    def test_alpha_is_dropped_and_one_picture_serves_a_batch(self, host, vae, case):
        image, mask, samples = case
        alpha = torch.cat([image, torch.rand(1, 48, 64, 1)], dim=-1)
        batch = {"samples": samples["samples"].repeat(3, 1, 1, 1)}
        output = run(host, "AsymVQDecode", samples=batch, vae=vae, image=alpha, mask=mask[0])
        single = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        torch.testing.assert_close(output, single.expand(3, -1, -1, -1), atol=1e-5, rtol=0)

    def test_preview_shows_source_and_result(self, host, vae, case):
        import folder_paths

        image, mask, samples = case
        batch = {"samples": samples["samples"].repeat(2, 1, 1, 1)}
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQDecode"]
        with torch.inference_mode():
            output = node.execute(samples=batch, vae=vae, image=image, mask=mask, preview=True)
        shown = output.ui["images"]
        folder = Path(folder_paths.get_temp_directory())
        pictures = [np.asarray(Image.open(folder / file["subfolder"] / file["filename"])) for file in shown]
        (result, _) = output.args[0]
        assert len(pictures) == 4
        for picture, expected in zip(pictures, (image[0], result, image[0], result), strict=True):
            np.testing.assert_allclose(picture, expected.numpy() * 255, atol=1)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do it themselves")
    def test_freed_memory_goes_back_to_the_system(self, host):
        resident = psutil.Process().memory_info
        large = torch.ones(2**23)  # 32 MiB: from now on glibc serves what is smaller from its heap, and keeps it
        del large
        pieces = [torch.ones(2**18) for _ in range(400)]
        last = torch.ones(2**18)  # the heap's end stays in use
        del pieces
        before = resident().rss
        host.pack("nodes.memory").give_back_memory(last.device)
        assert before - resident().rss > 300 * 2**20

    def test_growing_the_mask_edits_more(self, host, vae, case):
        image, mask, samples = case
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, grow_mask=4)
        changed = (output != image).any(-1)
        grown = torch.nn.functional.max_pool2d(mask, 9, stride=1, padding=4) > 0
        assert torch.equal(changed, grown)

    def test_tiling_reports_progress_and_is_interruptible(self, host, vae, case, monkeypatch):
        import comfy.model_management
        import comfy.utils

        shown, reported = [], []
        report = comfy.utils.ProgressBar.update_absolute

        def record(bar, value, total=None, preview=None):
            reported.append((value, total))
            report(bar, value, total, preview)

        monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", record)
        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *rest, **more: shown.append(value))
        image = torch.rand(1, 256, 256, 3)
        mask = torch.zeros(1, 256, 256)
        mask[:, 20:200, 20:200] = 1
        arguments = {
            "samples": {"samples": torch.randn(1, 4, 32, 32)}, "vae": vae, "image": image, "mask": mask,
            "tiling": "on", "tile_size": 128, "overlap": 32, "region": "full",
        }  # fmt: skip
        run(host, "AsymVQDecode", **arguments)
        assert {(round(1000 * tile / 9), 1000) for tile in range(1, 10)} <= set(reported)
        assert reported == sorted(reported)
        assert len(reported) > 9 * 8  # between two steps within a tile too
        assert shown[-1] == 1000  # the host leaves out reports that come too fast, but not the last

        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(host, "AsymVQDecode", **arguments)
        run(host, "AsymVQDecode", **arguments)  # the interrupt is spent

    def test_out_of_memory_goes_to_tiles_and_to_smaller_ones(self, host, vae, case, monkeypatch, caplog):
        image = torch.rand(1, 640, 640, 3)
        mask = torch.zeros(1, 640, 640)
        mask[:, 20:600, 20:600] = 1
        lean = host.pack("asymvq.lean")
        whole = lean.decode
        sizes = []

        def limited(model, latent, **condition):
            sizes.append(latent.shape[-1])
            if latent.shape[-1] > 40:
                raise torch.cuda.OutOfMemoryError("pretended limit")
            return whole(model, latent, **condition)

        monkeypatch.setattr(lean, "decode", limited)
        monkeypatch.setattr(lean, "pays", lambda *_: True)
        samples = {"samples": torch.randn(1, 4, 80, 80)}
        arguments = {"samples": samples, "vae": vae, "image": image, "mask": mask, "region": "full"}
        output = run(host, "AsymVQDecode", **arguments)
        assert sizes[:3] == [80, 64, 32]
        assert torch.equal(output[mask == 0], image[mask == 0])
        assert "trying again in tiles of 256 pixels" in caplog.text
        with pytest.raises(torch.cuda.OutOfMemoryError):
            run(host, "AsymVQDecode", **arguments, tiling="off")

    def test_half_precision_that_overflows_is_rescued(self, host, case, caplog):
        reference = write_vae(host, "overflow.safetensors")
        reference.decoder.mid.block_1.conv2.weight.mul_(3e5)
        asymvq.save(reference, host.base / "models/vae/overflow.safetensors")
        vae = run(host, "AsymVQLoader", vae_name="overflow.safetensors", dtype="fp16")
        image, mask, samples = case
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, keep="network")
        assert "decoding again in float32" in caplog.text
        expected = asymvq.decode(
            reference, samples["samples"], image=image.movedim(-1, 1) * 2 - 1, mask=mask[:, None], keep="network"
        )
        assert (output - (expected / 2 + 0.5).clamp(0, 1).movedim(1, -1)).abs().mean() < 0.01
        assert vae.vae_dtype == torch.float16

    def test_a_mask_aware_16_channel_decoder(self, host, case):
        config = AutoencoderConfig(
            **{**vars(CONFIG), "latent_channels": 16, "quant_conv": False, "post_quant_conv": False},
        )
        config = AutoencoderConfig(**{**vars(config), "condition": ConditionConfig(True, MaskReduction.ANY)})
        reference = write_vae(host, "flux.safetensors", config)
        vae = run(host, "AsymVQLoader", vae_name="flux.safetensors", dtype="fp32")
        image, mask, _ = case
        samples = {"samples": torch.randn(1, 16, 6, 8)}
        output = run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask)
        expected = asymvq.decode(reference, samples["samples"], image=image.movedim(-1, 1) * 2 - 1, mask=mask[:, None])
        torch.testing.assert_close(output, (expected / 2 + 0.5).clamp(0, 1).movedim(1, -1), atol=1e-5, rtol=0)


class TestMemory:
    def test_the_host_is_told_what_a_decode_takes(self, host, vae, case, monkeypatch):
        import comfy.model_management

        asked = []
        load = comfy.model_management.load_models_gpu
        monkeypatch.setattr(
            comfy.model_management,
            "load_models_gpu",
            lambda models, memory_required=0, **more: (asked.append(memory_required), load(models, memory_required))[1],
        )
        image, mask, samples = case
        run(host, "AsymVQDecode", samples=samples, vae=vae, image=image, mask=mask, region="full")
        vae.decode(samples["samples"])
        vae.encode(image)
        model = host.pack("asymvq.memory_model")
        config = host.pack("asymvq.config").AutoencoderConfig(**vars(CONFIG) | {"condition": vae.config.condition})
        assert asked == [
            model.decode_bytes(config, (6, 8), conditioned=True),
            model.decode_bytes(config, (6, 8), conditioned=False),
            model.encode_bytes(config, (48, 64)),
        ]

    def test_amds_factor_is_the_hosts(self, host, vae, monkeypatch):
        import comfy.model_management
        import comfy.sd

        def announced() -> list[float]:
            stand_in = host.pack("nodes.vae")._STAND_IN
            state = comfy.sd.AutoencoderKL(**stand_in).state_dict()
            stock = comfy.sd.VAE(sd=state, config={"params": stand_in})
            shape, dtype = (1, 4, 64, 64), torch.float16
            return [
                memory(shape, dtype)
                for each in (stock, vae)
                for memory in (each.memory_used_decode, each.memory_used_encode)
            ]

        elsewhere = announced()
        monkeypatch.setattr(comfy.model_management, "is_amd", lambda: True)
        factors = [there / here for there, here in zip(announced(), elsewhere, strict=True)]
        assert factors == pytest.approx([factors[0]] * 4)
        assert factors[0] > 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mask": None}, "only the image"),
            ({"image": None}, "only the mask"),
            ({"mask": torch.zeros(1, 64, 64)}, "open the mask editor"),
            ({"mask": torch.ones(1, 40, 64)}, "image of 64×48 and a mask of 64×40"),
            ({"mask": torch.ones(3, 48, 64), "image": torch.zeros(2, 48, 64, 3)}, "taken in turn, but got 1, 2 and 3"),
            (
                {"mask": torch.ones(1, 48, 64) * 255},
                "mask's values .*, but got 255 to 255. The node that made",
            ),
            (
                {"image": torch.ones(1, 48, 64, 3) * 255},
                "image's values .*, but got 255 to 255. The node that",
            ),
            ({"image": torch.full((1, 48, 64, 3), float("nan"))}, "finite source image, but picture 1 holds NaN"),
            ({"image": torch.zeros(0, 48, 64, 3)}, "an image, but got an empty tensor .* the node that made it"),
            ({"image": torch.zeros(1, 48, 0, 3)}, "an image, but got an empty tensor"),
            ({"image": torch.zeros(1, 48, 64, 3, dtype=torch.float8_e4m3fn)}, "an image, but got a tensor of .*float8"),
            ({"image": torch.zeros(1, 48, 64, 3).to_sparse()}, "an image, but got a sparse"),
            ({"image": torch.zeros(1, 48, 64, 3, device="meta")}, "an image, but got a tensor without values"),
            ({"mask": torch.zeros(0, 48, 64)}, "a mask, but got an empty tensor"),
            ({"mask": torch.zeros(1, 48, 64).to_sparse()}, "a mask, but got a sparse"),
            ({"samples": {"samples": torch.zeros(0, 4, 6, 8)}}, "a latent, but got an empty tensor"),
            ({"samples": {"samples": torch.zeros(1, 4, 6, 8).to_sparse()}}, "a latent, but got a sparse"),
            ({"samples": {"samples": torch.zeros(1, 4, 6, 8, device="meta")}}, "a latent, but got a tensor without"),
            ({"samples": {"samples": torch.zeros(1, 4, 6, 8, dtype=torch.int32)}}, "a latent of floats, but got"),
            ({"samples": {"samples": torch.zeros(1, 16, 6, 8)}}, "4 channels, but got 16"),
            ({"samples": {"samples": torch.zeros(1, 4, 5, 6, 8)}}, "but got 5"),
            ({"image": torch.zeros(1, 48, 64, 1)}, "an image of shape"),
            ({"image": torch.zeros(1, 96, 64, 3), "mask": torch.ones(1, 96, 64)}, "64×48 pixels .* got 64×96"),
        ],
    )
    def test_bad_input(self, host, vae, case, change, message):
        image, mask, samples = case
        arguments = {"samples": samples, "image": image, "mask": mask, **change}
        with pytest.raises(ValueError, match=message):
            run(host, "AsymVQDecode", vae=vae, **arguments)

    def test_no_vae_at_all(self, host, case):
        image, mask, samples = case
        with pytest.raises(ValueError, match="Expected a VAE, but got object"):
            run(host, "AsymVQDecode", vae=object(), samples=samples, image=image, mask=mask)
        with pytest.raises(ValueError, match="from Load Asymmetric VQGAN"):
            run(host, "AsymVQSave", vae=object(), filename_prefix="vae/x")


class TestSave:
    @pytest.mark.parametrize("layout", ["native", "diffusers"])
    def test_writes_numbered_files_that_load_again(self, host, case, layout):
        write_vae(host, "for_saving.safetensors", DIFFUSERS)
        vae = run(host, "AsymVQLoader", vae_name="for_saving.safetensors", dtype="fp32")
        prefix = f"vae/saved_{layout}"
        paths = [run(host, "AsymVQSave", vae=vae, filename_prefix=prefix, layout=layout) for _ in range(2)]
        assert [p.rsplit("_", 2)[1] for p in paths] == ["00001", "00002"]
        again = asymvq.load(paths[1])
        _, _, samples = case
        expected = (asymvq.decode(again, samples["samples"]) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        torch.testing.assert_close(vae.decode(samples["samples"]), expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("layout", ["native", "diffusers"])
    def test_the_latents_scaling_goes_along(self, host, layout):
        write_vae(host, f"of_sdxl_{layout}.safetensors", dataclasses.replace(DIFFUSERS, latents=LATENT_SPACES["sdxl"]))
        vae = run(host, "AsymVQLoader", vae_name=f"of_sdxl_{layout}.safetensors", dtype="fp32")
        for said, family in (("as loaded", "sdxl"), ("sd", "sd")):
            inputs = {"vae": vae, "filename_prefix": f"vae/latents_{layout}", "layout": layout, "latents": said}
            path = run(host, "AsymVQSave", **inputs)
            assert asymvq.load(path).config.latents == LATENT_SPACES[family]

    def test_stays_below_the_output_folder(self, host, vae):
        with pytest.raises(Exception, match="outside the output folder"):
            run(host, "AsymVQSave", vae=vae, filename_prefix="../../escape")
