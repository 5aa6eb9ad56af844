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
SCALE, OFFSET = 0.75, (110, 150)  # how it opens (web/desk.js): readable, from its upper left corner on
MUTED = 2  # the host's mode of a node that is left out of a run
BLUE, GREEN, ORANGE, VIOLET = "#3f789e", "#3f8f5f", "#b06634", "#8a5a9e"
NOTE_COLOR, OURS_COLOR = ("#432", "#653"), ("#233", "#355")

# what a node takes by wire and what it gives, in its schema's order; "widget": an input that is a widget too
SOCKETS = {
    "AsymVQAlign": (
        "edited IMAGE, source IMAGE, mask MASK",
        "aligned IMAGE, shift_x FLOAT, shift_y FLOAT, scale FLOAT, rotation FLOAT",
    ),
    "AsymVQHarmonise": ("edited IMAGE, source IMAGE, mask MASK", "IMAGE IMAGE"),
    "AsymVQInpaintCrop": ("image IMAGE, mask MASK", "image IMAGE, mask MASK, crop ASYMVQ_CROP"),
    "AsymVQStitch": ("crop ASYMVQ_CROP, image IMAGE", "IMAGE IMAGE"),
    "CFGGuider": ("model MODEL, positive CONDITIONING, negative CONDITIONING", "GUIDER GUIDER"),
    "CFGNorm": ("model MODEL", "patched_model MODEL"),
    "CLIPLoader": ("", "CLIP CLIP"),
    "CreateVideo": ("images IMAGE, audio AUDIO, fps FLOAT widget", "VIDEO VIDEO"),
    "DifferentialDiffusion": ("model MODEL", "MODEL MODEL"),
    "EmptyFlux2LatentImage": ("width INT widget, height INT widget", "LATENT LATENT"),
    "Flux2Scheduler": ("width INT widget, height INT widget", "SIGMAS SIGMAS"),
    "FluxKontextImageScale": ("image IMAGE", "IMAGE IMAGE"),
    "FluxKontextMultiReferenceLatentMethod": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "GetImageSize": ("image IMAGE", "width INT, height INT, batch_size INT"),
    "GetVideoComponents": ("video VIDEO", "images IMAGE, audio AUDIO, fps FLOAT"),
    "ImageFromBatch": ("image IMAGE", "IMAGE IMAGE"),
    "ImageScale": ("image IMAGE", "IMAGE IMAGE"),
    "ImageScaleToTotalPixels": ("image IMAGE", "IMAGE IMAGE"),
    "KSamplerSelect": ("", "SAMPLER SAMPLER"),
    "LoadVideo": ("", "VIDEO VIDEO"),
    "LoraLoaderModelOnly": ("model MODEL", "MODEL MODEL"),
    "ModelSamplingAuraFlow": ("model MODEL", "MODEL MODEL"),
    "ModelSamplingSD3": ("model MODEL", "MODEL MODEL"),
    "RandomNoise": ("", "NOISE NOISE"),
    "ReferenceLatent": ("conditioning CONDITIONING, latent LATENT", "CONDITIONING CONDITIONING"),
    "SAM3_Detect": ("model MODEL, image IMAGE, conditioning CONDITIONING", "masks MASK, bboxes BOUNDING_BOX"),
    "SamplerCustomAdvanced": (
        "noise NOISE, guider GUIDER, sampler SAMPLER, sigmas SIGMAS, latent_image LATENT",
        "output LATENT, denoised_output LATENT",
    ),
    "SaveVideo": ("video VIDEO", "video VIDEO"),
    "SetLatentNoiseMask": ("samples LATENT, mask MASK", "LATENT LATENT"),
    "TextEncodeQwenImageEditPlus": ("clip CLIP, vae VAE, image1 IMAGE", "CONDITIONING CONDITIONING"),
    "TrimVideoLatent": ("samples LATENT, trim_amount INT widget", "LATENT LATENT"),
    "WanVaceToVideo": (
        "positive CONDITIONING, negative CONDITIONING, vae VAE, control_video IMAGE, control_masks MASK, width "
        "INT widget, height INT widget, length INT widget",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT, trim_latent INT",
    ),
    "InvertMask": ("mask MASK", "MASK MASK"),
    "MaskToImage": ("mask MASK", "IMAGE IMAGE"),
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
        "Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
        "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/vae/qwen_image_vae.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/vae/wan_2.1_vae.safetensors",
    ],
    "checkpoints": [
        "webui/stable-diffusion-inpainting/resolve/main/sd-v1-5-inpainting.safetensors",
        "Fantasy-Studio/Paint-by-Example/resolve/refs%2Fpr%2F3/model.safetensors",
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
    ],
    "diffusion_models": [
        "Comfy-Org/flux1-dev/resolve/main/split_files/diffusion_models/flux1-fill-dev.safetensors",
        "black-forest-labs/FLUX.2-klein-4b-fp8/resolve/main/flux-2-klein-4b-fp8.safetensors",
        "Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/"
        "qwen_image_edit_2511_fp8mixed.safetensors",
        "Comfy-Org/z_image_turbo/resolve/main/split_files/diffusion_models/z_image_turbo_bf16.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/diffusion_models/wan2.1_vace_14B_fp16.safetensors",
    ],
    "loras": [
        "lightx2v/Qwen-Image-Edit-2511-Lightning/resolve/main/"
        "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    ],
    "text_encoders": [
        "comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors",
        "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors",
        "Comfy-Org/z_image_turbo/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors",
        "Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files/text_encoders/"
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders/"
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
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


def picture(size: str, title: str = "2 · Picture and mask") -> Group:
    return Group(title, VIOLET, [(360, [
        note(f"Load a picture, right-click it, **Open in MaskEditor**, paint what is to change, save. {size}",
             "Paint the mask"),
        Node("picture", "LoadImage", 420, ("example.png", "image"), title="Load your picture, paint the mask"),
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
    return Node("ours", "AsymVQDecode", 350, (*KEEP_EXACTLY[:-1], harmonise), wires)


def plain(samples: str, vae: str, title: str) -> Node:
    return Node("plain", "VAEDecode", 60, wires={"samples": samples, "vae": vae}, title=title)


def decode(plain_vae: str, plain_title: str) -> Group:
    return Group("5 · Decode", GREEN, [(340, [
        plain("sampler", plain_vae, plain_title),
        keep("sampler", "picture", "picture.MASK"),
    ])])  # fmt: skip


def panel(before: tuple[str, str], ours: tuple[str, str], source: str, mask: str) -> Node:
    """Two results, name and wire each, beside the source."""
    return Node("", "AsymVQCompare", 620, (f"{before[0]}\n{ours[0]}", "kept pixels", 10.0, False), {
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
        Node("whole", "AsymVQStitch", 130, (1.0, False), {"crop": "part.crop", "image": "ours"}),
        Node("", "SaveImage", 460, (f"asymvq/{prefix}",), {"images": "whole"}, "The whole picture"),
    ])])  # fmt: skip


def put_back(prefix: str) -> list[Group]:
    """An edit of the whole picture that a model gave back: laid over the source, harmonised, compared."""
    return [
        Group("4 · Align and harmonise", GREEN, [(340, [
            Node("edit", "VAEDecode", 60, (), {"samples": "sampler", "vae": "vae"}, "The edit, as the model gives it"),
            Node("aligned", "AsymVQAlign", 150, (), {"edited": "edit", "source": "picture", "mask": "picture.MASK"}),
            Node("ours", "AsymVQHarmonise", 150, (1.0, 8, False),
                 {"edited": "aligned", "source": "picture", "mask": "picture.MASK"}),
        ])]),
        Group("5 · Compare and save", ORANGE, [
            (400, [Node("", "SaveImage", 380, (f"asymvq/{prefix}",), {"images": "ours"}, "Only the edit changed")]),
            (620, [panel(("as the model gives it", "aligned"), ("aligned, harmonised", "ours"), "picture",
                         "picture.MASK")]),
        ]),
    ]  # fmt: skip


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
KEEP_EXACTLY = ("exact", 0, "auto", 512, 64, "auto", False, 1.0)
INPAINT_WIRES = {
    "positive": "conditioning.positive", "negative": "conditioning.negative", "latent_image": "conditioning.latent",
}  # fmt: skip

EDIT_NOTE = (
    "\n\nPaint the mask over what is to change, a little larger than it. The model gives the **whole** picture back, "
    "shifted and toned: *Align* lays it over yours again, *Harmonise* keeps every pixel outside the mask."
)

GRAPHS: dict[str, list[Group]] = {
    "quickstart": [
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download: a portrait, and a seascape that stands in for what a "
                 "diffusion model "
                 "would paint into its background. Its colours are right as they come, so *harmonise* is 0.\n\n## Your "
                 "own picture\nPut *Load Image* in the place of *Demo Pictures*.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto")),
        ])]),
        Group("2 · An edit of the latent", VIOLET, [(340, [
            Node("source", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "vae"}, "Encode the portrait"),
            Node("example", "VAEEncode", 60, (), {"pixels": "pictures.example", "vae": "vae"}, "Encode the seascape"),
            Node("grown", "GrowMask", 90, (8, True), {"mask": "pictures.mask"}, "Grow the mask for the edit"),
            Node("edited", "LatentCompositeMasked", 170, (0, 0, False),
                 {"destination": "source", "source": "example", "mask": "grown"}, "Edit inside the mask"),
        ])]),
        Group("3 · Decode", GREEN, [(340, [
            plain("edited", "vae", "Plain decode"),
            keep("edited", "pictures.picture", "pictures.mask", harmonise=0.0),  # the seascape's colours are right
        ])]),
        compare("4 · Compare and save", "plain decode", "with picture and mask", "quickstart", "pictures.picture",
                "pictures.mask"),
    ],
    "outpainting": [
        Group("1 · Picture and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download: a portrait is widened by 256 pixels on the right. A "
                 "seascape stands "
                 "in for what a diffusion model would paint there.\n\n## Your own\nSet *left, top, right, bottom* on "
                 "*Crop for Inpainting*; put *Load Image* in the place of *Demo Pictures*, and your sampler in "
                 "the place "
                 "of group 3.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto")),
        ])]),
        Group("2 · Widen", VIOLET, [(340, [
            around(("width and height", 512, 512), "pictures.picture", None, expand=(0, 0, 256, 0), grow=16),
        ])]),
        Group("3 · An edit of the latent", VIOLET, [(340, [
            Node("source", "VAEEncode", 60, (), {"pixels": "part.image", "vae": "vae"}, "Encode the part"),
            Node("scaled", "ImageScale", 160, ("lanczos", 512, 512, "center"), {"image": "pictures.example"}),
            Node("example", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}, "Encode the seascape"),
            Node("edited", "LatentCompositeMasked", 170, (0, 0, False),
                 {"destination": "source", "source": "example", "mask": "part.mask"}, "Edit inside the mask"),
        ])]),
        Group("4 · Decode", GREEN, [(340, [keep("edited", "part.image", "part.mask")])]),
        stitched("outpainting", 5),
    ],
    "inpainting_sdxl": [
        Group("1 · Models", BLUE, [(400, [
            note("## File\n**sd_xl_base_1.0.safetensors** → *models/checkpoints*\n\n" + OFFER + "\n\n## Any SDXL model "
                 "will do\nIts own VAE cannot be shown the kept pixels: the decode harmonises what it draws and "
                 "puts it "
                 "into your picture.", "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd_xl_base_1.0.safetensors",)),
            Node("soft", "DifferentialDiffusion", 60, (1.0,), {"model": "checkpoint"}),
        ])]),
        picture("SDXL likes about one million pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a bouquet of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            Node("source", "VAEEncode", 60, (), {"pixels": "picture", "vae": "checkpoint.VAE"}),
            Node("masked", "SetLatentNoiseMask", 60, (), {"samples": "source", "mask": "picture.MASK"}),
        ])]),
        paint("4 · Paint", (1, "randomize", 25, 6.0, "dpmpp_2m", "karras", 0.9), {
            "model": "soft", "positive": "positive", "negative": "negative", "latent_image": "masked",
        }),
        Group("5 · Decode", GREEN, [(340, [
            plain("sampler", "checkpoint.VAE", "Plain decode"),
            Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY, {
                "samples": "sampler", "vae": "checkpoint.VAE", "image": "picture", "mask": "picture.MASK",
            }),
        ])]),
        compare("6 · Compare and save", "plain decode", "kept and harmonised", "sdxl", "picture", "picture.MASK"),
    ],
    "inpainting_z_image": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**z_image_turbo_bf16.safetensors** → "
                 "*models/diffusion_models*\n\n**qwen_3_4b.safetensors** → "
                 "*models/text_encoders*\n\n**ae.safetensors**, **asuka_decoder.ckpt** → *models/vae*\n\n" + OFFER +
                 " Z-Image has FLUX.1's VAE, so that ASUKA's decoder reads its latents; it was trained with "
                 "FLUX.1 Fill: "
                 "see for yourself.", "Start here"),
            Node("model", "UNETLoader", 90, ("z_image_turbo_bf16.safetensors", "default")),
            Node("shifted", "ModelSamplingAuraFlow", 60, (3.0,), {"model": "model"}),
            Node("clip", "CLIPLoader", 110, ("qwen_3_4b.safetensors", "lumina2", "default")),
            Node("flux_vae", "VAELoader", 60, ("ae.safetensors",), title="The model's own VAE, to compare with"),
            Node("vae", "AsymVQLoader", 195, ("asuka_decoder.ckpt", "ae.safetensors", "auto")),
        ])]),
        picture("Z-Image likes about one million pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a bouquet of wild flowers on the table, soft daylight", "clip", "What you want"),
            Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
            Node("source", "VAEEncode", 60, (), {"pixels": "picture", "vae": "vae"}),
            Node("masked", "SetLatentNoiseMask", 60, (), {"samples": "source", "mask": "picture.MASK"}),
        ])]),
        paint("4 · Paint", (1, "randomize", 8, 1.0, "res_multistep", "simple", 0.95), {
            "model": "shifted", "positive": "positive", "negative": "nothing", "latent_image": "masked",
        }),
        decode("flux_vae", "Plain decode: the model's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "z_image", "picture", "picture.MASK"),
    ],
    "edit_flux2_klein": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**flux-2-klein-4b-fp8.safetensors** → "
                 "*models/diffusion_models*\n\n**qwen_3_4b.safetensors** → "
                 "*models/text_encoders*\n\n**flux2-vae.safetensors** → *models/vae*\n\n" + OFFER + EDIT_NOTE,
                 "Start here"),
            Node("model", "UNETLoader", 90, ("flux-2-klein-4b-fp8.safetensors", "default")),
            Node("clip", "CLIPLoader", 110, ("qwen_3_4b.safetensors", "flux2", "default")),
            Node("vae", "VAELoader", 60, ("flux2-vae.safetensors",)),
        ])]),
        picture("", "2 · Picture and mask"),
        Group("3 · Edit", VIOLET, [
            (380, [
                ask("positive", "Make the jacket blue.", "clip", "What to change"),
                Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
                Node("scaled", "ImageScaleToTotalPixels", 110, ("lanczos", 1.0, 16), {"image": "picture"}),
                Node("source", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}),
                Node("shown", "ReferenceLatent", 60, (), {"conditioning": "positive", "latent": "source"}),
                Node("shown_nothing", "ReferenceLatent", 60, (), {"conditioning": "nothing", "latent": "source"}),
            ]),
            (320, [
                Node("size", "GetImageSize", 110, (), {"image": "scaled"}),
                Node("empty", "EmptyFlux2LatentImage", 110, (1024, 1024, 1),
                     {"width": "size", "height": "size.height"}),
                Node("sigmas", "Flux2Scheduler", 110, (4, 1024, 1024), {"width": "size", "height": "size.height"}),
                Node("noise", "RandomNoise", 90, (1, "randomize")),
                Node("solver", "KSamplerSelect", 60, ("euler",)),
                Node("guider", "CFGGuider", 110, (1.0,), {
                    "model": "model", "positive": "shown", "negative": "shown_nothing",
                }),
                Node("sampler", "SamplerCustomAdvanced", 130, (), {
                    "noise": "noise", "guider": "guider", "sampler": "solver", "sigmas": "sigmas",
                    "latent_image": "empty",
                }),
            ]),
        ]),
        *put_back("flux2_klein"),
    ],
    "edit_qwen": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**qwen_image_edit_2511_fp8mixed.safetensors** → *models/diffusion_models*\n\n"
                 "**qwen_2.5_vl_7b_fp8_scaled.safetensors** → "
                 "*models/text_encoders*\n\n**Qwen-Image-Edit-2511-Lightning-"
                 "4steps-V1.0-bf16.safetensors** → *models/loras*\n\n**qwen_image_vae.safetensors** → *models/vae*\n\n"
                 + OFFER + EDIT_NOTE, "Start here"),
            Node("model", "UNETLoader", 90, ("qwen_image_edit_2511_fp8mixed.safetensors", "default")),
            Node("shifted", "ModelSamplingAuraFlow", 60, (3.1,), {"model": "model"}),
            Node("normed", "CFGNorm", 90, (1.0, False), {"model": "shifted"}),
            Node("fast", "LoraLoaderModelOnly", 90,
                 ("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors", 1.0), {"model": "normed"}),
            Node("clip", "CLIPLoader", 110, ("qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image", "default")),
            Node("vae", "VAELoader", 60, ("qwen_image_vae.safetensors",)),
        ])]),
        picture("", "2 · Picture and mask"),
        Group("3 · Edit", VIOLET, [
            (400, [
                Node("scaled", "FluxKontextImageScale", 40, (), {"image": "picture"}),
                Node("source", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}),
                Node("asked", "TextEncodeQwenImageEditPlus", 200, ("Make the jacket blue.",),
                     {"clip": "clip", "vae": "vae", "image1": "scaled"}, "What to change"),
                Node("unasked", "TextEncodeQwenImageEditPlus", 200, ("",),
                     {"clip": "clip", "vae": "vae", "image1": "scaled"}, "What you don't want"),
                Node("positive", "FluxKontextMultiReferenceLatentMethod", 90, ("index_timestep_zero",),
                     {"conditioning": "asked"}),
                Node("negative", "FluxKontextMultiReferenceLatentMethod", 90, ("index_timestep_zero",),
                     {"conditioning": "unasked"}),
            ]),
            (340, [
                Node("sampler", "KSampler", 270, (1, "randomize", 4, 1.0, "euler", "simple", 1.0), {
                    "model": "fast", "positive": "positive", "negative": "negative", "latent_image": "source",
                }),
            ]),
        ]),
        *put_back("qwen"),
    ],
    "large_photo": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**sd-v1-5-inpainting.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n" + OFFER +
                 "\n\n## Any model will do\nSet *size* on *Crop for Inpainting* to what yours was trained at; "
                 "the photo "
                 "may be as large as you like.", "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd-v1-5-inpainting.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("", "2 · Photo and mask"),
        Group("3 · Crop, say what you want", VIOLET, [
            (340, [around(("megapixels", 0.4, "free"))]),
            (380, [
                ask("positive", "a bouquet of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
                ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
                Node("conditioning", "InpaintModelConditioning", 150, (True,), {
                    "positive": "positive", "negative": "negative", "vae": "vae", "pixels": "part.image",
                    "mask": "part.mask",
                }),
            ]),
        ]),
        paint("4 · Paint", SAMPLER_15, {"model": "checkpoint", **INPAINT_WIRES}),
        Group("5 · Decode", GREEN, [(340, [keep("sampler", "part.image", "part.mask")])]),
        stitched("large_photo"),
    ],
    "video_inpaint": [
        Group("1 · Models", BLUE, [(420, [
            note("## Files\n**wan2.1_vace_14B_fp16.safetensors** → *models/diffusion_models*\n\n"
                 "**umt5_xxl_fp8_e4m3fn_scaled.safetensors** → *models/text_encoders*\n\n**wan_2.1_vae.safetensors** → "
                 "*models/vae*\n\n**sam3.1_multiplex_fp16.safetensors** → *models/checkpoints*\n\n" + OFFER +
                 " Say in group 2 what is to be replaced, in group 3 by what. Outside the mask every frame stays as it "
                 "was, bit for bit.", "Start here"),
            Node("model", "UNETLoader", 90, ("wan2.1_vace_14B_fp16.safetensors", "default")),
            Node("shifted", "ModelSamplingSD3", 60, (5.0,), {"model": "model"}),
            Node("clip", "CLIPLoader", 110, ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan", "default")),
            Node("vae", "VAELoader", 60, ("wan_2.1_vae.safetensors",)),
            Node("finder", "CheckpointLoaderSimple", 110, ("sam3.1_multiplex_fp16.safetensors",),
                 title="Finds what the mask is to cover"),
        ])]),
        Group("2 · Video and masks", VIOLET, [(380, [
            Node("video", "LoadVideo", 300, ("video.mp4", "image"), title="Load your video"),
            Node("parts", "GetVideoComponents", 110, (), {"video": "video"}),
            Node("first", "ImageFromBatch", 90, (0, 81), {"image": "parts"}, "The first 81 frames"),
            Node("frames", "ImageScale", 160, ("lanczos", 832, 480, "center"), {"image": "first"}),
            Node("what", "CLIPTextEncode", 120, ("cat",), {"clip": "finder.CLIP"}, "What is to be replaced"),
            Node("found", "SAM3_Detect", 210, (0.5, 2, False), {
                "model": "finder", "image": "frames", "conditioning": "what",
            }),
            Node("masks", "GrowMask", 90, (20, True), {"mask": "found"}),
        ])]),
        Group("3 · Paint", VIOLET, [
            (360, [
                Node("not_masked", "InvertMask", 40, (), {"mask": "masks"}),
                Node("grey", "MaskToImage", 40, (), {"mask": "not_masked"}),
                Node("control", "ImageCompositeMasked", 150, (0, 0, True), {
                    "destination": "frames", "source": "grey", "mask": "masks",
                }),
                ask("positive", "a small brown dog walks through the room", "clip", "What you want"),
                ask("negative", "static, blurred details, subtitles, worst quality, deformed", "clip",
                    "What you don't want"),
            ]),
            (340, [
                Node("size", "GetImageSize", 110, (), {"image": "frames"}),
                Node("vace", "WanVaceToVideo", 270, (832, 480, 81, 1, 1.0), {
                    "positive": "positive", "negative": "negative", "vae": "vae", "control_video": "control",
                    "control_masks": "masks", "width": "size", "height": "size.height", "length": "size.batch_size",
                }),
                Node("sampler", "KSampler", 270, (1, "randomize", 20, 6.0, "uni_pc", "simple", 1.0), {
                    "model": "shifted", "positive": "vace", "negative": "vace.negative", "latent_image": "vace.latent",
                }),
                Node("trimmed", "TrimVideoLatent", 60, (0,), {"samples": "sampler", "trim_amount": "vace.trim_latent"}),
            ]),
        ]),
        Group("4 · Decode and save", GREEN, [(420, [
            Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY, {
                "samples": "trimmed", "vae": "vae", "image": "frames", "mask": "masks",
            }),
            Node("joined", "CreateVideo", 110, (16.0, 8), {
                "images": "ours", "audio": "parts.audio", "fps": "parts.fps",
            }),
            Node("", "SaveVideo", 360, ("asymvq/video_inpaint", "auto", "auto"), {"video": "joined"}),
        ])]),
    ],
    "inpainting": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**sd-v1-5-inpainting.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n" + OFFER,
                 "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd-v1-5-inpainting.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Stable Diffusion 1.5 likes sides of 512 to 768 pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a bouquet of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            conditioned_by("positive", "negative"),
        ])]),
        paint("4 · Paint", SAMPLER_15, {"model": "checkpoint", **INPAINT_WIRES}),
        decode("checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "inpainting", "picture",
                "picture.MASK"),
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
            Node("vae", "AsymVQLoader", 195, ("asuka_decoder.ckpt", "ae.safetensors", "auto")),
        ])]),
        picture("FLUX likes about one million pixels, such as 1024 × 1024."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a bouquet of wild flowers on the table, soft daylight", "clip", "What you want"),
            Node("guided", "FluxGuidance", 60, (30.0,), {"conditioning": "positive"}),
            Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
            conditioned_by("guided", "nothing"),
        ])]),
        paint("4 · Paint", (1, "randomize", 20, 1.0, "euler", "normal", 1.0), {"model": "model", **INPAINT_WIRES}),
        decode("flux_vae", "Plain decode: FLUX's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "flux_fill", "picture",
                "picture.MASK"),
    ],
    "paint_by_example": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**model.safetensors**, Paint by Example (5.2 GB, licence CreativeML OpenRAIL-M) → "
                 "*models/checkpoints*\n\n**diffusion_pytorch_model.safetensors**, the asymmetric VAE 1.5x → "
                 "*models/vae*\n\nMany files have these names: if you give them better ones, choose those below. "
                 + OFFER, "Start here"),
            Node("loader", "AsymVQPaintByExampleLoader", 130, ("model.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Paint by Example is at its best at 512 × 512 and near it; for large pictures there is group 7."),
        Group("3 · Example", VIOLET, [(380, [
            Node("example", "LoadImage", 380, ("example.png", "image"), title="Load the example"),
            by_example("conditioning", "picture", "picture.MASK"),
        ])]),
        paint("4 · Paint", SAMPLER_BY_EXAMPLE, {"model": "loader", **INPAINT_WIRES}),
        decode("loader.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "paint_by_example", "picture",
                "picture.MASK"),
        large_pictures(),
    ],
    "text_to_image": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**v1-5-pruned-emaonly-fp16.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n"
                 + OFFER, "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("v1-5-pruned-emaonly-fp16.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        Group("2 · Say what you want", VIOLET, [(380, [
            ask("positive", "portrait of a woman in a flower garden, freckles, detailed eyes, natural light, photo",
                "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            Node("empty", "EmptyLatentImage", 120, (512, 512, 1), title="Size of the picture"),
        ])]),
        paint("3 · Paint", SAMPLER_15,
              {"model": "checkpoint", "positive": "positive", "negative": "negative", "latent_image": "empty"}),
        Group("4 · Decode", GREEN, [(340, [
            plain("sampler", "checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
            Node("ours", "VAEDecode", 60, (), {"samples": "sampler", "vae": "vae"}, "Decode with the asymmetric VAE"),
        ])]),
        Group("5 · Compare and save", ORANGE, [
            (420, [Node("", "PreviewImage", 440, (), {"images": "plain"}, "Checkpoint's VAE")]),
            (420, [Node("", "SaveImage", 460, ("asymvq/text_to_image",), {"images": "ours"}, "Asymmetric VAE")]),
        ]),
    ],
    "train_decoder": [
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download. The small demo VAE is trained a little further on one picture: "
                 "some minutes without a GPU.\n\n**In earnest:** put some hundred pictures in a folder in ComfyUI's "
                 "*input* folder and choose it in the training node. Take a *Load VAE* node with the VAE of your "
                 "model in the place of the demo VAE: SD1.5, SDXL, SD3 or FLUX.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto"), title="The VAE to start from"),
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
            Node("mask", "AsymVQRandomMask", 180, (0, "fixed", 640, 424, 1, 1.0), title="A mask of the picture's size"),
            Node("encoded", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "train"}),
            plain("encoded", "train", "Decode without the picture"),
            Node("ours", "AsymVQDecode", 350, ("network", *KEEP_EXACTLY[1:]), {
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
        "last_link_id": len(links), "nodes": nodes, "links": links, "groups": boxes, "config": {},
        "extra": {"asymvq_view": {"scale": SCALE, "offset": list(OFFSET)}},
        "version": 0.4,
    }  # fmt: skip


def main() -> None:
    for name, groups in GRAPHS.items():
        text = json.dumps(graph(name, groups), indent=1, ensure_ascii=False)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
