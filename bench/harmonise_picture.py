"""Draws what harmonising does, for docs/harmonise.md: photos whose latents' colours drift over the picture.

    python bench/harmonise_picture.py --images PHOTOS... --out PICTURE [--vae FILE | --taef2 FOLDER] [--seed 0]

A row a photo: its kept part, the mask, the decode pasted, pasted after a global colour fit, pasted after harmonising,
and the photo itself, which is what the edit should be. Drift is linear over the picture, up to ±0.2 (of -1 to 1) at
each side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harmonise_quality as quality
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import asymvq
from asymvq.colour import random_shift
from asymvq.crop import centre_crop
from asymvq.evaluation import Way, pasted
from asymvq.masks import random_thick_mask
from asymvq.pictures import read_picture, to_pillow

COLUMNS = {"paste": Way.PASTE, "paste + global fit": Way.FITTED, "paste + harmonise": Way.HARMONISED}
WIDTH, GAP, HEAD = 336, 8, 34
GREY = 0.25


@torch.inference_mode()
def row(vae: asymvq.AsymmetricAutoencoder, path: Path, rng: np.random.Generator) -> dict[str, Tensor]:
    """Pictures (1, 3, H, W) by the column's name."""
    image = centre_crop(read_picture(path), vae.factor)
    height, width = image.shape[-2:]
    while True:
        mask = random_thick_mask(height, width, rng)[None]
        if 0.2 < mask.mean() < 0.45:
            break
    shift = random_shift((height, width), quality.SHIFT, rng, varies=True)
    decoded = asymvq.decode(vae, vae.encode((image + shift).clamp(-1, 1)))
    ways = {name: pasted(way, decoded, image, mask, factor=vae.factor) for name, way in COLUMNS.items()}
    kept = torch.where(mask > 0, GREY, image)
    return {"source, kept part": kept, "mask": (mask * 2 - 1).expand_as(image), **ways, "truth": image}


def drawn(rows: list[dict[str, Tensor]]) -> Image.Image:
    tiles = [{name: to_pillow(picture[0]) for name, picture in row.items()} for row in rows]
    heights = [round(WIDTH * tile["truth"].height / tile["truth"].width) for tile in tiles]
    columns = len(rows[0])
    size = (columns * WIDTH + (columns + 1) * GAP, HEAD + sum(heights) + (len(rows) + 1) * GAP)
    canvas, font = Image.new("RGB", size, "white"), ImageFont.load_default(size=20)
    draw = ImageDraw.Draw(canvas)
    top = HEAD
    for tile, height in zip(tiles, heights, strict=True):
        for i, (name, picture) in enumerate(tile.items()):
            left = GAP + i * (WIDTH + GAP)
            draw.text((left, 6), name, "black", font)
            canvas.paste(picture.resize((WIDTH, height), Image.Resampling.LANCZOS), (left, top))
        top += height + GAP
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=quality.DEMO)
    parser.add_argument("--taef2", type=Path, help="folder of the real TAEF2's two files, instead of --vae")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vae = asymvq.load(args.vae, dtype=torch.float32) if args.taef2 is None else quality.taef2(args.taef2)
    rng = np.random.default_rng(args.seed)
    drawn([row(vae, path, rng) for path in args.images]).save(args.out, quality=90)


if __name__ == "__main__":
    main()
