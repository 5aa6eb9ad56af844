"""Makes the pictures of the help pages in `web/docs`.

    python tools/build_help_pictures.py results trained
    python tools/build_help_pictures.py graphs --url http://127.0.0.1:8188

`results` are what the nodes give for the bundled pictures with the bundled VAE, and `trained` a short training of it:
again after another `demo.safetensors`. `graphs` are drawn by the frontend of a running ComfyUI with this pack and
(empty) files of the names in GRAPHS; Chromium and Playwright have to be installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import asymvq
from asymvq.cli.demo import edit
from asymvq.crop import box_around
from asymvq.masks import random_thick_mask
from asymvq.metrics import outside, psnr
from asymvq.paint_by_example import ExampleFit, fit_example
from asymvq.panel import Decoded, draw_panel, findings
from asymvq.pictures import open_picture, read_mask, read_picture
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.plot import draw_losses
from asymvq.training.preview import Preview
from asymvq.training.recipe import RECIPES

ROOT = Path(__file__).parents[1]
ASSETS, PAGES = ROOT / "asymvq" / "assets", ROOT / "web" / "docs"
CONDITIONING = "AsymVQPaintByExampleConditioning"
GRAPHS: dict[str, tuple[list[tuple[str, str, int, int]], list[tuple[int, str, int, str]]]] = {
    # nodes with a file's name and their places, and wires from an output of one to an input of another
    "pbe_loader": (
        [("AsymVQPaintByExampleLoader", "paint_by_example.safetensors", 0, 0), (CONDITIONING, "", 330, 0),
         ("KSampler", "", 720, 0)],
        [(0, "MODEL", 2, "model"), (0, "CLIP_VISION", 1, "clip_vision"), (0, "PBE_HEAD", 1, "head"),
         (0, "VAE", 1, "vae"), (1, "positive", 2, "positive"), (1, "negative", 2, "negative"),
         (1, "latent", 2, "latent_image")],
    ),
    "pbe_head": (
        [("AsymVQPaintByExampleHeadLoader", "image_encoder.safetensors", 0, 80),
         ("CLIPVisionLoader", "clip_vit_large_14.safetensors", 0, -40), ("VAELoader", "sd15_vae.safetensors", 0, 200),
         (CONDITIONING, "", 370, 0)],
        [(1, "CLIP_VISION", 3, "clip_vision"), (0, "PBE_HEAD", 3, "head"), (2, "VAE", 3, "vae")],
    ),
}  # fmt: skip
SEEN_AND_WATCHED = ("example.png", "picture.png")
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
        Decoded(
            name,
            picture[0],
            findings=findings(
                picture[0], image[0], mask[0], psnr(picture, image, outside(mask)), psnr(picture, image, mask)
            ),
        )
        for name, picture in (("plain decode", plain), ("with picture and mask", ours))
    ]
    assert "identical" in decodes[1].findings[0]
    return {
        "decode": row([("Source, orange: masked", tinted(source, mask)), (names[0], usual), (names[1], kept)]),
        "loader": row([("Source", source.crop(eye)), (names[0], usual.crop(eye)), (names[1], kept.crop(eye))], 220),
        "demo_pictures": row([("picture", source), ("mask, on the picture", tinted(source, mask)),
                              ("example", picture_of(example))]),
        "compare": draw_panel(image[0], mask[0], decodes),
        "random_mask": row([(f"mask {i + 1}", picture) for i, picture in enumerate(masks)], 200),
        "save": row(saved(vae, latent, kept, image, mask)),
        **edits(image, mask),
        **by_example(image, example),
        "change_mask": row(found_change(vae, image, example, mask), 240),
    }  # fmt: skip


def saved(vae: asymvq.AsymmetricAutoencoder, latent: torch.Tensor, kept: Image.Image, image: torch.Tensor,
          mask: torch.Tensor) -> list[tuple[str, Image.Image]]:  # fmt: skip
    """The same decode after the VAE was written and read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.safetensors"
        asymvq.save(vae, path, dtype=torch.float16)
        again = picture_of(asymvq.decode(asymvq.load(path, dtype=torch.float32), latent, image=image, mask=mask))
    difference = np.abs(np.asarray(again, dtype=int) - np.asarray(kept)) * 10
    return [
        ("Before saving", kept),
        ("Saved as fp16, loaded again", again),
        ("Differences, 10x", Image.fromarray(difference.clip(0, 255).astype(np.uint8))),
    ]


def found_change(
    vae: asymvq.AsymmetricAutoencoder, image: torch.Tensor, example: torch.Tensor, mask: torch.Tensor
) -> list[tuple[str, Image.Image]]:
    """Another background, as an edit model gives it: colours drifted, and all of it once through a VAE."""
    tint = torch.tensor([0.08, 0.0, -0.06])[None, :, None, None]
    edited = (torch.lerp(image, example, mask) * 0.9 + tint).clamp(-1, 1)

    def round_trip(picture: torch.Tensor) -> torch.Tensor:
        return asymvq.decode(vae, vae.encode(picture)).clamp(-1, 1)

    edited = round_trip(edited)
    found = asymvq.change_mask(edited, image, round_trip=round_trip)
    difference = (edited - image).abs() * 2 - 1
    return [
        ("Source", picture_of(image)),
        ("Edit", picture_of(edited)),
        ("Differences", picture_of(difference.clamp(-1, 1))),
        ("Mask From Change, with vae", picture_of(found.expand(-1, 3, -1, -1) * 2 - 1)),
    ]


def by_example(image: torch.Tensor, example: torch.Tensor) -> dict[str, Image.Image]:
    """What Paint by Example is shown: the picture without what is masked, and a square of the example."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = ((x - 0.25 * width) ** 2 + (y - 0.35 * height) ** 2 < (0.22 * height) ** 2).float()[None, None]
    squares = [(fit.value, picture_of(fit_example((example + 1) / 2, fit) * 2 - 1)) for fit in ExampleFit]
    shown = [("mask on image", tinted(picture_of(image), mask)), ("shown: kept", picture_of(image * (1 - mask)))]
    return {"pbe_conditioning": row([*shown, *squares], 200)}


def trained() -> dict[str, Image.Image]:
    """A short training of the bundled VAE on one picture, watched on the other."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    recipe = dataclasses.replace(RECIPES["fidelity"], steps=300, batch=4, crop=96, average=0.98)
    seen, watched = (Pictures([ASSETS / name], crop=96, crop_scale=recipe.crop_scale) for name in SEEN_AND_WATCHED)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(vae, vae.config, seen, recipe, out=Path(folder) / "a.safetensors", held_out=watched)
        for _ in training:
            pass
        return {
            "train": Preview(training).draw(),
            "loss_plot": draw_losses({"loss": training.history["loss"]}),
        }


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
    square = box_around(spot, size=256)
    framed = tinted(source, spot)
    ImageDraw.Draw(framed).rectangle(
        (square.left, square.top, square.left + square.width - 1, square.top + square.height - 1), None, "white", 4
    )
    return {
        "harmonise": row([("An edit that drifted, pasted", picture_of(pasted)),
                          ("Harmonise Edit", picture_of(mended)), ("Source", source)]),
        "align": row([("Source", source), ("Edit, shifted: differences", picture_of((shifted - drifted).abs() * 2 - 1)),
                      ("Align Edit: differences", picture_of((aligned - drifted).abs() * 2 - 1))]),
        "crop": row([("Picture, orange: masked", framed), ("Crop Around Mask", picture_of(square.of(image)))]),
        "inpaint_crop": row([("Picture, orange: masked", tinted(source, spot)),
                             ("Crop for Inpainting", picture_of(part))]),
        "stitch": row([("The edited part", picture_of(edit_)), ("Stitch Back", picture_of(stitched))]),
    }  # fmt: skip


def graphs(url: str) -> dict[str, Image.Image]:
    """Nodes and their wires as the frontend draws them."""
    from playwright.sync_api import sync_playwright

    shots: dict[str, Image.Image] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(url)
        page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph", timeout=120_000)
        page.wait_for_timeout(2000)
        page.keyboard.press("Escape")  # a first start shows the templates
        page.evaluate("app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None')")
        for name, (nodes, wires) in GRAPHS.items():
            page.evaluate(PLACE, [nodes, wires])
            page.wait_for_timeout(1500)  # sizes are known once they are drawn
            box: list[float] = page.evaluate(MEASURE)
            clip: Any = dict(zip(("x", "y", "width", "height"), box, strict=True))
            with open_picture(io.BytesIO(page.screenshot(clip=clip))) as shot:
                shots[name] = shot.convert("RGB")
        browser.close()
    return shots


PLACE = """([nodes, wires]) => {
    app.rootGraph.clear()
    const placed = nodes.map(([kind, file, x, y]) => {
        const node = LiteGraph.createNode(kind)
        app.rootGraph.add(node)
        if (file) node.widgets[0].value = file
        node.pos = [x, y]
        return node
    })
    for (const [from, output, to, input] of wires) {
        const source = placed[from].outputs.findIndex(slot => slot.name === output)
        placed[from].connect(source, placed[to], placed[to].inputs.findIndex(slot => slot.name === input))
    }
    app.canvas.ds.scale = 1.1
    app.canvas.ds.offset = [160, 200]
    app.canvas.setDirty(true, true)
}"""
MEASURE = """() => {
    const boxes = app.rootGraph.nodes.map(node => Array.from(node.boundingRect))
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])))
    const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])))
    const rect = app.canvas.canvas.getBoundingClientRect()
    const { scale, offset } = app.canvas.ds
    return [
        rect.left + (left + offset[0]) * scale - 16, rect.top + (top + offset[1]) * scale - 12,
        (right - left) * scale + 32, (bottom - top) * scale + 24
    ]
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {"results": results, "trained": trained, "graphs": lambda: graphs(args.url)}
    parser.add_argument("kinds", nargs="+", choices=kinds)
    parser.add_argument("--url", default="http://127.0.0.1:8188", help="of a running ComfyUI, for graphs")
    args = parser.parse_args()
    for kind in args.kinds:
        for name, picture in kinds[kind]().items():
            picture.thumbnail((1280, 1280), Image.Resampling.LANCZOS)
            picture.save(PAGES / f"{name}.jpg", quality=86, optimize=True)
            print(f"{name}.jpg: {picture.width} × {picture.height}", flush=True)


if __name__ == "__main__":
    main()
