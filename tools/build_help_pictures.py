"""Makes the pictures of the help pages in `web/docs`.

    python tools/build_help_pictures.py http://127.0.0.1:8188

Takes the address of a running ComfyUI with this pack, for pictures of nodes as its frontend draws them; Chromium and
Playwright have to be installed. The others are made from the bundled pictures and the bundled VAE: again after another
`demo.safetensors`.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import asymvq
from asymvq.cli.demo import edit
from asymvq.masks import random_thick_mask
from asymvq.metrics import kept_error
from asymvq.panel import Decoded, draw_panel
from asymvq.pictures import open_picture, read_mask, read_picture

ROOT = Path(__file__).parents[1]
ASSETS, PAGES = ROOT / "asymvq" / "assets", ROOT / "web" / "docs"
NODES = {
    "save": "AsymVQSave", "train": "AsymVQTrain", "loss_plot": "AsymVQLossPlot", "crop": "AsymVQCropAroundMask",
    "pbe_loader": "AsymVQPaintByExampleLoader", "pbe_head": "AsymVQPaintByExampleHeadLoader",
    "pbe_conditioning": "AsymVQPaintByExampleConditioning",
}  # fmt: skip
ORANGE, PAPER, INK = (240, 130, 40), (250, 250, 248), (30, 30, 30)


def picture_of(tensor: torch.Tensor) -> Image.Image:
    """From (1, 3, H, W) in [-1, 1]."""
    return Image.fromarray(((tensor[0].movedim(0, -1) + 1) * 127.5).clamp(0, 255).round().byte().numpy())


def row(tiles: list[tuple[str, Image.Image]], height: int = 260) -> Image.Image:
    """Pictures side by side, each under its name."""
    font = ImageFont.load_default(size=17)
    scaled = [
        (name, tile.resize((tile.width * height // tile.height, height), Image.Resampling.LANCZOS))
        for name, tile in tiles
    ]
    sheet = Image.new("RGB", (sum(tile.width + 10 for _, tile in scaled) - 10, height + 28), PAPER)
    draw, left = ImageDraw.Draw(sheet), 0
    for name, tile in scaled:
        draw.text((left + 2, 3), name, INK, font)
        sheet.paste(tile, (left, 28))
        left += tile.width + 10
    return sheet


def tinted(picture: Image.Image, mask: torch.Tensor) -> Image.Image:
    alpha = Image.fromarray((mask[0, 0] * 150).byte().numpy())
    return Image.composite(Image.new("RGB", picture.size, ORANGE), picture, alpha)


@torch.inference_mode()
def results() -> dict[str, Image.Image]:
    """What the nodes give for the bundled pictures."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    image, example = (read_picture(ASSETS / name) for name in ("picture.png", "example.png"))
    mask = read_mask(ASSETS / "mask.png")
    latent = edit(vae, image, example, mask)
    plain = asymvq.decode(vae, latent)
    ours = asymvq.decode(vae, latent, image=image, mask=mask)
    source, usual, kept = picture_of(image), picture_of(plain), picture_of(ours)
    eye = (330, 90, 530, 220)
    rng = np.random.default_rng(4)
    drawn = [(random_thick_mask(256, 256, rng)[0] * 255).byte().numpy() for _ in range(5)]
    masks = [Image.fromarray(mask_).convert("RGB") for mask_ in drawn]
    names = ("VAE Decode", "Asymmetric VQGAN Decode")
    decodes = [
        Decoded(name, tensor[0], f"error of the kept pixels: {kept_error(tensor, image, mask):.1e}", "")
        for name, tensor in zip(names, (plain, ours), strict=True)
    ]
    return {
        "decode": row([("Source, orange: masked", tinted(source, mask)), (names[0], usual), (names[1], kept)]),
        "loader": row([("Source", source.crop(eye)), (names[0], usual.crop(eye)), (names[1], kept.crop(eye))], 220),
        "demo_pictures": row([("picture", source), ("mask, on the picture", tinted(source, mask)),
                              ("example", picture_of(example))]),
        "compare": draw_panel(image[0], mask[0], decodes),
        "random_mask": row([(f"mask {i + 1}", picture) for i, picture in enumerate(masks)], 200),
        **edits(image, mask),
    }  # fmt: skip


def edits(image: torch.Tensor, mask: torch.Tensor) -> dict[str, Image.Image]:
    """The picture itself as an edit: with drifted colours, shifted, and a part of it cut out."""
    drifted = (image * 0.85 + torch.tensor([0.2, 0.02, -0.15])[None, :, None, None]).clamp(-1, 1)
    pasted = torch.where(mask > 0.5, drifted, image)
    mended = torch.where(mask > 0.5, asymvq.harmonise(drifted, image=image, mask=mask), image)
    shifted = drifted.roll((9, -12), (-2, -1))
    aligned = asymvq.align(shifted, image).picture
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # a round, soft-edged spot on the cheek
    spot = (1.5 - torch.hypot(y - 0.55 * height, x - 0.8 * width) / (0.09 * height)).mul(3).clamp(0, 1)[None, None]
    part, part_mask, crop = asymvq.crop_for_inpainting(image, spot)
    edit_ = torch.lerp(part, part * 0.6 + torch.tensor([0.4, -0.35, -0.3])[None, :, None, None], part_mask)
    stitched, source = asymvq.stitch(crop, edit_), picture_of(image)
    return {
        "harmonise": row([("An edit that drifted, pasted", picture_of(pasted)),
                          ("Harmonise Edit", picture_of(mended)), ("Source", source)]),
        "align": row([("Source", source), ("Edit, shifted: differences", picture_of((shifted - drifted).abs() * 2 - 1)),
                      ("Align Edit: differences", picture_of((aligned - drifted).abs() * 2 - 1))]),
        "inpaint_crop": row([("Picture, orange: masked", tinted(source, spot)),
                             ("Crop for Inpainting", picture_of(part))]),
        "stitch": row([("The edited part", picture_of(edit_)), ("Stitch Back", picture_of(stitched))]),
    }  # fmt: skip


def nodes(url: str) -> dict[str, Image.Image]:
    """Nodes as the frontend draws them."""
    from playwright.sync_api import sync_playwright

    shots: dict[str, Image.Image] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(url)
        page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph", timeout=120_000)
        page.wait_for_timeout(2000)
        page.keyboard.press("Escape")  # a first start shows the templates
        for name, kind in NODES.items():
            page.evaluate(PLACE, kind)
            page.wait_for_timeout(1500)  # its size is known once it is drawn
            box: list[float] = page.evaluate(MEASURE)
            clip: Any = dict(zip(("x", "y", "width", "height"), box, strict=True))
            with open_picture(io.BytesIO(page.screenshot(clip=clip))) as shot:
                shots[name] = shot.convert("RGB")
        browser.close()
    return shots


PLACE = """kind => {
    app.rootGraph.clear()
    const node = LiteGraph.createNode(kind)
    app.rootGraph.add(node)
    node.pos = [0, 0]
    app.canvas.ds.scale = 1.4
    app.canvas.ds.offset = [160, 130]
    app.canvas.setDirty(true, true)
}"""
MEASURE = """() => {
    const node = app.rootGraph.nodes[0]
    const [x, y, width, height] = node.boundingRect
    const rect = app.canvas.canvas.getBoundingClientRect()
    const scale = app.canvas.ds.scale
    const left = rect.left + (x + 160) * scale, top = rect.top + (y + 130) * scale
    return [left - 16, top - 2, width * scale + 32, height * scale + 18]
}"""


def main() -> None:
    for name, picture in {**results(), **nodes(sys.argv[1])}.items():
        picture.thumbnail((1280, 1280), Image.Resampling.LANCZOS)
        picture.save(PAGES / f"{name}.jpg", quality=86, optimize=True)
        print(f"{name}.jpg: {picture.width} × {picture.height}")


if __name__ == "__main__":
    main()
