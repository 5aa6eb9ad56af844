"""Makes docs/images/before_after.webp, the moving picture at the top of the README, and the registry's banner.

From the bundled pictures and VAE:

    python tools/build_before_after.py

Again after another `demo.safetensors`.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import asymvq
from asymvq.cli.demo import edit
from asymvq.pictures import read_mask, read_picture, to_pillow

ROOT = Path(__file__).parents[1]
ASSETS, IMAGES = ROOT / "asymvq" / "assets", ROOT / "docs" / "images"
FILE, BANNER = IMAGES / "before_after.webp", IMAGES / "banner.jpg"
BANNER_SIZE = (1260, 540)  # 21:9
FRAMES, FRAME_MS = 40, 100
NAMES = ("Usual decode", "This pack")


@torch.inference_mode()
def decodes() -> tuple[Image.Image, Image.Image]:
    """Of one edited latent: plain, and with picture and mask."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    image, example = (read_picture(ASSETS / name) for name in ("picture.png", "example.png"))
    mask = read_mask(ASSETS / "mask.png")
    latent = edit(vae, image, example, mask)
    kept = asymvq.decode(vae, latent, image=image, mask=mask)
    return to_pillow(asymvq.decode(vae, latent)[0]), to_pillow(kept[0])


def frame(usual: Image.Image, kept: Image.Image, edge: int) -> Image.Image:
    """On the left of `edge` the usual decode, on the right the other, each named."""
    picture = kept.copy()
    picture.paste(usual.crop((0, 0, edge, usual.height)))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
    draw.line((edge, 0, edge, picture.height), fill="white", width=3)
    left = draw.textlength(NAMES[0], font)
    for name, start in ((NAMES[0], edge - 12 - left), (NAMES[1], edge + 14)):
        draw.text((start, picture.height - 34), name, "white", font, stroke_width=2, stroke_fill="black")
    return picture


def main() -> None:
    usual, kept = decodes()
    middle, reach = usual.width / 2, usual.width * 0.42
    edges = [round(middle - reach * math.cos(2 * math.pi * i / FRAMES)) for i in range(FRAMES)]
    first, *others = [frame(usual, kept, edge) for edge in edges]
    first.save(FILE, save_all=True, append_images=others, duration=FRAME_MS, loop=0, quality=62, method=6)
    middle_frame = frame(usual, kept, usual.width // 2)
    high = middle_frame.height * BANNER_SIZE[0] // middle_frame.width
    banner = middle_frame.resize((BANNER_SIZE[0], high), Image.Resampling.LANCZOS)
    banner.crop((0, high - BANNER_SIZE[1], BANNER_SIZE[0], high)).save(BANNER, quality=88, optimize=True)
    print(f"{FILE.name}: {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
