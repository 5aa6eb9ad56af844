"""Crop Around Mask."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.crop import box_around
from .tensors import image_tensor, mask_tensor, require_one_size, to_image


class AsymVQCropAroundMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQCropAroundMask",
            display_name="Crop Around Mask",
            category="image/asymmetric vqgan",
            description=(
                "The square of a large picture in which the mask lies, in the picture's own pixels. Edit and decode "
                "it, then put the result back with Image Composite Masked, at x and y: nothing is scaled, so what "
                "was kept is exactly where it was. For new graphs, Crop for Inpainting and Stitch Back do more."
            ),
            search_aliases=["crop", "inpaint crop", "large picture", "stitch", "mask bounding box"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture."),
                io.Mask.Input("mask", tooltip="White (1) is edited. Of the image's size."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of the square, pixels. It grows where the mask and 64 pixels around it need more.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The part of the picture."),
                io.Mask.Output(display_name="mask", tooltip="The part of the mask."),
                io.Int.Output(display_name="x", tooltip="Where the part begins, pixels from the left."),
                io.Int.Output(display_name="y", tooltip="Where the part begins, pixels from the top."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, size: int = 512) -> io.NodeOutput:
        image = image_tensor(image)
        mask = mask_tensor(mask, image)
        require_one_size(image, mask)
        box = box_around(mask, size=size)
        return io.NodeOutput(to_image(box.of(image)), box.of(mask)[:, 0], box.left, box.top)
