"""Crop Around Mask."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.crop import box_around
from .host import CATEGORY, plain_errors
from .tensors import image_tensor, mask_tensor, require_one_size, to_image


class AsymVQCropAroundMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQCropAroundMask",
            display_name="Crop Around Mask",
            category=CATEGORY,
            description=(
                "The square of a large picture in which the mask lies, in the picture's own pixels. Edit and decode "
                "it, then put the result back with Image Composite Masked, at x and y: nothing is scaled, so what "
                "was kept is exactly where it was. For new graphs, Crop for Inpainting and Stitch Back do more."
            ),
            search_aliases=["crop", "inpaint crop", "large picture", "stitch", "mask bounding box"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture to cut a part from."),
                io.Mask.Input("mask", tooltip="White (1) is edited. It must have the size of the image."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip=(
                        "The side of the square in pixels. The square becomes larger if the mask and 64 "
                        "pixels around it need more room."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The part of the picture inside the square."),
                io.Mask.Output(display_name="mask", tooltip="The part of the mask inside the square."),
                io.Int.Output(
                    display_name="x", tooltip="The square's left edge, in pixels from the left of the picture."
                ),
                io.Int.Output(
                    display_name="y", tooltip="The square's top edge, in pixels from the top of the picture."
                ),
            ],
        )

    @classmethod
    @plain_errors
    def execute(cls, image: Tensor, mask: Tensor, size: int = 512) -> io.NodeOutput:
        image = image_tensor(image)
        mask = mask_tensor(mask, image)
        require_one_size(image, mask)
        box = box_around(mask, size=size)
        return io.NodeOutput(to_image(box.of(image)), box.of(mask)[:, 0], box.left, box.top)
