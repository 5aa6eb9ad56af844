"""Align Edit to Source."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..asymvq.align import Aligned, align
from . import host
from .host import CATEGORY, say
from .tensors import image_tensor, in_turn, mask_tensor, require_one_size, taken, to_image


class AsymVQAlign(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQAlign",
            display_name="Align Edit to Source",
            category=CATEGORY,
            description=(
                "Lays an edited picture over its source again, to parts of a pixel. Edit models give the whole picture "
                "back shifted by pixels, zoomed or at another size; nothing can be pasted back before that is undone. "
                "Where it is not certain, the edit stays as it was, and the node says so."
            ),
            search_aliases=[
                "align image",
                "align edit",
                "image registration",
                "shift",
                "offset",
                "zoom fix",
                "kontext shift",
                "qwen edit shift",
                "pixel shift",
                "对齐",
                "composite original",
                "preserve original pixels",
                "kontext",
                "flux klein",
            ],
            inputs=[
                io.Image.Input("edited", tooltip="What the edit model gave. Another size is scaled to the source's."),
                io.Image.Input("source", tooltip="The picture that was edited. One serves a whole batch."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "White (1) is left out of the comparison: where the edit is, if you know. Of the source's "
                        "size. Not needed up to 40% of the area."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="aligned",
                    tooltip="The edit in the source's size and place. Where it did not reach, it is the source.",
                ),
                io.Float.Output(
                    display_name="shift_x", tooltip="Pixels that the edit lay too far right (the first picture)."
                ),
                io.Float.Output(display_name="shift_y", tooltip="Pixels the edit lay too low; of the first picture."),
                io.Float.Output(
                    display_name="scale", tooltip="How many times as large the edit was drawn; of the first picture."
                ),
                io.Float.Output(
                    display_name="rotation", tooltip="Degrees by which it was turned clockwise; of the first picture."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, edited: Tensor, source: Tensor, mask: Tensor | None = None) -> io.NodeOutput:
        edited, source = image_tensor(edited), image_tensor(source)
        counts = {"edited": len(edited), "source": len(source)}
        if mask is not None:
            mask = mask_tensor(mask, source)
            require_one_size(source, mask)
            counts["mask"] = len(mask)
        count = in_turn(counts)
        pictures, found = source.new_empty(count, *source.shape[1:]), []
        progress = host.ProgressBar(count)
        for i in range(count):
            host.throw_exception_if_processing_interrupted()
            one = taken(edited, i), taken(source, i)
            found.append(align(*one, mask=None if mask is None else taken(mask, i), image_range=(0.0, 1.0)))
            pictures[i] = found[-1].picture[0]
            progress.update(1)
        first = found[0]
        numbers = [*first.shift[0].tolist(), float(first.scale), float(first.rotation)]
        return io.NodeOutput(to_image(pictures), *numbers, ui=say(cls, _said(found)))


def _said(found: list[Aligned]) -> str:
    """What stands on the node: up to four pictures' lines."""
    lines = []
    for one in found[:4]:
        x, y = one.shift[0].tolist()
        if not one.sure[0]:
            lines.append("Unsure: left as it was.")
        elif x == y == 0 and float(one.scale) == 1 and float(one.rotation) == 0:
            lines.append("It lay exactly on the source: left as it was.")
        else:
            lines.append(
                f"Shift {x:+.2f}, {y:+.2f} px, scale {float(one.scale):.4f}, turned {float(one.rotation):+.2f}°."
            )
    if len(found) > 4:
        lines.append(f"… {len(found)} pictures, {sum(not one.sure[0] for one in found)} of them unsure.")
    return "\n".join(lines)
