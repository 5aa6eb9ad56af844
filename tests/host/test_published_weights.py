"""The published 1.5x file: its true size and layout with random weights, against diffusers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def reference(host: SimpleNamespace, shake_norms, tmp_path_factory: pytest.TempPathFactory):
    """diffusers' model, whose file lies in the host's models/vae."""
    torch.manual_seed(0)
    vae = diffusers.AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, down_block_out_channels=(128, 256, 512, 512),
        layers_per_down_block=2, up_block_types=("UpDecoderBlock2D",) * 4,
        up_block_out_channels=(192, 384, 768, 768), layers_per_up_block=3, latent_channels=4,
    )  # fmt: skip
    shake_norms(vae)
    vae.eval().requires_grad_(False)
    folder = tmp_path_factory.mktemp("diffusers")
    vae.save_pretrained(folder)
    (folder / NAME).replace(host.base / "models" / "vae" / NAME)
    return vae


@pytest.fixture(scope="module")
def case(blob_mask) -> tuple[Tensor, Tensor, Tensor]:
    """A picture (1, 64, 64, 3) in [0, 1], a mask (1, 64, 64) with kept and edited parts, a latent (1, 4, 8, 8)."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 64, 64, 3, generator=generator)
    return image, blob_mask(64, 64)[0], torch.randn(1, 4, 8, 8, generator=generator)


def decoded_by_diffusers(vae, image: Tensor, mask: Tensor, latent: Tensor) -> Tensor:
    """(1, H, W, 3) in [0, 1]."""
    decoded = vae.decode(latent, image=image.movedim(-1, 1) * 2 - 1, mask=mask[:, None]).sample
    return (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def test_our_nodes_give_what_diffusers_gives(host: SimpleNamespace, reference, case) -> None:
    image, mask, latent = case
    with torch.inference_mode():
        expected = decoded_by_diffusers(reference, image, mask, latent)
        nodes = host.nodes.NODE_CLASS_MAPPINGS
        vae = nodes["AsymVQLoader"].execute(vae_name=NAME, dtype="fp32").args[0]
        inputs = {"samples": {"samples": latent}, "vae": vae, "image": image, "mask": mask}
        result = nodes["AsymVQDecode"].execute(**inputs, keep="network").args[0]
    assert expected.std() > 0.05
    assert (result - expected).abs().max() <= 1 / 255


def test_the_stock_loader_gives_another_picture_or_none(host: SimpleNamespace, reference, case) -> None:
    """The failure that Load Asymmetric VQGAN is there for: no error on newer hosts, and a wrong picture."""
    image, _, latent = case
    nodes = host.nodes.NODE_CLASS_MAPPINGS
    with torch.inference_mode():
        everywhere = torch.ones(1, 64, 64)  # the condition sees nothing: what a plain decode is to give
        expected = decoded_by_diffusers(reference, image, everywhere, latent)
        ours = nodes["AsymVQLoader"].execute(vae_name=NAME, dtype="fp32").args[0].decode(latent)
        torch.testing.assert_close(ours, expected, atol=1 / 255, rtol=0)
        try:
            stock = nodes["VAELoader"]().load_vae(NAME)[0].decode(latent)
        except RuntimeError as error:
            assert "size mismatch" in str(error)  # noqa: PT017
        else:
            assert (stock.float() - expected).abs().mean() > 5 / 255
