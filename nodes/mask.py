"""Random Inpainting Mask."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..asymvq.masks import MAX_THICKNESS, draw_thick_mask
from . import host
from .host import CATEGORY

MOST_BYTES = 2**31
"""Of all masks of a batch: two of the largest, or 2 048 of 512×512."""


class AsymVQRandomMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQRandomMask",
            display_name="Random Inpainting Mask",
            category=CATEGORY,
            description=(
                "Masks of thick strokes or boxes, as inpainting models are trained and measured with. One seed always "
                "gives the same masks; the first is the one that python -m asymvq evaluate draws for its first picture."
            ),
            search_aliases=[
                "random mask",
                "lama mask",
                "brush strokes",
                "irregular mask",
                "test mask",
                "vqgan",
                "遮罩",
            ],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Chooses the masks: the same seed always gives the same ones.",
                ),
                io.Int.Input(
                    "width", default=512, min=16, max=16384, step=8, tooltip="Width of the picture to mask, in pixels."
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=16,
                    max=16384,
                    step=8,
                    tooltip="Height of the picture to mask, in pixels.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many masks to make, all different. Together they take at most 2 GiB.",
                ),
                io.Float.Input(
                    "thickness",
                    default=1.0,
                    min=0.05,
                    max=MAX_THICKNESS,
                    step=0.05,
                    tooltip=(
                        "Thickness of the strokes and boxes. 1 is what decoders are trained with; smaller"
                        " gives fine lines, larger gives large areas."
                    ),
                ),
            ],
            outputs=[io.Mask.Output(tooltip="The masks: white (1) is to be edited, black (0) is kept.")],
        )

    @classmethod
    def execute(cls, seed: int, width: int, height: int, batch_size: int = 1, thickness: float = 1.0) -> io.NodeOutput:
        size = batch_size * height * width * torch.float32.itemsize
        if size > MOST_BYTES:
            raise ValueError(
                f"Expected masks of at most {MOST_BYTES / 2**30:g} GiB together, but got {batch_size} of "
                f"{width}×{height}, which take {size / 2**30:.1f}. Ask for fewer masks (batch_size), or smaller ones."
            )
        rng = np.random.default_rng(seed)
        masks = torch.empty(batch_size, height, width)
        progress = host.ProgressBar(batch_size)
        for mask in masks:
            host.throw_exception_if_processing_interrupted()
            canvas = draw_thick_mask(height, width, rng, thickness=thickness)
            mask.copy_(torch.from_numpy(np.array(canvas))).div_(255)
            progress.update(1)
        return io.NodeOutput(masks)
