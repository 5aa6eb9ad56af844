"""Writes the graphs in `workflows/`: what is in them is data, where everything stands is worked out.

    python tools/build_workflows.py

A graph is groups from left to right, a group is stacks of nodes from top to bottom. A wire is named by where it comes
from: "loader" is that node's first output, "pictures.mask" one by its name.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

WORKFLOWS = Path(__file__).parents[1] / "workflows"
OURS, STOCK = {"cnr_id": "asymvq", "ver": "0.1.0"}, {"cnr_id": "comfy-core", "ver": "0.33.0"}
TITLE, GAP, PADDING, GROUP_TITLE = 30, 25, 20, 50
FOOTER = 20  # Nodes 2.0 draw "Show advanced inputs" below a node
MUTED = 2  # the host's mode of a node that is left out of a run
BLUE, GREEN, ORANGE, VIOLET = "#3f789e", "#3f8f5f", "#b06634", "#8a5a9e"
NOTE_COLOR, OURS_COLOR = ("#432", "#653"), ("#233", "#355")

# what a node takes by wire and what it gives, in its schema's order; "widget": an input that is a widget too
SOCKETS = {
    "AsymVQCompare": (
        "reference IMAGE, results.result_1 IMAGE, results.result_2 IMAGE, mask MASK",
        "panel IMAGE, kept_error FLOAT, masked_error FLOAT, border_error FLOAT, seam_error FLOAT, colour_error FLOAT, "
        "masked_psnr FLOAT, masked_ssim FLOAT, gradient_error FLOAT",
    ),
    "AsymVQLossPlot": ("loss_map LOSS_MAP", "IMAGE IMAGE"),
    "AsymVQTrain": ("vae VAE, images IMAGE", "VAE VAE, loss_map LOSS_MAP, path STRING"),
    "AsymVQCropAroundMask": ("image IMAGE, mask MASK", "image IMAGE, mask MASK, x INT, y INT"),
    "AsymVQDemoPictures": ("", "picture IMAGE, mask MASK, example IMAGE"),
    "AsymVQLoader": ("", "VAE VAE"),
    "AsymVQRandomMask": ("", "MASK MASK"),
    "AsymVQPaintByExampleConditioning": (
        "clip_vision CLIP_VISION, head PBE_HEAD, vae VAE, image IMAGE, mask MASK, example IMAGE",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT",
    ),
    "AsymVQPaintByExampleLoader": ("", "MODEL MODEL, CLIP_VISION CLIP_VISION, PBE_HEAD PBE_HEAD, VAE VAE"),
    "AsymVQDecode": ("samples LATENT, vae VAE, image IMAGE, mask MASK", "IMAGE IMAGE"),
    "CheckpointLoaderSimple": ("", "MODEL MODEL, CLIP CLIP, VAE VAE"),
    "CLIPTextEncode": ("clip CLIP", "CONDITIONING CONDITIONING"),
    "ConditioningZeroOut": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "DualCLIPLoader": ("", "CLIP CLIP"),
    "EmptyLatentImage": ("", "LATENT LATENT"),
    "FluxGuidance": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "GrowMask": ("mask MASK", "MASK MASK"),
    "ImageCompare": ("image_a IMAGE, image_b IMAGE", ""),
    "ImageCompositeMasked": (
        "destination IMAGE, source IMAGE, mask MASK, x INT widget, y INT widget",
        "IMAGE IMAGE",
    ),
    "InpaintModelConditioning": (
        "positive CONDITIONING, negative CONDITIONING, vae VAE, pixels IMAGE, mask MASK",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT",
    ),
    "KSampler": (
        "model MODEL, positive CONDITIONING, negative CONDITIONING, latent_image LATENT",
        "LATENT LATENT",
    ),
    "LatentCompositeMasked": ("destination LATENT, source LATENT, mask MASK", "LATENT LATENT"),
    "LoadImage": ("", "IMAGE IMAGE, MASK MASK"),
    "MarkdownNote": ("", ""),
    "PreviewImage": ("images IMAGE", ""),
    "SaveImage": ("images IMAGE", ""),
    "UNETLoader": ("", "MODEL MODEL"),
    "VAEDecode": ("samples LATENT, vae VAE", "IMAGE IMAGE"),
    "VAEEncode": ("pixels IMAGE, vae VAE", "LATENT LATENT"),
    "VAELoader": ("", "VAE VAE"),
}

FILES = {  # where a file is to lie, and its repository and path on Hugging Face
    "vae": [
        "cross-attention/asymmetric-autoencoder-kl-x-1-5/resolve/main/diffusion_pytorch_model.safetensors",
        "yikaiwang/ASUKA-FLUX.1-Fill/resolve/main/asuka_decoder.ckpt",
        "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    ],
    "checkpoints": [
        "webui/stable-diffusion-inpainting/resolve/main/sd-v1-5-inpainting.safetensors",
        "Fantasy-Studio/Paint-by-Example/resolve/refs%2Fpr%2F3/model.safetensors",
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    ],
    "diffusion_models": ["Comfy-Org/flux1-dev/resolve/main/split_files/diffusion_models/flux1-fill-dev.safetensors"],
    "text_encoders": [
        "comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors",
        "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors",
    ],
}
MODELS = {
    path.rsplit("/", 1)[1]: {
        "name": path.rsplit("/", 1)[1],
        "url": f"https://huggingface.co/{path}",
        "directory": directory,
    }
    for directory, paths in FILES.items()
    for path in paths
}


@dataclass(frozen=True)
class Node:
    name: str
    type: str
    height: int
    values: tuple[Any, ...] = ()
    wires: dict[str, str] = field(default_factory=dict)
    title: str = ""
    muted: bool = False

    @property
    def inputs(self) -> list[list[str]]:
        """Name and type of each, and "widget" where it is one too."""
        return [socket.split() for socket in filter(None, SOCKETS[self.type][0].split(", "))]

    @property
    def outputs(self) -> list[list[str]]:
        return [socket.split() for socket in filter(None, SOCKETS[self.type][1].split(", "))]

    @property
    def properties(self) -> dict[str, Any]:
        if self.type == "MarkdownNote":
            return {}
        properties = {"Node name for S&R": self.type, **(OURS if self.type.startswith("AsymVQ") else STOCK)}
        models = [MODELS[value] for value in self.values if value in MODELS]
        return {**properties, "models": models} if models else properties

    @property
    def look(self) -> dict[str, str]:
        title = {"title": self.title} if self.title else {}
        if self.type == "MarkdownNote" or self.type.startswith("AsymVQ"):
            title["color"], title["bgcolor"] = NOTE_COLOR if self.type == "MarkdownNote" else OURS_COLOR
        return title


@dataclass(frozen=True)
class Group:
    title: str
    color: str
    stacks: list[tuple[int, list[Node]]]  # width, nodes from top to bottom


def note(text: str, title: str = "Note") -> Node:
    return Node("", "MarkdownNote", 0, (text,), title=title)


def ask(name: str, text: str, clip: str, title: str) -> Node:
    return Node(name, "CLIPTextEncode", 150, (text,), {"clip": clip}, title)


def picture(size: str) -> Group:
    return Group("2 · Picture and mask", VIOLET, [(360, [
        note("Load a picture, right-click it, **Open in MaskEditor**, paint what is to change, save.\n\n"
             f"{size} Without a painted mask the run stops with a message."),
        Node("picture", "LoadImage", 420, ("example.png", "image"), title="Load your picture, paint the mask"),
    ])])  # fmt: skip


def paint(title: str, values: tuple[Any, ...], wires: dict[str, str]) -> Group:
    return Group(title, VIOLET, [(340, [
        note("Each run takes another seed, so another picture. Set it to *fixed* to keep one that you like."),
        Node("sampler", "KSampler", 270, values, wires),
    ])])  # fmt: skip


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
        Node("part_ours", "AsymVQDecode", 240, KEEP_EXACTLY, {
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


def keep(samples: str, source: str, mask: str) -> Node:
    wires = {"samples": samples, "vae": "vae", "image": source, "mask": mask}
    return Node("ours", "AsymVQDecode", 240, KEEP_EXACTLY, wires)


def plain(samples: str, vae: str, title: str) -> Node:
    return Node("plain", "VAEDecode", 60, wires={"samples": samples, "vae": vae}, title=title)


def decode(plain_vae: str, plain_title: str) -> Group:
    return Group("5 · Decode", GREEN, [(340, [
        note("Both get the same latent. **Asymmetric VQGAN Decode** also sees your picture and your mask: what you did "
             "not paint over comes back as it was."),
        plain("sampler", plain_vae, plain_title),
        keep("sampler", "picture", "picture.MASK"),
    ])])  # fmt: skip


SLIDER = "The slider needs ComfyUI's *Nodes 2.0* (in the menu); without it, compare the two pictures on the left."


def compare(title: str, before: str, ours: str, prefix: str, look: str, source: str | None = None) -> Group:
    """The two pictures beside a slider over them, and with a source a second slider."""
    pairs = {before: "plain"} if source is None else {before: "plain", "your picture": source}
    sliders = [
        Node("", "ImageCompare", 380, (), {"image_a": left, "image_b": "ours"}, f"Left: {name}, right: {ours}")
        for name, left in pairs.items()
    ]
    return Group(title, ORANGE, [
        (400, [
            Node("", "PreviewImage", 350, (), {"images": "plain"}, before[0].upper() + before[1:]),
            Node("", "SaveImage", 380, (f"asymvq/{prefix}",), {"images": "ours"}, ours[0].upper() + ours[1:]),
        ]),
        (500, [*sliders, note(f"{look}\n\n{SLIDER}")]),
    ])  # fmt: skip


OFFER = "ComfyUI offers those that are missing for download."
VAE_1_5X = (
    "**diffusion_pytorch_model.safetensors**, the asymmetric VAE 1.5x → *models/vae*. Many files have this name: if "
    "you give it a better one, choose that in *Load Asymmetric VQGAN*."
)
BORDER = "Look at what you did not paint over, and at the mask's border."
SAMPLER_15 = (1, "randomize", 25, 7.0, "dpmpp_2m", "karras", 1.0)
SAMPLER_BY_EXAMPLE = (1, "randomize", 50, 5.0, "ipndm", "ddim_uniform", 1.0)
TRAINING = (
    "none", "base", 60, 0, "fixed", "asymmetric", True,
    "fidelity", 2, 1, 64, 1e-4, 0.0, 0.2, 0.0, 0, 2.0, 0.5, 0.5, False, "auto",
)  # fmt: skip
KEEP_EXACTLY = ("exact", 0, "auto", 512, 64, "auto", False)
INPAINT_WIRES = {
    "positive": "conditioning.positive", "negative": "conditioning.negative", "latent_image": "conditioning.latent",
}  # fmt: skip

GRAPHS: dict[str, list[Group]] = {
    "quickstart": [
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download. **Demo Pictures** gives a portrait, a mask of its background, and "
                 "a seascape. The small demo VAE shows the idea; the published VAEs of the other workflows draw "
                 "better.\n\nYour own picture: put *Load Image* nodes in the place of the demo pictures.",
                 "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 130, ("demo (bundled)", "none", "auto")),
        ])]),
        Group("2 · An edit of the latent", VIOLET, [(340, [
            note("This stands in for a diffusion model: inside the mask, the seascape takes the place of the "
                 "background.\n\nA latent's cell is 8 × 8 pixels. The mask is grown by 8 pixels **for the edit only**, "
                 "so that every cell it touches is edited whole."),
            Node("source", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "vae"}, "Encode the portrait"),
            Node("example", "VAEEncode", 60, (), {"pixels": "pictures.example", "vae": "vae"}, "Encode the seascape"),
            Node("grown", "GrowMask", 90, (8, True), {"mask": "pictures.mask"}, "Grow the mask for the edit"),
            Node("edited", "LatentCompositeMasked", 170, (0, 0, False),
                 {"destination": "source", "source": "example", "mask": "grown"}, "Edit inside the mask"),
        ])]),
        Group("3 · Decode", GREEN, [(340, [
            note("**Plain decode** redraws every pixel, also the face that nobody wanted changed.\n\n**Asymmetric "
                 "VQGAN Decode** also sees the portrait and the mask. What the mask keeps comes back exactly; the new "
                 "background is drawn to fit it. Give it the mask as you painted it, not the grown one."),
            plain("edited", "vae", "Plain decode"),
            keep("edited", "pictures.picture", "pictures.mask"),
        ])]),
        compare("4 · Compare and save", "plain decode", "with picture and mask", "quickstart",
                "Look at the eyes, the face paint and the pullover."),
    ],
    "inpainting": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**sd-v1-5-inpainting.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n" + OFFER,
                 "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd-v1-5-inpainting.safetensors",)),
            Node("vae", "AsymVQLoader", 130, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Stable Diffusion 1.5 likes sides of 512 to 768 pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            note("Describe what is to be seen **in the mask**, and below it what is not."),
            ask("positive", "a bouquet of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            conditioned_by("positive", "negative"),
        ])]),
        paint("4 · Paint", SAMPLER_15, {"model": "checkpoint", **INPAINT_WIRES}),
        decode("checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "inpainting", BORDER, "picture"),
    ],
    "inpainting_flux_fill": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**flux1-fill-dev.safetensors** → *models/diffusion_models*\n\n**clip_l.safetensors**, "
                 "**t5xxl_fp8_e4m3fn_scaled.safetensors** → *models/text_encoders*\n\n**ae.safetensors**, "
                 f"**asuka_decoder.ckpt** → *models/vae*\n\n{OFFER} ASUKA's decoder for FLUX sees your picture; what "
                 "encodes the picture comes from FLUX's own VAE, named in *base_vae*.", "Start here"),
            Node("model", "UNETLoader", 90, ("flux1-fill-dev.safetensors", "default")),
            Node("clip", "DualCLIPLoader", 140,
                 ("clip_l.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors", "flux", "default")),
            Node("flux_vae", "VAELoader", 80, ("ae.safetensors",), title="FLUX's own VAE, to compare with"),
            Node("vae", "AsymVQLoader", 130, ("asuka_decoder.ckpt", "ae.safetensors", "auto")),
        ])]),
        picture("FLUX likes about one million pixels, such as 1024 × 1024."),
        Group("3 · Say what you want", VIOLET, [(380, [
            note("Describe what is to be seen **in the mask**, in a sentence. FLUX takes no list of what you don't "
                 "want. A guidance of 30 is what FLUX Fill was made for."),
            ask("positive", "a bouquet of wild flowers on the table, soft daylight", "clip", "What you want"),
            Node("guided", "FluxGuidance", 60, (30.0,), {"conditioning": "positive"}),
            Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
            conditioned_by("guided", "nothing"),
        ])]),
        paint("4 · Paint", (1, "randomize", 20, 1.0, "euler", "normal", 1.0), {"model": "model", **INPAINT_WIRES}),
        decode("flux_vae", "Plain decode: FLUX's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "flux_fill", BORDER, "picture"),
    ],
    "paint_by_example": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**model.safetensors**, Paint by Example (5.2 GB, licence CreativeML OpenRAIL-M) → "
                 "*models/checkpoints*\n\n**diffusion_pytorch_model.safetensors**, the asymmetric VAE 1.5x → "
                 "*models/vae*\n\nMany files have these names: if you give them better ones, choose those below. "
                 + OFFER, "Start here"),
            Node("loader", "AsymVQPaintByExampleLoader", 130, ("model.safetensors",)),
            Node("vae", "AsymVQLoader", 130, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Paint by Example is at its best at 512 × 512 and near it; for large pictures there is group 7."),
        Group("3 · Example", VIOLET, [(380, [
            note("A picture of what is to appear in the mask: its subject large, with little around it. There is no "
                 "prompt.\n\n*example_fit* says how a picture that is no square becomes one. *stretch* is what the "
                 "model was trained with."),
            Node("example", "LoadImage", 380, ("example.png", "image"), title="Load the example"),
            by_example("conditioning", "picture", "picture.MASK"),
        ])]),
        paint("4 · Paint", SAMPLER_BY_EXAMPLE, {"model": "loader", **INPAINT_WIRES}),
        decode("loader.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "paint_by_example", BORDER, "picture"),
        large_pictures(),
    ],
    "text_to_image": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**v1-5-pruned-emaonly-fp16.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n"
                 + OFFER, "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("v1-5-pruned-emaonly-fp16.safetensors",)),
            Node("vae", "AsymVQLoader", 130, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        Group("2 · Say what you want", VIOLET, [(380, [
            note("Describe the picture, and below it what is not to be seen."),
            ask("positive", "portrait of a woman in a flower garden, freckles, detailed eyes, natural light, photo",
                "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            Node("empty", "EmptyLatentImage", 120, (512, 512, 1), title="Size of the picture"),
        ])]),
        paint("3 · Paint", SAMPLER_15,
              {"model": "checkpoint", "positive": "positive", "negative": "negative", "latent_image": "empty"}),
        Group("4 · Decode", GREEN, [(340, [
            note("Here is no picture to keep. Every decode node takes the asymmetric VAE too: its larger decoder draws "
                 "small things, such as eyes and letters, with more care."),
            plain("sampler", "checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
            Node("ours", "VAEDecode", 60, (), {"samples": "sampler", "vae": "vae"}, "Decode with the asymmetric VAE"),
        ])]),
        compare("5 · Compare and save", "checkpoint's VAE", "asymmetric VAE", "text_to_image",
                "Look at the smallest things: eyes, lashes, flowers."),
    ],
    "train_decoder": [
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download. The small demo VAE is trained a little further on one picture: "
                 "some minutes without a GPU.\n\n**In earnest:** put some hundred pictures in a folder in ComfyUI's "
                 "*input* folder and choose it in the training node. Take a *Load VAE* node with the VAE of your "
                 "model in the place of the demo VAE: SD1.5, SDXL, SD3 or FLUX.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 130, ("demo (bundled)", "none", "auto"), title="The VAE to start from"),
        ])]),
        Group("2 · Train", VIOLET, [(420, [
            note("**preset** is the decoder's size: *2x* keeps most and is the slowest. **steps**: some thousand in "
                 "earnest. **recipe**: *quick* is the usual one; it fetches a file of 0.5 GB, once. *fidelity* needs "
                 "none.\n\n**Interrupt** saves. Run again to go on, tomorrow too. The file is written to "
                 "*output/vae* and shows up in the loaders."),
            Node("train", "AsymVQTrain", 1010, TRAINING, {"vae": "vae", "images": "pictures.example"}),
        ])]),
        Group("3 · Look", GREEN, [(400, [
            note("The loss falls, or the learning rate is wrong. Below, a picture that was not trained on is encoded "
                 "and decoded: once plainly, once with its pixels and a mask like those of the training. **keep** is "
                 "*network*, to see what the decoder does by itself."),
            Node("", "AsymVQLossPlot", 390, ("Training loss", 960, 480), {"loss_map": "train.loss_map"}),
            Node("mask", "AsymVQRandomMask", 170, (0, "fixed", 640, 424, 1, 1.0), title="A mask of the picture's size"),
            Node("encoded", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "train"}),
            plain("encoded", "train", "Decode without the picture"),
            Node("ours", "AsymVQDecode", 240, ("network", *KEEP_EXACTLY[1:]), {
                "samples": "encoded", "vae": "train", "image": "pictures.picture", "mask": "mask",
            }, "Decode with picture and mask"),
        ])]),
        Group("4 · Compare", ORANGE, [
            (560, [
                note("Nothing was repainted, so the whole picture should come back: *all pixels* compares everything. "
                     "Small numbers are good."),
                Node("", "AsymVQCompare", 900, ("without\nwith picture and mask", "all pixels", 10.0, False), {
                    "reference": "pictures.picture", "results.result_1": "plain", "results.result_2": "ours",
                    "mask": "mask",
                }),
            ]),
            (460, [
                Node("", "ImageCompare", 400, (), {"image_a": "plain", "image_b": "ours"},
                     "Left: without, right: with picture and mask"),
                note(SLIDER.replace("the two pictures on the left", "them in the panel on the left")),
            ]),
        ]),
    ],
}  # fmt: skip


def text_height(text: str, width: int) -> int:
    """What a note needs, generously: a line is 16 high, a character 6.2 wide."""
    lines = text.replace("## ", "").split("\n")
    return 50 + sum(16 * math.ceil(len(line) * 6.2 / (width - 30)) if line else 12 for line in lines)


Placed = tuple[Node, list[int], list[int]]  # with position and size


def place(groups: list[Group]) -> tuple[list[Placed], list[dict[str, Any]]]:
    """Every node in its place, and the groups around them. What stands below a group's first note is aligned."""
    first = [(width, nodes[0]) for group in groups for width, nodes in group.stacks]
    opening = max(text_height(node.values[0], width) for width, node in first if node.type == "MarkdownNote")
    placed: list[Placed] = []
    boxes = []
    left = 0
    for number, group in enumerate(groups, 1):
        x, bottom = left + PADDING, 0
        for width, nodes in group.stacks:
            y = GROUP_TITLE + TITLE
            for node in nodes:
                height = node.height or (opening if node is nodes[0] else text_height(node.values[0], width))
                placed.append((node, [x, y], [width, height]))
                y += height + GAP + TITLE
            bottom = max(bottom, y - GAP - TITLE + FOOTER + PADDING)
            x += width + PADDING
        box = {"id": number, "title": group.title, "bounding": [left, 0, x - left, bottom], "color": group.color}
        boxes.append({**box, "font_size": 24})
        left = x + GAP
    return placed, boxes


def graph(name: str, groups: list[Group]) -> dict[str, Any]:
    placed, boxes = place(groups)
    numbers = {node.name: number for number, (node, _, _) in enumerate(placed, 1)}
    links: list[list[Any]] = []
    for number, (node, _, _) in enumerate(placed, 1):
        slots = [socket for socket, *_ in node.inputs]
        for socket, wire in node.wires.items():
            origin, _, output = wire.partition(".")
            outputs = placed[numbers[origin] - 1][0].outputs
            origin_slot = [name for name, _ in outputs].index(output) if output else 0
            slot = slots.index(socket)
            links.append([len(links) + 1, numbers[origin], origin_slot, number, slot, node.inputs[slot][1]])
    into = {(link[3], link[4]): link[0] for link in links}
    nodes = [
        {
            "id": number, "type": node.type, "pos": position, "size": size, "flags": {}, "order": number - 1,
            "mode": MUTED if node.muted else 0,
            "inputs": [
                {"name": socket, "type": kind, **({"widget": {"name": socket}} if widget else {}),
                 "link": into.get((number, slot))}
                for slot, (socket, kind, *widget) in enumerate(node.inputs)
            ],
            "outputs": [
                {"name": socket, "type": kind, "links": [link[0] for link in links if link[1:3] == [number, slot]]}
                for slot, (socket, kind) in enumerate(node.outputs)
            ],
            "properties": node.properties, "widgets_values": list(node.values), **node.look,
        }
        for number, (node, position, size) in enumerate(placed, 1)
    ]  # fmt: skip
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"asymvq/{name}")), "revision": 0, "last_node_id": len(nodes),
        "last_link_id": len(links), "nodes": nodes, "links": links, "groups": boxes, "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


def main() -> None:
    for name, groups in GRAPHS.items():
        text = json.dumps(graph(name, groups), indent=1, ensure_ascii=False)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
