"""Harmonise Edit."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.compose import paste
from ..asymvq.masks import grow_mask as grown
from ..asymvq.source import Source
from .host import CATEGORY, say
from .inputs import video_input
from .memory import give_back_memory
from .progress import HostProgress
from .tensors import image_tensor, in_turn, mask_tensor, require_one_size, to_image
from .vae import result_dtype


class AsymVQHarmonise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQHarmonise",
            display_name="Harmonise Edit",
            category=CATEGORY,
            description=(
                "Puts an edited picture into its source: colours and light of the edit continue the kept pixels', and "
                "those are the source's, bit for bit. For edits that come as pictures: edit models, API nodes, other "
                "packs, a VAE Decode."
            ),
            search_aliases=[
                "harmonize",
                "color match",
                "colour match",
                "seam",
                "seamless",
                "blend edit",
                "paste back",
                "composite original",
                "restore unmasked",
                "color drift",
                "image composite masked",
                "和谐化",
                "inpaint",
                "seam fix",
                "preserve original pixels",
                "keep original",
                "harmonise",
                "局部重绘",
                "重绘",
                "接缝",
                "色差",
            ],
            inputs=[
                io.Image.Input("edited", tooltip="What was edited, of the source's size. Several are taken in turn."),
                io.Image.Input("source", tooltip="The picture that was edited. One serves a whole batch."),
                io.Mask.Input(
                    "mask",
                    tooltip=(
                        "White (1) was edited, black (0) is kept, grey blends the two. Of the source's size. Noise up "
                        "to 8 of 255 counts as black."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far colours and light are changed. 0: the edit is pasted as it is.",
                ),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pixels to grow the mask by, when the edit reaches beyond it.",
                ),
                video_input(),
            ],
            outputs=[io.Image.Output(tooltip="The source with the edit in it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        edited: Tensor,
        source: Tensor,
        mask: Tensor,
        strength: float = 1.0,
        grow_mask: int = 0,
        video: bool = False,
    ) -> io.NodeOutput:
        pictures, image = image_tensor(edited), image_tensor(source)
        if pictures.shape[-2:] != image.shape[-2:]:
            sizes = [f"{tensor.shape[-1]}×{tensor.shape[-2]}" for tensor in (pictures, image)]
            raise ValueError(
                f"Expected edited and source of one size, but got {sizes[0]} and {sizes[1]} pixels (width×height). "
                "Scale the edit to the source, or give both to Align Edit to Source first."
            )
        mask = mask_tensor(mask, image)
        require_one_size(image, mask)
        mask = grown(mask, grow_mask)
        counts = {"edited": len(pictures), "source": len(image), "mask": len(mask)}
        in_turn(counts)
        said = say(cls, Source(image, mask, (0, 0, *image.shape[-2:])).summary())
        result = paste(
            pictures, image=image, mask=mask, harmonise=strength, image_range=(0.0, 1.0), dtype=result_dtype(image),
            progress=HostProgress(), frames=max(counts.values()) if video else 1,
        )  # fmt: skip
        give_back_memory(result.device)
        return io.NodeOutput(to_image(result), ui=said)
