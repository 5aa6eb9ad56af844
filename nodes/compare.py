"""Compare Decodes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..asymvq.checkpoint.errors import shown
from ..asymvq.evaluation import MEASURES, Way, measure, pasted
from ..asymvq.panel import AMPLIFY, Decoded, draw_panel, findings
from . import host
from .host import CATEGORY, plain_errors
from .memory import give_back_memory
from .tensors import image_tensor, mask_tensor, to_signed

RESULTS = [f"result_{number}" for number in range(1, 9)]
FLOATS = {
    "kept_error": "Mean squared error of the kept pixels, of values in [-1, 1]: 0 where all came back exactly.",
    "masked_error": "The same of the edited pixels, against the reference.",
    "border_error": "The same of the edited pixels within 4 of a kept one.",
    "seam_error": "Squared difference of the jump across the mask's edge from the reference's jump there.",
    "colour_error": "Squared difference of the edited pixels' mean colour from the reference's.",
    "masked_psnr": "Peak signal-to-noise ratio of the edited pixels, dB.",
    "masked_ssim": "Structural similarity of the edited pixels, up to 1.",
    "gradient_error": "How far gradients at the mask's edge are from the reference's: ASUKA's Grad, of values to 255.",
}
PASTED = {"pasted": Way.PASTE, "pasted + global colour fit": Way.FITTED, "pasted + harmonise": Way.HARMONISED}


class Compared(str, Enum):
    """What the panel and the text compare."""

    KEPT = "kept pixels"
    """The reference is the source: what the mask covers was meant to change."""
    ALL = "all pixels"
    """The reference is the true picture."""


class AsymVQCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQCompare",
            display_name="Compare Decodes",
            category=CATEGORY,
            description=(
                "One or more results beside their reference: a labelled panel with amplified differences and a "
                "magnified detail, and how well each keeps what the mask keeps, in numbers."
            ),
            search_aliases=[
                "difference map",
                "psnr",
                "ssim",
                "metrics",
                "image quality",
                "compare images",
                "vqgan",
                "before after",
                "seam",
                "对比",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "reference",
                    tooltip=(
                        "The source picture, or the true picture if you have it. One picture serves a whole batch."
                    ),
                ),
                io.Autogrow.Input(
                    "results",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input("result", tooltip="A decoded picture, of the reference's size."), RESULTS, min=1
                    ),
                    tooltip="The pictures to compare, from the worst to the best.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White (1) was edited, black (0) is kept. Without one, everything counts as kept.",
                ),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    advanced=True,
                    tooltip="The names of the results, one per line, in the order of the inputs.",
                ),
                io.Combo.Input(
                    "compare",
                    options=Compared,
                    default=Compared.KEPT,
                    tooltip=(
                        "What is compared. kept pixels: the reference is the source, and the edit is "
                        "meant to differ from it. all pixels: the reference is the true picture, and the "
                        "edit should equal it."
                    ),
                ),
                io.Float.Input(
                    "amplify",
                    default=AMPLIFY,
                    min=1,
                    max=100,
                    step=1,
                    advanced=True,
                    tooltip="How many times differences are enlarged in the panel, so that they can be seen.",
                ),
                io.Boolean.Input(
                    "add_pasted",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Adds what becomes of the first result when it is put into the reference in three ways: "
                        "pasted as it is, with a gain and an offset a colour for the whole picture, and harmonised."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    "panel",
                    display_name="panel",
                    tooltip="The comparison as a picture, one for each picture of the batch.",
                ),
                *(
                    io.Float.Output(key, display_name=key, is_output_list=True, tooltip=f"{text} A number a result.")
                    for key, text in FLOATS.items()
                ),
            ],
        )

    @classmethod
    @plain_errors
    def execute(
        cls,
        reference: Tensor,
        results: dict[str, Tensor],
        mask: Tensor | None = None,
        labels: str = "",
        compare: str = Compared.KEPT,
        amplify: float = AMPLIFY,
        add_pasted: bool = False,
    ) -> io.NodeOutput:
        pictures = [to_signed(image_tensor(image).float().cpu()) for image in results.values() if image is not None]
        source = to_signed(image_tensor(reference).float().cpu())
        size = source.shape[-2:]
        if not pictures:
            raise ValueError("Expected at least one result to compare, but got none. Connect a decoded picture.")
        masks = torch.zeros(1, 1, *size) if mask is None else mask_tensor(mask, source).cpu()
        count = max(len(batch) for batch in (source, masks, *pictures))
        names = _names(labels, len(pictures))
        source, masks = _matched("reference", source, size, count), _matched("mask", masks, size, count)
        pictures = [_matched(name, batch, size, count) for name, batch in zip(names, pictures, strict=True)]

        if add_pasted:
            if mask is None:
                raise ValueError(
                    "Expected a mask to paste with (add_pasted), but got none. Connect it, or turn that off."
                )
            host.throw_exception_if_processing_interrupted()
            pictures += [pasted(way, pictures[0], source, masks) for way in PASTED.values()]
            names += [f"{names[0]}, {title}" for title in PASTED]

        measured: list[list[dict[str, float]]] = []
        for i in range(count):
            host.throw_exception_if_processing_interrupted()
            measured.append([measure(picture[i : i + 1], source[i : i + 1], masks[i : i + 1]) for picture in pictures])
        compared = Compared(compare)
        panels: list[Tensor] = []
        for i, values in enumerate(measured):
            host.throw_exception_if_processing_interrupted()
            decodes = [
                _column(name, picture[i], source[i], masks[i], value, compared)
                for name, picture, value in zip(names, pictures, values, strict=True)
            ]
            drawn = draw_panel(source[i], masks[i], decodes, truth=compared is Compared.ALL, amplify=amplify)
            panels.append(torch.from_numpy(np.asarray(drawn, dtype=np.float32) / 255.0))
        panel = torch.stack(panels)

        means = [_means(values) for values in zip(*measured, strict=True)]
        text = _text(names, means, compared)
        preview = ui.PreviewImage(panel, cls=cls).as_dict()
        give_back_memory(panel.device)
        floats = [[mean[key] for mean in means] for key in FLOATS]
        return io.NodeOutput(panel, *floats, ui={**preview, "text": (text,)})


def _names(labels: str, count: int) -> list[str]:
    given = [shown(line.strip()) for line in labels.splitlines()[:count]]
    given += [""] * (count - len(given))
    return [name or f"Result {number}" for number, name in enumerate(given, 1)]


def _matched(name: str, batch: Tensor, size: torch.Size, count: int) -> Tensor:
    """`batch`, repeated in turn to `count` pictures.

    Raises:
        ValueError: another size or count than the rest.
    """
    if batch.shape[-2:] != size:
        raise ValueError(
            f"Expected {name} to be of the reference's size, {size[1]}×{size[0]}, but got "
            f"{batch.shape[-1]}×{batch.shape[-2]}. Resize or crop it to the reference (Upscale Image, Image Crop)."
        )
    if count % len(batch):
        raise ValueError(
            f"Expected {count} pictures in {name}, as in the others, or a number that divides {count} and is taken in "
            f"turn, but got {len(batch)}. Repeat or drop some, or give a single one."
        )
    return batch.expand(count, -1, -1, -1) if len(batch) == 1 else batch.repeat(count // len(batch), 1, 1, 1)


def _column(
    name: str, picture: Tensor, source: Tensor, mask: Tensor, values: dict[str, float], compared: Compared
) -> Decoded:
    found = findings(picture, source, mask, values["kept_psnr"], values["masked_psnr"], truth=compared is Compared.ALL)
    return Decoded(name, picture, findings=found)


def _means(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """Over a batch, of the pictures that could be measured; NaN where there is none."""
    measured = {each.key: [v[each.key] for v in values if not math.isnan(v[each.key])] for each in MEASURES}
    return {key: statistics.fmean(numbers) if numbers else math.nan for key, numbers in measured.items()}


def _text(names: list[str], values: list[dict[str, float]], compared: Compared) -> str:
    """The numbers for who reads the run's outputs: the measures of every result that say something."""
    shown = [each for each in MEASURES if compared is Compared.ALL or each.key.startswith("kept_")]
    # with a line break of Markdown, which Nodes 2.0 reads it as
    blocks = [
        "  \n".join([name, *(f"{each.title}: {each.text(value[each.key])}" for each in shown)])
        for name, value in zip(names, values, strict=True)
    ]
    return "\n\n".join(blocks)
