"""Every workflow that needs files, posted to a real ComfyUI with random weights in the real layouts.

As much of it runs as the host can build small: all of it, or what follows a text encoder of billions of parameters
(random conditioning stands in for it), or what follows a sampler whose model has only one size (the encoded picture
stands in for what it paints).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from . import small_models
from .conftest import PACK, make_base_folder
from .graphs import prompt_of
from .server import Server, error_of

SIZE = (120, 88)  # of the picture
FRAMES = 5
STAND_IN = """
import torch

class StandInConditioning:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {"max": 99999}), "pooled": ("INT", {"max": 99999})}}

    def run(self, width, pooled):
        generator = torch.Generator().manual_seed(0)
        options = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, 8, width, generator=generator), options]],)

NODE_CLASS_MAPPINGS = {"StandInConditioning": StandInConditioning}
"""
TEXT = ("CLIPTextEncode", "TextEncodeQwenImageEditPlus")
SAMPLERS = ("KSampler", "SamplerCustomAdvanced")


@dataclass(frozen=True)
class Case:
    """How a workflow is cut down."""

    files: tuple[str, ...]
    conditioning: tuple[int, int] | None = None
    """Width and pooled width of what stands in for the text encoder."""
    encoded_by: str | None = None
    """The file of the VAE whose latent of the source stands in for what the sampler paints."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Inputs by the nodes' kinds, to make it small."""


FEW = {"KSampler": {"steps": 2}}
CASES = {
    "inpainting": Case(("checkpoints/sd-v1-5-inpainting", "vae/diffusion_pytorch_model"), changes=FEW),
    "large_photo": Case(
        ("checkpoints/sd-v1-5-inpainting", "vae/diffusion_pytorch_model"),
        changes=FEW | {"AsymVQInpaintCrop": {"size.megapixels": 0.05, "context": 16}},
    ),
    "text_to_image": Case(
        ("checkpoints/v1-5-pruned-emaonly-fp16", "vae/diffusion_pytorch_model"),
        changes=FEW | {"EmptyLatentImage": {"width": 64, "height": 96}},
    ),
    "paint_by_example": Case(("checkpoints/model", "vae/diffusion_pytorch_model"), changes=FEW),
    "inpainting_flux_fill": Case(
        ("diffusion_models/flux1-fill-dev", "vae/ae", "vae/asuka_decoder"), conditioning=(4096, 768), changes=FEW
    ),
    "edit_flux2_klein": Case(
        ("diffusion_models/flux-2-klein-4b-fp8", "vae/flux2-vae"), conditioning=(7680, 0),
        changes={"Flux2Scheduler": {"steps": 2}, "ImageScaleToTotalPixels": {"megapixels": 0.01}},
    ),
    "video_inpaint": Case(
        ("diffusion_models/wan2.1_vace_14B_fp16", "vae/wan_2.1_vae"), conditioning=(4096, 0),
        changes=FEW | {"ImageFromBatch": {"length": FRAMES}, "ImageScale": {"width": 64, "height": 48}},
    ),
    "inpainting_sdxl": Case(("vae/sdxl_vae",), encoded_by="vae/sdxl_vae"),
    "inpainting_z_image": Case(("vae/ae", "vae/asuka_decoder"), encoded_by="vae/ae"),
    "edit_qwen": Case(("vae/qwen_image_vae",), encoded_by="vae/qwen_image_vae"),
}  # fmt: skip


def needs_files(path: Path) -> bool:
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    return any(node["properties"].get("models") for node in nodes)


def test_every_workflow_that_needs_files_is_here() -> None:
    assert CASES.keys() == {path.stem for path in (PACK / "workflows").glob("*.json") if needs_files(path)}


@pytest.fixture(scope="module")
def desk(host: Any, host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a picture, a video and the node that stands in for text encoders. `host` has its modules."""
    base = make_base_folder(tmp_path_factory.mktemp("comfyui_workflows"))
    (base / "custom_nodes" / "stand_in").mkdir()
    (base / "custom_nodes" / "stand_in" / "__init__.py").write_text(STAND_IN, "utf-8")
    source().save(base / "input" / "small.png")
    write_video(base / "input" / "small.mp4")
    running = Server(host_path, base)
    running.wait_until_ready("StandInConditioning")
    yield running
    running.stop()


def source() -> Image.Image:
    """A smooth picture; what is transparent is the mask."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, SIZE[::-1], mode="bicubic").clamp(0, 1)
    picture = Image.fromarray((smooth[0].movedim(0, -1) * 255).byte().numpy())
    alpha = Image.new("L", SIZE, 255)
    ImageDraw.Draw(alpha).ellipse((40, 20, 84, 60), fill=0)
    picture.putalpha(alpha)
    return picture


def write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES + 1):
            frame = source().convert("RGB").rotate(3 * number).resize((96, 64))
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def nodes_of(prompt: dict[str, Any], *kinds: str) -> list[str]:
    return [number for number, node in prompt.items() if node["class_type"] in kinds]


def cut_down(prompt: dict[str, Any], case: Case) -> dict[str, Any]:
    for number in nodes_of(prompt, "LoadImage"):
        prompt[number]["inputs"]["image"] = "small.png"
    for number in nodes_of(prompt, "LoadVideo"):
        prompt[number]["inputs"]["file"] = "small.mp4"
    for kind, inputs in case.changes.items():
        numbers = nodes_of(prompt, kind)
        assert numbers, kind
        for number in numbers:
            assert inputs.keys() <= prompt[number]["inputs"].keys()
            prompt[number]["inputs"].update(inputs)
    if case.conditioning is not None:
        width, pooled = case.conditioning
        for number in nodes_of(prompt, *TEXT):
            prompt[number] = {"class_type": "StandInConditioning", "inputs": {"width": width, "pooled": pooled}}
    if case.encoded_by is not None:
        vae = small_models.file_of(case.encoded_by).removeprefix("vae/")
        (sampler,), (picture,) = nodes_of(prompt, *SAMPLERS), nodes_of(prompt, "LoadImage")
        prompt["own_vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": vae}}
        prompt["inverted"] = {"class_type": "ImageInvert", "inputs": {"image": [picture, 0]}}
        prompt[sampler] = {"class_type": "VAEEncode", "inputs": {"pixels": ["inverted", 0], "vae": ["own_vae", 0]}}
        for checkpoint in nodes_of(prompt, "CheckpointLoaderSimple"):  # which holds a model too
            rewire(prompt, [checkpoint, 2], ["own_vae", 0])
    for finder in nodes_of(prompt, "SAM3_Detect"):
        size = {"width": 64, "height": 48, "batch_size": FRAMES}
        prompt[finder] = {"class_type": "AsymVQRandomMask", "inputs": {"seed": 3, "thickness": 0.3, **size}}
        (grown,) = nodes_of(prompt, "GrowMask")
        prompt[grown]["inputs"]["expand"] = 1
    written = {f"{file.rsplit('/', 1)[1]}.safetensors": small_models.file_of(file) for file in case.files}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and value in written:
                node["inputs"][name] = written[value].rsplit("/", 1)[1]
    return prompt


def rewire(prompt: dict[str, Any], old: list[Any], new: list[Any]) -> None:
    for node in prompt.values():
        node["inputs"] = {name: new if value == old else value for name, value in node["inputs"].items()}


def pictures_of(server: Server, outputs: dict[str, Any], number: str) -> list[np.ndarray]:
    images = outputs[number]["images"]
    paths = [server.base / image["type"] / image["subfolder"] / image["filename"] for image in images]
    return [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in paths]


def test_example_pictures_are_there(desk: Server) -> None:
    graphs = [json.loads(path.read_text("utf-8")) for path in (PACK / "workflows").glob("*.json")]
    nodes = [node for graph in graphs for node in graph["nodes"] if node["type"] == "LoadImage"]
    names = {node["widgets_values"][0] for node in nodes}
    portrait, masked, seascape = (f"asymvq/{name}.png [temp]" for name in ("portrait", "portrait_masked", "seascape"))
    assert names == {portrait, masked, seascape}
    assert all(node["widgets_values"][0] == masked for node in nodes if node["outputs"][1]["links"])

    assets = {name: Image.open(PACK / "asymvq" / "assets" / f"{name}.png") for name in ("picture", "example", "mask")}
    for name in sorted(names):
        history = desk.run({
            "picture": {"class_type": "LoadImage", "inputs": {"image": name}},
            "mask": {"class_type": "MaskToImage", "inputs": {"mask": ["picture", 1]}},
            "shown": {"class_type": "PreviewImage", "inputs": {"images": ["picture", 0]}},
            "shown_mask": {"class_type": "PreviewImage", "inputs": {"images": ["mask", 0]}},
        })  # fmt: skip
        assert history["status"]["status_str"] == "success", error_of(history)
        (shown,), (mask,) = (pictures_of(desk, history["outputs"], key) for key in ("shown", "shown_mask"))
        assert np.array_equal(shown, np.asarray(assets["example" if name == seascape else "picture"].convert("RGB")))
        painted = np.asarray(assets["mask"].convert("L")) if name == masked else 0
        assert np.array_equal(mask[..., 0], np.broadcast_to(painted, mask.shape[:2]))


def test_the_example_video_is_there(desk: Server) -> None:
    graph = json.loads((PACK / "workflows" / "video_inpaint.json").read_text("utf-8"))
    (video,) = (node for node in graph["nodes"] if node["type"] == "LoadVideo")
    history = desk.run({
        "video": {"class_type": "LoadVideo", "inputs": {"file": video["widgets_values"][0]}},
        "frames": {"class_type": "GetVideoComponents", "inputs": {"video": ["video", 0]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["frames", 0]}},
    })  # fmt: skip
    assert history["status"]["status_str"] == "success", error_of(history)
    frames = pictures_of(desk, history["outputs"], "shown")
    assert len(frames) == 81
    with Image.open(PACK / "asymvq" / "assets" / "picture.png") as portrait:
        assert np.abs(frames[0].mean(axis=(0, 1)) - np.asarray(portrait.convert("RGB")).mean(axis=(0, 1))).max() < 12


def test_a_start_survives_without_them(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = host.pack("nodes.examples")
    (tmp_path / "temp").touch()  # no folder
    monkeypatch.setattr("folder_paths.get_temp_directory", lambda: str(tmp_path / "temp"))
    examples.add_examples()
    assert "example pictures could not be written" in caplog.text


@pytest.mark.parametrize("name", CASES)
def test_it_runs_and_keeps_what_the_mask_keeps(desk: Server, name: str) -> None:
    case = CASES[name]
    small_models.write(desk.base / "models", case.files)
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))
    prompt = cut_down(prompt_of(graph, desk.get("/object_info"), desk.version), case)
    for harmonised in nodes_of(prompt, "AsymVQHarmonise"):  # its mask is found, not painted
        prompt["shown_mask"] = {"class_type": "MaskToImage", "inputs": {"mask": prompt[harmonised]["inputs"]["mask"]}}
        prompt["mask"] = {"class_type": "PreviewImage", "inputs": {"images": ["shown_mask", 0]}}
    if name == "video_inpaint":
        (decode,) = nodes_of(prompt, "AsymVQDecode")
        inputs = prompt[decode]["inputs"]
        prompt["shown_mask"] = {"class_type": "MaskToImage", "inputs": {"mask": inputs["mask"]}}
        shown = {"result": [decode, 0], "source": inputs["image"], "mask": ["shown_mask", 0]}
        prompt |= {key: {"class_type": "PreviewImage", "inputs": {"images": wire}} for key, wire in shown.items()}
    history = desk.run(prompt)
    assert history["status"]["status_str"] == "success", error_of(history)

    outputs = history["outputs"]
    if name == "video_inpaint":
        results, sources, masks = (pictures_of(desk, outputs, key) for key in ("result", "source", "mask"))
        assert len(results) == FRAMES
        for result, picture, mask in zip(results, sources, masks, strict=True):
            assert np.array_equal(result[mask[..., 0] == 0], picture[mask[..., 0] == 0])
            assert np.abs(result - picture)[mask[..., 0] == 255].mean() > 1
        (saved,) = nodes_of(prompt, "SaveVideo")
        assert outputs[saved]["images"]
        return
    (saved,) = nodes_of(prompt, "SaveImage")
    (result,) = pictures_of(desk, outputs, saved)
    if name == "text_to_image":
        assert result.shape == (96, 64, 3)
        assert result.std() > 1
        return
    picture = np.asarray(source().convert("RGB")).astype(int)
    if "mask" in outputs:
        (shown,) = pictures_of(desk, outputs, "mask")
        masked = shown[..., 0]
    else:
        masked = np.asarray(source().getchannel("A").point(lambda alpha: 255 - alpha))
    edited = np.asarray(Image.fromarray(masked.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))) > 0
    assert np.array_equal(result[~edited], picture[~edited])
    if (masked == 255).any():
        assert np.abs(result - picture)[masked == 255].mean() > 1
    assert nodes_of(prompt, "AsymVQDecode", "AsymVQHarmonise")
