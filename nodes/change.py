"""Mask From Change."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.change import FEATHER, GROW, HOLES, SMALLEST, change_mask
from . import host
from .host import CATEGORY, say
from .memory import give_back_memory
from .stock import through
from .tensors import image_tensor, in_turn, taken

NEARLY_ALL = 0.7
"""Share of a picture that no edit is expected to change."""


class AsymVQChangeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQChangeMask",
            display_name="Mask From Change",
            category=CATEGORY,
            description=(
                "Finds what an edit model changed on purpose: the mask of it, grown and with a soft edge. Drifted "
                "colours and what a VAE does to detail do not count; where nothing else changed, the mask is empty, "
                "and the node says so. Give it the output of Align Edit to Source."
            ),
            search_aliases=[
                "change mask",
                "difference mask",
                "image difference",
                "diff mask",
                "mask from difference",
                "what changed",
                "detect changes",
                "auto mask",
                "kontext",
                "flux klein",
                "qwen edit",
                "preserve original pixels",
                "差异遮罩",
                "变化遮罩",
                "遮罩",
            ],
            inputs=[
                io.Image.Input(
                    "edited",
                    tooltip="What the edit model gave, laid over the source: the output of Align Edit to Source.",
                ),
                io.Image.Input("source", tooltip="The picture that was edited. One serves a whole batch."),
                io.Float.Input(
                    "sensitivity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Higher finds fainter changes too, lower only what is beyond doubt.",
                ),
                io.Int.Input(
                    "grow",
                    default=GROW,
                    min=0,
                    max=256,
                    tooltip="Pixels to grow the mask by, so that it holds the edges of what was changed.",
                ),
                io.Int.Input(
                    "feather",
                    default=FEATHER,
                    min=0,
                    max=256,
                    tooltip="Pixels over which the edge of the grown mask is soft. 0: a hard edge.",
                ),
                io.Float.Input(
                    "smallest",
                    default=100 * SMALLEST,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Percent of the picture: a part of the mask that is smaller is left out as noise.",
                ),
                io.Float.Input(
                    "fill_holes",
                    default=100 * HOLES,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip=(
                        "Percent of the picture: holes in the mask up to this size are filled. 100 fills all; keep it "
                        "low where the surroundings of something were changed."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "The VAE that the edit was decoded with. The source goes through it too, so that what it does "
                        "to colours and detail by itself does not count. Costs four encodes and four decodes."
                    ),
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="White (1) is what was changed. One for each edited picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        edited: Tensor,
        source: Tensor,
        sensitivity: float = 0.5,
        grow: int = GROW,
        feather: int = FEATHER,
        smallest: float = 100 * SMALLEST,
        fill_holes: float = 100 * HOLES,
        vae: Any = None,
    ) -> io.NodeOutput:
        pictures, image = image_tensor(edited), image_tensor(source)
        if pictures.shape[-2:] != image.shape[-2:]:
            sizes = [f"{tensor.shape[-1]}×{tensor.shape[-2]}" for tensor in (pictures, image)]
            raise ValueError(
                f"Expected edited and source of one size, but got {sizes[0]} and {sizes[1]} pixels (width×height). "
                "Give both to Align Edit to Source first."
            )
        count = in_turn({"edited": len(pictures), "source": len(image)})
        masks = image.new_empty(count, *image.shape[-2:])
        progress = host.ProgressBar(count)
        for i in range(count):
            host.throw_exception_if_processing_interrupted()
            masks[i] = change_mask(
                taken(pictures, i), taken(image, i), sensitivity=sensitivity, grow=grow, feather=feather,
                smallest=smallest / 100, fill_holes=fill_holes / 100, image_range=(0.0, 1.0),
                round_trip=None if vae is None else lambda picture: through(vae, picture),
            )[0, 0]  # fmt: skip
            progress.update(1)
        give_back_memory(masks.device)
        return io.NodeOutput(masks, ui=say(cls, _said([float((mask > 0.5).float().mean()) for mask in masks])))


def _said(shares: list[float]) -> str:
    """What stands on the node: up to four pictures' lines."""
    lines = []
    for share in shares[:4]:
        if share == 0:
            lines.append("Nothing changed: the mask is empty.")
        elif share > NEARLY_ALL:
            lines.append(f"The mask covers {share:.0%} of the picture. Is this its source, and is it aligned?")
        else:
            lines.append(f"The mask covers {share:.1%} of the picture.")
    if len(shares) > 4:
        lines.append(f"… {len(shares)} pictures, in {sum(share == 0 for share in shares)} of them nothing changed.")
    return "\n".join(lines)
