"""Plot Training Loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..asymvq.training.plot import draw_losses
from .host import CATEGORY


class AsymVQLossPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQLossPlot",
            display_name="Plot Training Loss",
            category=CATEGORY,
            description="Draws the loss of a training, step by step: logarithmic, smoothed over the single values.",
            search_aliases=["loss graph", "loss curve", "training chart"],
            is_output_node=True,
            inputs=[
                io.Custom("LOSS_MAP").Input(
                    "loss_map", tooltip="From Train Asymmetric VQGAN Decoder, or another training node."
                ),
                io.String.Input("title", default="Training loss", tooltip="The title above the plot."),
                io.Int.Input(
                    "width",
                    default=960,
                    min=256,
                    max=4096,
                    step=8,
                    advanced=True,
                    tooltip="Width of the plot, in pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=192,
                    max=4096,
                    step=8,
                    advanced=True,
                    tooltip="Height of the plot, in pixels.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The plot as a picture.")],
        )

    @classmethod
    def execute(cls, loss_map: dict[str, Any], title: str, width: int = 960, height: int = 480) -> io.NodeOutput:
        curves = {name: [float(value) for value in values] for name, values in loss_map.items()}
        picture = draw_losses(curves, size=(width, height), title=title)
        image = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
