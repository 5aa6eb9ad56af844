"""Everything that decides a training run besides its pictures: recipes as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from ..config import ConditionKind
from ..losses import LOSSES, settings_of
from ..precision import DTYPES


class Start(str, Enum):
    """Where the decoder's first weights come from."""

    GROW = "grow"
    """The given VAE's decoder: `asymvq.grow`."""
    SCRATCH = "scratch"
    """Random weights."""


class Precision(str, Enum):
    """What the forward pass computes in; weights, gradients and averages are float32 always."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """With loss scaling."""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.value]


@dataclass(frozen=True)
class Recipe(*(loss.settings for loss in reversed(LOSSES))):
    """How a decoder is trained, with every loss's own settings. The defaults are the recipe "quick"."""

    steps: int = 4000
    """Optimiser steps."""
    batch: int = 4
    """Pictures a step and device, before accumulation."""
    accumulate: int = 1
    """Batches a step."""
    start: Start = Start.GROW
    condition: ConditionKind = ConditionKind.AFFINE
    """How kept pixels enter a decoder that has no condition yet. Affine starts as the stock decoder."""

    crop: int = 256
    """Side of the training pictures, pixels."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Side of what is cut out before it is resized to `crop`, as a share of the picture's short side."""
    recoloured: float = 0.0
    """Share of the crops that get other colours than the photo's (`asymvq.training.data.recoloured`), for want of more
    photos. Those that are measured do not."""
    turned: float = 0.0
    """Share of the crops that are turned by one, two or three quarters, likewise."""
    fixed_crops: int = 0
    """Train on this many crops, cut once, and keep their latents in memory; 0: a new crop for every sample."""
    unconditioned: float = 0.5
    """Share of the samples that are decoded without a condition."""
    mask_scale: float = 1.0
    """Size of the masks' strokes and boxes; 1 is LaMa's "thick" for pictures of the crop's size."""
    harmonise: float = 0.5
    """Share of the conditioned samples whose latent comes from a colour-shifted copy of the picture."""
    varying: float = 0.3
    """Share of those whose shift varies over the picture."""
    inside: float = 0.3
    """Share of those that drift inside the mask only: latent cells that it does not touch are the true picture's, as
    with the host's noise mask."""
    other: float = 0.0
    """Share of the conditioned samples whose edit shows another picture, joined to the kept one cell by cell."""
    softened: float = 0.2
    """Share of those that are blurred a little too, and moved by a part of a pixel."""
    latent_noise: float = 0.05
    """Deviation of the noise added to those latents, relative to each latent's own."""

    composed: bool = False
    """The losses see the source's kept pixels in the output, as in the result of an exact decode: the network need not
    learn to draw them."""
    through_harmonise: float = 0.8
    """Share of the conditioned samples of which the losses see what harmonising makes of the output: the decoder learns
    what harmonising cannot do."""
    sum_pixels: bool = False
    """Sum the reconstruction losses over a picture's values, as the paper does, where others take the mean."""

    lr: float = 1e-4
    decoder_lr: float = 0.1
    """Learning rate of weights that start trained, as a share of `lr`, which is that of the condition encoder: a fresh
    one has far to go, and the decoder should not be shaken meanwhile. 0: they stay as they are, bit for bit, as the
    plain decode does, and steps are faster. From scratch, `lr` is everything's."""
    scale_lr: bool = False
    """Multiply `lr` with the pictures a step (batch, accumulation and devices)."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    """Above 0: AdamW."""
    warm_up: int = 200
    """Steps in which the learning rate rises from 1 % to all of it."""
    final_lr: float = 1e-6
    """What the cosine ends in."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: no limit."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is what is saved; 0: the last weights."""
    copying: bool = False
    """Hold the finest level to the code in which kept pixels pass unchanged (`asymvq.training.copying`)."""

    held_out: float = 0.05
    """Share of the pictures that are measured, not trained on. What is saved is the weights that did best on them."""
    measured: int = 16
    """Samples of those a measurement."""
    measure_steps: int = 0
    """Between two measurements; 0: a fiftieth of all steps."""
    patience: int = 0
    """Measurements without a better one after which the run ends; 0: never."""

    precision: Precision = Precision.FP32
    channels_last: bool = True
    """Lay pictures and weights out channels last; not on a CPU, whose backward pass is slower so."""
    recompute: bool = False
    """Compute activations again for the gradient: less memory, but slower."""
    compile: bool = False
    """torch.compile: faster after minutes of compilation, where a compiler is at hand."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulate", "crop", "mask_scale", "lr", "measured")
        shares = (
            "recoloured", "turned", "unconditioned", "harmonise", "varying", "inside", "softened", "other",
            "through_harmonise",
        )  # fmt: skip
        weights = (
            "latent_noise", "decoder_lr", "weight_decay", "warm_up", "final_lr", "clip", "fixed_crops", "measure_steps",
            "patience",
        )  # fmt: skip
        settings = tuple(settings_of(LOSSES))
        positive += tuple(setting.name for setting in settings if setting.positive)
        weights += tuple(setting.name for setting in settings if not setting.positive)
        for name in positive:
            _check(name, getattr(self, name), getattr(self, name) > 0 or (name == "steps" and self.steps == 0), "> 0")
        for name in shares:
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in weights:
            _check(name, getattr(self, name), getattr(self, name) >= 0, "≥ 0")
        _check("held_out", self.held_out, 0 <= self.held_out < 1, "≥ 0 and < 1")
        _check("average", self.average, 0 <= self.average < 1, "≥ 0 and < 1")
        low, high = self.crop_scale
        _check("crop_scale", self.crop_scale, 0 < low <= high <= 1, "two shares, 0 < low ≤ high ≤ 1")
        if self.keeps_decoder and self.adversarial:
            raise ValueError(
                "Expected a decoder_lr above 0 for the adversarial loss, which is weighed by what it does to the "
                "decoder, but got 0. Use decoder_lr=0.01, or adversarial=0."
            )
        for loss in LOSSES:
            loss.check(self)
        enough = [setting.name for setting in settings if setting.reconstructs]
        if not any(getattr(self, name) for name in enough):
            names = f"{', '.join(enough[:-1])} and {enough[-1]}"
            raise ValueError(f"Expected a weight above 0 for at least one of {names}, but got none.")

    @property
    def keeps_decoder(self) -> bool:
        """Whether only the condition learns."""
        return self.start is Start.GROW and not self.decoder_lr

    def to_dict(self) -> dict[str, Any]:
        """As `json.dumps` takes it, and `from_dict` takes back."""
        return {k: v.value if isinstance(v, Enum) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; settings that `data` lacks have their defaults.

        Raises:
            ValueError: unknown settings, or values that make no recipe.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"Expected settings of a recipe ({', '.join(sorted(known))}), but got {unknown}.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        if "through_harmonise" in values:  # once a switch
            values["through_harmonise"] = float(values["through_harmonise"])
        for field, kind in (("start", Start), ("precision", Precision), ("condition", ConditionKind)):
            if field in values:
                values[field] = kind(values[field])
        return cls(**values)


UNKNOWN_TO_OLD_RUNS: dict[str, Any] = {
    "varying": 0.0,
    "inside": 0.0,
    "softened": 0.0,
    "through_harmonise": 0.0,
    "held_out": 0.0,
}
"""What a run of a version without these settings is made with, to its end."""


def parse_setting(text: str) -> dict[str, Any]:
    """One setting of a recipe from "name=value", e.g. "border=4" or "crop_scale=0.25,0.5".

    Raises:
        ValueError: no such setting, or a value of another kind.
    """
    name, _, value = text.partition("=")
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    if name not in fields:
        raise ValueError(f"Expected NAME=VALUE with a setting of the recipe ({', '.join(fields)}), but got {text!r}.")
    default = fields[name]
    try:
        if isinstance(default, bool):
            return {name: {"true": True, "1": True, "false": False, "0": False}[value.lower()]}
        if isinstance(default, tuple):
            low, high = (float(part) for part in value.split(","))
            return {name: (low, high)}
        return {name: type(default)(value)}
    except (ValueError, KeyError) as error:
        kind = "two numbers, as 0.5,1" if isinstance(default, tuple) else type(default).__name__
        raise ValueError(f"Expected {name} to be {kind}, but got {value!r}.") from error


def _check(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"Expected {name} to be {expected}, but got {value}.")


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(),
    "fidelity": Recipe(lpips=0.0, ssim=0.2),
    "paper": Recipe(
        steps=200_000, batch=10, condition=ConditionKind.BLEND, harmonise=0.0, through_harmonise=0.0, latent_noise=0.0,
        border=0.0, adversarial=0.8, adversarial_start=50_001, sum_pixels=True, held_out=0.0,
        lr=4.5e-6, decoder_lr=1.0, scale_lr=True, betas=(0.5, 0.9), warm_up=5000, final_lr=1e-6, clip=0.0, average=0.0,
    ),
}  # fmt: skip
"""quick: defaults for one consumer GPU and some hundred pictures. fidelity: the same without LPIPS, so no downloads.
paper: arXiv 2306.04632 and its code, but for its length, which they leave open."""
