"""Asymmetric VQGAN Demo Pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..asymvq.pictures import open_picture
from .host import CATEGORY, plain_errors

ASSETS = Path(__file__).parent.parent / "asymvq" / "assets"


class AsymVQDemoPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQDemoPictures",
            display_name="Asymmetric VQGAN Demo Pictures",
            category=CATEGORY,
            description=(
                "Two photos and a mask that come with the pack, so that the quickstart workflow runs at once. Put Load "
                "Image nodes in its place to try your own."
            ),
            search_aliases=["example image", "sample picture", "vqgan"],
            inputs=[],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="The source picture: a portrait."),
                io.Mask.Output(display_name="mask", tooltip="The mask: white (1) is to be edited, black (0) is kept."),
                io.Image.Output(display_name="example", tooltip="Another picture, whose content is used as the edit."),
            ],
        )

    @classmethod
    @plain_errors
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_read("picture.png", "RGB"), _read("mask.png", "L"), _read("example.png", "RGB"))


def _read(name: str, mode: str) -> Tensor:
    """(1, H, W, 3) for "RGB" and (1, H, W) for "L", in [0, 1]."""
    with open_picture(ASSETS / name) as picture:
        return torch.from_numpy(np.asarray(picture.convert(mode), dtype=np.float32) / 255.0)[None]
