"""Random Inpainting Mask."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..asymvq.masks import MAX_THICKNESS, random_thick_mask


class AsymVQRandomMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQRandomMask",
            display_name="Random Inpainting Mask",
            category="mask/asymmetric vqgan",
            description=(
                "Masks of thick strokes or boxes, as inpainting models are trained and measured with. One seed always "
                "gives the same masks; the first is the one that python -m asymvq evaluate draws for its first picture."
            ),
            search_aliases=["random mask", "lama mask", "brush strokes", "irregular mask", "test mask", "vqgan"],
            inputs=[
                io.Int.Input(
                    "seed", default=0, min=0, max=2**63 - 1, control_after_generate=True, tooltip="Which masks."
                ),
                io.Int.Input(
                    "width", default=512, min=16, max=16384, step=8, tooltip="Of the picture to mask, pixels."
                ),
                io.Int.Input(
                    "height", default=512, min=16, max=16384, step=8, tooltip="Of the picture to mask, pixels."
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many masks, all different."),
                io.Float.Input(
                    "thickness",
                    default=1.0,
                    min=0.05,
                    max=MAX_THICKNESS,
                    step=0.05,
                    tooltip="Of strokes and boxes. 1: as in training. Below: fine lines. Above: large areas.",
                ),
            ],
            outputs=[io.Mask.Output(tooltip="1 = to be edited, 0 = kept.")],
        )

    @classmethod
    def execute(cls, seed: int, width: int, height: int, batch_size: int = 1, thickness: float = 1.0) -> io.NodeOutput:
        rng = np.random.default_rng(seed)
        masks = [random_thick_mask(height, width, rng, thickness=thickness) for _ in range(batch_size)]
        return io.NodeOutput(torch.cat(masks))
