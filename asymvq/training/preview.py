"""What a decoder in training makes of one picture, under its loss curve."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..masks import random_thick_mask
from ..pictures import to_pillow
from .loop import HELD_OUT, Training
from .plot import INK, PAPER, draw_losses

TITLES = ("source", "masked", "decoded without", "decoded with")
SIDE, GAP, CAPTION = 240, 8, 28
PLOT_HEIGHT = 300


class Preview:
    """A row "source · masked · decoded without · decoded with" of a fixed crop and mask.

    Args:
        training: whose pictures, those held out if there are any, crop size and averaged weights are shown.
    """

    def __init__(self, training: Training):
        self._training = training
        side = training.recipe.crop
        samples = training.held_out or training.samples
        assert samples is not None
        self._image = samples.preview(training.seed)[None]
        rng = np.random.default_rng([training.seed, 3])
        mask = random_thick_mask(side, side, rng)
        while not 0.15 < mask.mean() < 0.6:
            mask = random_thick_mask(side, side, rng)
        self._mask = mask[None]

    @torch.no_grad()
    def row(self) -> Image.Image:
        """The pictures with their titles, 984×276."""
        image, mask = (t.to(self._training.device) for t in (self._image, self._mask))
        with self._training.averaged() as vae:
            latent = vae.encode(image)
            plain, conditional = vae.decode(latent), vae.decode(latent, image=image, mask=mask)
        masked = image * (1 - mask)  # mid-grey in the mask, as the condition encoder sees it
        canvas = Image.new("RGB", (len(TITLES) * SIDE + (len(TITLES) - 1) * GAP, SIDE + CAPTION + GAP), PAPER)
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=17)
        for number, (title, picture) in enumerate(zip(TITLES, (image, masked, plain, conditional), strict=True)):
            left = number * (SIDE + GAP)
            draw.text((left + 2, 4), title, INK, font)
            canvas.paste(to_pillow(picture[0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, CAPTION))
        return canvas

    def draw(self) -> Image.Image:
        """The loss curve above the row."""
        row = self.row()
        curves = {
            name.replace("_", " "): _without_gaps(self._training.history[name])
            for name in ("loss", "generated", HELD_OUT)
            if name in self._training.history
        }
        plot = draw_losses(curves, size=(row.width, PLOT_HEIGHT))
        canvas = Image.new("RGB", (row.width, plot.height + row.height), PAPER)
        canvas.paste(plot, (0, 0))
        canvas.paste(row, (0, plot.height))
        return canvas


def _without_gaps(curve: list[float]) -> list[float]:
    """Straight lines between measurements that are not made at every step."""
    values = np.array(curve)
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return curve
    between = np.interp(np.arange(len(values)), known, values[known], left=np.nan, right=np.nan)
    return between.tolist()
