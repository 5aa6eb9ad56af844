"""Crop for Inpainting and Stitch Back."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.masks import edited
from ..asymvq.stitch import Crop, crop_for_inpainting, stitch
from . import host
from .host import CATEGORY, say
from .inputs import video_input
from .progress import HostProgress
from .tensors import image_tensor, in_turn, mask_tensor, require_one_size, to_image

CROP = io.Custom("ASYMVQ_CROP")
ASPECTS = {
    "free": None,
    "1:1": 1.0,
    "4:3": 4 / 3,
    "3:4": 3 / 4,
    "3:2": 3 / 2,
    "2:3": 2 / 3,
    "16:9": 16 / 9,
    "9:16": 9 / 16,
    "21:9": 21 / 9,
    "9:21": 9 / 21,
}
OWN, MEGAPIXELS, SIDES = "as it is", "megapixels", "width and height"


class AsymVQInpaintCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        aspect = io.Combo.Input(
            "aspect",
            options=list(ASPECTS),
            default="free",
            tooltip="Width to height. free: as the mask has it.",
        )
        return io.Schema(
            node_id="AsymVQInpaintCrop",
            display_name="Crop for Inpainting",
            category=CATEGORY,
            description=(
                "Cuts the part around the mask out of a picture, scaled to what your model likes, and widens the "
                "picture where you expand it (outpainting). Edit the part with any model, then give it to Stitch Back."
            ),
            search_aliases=[
                "inpaint crop",
                "crop and stitch",
                "outpaint",
                "outpainting",
                "extend canvas",
                "pad image for outpainting",
                "crop around mask",
                "masked area only",
                "large picture",
                "重绘",
                "扩图",
                "inpaint",
                "局部重绘",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture. Several share one part, around all their masks."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White (1) is edited. Of the image's size. Not needed where a side is expanded.",
                ),
                io.Int.Input(
                    "context",
                    default=64,
                    min=0,
                    max=8192,
                    tooltip="Pixels around the mask that the model sees.",
                ),
                io.Float.Input(
                    "context_share",
                    default=0.25,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="The same as a share of the mask's longer side. The larger of the two counts.",
                ),
                io.DynamicCombo.Input(
                    "size",
                    options=[
                        io.DynamicCombo.Option(OWN, [aspect]),
                        io.DynamicCombo.Option(
                            MEGAPIXELS,
                            [
                                io.Float.Input(
                                    "megapixels",
                                    default=1.0,
                                    min=0.05,
                                    max=64.0,
                                    step=0.05,
                                    tooltip="Million pixels of the part.",
                                ),
                                aspect,
                            ],
                        ),
                        io.DynamicCombo.Option(
                            SIDES,
                            [
                                io.Int.Input(
                                    "width", default=1024, min=64, max=8192, step=8, tooltip="Of the part, pixels."
                                ),
                                io.Int.Input(
                                    "height", default=1024, min=64, max=8192, step=8, tooltip="Of the part, pixels."
                                ),
                            ],
                        ),
                    ],
                    tooltip=(
                        "as it is: in the picture's own pixels, nothing is scaled. megapixels, or width and height: "
                        "scaled up or down to what the model was trained at."
                    ),
                ),
                io.Combo.Input(
                    "multiple", options=["8", "16", "32", "64"], default="16", tooltip="Both sides are multiples of it."
                ),
                io.Int.Input("left", default=0, min=0, max=8192, tooltip="Pixels to add on the left."),
                io.Int.Input("top", default=0, min=0, max=8192, tooltip="Pixels to add at the top."),
                io.Int.Input("right", default=0, min=0, max=8192, tooltip="Pixels to add on the right."),
                io.Int.Input("bottom", default=0, min=0, max=8192, tooltip="Pixels to add at the bottom."),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pixels to grow the mask by. When outpainting: how much of the old rim is painted anew.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The part to edit."),
                io.Mask.Output(display_name="mask", tooltip="The part of the mask, to edit and to decode with."),
                CROP.Output(display_name="crop", tooltip="For Stitch Back: the whole picture, and where the part is."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        size: dict[str, Any] | str = OWN,
        context: int = 64,
        context_share: float = 0.25,
        multiple: str = "16",
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        grow_mask: int = 0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        image = image_tensor(image)
        expand = (left, top, right, bottom)
        if mask is not None and not (any(expand) and _is_placeholder(mask)):
            mask = mask_tensor(mask, image)
            require_one_size(image, mask)
            count = in_turn({"image": len(image), "mask": len(mask)})
            image = image.repeat(count // len(image), 1, 1, 1)
            mask = mask if len(mask) == 1 else mask.repeat(count // len(mask), 1, 1, 1)
        else:
            mask = None
        if (mask is None or not edited(mask).any()) and not any(expand):
            raise ValueError(
                "Expected a mask to crop around or a side to expand, but got neither. Paint a mask (right-click the "
                "Load Image node, open the mask editor) and connect it, or set left, top, right or bottom."
            )
        chosen = size if isinstance(size, dict) else {"size": size}
        kind = chosen["size"]
        part, part_mask, crop = crop_for_inpainting(
            image,
            mask,
            context=context,
            context_share=context_share,
            aspect=None if kind == SIDES else ASPECTS[chosen.get("aspect", "free")],
            megapixels=chosen["megapixels"] if kind == MEGAPIXELS else None,
            size=(chosen["height"], chosen["width"]) if kind == SIDES else None,
            multiple=int(multiple),
            expand=expand,
            grow=grow_mask,
        )
        height, width = crop.size
        said = say(cls, f"Part of {width}×{height} pixels, scaled by {crop.scale:.2f}.")
        return io.NodeOutput(to_image(part), part_mask[:, 0], crop, ui=said)


class AsymVQStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQStitch",
            display_name="Stitch Back",
            category=CATEGORY,
            description=(
                "Puts the edited part of Crop for Inpainting back into the whole picture. Only what the mask edits is "
                "taken; every other pixel is the source's, bit for bit, also when the part was scaled."
            ),
            search_aliases=[
                "stitch",
                "uncrop",
                "inpaint stitch",
                "composite original",
                "paste back",
                "preserve original pixels",
                "seam",
                "outpaint",
                "拼接",
                "重绘",
                "inpaint",
                "crop and stitch",
                "keep original",
                "接缝",
                "局部重绘",
            ],
            inputs=[
                CROP.Input("crop", tooltip="From Crop for Inpainting."),
                io.Image.Input("image", tooltip="The edited part. Another size than it was cut at is scaled back."),
                io.Float.Input(
                    "harmonise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the edit's colours and light are made to continue the kept ones. 0: not at all.",
                ),
                video_input(),
            ],
            outputs=[io.Image.Output(tooltip="The whole picture with the edit in it, widened where it was expanded.")],
        )

    @classmethod
    def execute(cls, crop: Crop, image: Tensor, harmonise: float = 1.0, video: bool = False) -> io.NodeOutput:
        if not isinstance(crop, Crop):
            raise ValueError(f"Expected a crop, but got {type(crop).__name__}. Connect Crop for Inpainting.")
        host.throw_exception_if_processing_interrupted()
        image = image_tensor(image)
        in_turn({"image": len(image), "crop": len(crop.image)})
        frames = max(len(image), len(crop.image)) if video else 1
        result = stitch(crop, image, strength=harmonise, image_range=(0.0, 1.0), frames=frames, progress=HostProgress())
        return io.NodeOutput(to_image(result))


def _is_placeholder(mask: object) -> bool:
    """What Load Image gives for a picture without a mask; where the picture is widened, none is needed."""
    return isinstance(mask, Tensor) and tuple(mask.shape[-2:]) == (64, 64) and not mask.any()
