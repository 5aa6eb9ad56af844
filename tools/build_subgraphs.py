"""Writes the blueprints in `subgraphs/`: nodes that work together, offered as one under their file's name.

python tools/build_subgraphs.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph_fragments import KEEP_EXACTLY, SAMPLER_15
from graph_layout import subgraph
from graph_nodes import Node

SUBGRAPHS = Path(__file__).parents[1] / "subgraphs"


@dataclass(frozen=True)
class Blueprint:
    description: str
    aliases: tuple[str, ...]
    inputs: dict[str, tuple[str, ...]]
    """Names of the inputs; where each goes: "node.socket"."""
    outputs: dict[str, str]
    """Names of the outputs; where each comes from."""
    widgets: tuple[str, ...]
    """Those that are shown: "node.widget"."""
    stacks: list[tuple[int, list[Node]]]


BLUEPRINTS = {
    "Decode and keep": Blueprint(
        "Decodes an edited latent with an asymmetric VAE, in the place of VAE Decode: what the mask keeps comes back "
        "bit for bit, and the edit's colours continue it.",
        ("inpaint", "decode", "vae decode", "keep unmasked", "preserve original pixels", "局部重绘"),
        {"samples": ("ours.samples",), "image": ("ours.image",), "mask": ("ours.mask",)},
        {"IMAGE": "ours", "VAE": "vae"},
        ("vae.vae_name", "vae.base_vae", "ours.grow_mask", "ours.harmonise"),
        [
            (340, [Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto"))]),
            (340, [Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY, {"vae": "vae"})]),
        ],
    ),
    "Inpaint, keep the rest": Blueprint(
        "Cuts out the part around the mask at the size that the model likes, paints it, decodes it together with its "
        "kept pixels and puts it back: every pixel outside the mask stays as it was. For models that inpaint, and "
        "others that take a noise mask.",
        ("inpaint", "inpainting", "outpaint", "crop and stitch", "keep unmasked", "局部重绘", "扩图"),
        {
            "model": ("sampler.model",), "positive": ("conditioning.positive",),
            "negative": ("conditioning.negative",), "vae": ("conditioning.vae", "ours.vae"),
            "image": ("part.image",), "mask": ("part.mask",),
        },
        {"IMAGE": "whole", "part": "ours"},
        ("part.context", "part.size", "part.size.megapixels", "part.size.aspect", "part.grow_mask", "sampler.seed",
         "sampler.control_after_generate", "sampler.steps", "sampler.cfg", "sampler.sampler_name",
         "sampler.scheduler", "sampler.denoise", "ours.harmonise"),
        [
            (340, [Node("part", "AsymVQInpaintCrop", 440, (64, 0.25, "megapixels", 1.0, "free", "16", 0, 0, 0, 0, 0))]),
            (340, [
                Node("conditioning", "InpaintModelConditioning", 150, (True,),
                     {"pixels": "part.image", "mask": "part.mask"}),
                Node("sampler", "KSampler", 270, SAMPLER_15, {
                    "positive": "conditioning.positive", "negative": "conditioning.negative",
                    "latent_image": "conditioning.latent",
                }),
            ]),
            (340, [
                Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY,
                     {"samples": "sampler", "image": "part.image", "mask": "part.mask"}),
                Node("whole", "AsymVQStitch", 150, (0.0, False), {"crop": "part.crop", "image": "ours"}),
            ]),
        ],
    ),
}  # fmt: skip


def built(name: str) -> dict[str, Any]:
    blueprint = BLUEPRINTS[name]
    return subgraph(
        name, blueprint.stacks, inputs=blueprint.inputs, outputs=blueprint.outputs, widgets=blueprint.widgets,
        description=blueprint.description, aliases=blueprint.aliases,
    )  # fmt: skip


def main() -> None:
    for name in BLUEPRINTS:
        text = json.dumps(built(name), indent=1, ensure_ascii=False)
        (SUBGRAPHS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
