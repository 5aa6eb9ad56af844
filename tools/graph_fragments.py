"""What several workflows have in common: nodes and groups with their usual settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graph_nodes import Group, Node

BLUE, GREEN, ORANGE, VIOLET = "#3f789e", "#3f8f5f", "#b06634", "#8a5a9e"

PORTRAIT, PORTRAIT_MASKED, SEASCAPE = (
    (f"asymvq/{name}.png [temp]", "image") for name in ("portrait", "portrait_masked", "seascape")
)
VIDEO = ("asymvq/portrait.mp4 [temp]", "image")
"""Values of Load Image and Load Video: `nodes/examples.py`."""
OFFER = "ComfyUI offers those that are missing for download."
VAE_1_5X = (
    "**diffusion_pytorch_model.safetensors**, the asymmetric VAE 1.5x → *models/vae*. Many files have this name: if "
    "you give it a better one, choose that in *Load Asymmetric VQGAN*."
)
SAMPLER_15 = (1, "randomize", 25, 7.0, "dpmpp_2m", "karras", 1.0)
SAMPLER_BY_EXAMPLE = (1, "randomize", 50, 5.0, "ipndm", "ddim_uniform", 1.0)
TRAINING = (
    "none", "base", 60, 0, "fixed", "asymmetric", True,
    "fidelity", 2, 1, 64, 1e-4, 0.0, 0.2, 0.0, 0, 2.0, 0.5, 0.5, False, "auto",
)  # fmt: skip
KEEP_EXACTLY = ("exact", 0, "auto", 512, 64, "auto", False, 1.0, False)
INPAINT_WIRES = {
    "positive": "conditioning.positive", "negative": "conditioning.negative", "latent_image": "conditioning.latent",
}  # fmt: skip

EDIT_NOTE = (
    "\n\nSay what is to change; there is no mask to paint. The model gives the **whole** picture back, shifted and "
    "toned: *Align* lays it over yours again, *Mask From Change* finds what was edited, *Harmonise* keeps every pixel "
    "outside."
)


def note(text: str, title: str = "Note") -> Node:
    return Node("", "MarkdownNote", 0, (text,), title=title)


def ask(name: str, text: str, clip: str, title: str) -> Node:
    return Node(name, "CLIPTextEncode", 150, (text,), {"clip": clip}, title)


def picture(size: str, title: str = "2 · Picture and mask") -> Group:
    return Group(title, VIOLET, [(360, [
        note("Of this portrait, the background is masked. Your own: load it, right-click it, **Open in MaskEditor**, "
             f"paint what is to change, save. {size}", "Paint the mask"),
        Node("picture", "LoadImage", 420, PORTRAIT_MASKED, title="Load your picture, paint the mask"),
    ])])  # fmt: skip


def unmasked() -> Group:
    return Group("2 · Picture", VIOLET, [(360, [
        Node("picture", "LoadImage", 420, PORTRAIT, title="Load your picture"),
    ])])  # fmt: skip


def paint(title: str, values: tuple[Any, ...], wires: dict[str, str]) -> Group:
    return Group(title, VIOLET, [(340, [Node("sampler", "KSampler", 270, values, wires)])])


def conditioned_by(positive: str, negative: str) -> Node:
    wires = {"positive": positive, "negative": negative, "vae": "vae", "pixels": "picture", "mask": "picture.MASK"}
    return Node("conditioning", "InpaintModelConditioning", 150, (True,), wires)


def by_example(name: str, image: str, mask: str) -> Node:
    wires = {
        "clip_vision": "loader.CLIP_VISION", "head": "loader.PBE_HEAD", "vae": "loader.VAE", "image": image,
        "mask": mask, "example": "example",
    }  # fmt: skip
    return Node(name, "AsymVQPaintByExampleConditioning", 190, ("stretch",), wires)


def large_pictures() -> Group:
    """Paint by Example once more, on a part of the picture; muted, so that a run does not do both."""
    nodes = [
        Node("part", "AsymVQCropAroundMask", 150, (512,), {"image": "picture", "mask": "picture.MASK"}),
        by_example("part_conditioning", "part.image", "part.mask"),
        Node("part_sampler", "KSampler", 270, SAMPLER_BY_EXAMPLE, {
            "model": "loader", "positive": "part_conditioning.positive", "negative": "part_conditioning.negative",
            "latent_image": "part_conditioning.latent",
        }),
        Node("part_ours", "AsymVQDecode", 350, KEEP_EXACTLY, {
            "samples": "part_sampler", "vae": "vae", "image": "part.image", "mask": "part.mask",
        }),
        Node("whole", "ImageCompositeMasked", 150, (0, 0, False), {
            "destination": "picture", "source": "part_ours", "x": "part.x", "y": "part.y",
        }, "Put the part back"),
        Node("", "SaveImage", 380, ("asymvq/paint_by_example",), {"images": "whole"}, "The whole picture"),
    ]  # fmt: skip
    nodes = [replace(node, muted=True) for node in nodes]
    text = note("For pictures much larger than 512 pixels: only the square around the mask is painted, in the "
                "picture's own pixels, and put back. Nothing is scaled.\n\nThis group sleeps. To use it, select its "
                "nodes and press **Ctrl + M**; put groups 4 to 6 to sleep in the same way.",
                "When your picture is large")  # fmt: skip
    stacks = [(380, [text, *nodes[:2]]), (380, nodes[2:4]), (400, nodes[4:])]
    return Group("7 · Large pictures: crop around the mask", VIOLET, stacks)


def keep(samples: str, source: str, mask: str, harmonise: float = 1.0) -> Node:
    wires = {"samples": samples, "vae": "vae", "image": source, "mask": mask}
    return Node("ours", "AsymVQDecode", 350, (*KEEP_EXACTLY[:-2], harmonise, False), wires)


def plain(samples: str, vae: str, title: str) -> Node:
    return Node("plain", "VAEDecode", 60, wires={"samples": samples, "vae": vae}, title=title)


def decode(plain_vae: str, plain_title: str) -> Group:
    return Group("5 · Decode", GREEN, [(340, [
        plain("sampler", plain_vae, plain_title),
        keep("sampler", "picture", "picture.MASK"),
    ])])  # fmt: skip


def panel(before: tuple[str, str], ours: tuple[str, str], source: str, mask: str) -> Node:
    """Two results, name and wire each, beside the source."""
    return Node("", "AsymVQCompare", 840, (f"{before[0]}\n{ours[0]}", "kept pixels", 10.0, False), {
        "reference": source, "results.result_1": before[1], "results.result_2": ours[1], "mask": mask,
    })  # fmt: skip


def compare(title: str, before: str, ours: str, prefix: str, source: str, mask: str) -> Group:
    """The result, and a panel of both decodes beside their source."""
    return Group(title, ORANGE, [
        (400, [Node("", "SaveImage", 380, (f"asymvq/{prefix}",), {"images": "ours"}, ours[0].upper() + ours[1:])]),
        (620, [panel((before, "plain"), (ours, "ours"), source, mask)]),
    ])  # fmt: skip


def around(size: tuple[Any, ...], source: str = "picture", mask: str | None = "picture.MASK", *,
           context: int = 64, expand: tuple[int, int, int, int] = (0, 0, 0, 0), grow: int = 0) -> Node:  # fmt: skip
    wires = {"image": source, **({} if mask is None else {"mask": mask})}
    return Node("part", "AsymVQInpaintCrop", 440, (context, 0.25, *size, "16", *expand, grow), wires)


def stitched(prefix: str, number: int = 6) -> Group:
    return Group(f"{number} · Put back and save", ORANGE, [(460, [
        Node("whole", "AsymVQStitch", 150, (1.0, False), {"crop": "part.crop", "image": "ours"}),
        Node("", "SaveImage", 460, (f"asymvq/{prefix}",), {"images": "whole"}, "The whole picture"),
    ])])  # fmt: skip


def put_back(prefix: str) -> list[Group]:
    """An edit that a model gave back: laid over the source, what it changed found, that harmonised, and compared."""
    return [
        Group("4 · Align, find the change, harmonise", GREEN, [(340, [
            Node("edit", "VAEDecode", 60, (), {"samples": "sampler", "vae": "vae"}, "The edit, as the model gives it"),
            Node("aligned", "AsymVQAlign", 150, (), {"edited": "edit", "source": "picture"}),
            Node("change", "AsymVQChangeMask", 250, (0.5, 8, 8, 0.05, 0.2), {
                "edited": "aligned", "source": "picture", "vae": "vae",
            }),
            Node("", "MaskPreview", 260, (), {"mask": "change"}, "What the model changed"),
            Node("ours", "AsymVQHarmonise", 175, (1.0, 0, False), {
                "edited": "aligned", "source": "picture", "mask": "change",
            }),
        ])]),
        Group("5 · Compare and save", ORANGE, [
            (400, [Node("", "SaveImage", 380, (f"asymvq/{prefix}",), {"images": "ours"}, "Only the edit changed")]),
            (620, [panel(("as the model gives it", "aligned"), ("aligned, harmonised", "ours"), "picture", "change")]),
        ]),
    ]  # fmt: skip
