"""Decoders grown from a file of each family, and trained, in graphs posted to a real ComfyUI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import CONFIGS, TAE, built
from PIL import Image
from safetensors.torch import load_file

import asymvq
from asymvq.autoencoders import AutoencoderConfig, wan
from asymvq.cli import main

from .server import Server
from .test_server import QUICKSTART, node_of, saved_picture

FLUX2 = AutoencoderConfig(
    latent_channels=128, decoder_channels=(32, 32, 32, 64), decoder_blocks=2, condition=None, latent_packing=2,
    encoder_channels=(32, 32, 32, 64), encoder_blocks=1,
)  # fmt: skip
FAMILIES = {
    "KL": (FLUX2.replaced(latent_channels=4, latent_packing=1), (1, 4, 12, 16)),
    "FLUX.2": (FLUX2, (1, 128, 6, 8)),
    "Wan": (wan.Config(decoder_channels=(16, 32, 64, 64), encoder_channels=(16, 32, 64, 64)), (1, 16, 1, 12, 16)),
    "TAESD": (TAE, (1, 4, 12, 16)),
    "TAEF2": (CONFIGS["TAEF2"], (1, 128, 6, 8)),
}
TOP, LEFT, HEIGHT, WIDTH = 120, 128, 96, 128
"""The part of the demo picture that is decoded."""


def graph(base: str, grown: str, trained: str) -> dict[str, Any]:
    """The base's latent, saved; what each VAE makes of it; and the grown one's and the trained one's with the kept
    pixels."""
    settings = {k: v for k, v in node_of(QUICKSTART, "AsymVQDecode")["inputs"].items() if not isinstance(v, list)}
    part = {"x": LEFT, "y": TOP, "width": WIDTH, "height": HEIGHT}

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    def loader(name: str) -> dict[str, Any]:
        return node("AsymVQLoader", vae_name=name, base_vae="none", dtype="fp32")

    def decode(vae: str, **given: Any) -> dict[str, Any]:
        return node("AsymVQDecode", samples=["latent", 0], vae=[vae, 0], **{**settings, **given})

    decodes = {
        "by_base": decode("base"),
        "by_grown": decode("grown"),
        "kept": decode("grown", image=["image", 0], mask=["mask", 0], keep="exact"),
        "by_trained": decode("trained"),
        "kept_by_trained": decode("trained", image=["image", 0], mask=["mask", 0], keep="exact"),
    }
    return {
        "pictures": node("AsymVQDemoPictures"),
        "image": node("ImageCrop", image=["pictures", 0], **part),
        "mask": node("CropMask", mask=["pictures", 1], **part),
        "base": loader(base),
        "grown": loader(grown),
        "trained": loader(trained),
        "latent": node("VAEEncode", pixels=["image", 0], vae=["base", 0]),
        "saved": node("SaveLatent", samples=["latent", 0], filename_prefix="latents/" + base),
        **decodes,
        **{f"saved_{name}": node("SaveImage", images=[name, 0], filename_prefix=name) for name in decodes},
        "saved_image": node("SaveImage", images=["image", 0], filename_prefix="image_" + base),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_grown_decoder_is_its_base_trains_and_keeps_pixels(server: Server, name: str, tmp_path: Path) -> None:
    config, shape = FAMILIES[name]
    folder = server.base / "models" / "vae"
    base, grown, trained = (folder / f"{name}_{kind}.safetensors" for kind in ("base", "grown", "trained"))
    folder.mkdir(parents=True, exist_ok=True)
    vae = built(config)
    if not config.attention:  # with random weights their pictures are black
        vae.decoder.conv_out.weight.mul_(2)
        vae.decoder.conv_out.bias.fill_(0.5)
    asymvq.save(vae, base, layout="original")
    assert "asymvq.config" not in load_file(base)
    train = ["train", "--base", str(base), "--preset", "2x"]
    assert main([*train, "--steps", "0", "--out", str(grown)]) == 0
    shutil.copy(asymvq.__path__[0] + "/assets/picture.png", tmp_path)
    settings = ["--recipe", "fidelity", "--crop", "32", "--batch", "1", "--set", "held_out=0", "--set", "warm_up=2"]
    assert main([*train, "--steps", "20", "--out", str(trained), "--data", str(tmp_path), *settings]) == 0
    history = server.run(graph(base.name, grown.name, trained.name))

    (file,) = (server.base / "output" / "latents").glob(f"{base.name}*.latent")
    assert load_file(file)["latent_tensor"].shape == shape
    outputs = history["outputs"]
    pictures = {
        node: saved_picture(server, {**history, "outputs": {node: outputs[node]}}).astype(int)
        for node in outputs if node.startswith("saved_")
    }  # fmt: skip
    by_base, by_grown = pictures["saved_by_base"], pictures["saved_by_grown"]
    assert by_base.shape == (HEIGHT, WIDTH, 3)
    assert by_base.std() > 5
    assert abs(by_base - by_grown).max() <= 1  # one level of 8 bits, where rounding falls on the other side
    with Image.open(asymvq.__path__[0] + "/assets/mask.png") as picture:
        mask = np.asarray(picture.convert("L"))[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    assert 0.05 < (mask == 0).mean() < 0.95
    image = pictures["saved_image"]
    for kept in (pictures["saved_kept"], pictures["saved_kept_by_trained"]):
        assert np.array_equal(kept[mask == 0], image[mask == 0])
        assert abs(kept - image)[mask == 255].mean() > 5
    assert abs(pictures["saved_by_trained"] - by_grown).max() > 1
