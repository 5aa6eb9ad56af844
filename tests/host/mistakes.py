"""What artists get wrong, as graphs to queue. Run as a program, prints docs/errors.md from a real host's messages:

cd tests && python -m host.mistakes > ../docs/errors.md
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import asymvq

from .conftest import find_host, make_base_folder
from .server import Server

Prompt = dict[str, dict[str, Any]]

CONFIG = asymvq.AutoencoderConfig(
    decoder_channels=(8, 8, 16, 16), decoder_blocks=1, encoder_channels=(8, 8, 16, 16), encoder_blocks=1,
    latent_channels=4, norm_groups=4,
)  # fmt: skip
OTHER_LATENT = dataclasses.replace(CONFIG, latent_channels=16)
RECIPE = {
    "recipe": "fidelity", "recipe.batch": 1, "recipe.accumulate": 1, "recipe.crop": 32, "recipe.learning_rate": 1e-4,
    "recipe.lpips": 0.0, "recipe.ssim": 1.0, "recipe.adversarial": 0.0, "recipe.adversarial_start": 0,
    "recipe.border": 0.0, "recipe.unconditioned": 0.5, "recipe.harmonise": 0.0, "recipe.save_memory": False,
    "recipe.dtype": "fp32",
}  # fmt: skip


class Exploit:
    """Writes a file if it is ever unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.target,)


def write_files(base: Path) -> None:
    """Checkpoints, latents and folders that are wrong in one way each, and some good ones."""
    folder = base / "models" / "vae"
    torch.manual_seed(0)
    for name, config in {
        "good": CONFIG,
        "stock_kl": dataclasses.replace(CONFIG, condition=None),
        "decoder_only": dataclasses.replace(CONFIG, encoder_channels=None),
        "sixteen_channels": OTHER_LATENT,
    }.items():
        asymvq.save(asymvq.AsymmetricAutoencoder(config), folder / f"{name}.safetensors")
    good = load_file(folder / "good.safetensors")
    some = next(name for name in good if name.endswith("decoder.conv_out.weight"))
    variants: dict[str, dict[str, torch.Tensor]] = {
        "missing_tensor": {name: tensor for name, tensor in good.items() if name != some},
        "extra_tensor": {**good, "asymvq.decoder.unknown.weight": torch.zeros(3)},
        "wrong_shape": {**good, some: good[some][:, :-1].clone()},
        "nan_weights": {**good, some: torch.full_like(good[some], torch.nan)},
        "lora": {"lora_unet.lora_down.weight": torch.zeros(4, 8), "lora_unet.lora_up.weight": torch.zeros(8, 4)},
        "video": {
            "encoder.conv_in.weight": torch.zeros(8, 3, 3, 3, 3),
            "decoder.conv_in.weight": torch.zeros(16, 4, 3, 3, 3),
            "decoder.conv_out.weight": torch.zeros(3, 8, 3, 3, 3),
        },
    }
    stock = load_file(folder / "stock_kl.safetensors")
    plain = {name.removeprefix("asymvq."): tensor for name, tensor in stock.items() if name != "asymvq.config"}
    variants["vq"] = {**plain, "quantize.embedding.weight": torch.zeros(16, 4)}
    variants["scaled_fp8"] = {**plain, "decoder.conv_in.scale_weight": torch.ones(1)}
    variants["vae-00001-of-00002"] = dict(list(plain.items())[::2])
    for name, tensors in variants.items():
        save_file(tensors, folder / f"{name}.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "gguf.safetensors").write_bytes(b"GGUF\3\0\0\0" + bytes(600))
    (folder / "text.ckpt").write_text("<!doctype html><title>404</title>", "utf-8")
    torch.save({"state_dict": Exploit(str(base / "ran"))}, folder / "malicious.ckpt")
    save_file({"a.weight": torch.zeros(2, 2)}, base / "models" / "checkpoints" / "plain.safetensors")
    save_file({"a.weight": torch.zeros(2, 2)}, base / "models" / "clip_vision" / "no_head.safetensors")

    def latent(name: str, *shape: int, value: float = 0.0) -> None:
        tensors = {"latent_tensor": torch.full(shape, value), "latent_format_version_0": torch.tensor([])}
        save_file(tensors, base / "input" / f"{name}.latent")

    latent("good", 1, 4, 8, 8)
    latent("nan", 1, 4, 8, 8, value=float("nan"))
    latent("channels", 1, 16, 8, 8)
    latent("video", 1, 4, 3, 8, 8)
    (base / "input" / "no_pictures").mkdir()
    (base / "input" / "small_pictures").mkdir()
    Image.new("RGB", (16, 16), "teal").save(base / "input" / "small_pictures" / "a.png")
    (base / "input" / "pictures").mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(base / "input" / "pictures" / "a.png")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def load(name: str, base: str = "none") -> Prompt:
    return {"vae": node("AsymVQLoader", vae_name=name, base_vae=base, dtype="fp32")}


def saved(prompt: Prompt) -> Prompt:
    """The VAE of the prompt is asked for."""
    return {**prompt, "end": node("AsymVQSave", vae=["vae", 0], filename_prefix="x", layout="native", dtype="auto")}


def decode(
    *, vae: Prompt | None = None, latent: str = "good", size: int = 64, mask_size: int = 64, **more: Any
) -> Prompt:
    """A decode of a 64×64 picture. `more` are other inputs of the decode; those that are None are not wired."""
    inputs: dict[str, Any] = {
        "samples": ["latent", 0], "vae": ["vae", 0], "image": ["image", 0], "mask": ["mask", 0], "keep": "exact",
        "grow_mask": 0, "tiling": "auto", "tile_size": 512, "overlap": 64, "region": "auto", **more,
    }  # fmt: skip
    return {
        **(load("good.safetensors") if vae is None else vae),
        "latent": node("LoadLatent", latent=f"{latent}.latent"),
        "image": node("EmptyImage", width=size, height=size, batch_size=1, color=0x336699),
        "mask": node("AsymVQRandomMask", seed=0, width=mask_size, height=mask_size, batch_size=1, thickness=1.0),
        "result": {"class_type": "AsymVQDecode", "inputs": {k: v for k, v in inputs.items() if v is not None}},
        "end": node("PreviewImage", images=["result", 0]),
    }


def harmonise(size: int) -> Prompt:
    """Of a 64×64 picture."""
    inputs = {"edited": ["edited", 0], "source": ["image", 0], "mask": ["mask", 0], "strength": 1.0, "grow_mask": 0}
    return {
        "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0x336699),
        "edited": node("EmptyImage", width=size, height=size, batch_size=1, color=0x996633),
        "mask": node("AsymVQRandomMask", seed=0, width=64, height=64, batch_size=1, thickness=1.0),
        "result": node("AsymVQHarmonise", **inputs),
        "end": node("PreviewImage", images=["result", 0]),
    }


def edited(kind: str, *, size: int = 64, edits: int = 1, sources: int = 1, mask_size: int | None = None) -> Prompt:
    """A node that looks at edits of a 64×64 picture. `mask_size`: with a mask of that size."""
    prompt = {
        "source": node("EmptyImage", width=64, height=64, batch_size=sources, color=0x336699),
        "edited": node("EmptyImage", width=size, height=size, batch_size=edits, color=0x996633),
    }
    inputs: dict[str, Any] = {"edited": ["edited", 0], "source": ["source", 0]}
    if kind == CHANGE:
        inputs |= {"sensitivity": 0.5, "grow": 8, "feather": 8, "smallest": 0.05, "fill_holes": 0.2}
    if mask_size is not None:
        prompt["mask"] = node("SolidMask", value=1.0, width=mask_size, height=mask_size)
        inputs["mask"] = ["mask", 0]
    prompt["result"] = node(kind, **inputs)
    end = node("MaskPreview", mask=["result", 0]) if kind == CHANGE else node("PreviewImage", images=["result", 0])
    return {**prompt, "end": end}


def crop(kind: str, mask_size: int = 64, **more: Any) -> Prompt:
    """Of a 64×64 picture, around a mask that nothing is painted on."""
    return {
        "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0x336699),
        "mask": node("SolidMask", value=0.0, width=mask_size, height=mask_size),
        "part": node(kind, image=["image", 0], mask=["mask", 0], **more),
        "end": node("PreviewImage", images=["part", 0]),
    }


def three_parts() -> Prompt:
    """Edited parts, of a crop of two pictures."""
    prompt = crop(CROP, **AROUND)
    prompt["image"]["inputs"]["batch_size"] = 2
    prompt["mask"]["inputs"]["value"] = 1.0
    prompt["edited"] = node("EmptyImage", width=64, height=64, batch_size=3, color=0x996633)
    inputs = {"crop": ["part", 2], "image": ["edited", 0], "harmonise": 1.0}
    return {**prompt, "whole": node(STITCH, **inputs), "end": node("PreviewImage", images=["whole", 0])}


def three_masks() -> Prompt:
    prompt = decode(samples=["two", 0])
    prompt["two"] = node("RepeatLatentBatch", samples=["latent", 0], amount=2)
    prompt["mask"]["inputs"]["batch_size"] = 3
    return prompt


def no_mask_painted() -> Prompt:
    prompt = decode(size=128)
    prompt["mask"] = node("SolidMask", value=0.0, width=64, height=64)
    return prompt


def encode(name: str) -> Prompt:
    return {
        **load(name),
        "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "encoded": node("VAEEncode", pixels=["image", 0], vae=["vae", 0]),
        "end": node("SaveLatent", samples=["encoded", 0], filename_prefix="x"),
    }


def save_to(prefix: str, vae: Prompt | None = None) -> Prompt:
    prompt = saved(load("good.safetensors") if vae is None else vae)
    prompt["end"]["inputs"]["filename_prefix"] = prefix
    return prompt


def train(folder: str, *, name: str = "mistake", vae: Prompt | None = None, **recipe: Any) -> Prompt:
    settings = {**RECIPE, **{f"recipe.{key}": value for key, value in recipe.items()}}
    inputs = {
        "vae": ["vae", 0], "folder": folder, "preset": "base", "steps": 1, "seed": 0, "save_name": name,
        "resume": True, **settings,
    }  # fmt: skip
    return {**(load("good.safetensors") if vae is None else vae), "train": node("AsymVQTrain", **inputs)}


def compare(size: int, count: int = 1, references: int = 1) -> Prompt:
    return {
        "a": node("EmptyImage", width=64, height=64, batch_size=references, color=0),
        "b": node("EmptyImage", width=size, height=size, batch_size=count, color=255),
        "end": {
            "class_type": "AsymVQCompare",
            "inputs": {
                "reference": ["a", 0], "results.result_1": ["b", 0], "labels": "", "compare": "kept pixels",
                "amplify": 10,
            },
        },
    }  # fmt: skip


STOCK: Prompt = {"vae": node("VAELoader", vae_name="pixel_space")}


@dataclass(frozen=True)
class Mistake:
    """A graph that fails at a node of type `at`, with a message that has `says` in it."""

    what: str
    prompt: Prompt
    at: str
    says: str


LOADER, DECODE, SAVE, TRAIN = "AsymVQLoader", "AsymVQDecode", "AsymVQSave", "AsymVQTrain"
ALIGN, CHANGE, CROP, STITCH = "AsymVQAlign", "AsymVQChangeMask", "AsymVQInpaintCrop", "AsymVQStitch"
AROUND_MASK = "AsymVQCropAroundMask"
AROUND = {
    "context": 8, "context_share": 0.0, "size": "as it is", "size.aspect": "free", "multiple": "8",
    "left": 0, "top": 0, "right": 0, "bottom": 0, "grow_mask": 0,
}  # fmt: skip
MISTAKES = [
    Mistake("an empty file", saved(load("empty.safetensors")), LOADER, "Download it again"),
    Mistake("a download that was cut short", saved(load("truncated.safetensors")), LOADER, "download it again"),
    Mistake("a web page in place of the weights", saved(load("text.ckpt")), LOADER, "Download the file itself"),
    Mistake("a pickle that would run code", saved(load("malicious.ckpt")), LOADER, "Nothing of it was run"),
    Mistake("a LoRA", saved(load("lora.safetensors")), LOADER, "Choose a VAE file"),
    Mistake("a video VAE", saved(load("video.safetensors")), LOADER, "Video VAEs of this kind are not supported"),
    Mistake("a VQ model", saved(load("vq.safetensors")), LOADER, "got a VQ model"),
    Mistake("a GGUF file under another name", saved(load("gguf.safetensors")), LOADER, "Get the VAE as safetensors"),
    Mistake("fp8 weights with scales", saved(load("scaled_fp8.safetensors")), LOADER, "unquantised"),
    Mistake("one shard of several", saved(load("vae-00001-of-00002.safetensors")), LOADER, "Put them into one folder"),
    Mistake("one tensor missing", saved(load("missing_tensor.safetensors")), LOADER, "incomplete"),
    Mistake("one tensor too many", saved(load("extra_tensor.safetensors")), LOADER, "another architecture"),
    Mistake("one tensor of another shape", saved(load("wrong_shape.safetensors")), LOADER, "another architecture"),
    Mistake("NaN weights", saved(load("nan_weights.safetensors")), LOADER, "use another"),
    Mistake(
        "a base_vae of another kind", saved(load("decoder_only.safetensors", "sixteen_channels.safetensors")), LOADER,
        "Choose the VAE that the decoder was made for",
    ),
    Mistake("encoding with a file without an encoder", encode("decoder_only.safetensors"), "VAEEncode", "base_vae"),
    Mistake("another size than a stock VAE decoded", decode(vae=STOCK), DECODE, "Give the image that was encoded"),
    Mistake("another model's latent", decode(latent="channels"), DECODE, "channels"),
    Mistake("a video's latent", decode(latent="video"), DECODE, "video models"),
    Mistake("a latent with NaN", decode(latent="nan"), DECODE, "the step before it went wrong"),
    Mistake("a picture of another size", decode(size=128, mask_size=128), DECODE, "Give the image that was encoded"),
    Mistake("a mask of another size", decode(mask_size=128), DECODE, "Resize the mask to the image"),
    Mistake("three masks for two latents", three_masks(), DECODE, "Repeat or drop some"),
    Mistake("no mask painted", no_mask_painted(), DECODE, "open the mask editor"),
    Mistake("a picture without a mask", decode(mask=None), DECODE, "mask"),
    Mistake("a mask without a picture", decode(image=None), DECODE, "image"),
    Mistake("an edit of another size", harmonise(128), "AsymVQHarmonise", "Align Edit to Source"),
    Mistake("aligning with a mask of another size", edited(ALIGN, mask_size=128), ALIGN, "Resize the mask"),
    Mistake("three edits of two sources to align", edited(ALIGN, edits=3, sources=2), ALIGN, "Repeat or drop some"),
    Mistake("finding the change in an edit of another size", edited(CHANGE, size=72), CHANGE, "Align Edit to Source"),
    Mistake(
        "finding the change in three edits of two sources", edited(CHANGE, edits=3, sources=2), CHANGE,
        "Repeat or drop some",
    ),
    Mistake("cropping without a mask or a wider side", crop(CROP, **AROUND), CROP, "set left, top, right or bottom"),
    Mistake("cropping around a mask of another size", crop(CROP, 128, **AROUND), CROP, "Resize the mask"),
    Mistake("three edited parts for two pictures", three_parts(), STITCH, "Repeat or drop some"),
    Mistake("a square around an empty mask", crop(AROUND_MASK, size=64), AROUND_MASK, "Paint it"),
    Mistake(
        "more masks than memory",
        {
            "mask": node("AsymVQRandomMask", seed=0, width=8192, height=8192, batch_size=4096, thickness=1.0),
            "end": node("MaskPreview", mask=["mask", 0]),
        },
        "AsymVQRandomMask", "Ask for fewer masks",
    ),
    Mistake("saving a stock VAE", save_to("x", STOCK), SAVE, "Save it with VAE Save"),
    Mistake("a name that leaves the output folder", save_to("../../x"), SAVE, "outside the output folder"),
    Mistake("training without pictures", train("none"), TRAIN, "Choose a folder, or connect images"),
    Mistake("a training folder without pictures", train("no_pictures"), TRAIN, "but found none"),
    Mistake("a training folder with small pictures only", train("small_pictures"), TRAIN, "smaller crops"),
    Mistake("training under a name outside the output", train("pictures", name="../../x"), TRAIN, "outside the output"),
    Mistake("training a stock pixel VAE", train("pictures", vae=STOCK), TRAIN, "Expected a picture VAE"),
    Mistake("LPIPS without its weights", train("pictures", lpips=1.0), TRAIN, "TORCH_HOME"),
    Mistake("comparing another size", compare(128), "AsymVQCompare", "Resize or crop it to the reference"),
    Mistake("comparing another count", compare(64, 3, 2), "AsymVQCompare", "Expected 3 pictures in"),
    Mistake(
        "another checkpoint as Paint by Example",
        {
            "model": node("AsymVQPaintByExampleLoader", ckpt_name="plain.safetensors"),
            "end": node("PreviewAny", source=["model", 0]),
        },
        "AsymVQPaintByExampleLoader", "Paint by Example",
    ),
    Mistake(
        "another CLIP vision file as Paint by Example's head",
        {
            "head": node("AsymVQPaintByExampleHeadLoader", head_name="no_head.safetensors"),
            "end": node("PreviewAny", source=["head", 0]),
        },
        "AsymVQPaintByExampleHeadLoader", "Paint by Example",
    ),
]  # fmt: skip


def failure(server: Server, mistake: Mistake) -> dict[str, Any]:
    """The host's report of the failed node: node_type, exception_message, exception_type."""
    messages = dict(server.run(mistake.prompt)["status"]["messages"])
    if "execution_error" not in messages:
        raise AssertionError(f"{mistake.what}: expected an error, but the graph ran: {messages}")
    return messages["execution_error"]


def environment(base: Path) -> dict[str, str]:
    """No weights of LPIPS, and nowhere to fetch them from."""
    return {**os.environ, "TORCH_HOME": str(base / "torch_home"), "https_proxy": "http://127.0.0.1:9"}


def start_server(base: Path) -> Server:
    """A host with the wrong files in its folders."""
    host = find_host()
    if host is None:
        raise RuntimeError("Expected a ComfyUI, but found none. Set COMFYUI_PATH to a checkout.")
    make_base_folder(base)
    write_files(base)
    server = Server(host, base, environment(base))
    server.wait_until_ready()
    return server


def row(mistake: Mistake, error: dict[str, Any], name: str, base: Path) -> str:
    """Of the table; the base folder is left out of paths."""
    message = error["exception_message"].strip().replace(f"{base}{os.sep}", "").replace(str(base), "ComfyUI")
    message = message.replace(str(base.parent), "…")
    message = re.sub(r"\s+", " ", message).replace("|", "\\|").replace("<", "\\<")
    return f"| {mistake.what} | {name} | {message} |"


HEAD = """\
# What goes wrong, and what the node says

Each of these graphs was queued in a real ComfyUI; the message is the one that the artist reads on the node that fails.
`cd tests && python -m host.mistakes > ../docs/errors.md` writes this page, `tests/host/test_mistakes.py` holds it.
All messages say what was expected, what came, and what to do.

| mistake | node | message |
|---|---|---|"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "comfyui"
        server = start_server(base)
        try:
            lines = [HEAD]
            for mistake in MISTAKES:
                error = failure(server, mistake)
                info = server.get(f"/object_info/{error['node_type']}")[error["node_type"]]
                lines.append(row(mistake, error, info["display_name"], base))
        finally:
            server.stop()
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
