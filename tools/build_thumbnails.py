"""Makes the pictures of `workflows/` in the template browser, 400 × 400.

    python tools/build_thumbnails.py

Again after another `demo.safetensors`, or other screenshots in `docs/images`: they are what these pictures show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch.nn.functional import interpolate, max_pool2d

import asymvq
from asymvq.pictures import open_picture

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "asymvq" / "assets"
SIDE = 400


def read(path: Path, mode: str) -> Image.Image:
    with open_picture(path) as picture:
        return picture.convert(mode)


def square(picture: Image.Image, left: int) -> Image.Image:
    height = picture.height
    return picture.crop((left, 0, left + height, height)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def tensor(name: str, mode: str) -> torch.Tensor:
    """(1, C, H, W) in [0, 1]."""
    array = np.asarray(read(ASSETS / name, mode), dtype=np.float32) / 255
    return torch.from_numpy(np.atleast_3d(array)).movedim(-1, 0)[None]


def picture_of(image: torch.Tensor) -> Image.Image:
    """From (1, 3, H, W) in [-1, 1]."""
    return Image.fromarray(((image[0].movedim(0, -1) + 1) * 127.5).clamp(0, 255).round().byte().numpy())


@torch.inference_mode()
def quickstart() -> Image.Image:
    """The workflow's result: on the left its plain decode, on the right the one with picture and mask."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    image, example = (tensor(name, "RGB") * 2 - 1 for name in ("picture.png", "example.png"))
    mask = tensor("mask.png", "L")
    latent = vae.encode(image)
    cells = interpolate(max_pool2d(mask, 17, 1, 8), latent.shape[-2:], mode="bilinear")
    edited = cells * vae.encode(example) + (1 - cells) * latent
    plain = picture_of(asymvq.decode(vae, edited))
    ours = picture_of(asymvq.decode(vae, edited, image=image, mask=(mask > 0.5).float()))
    left = 183
    thumbnail = square(ours, left)
    thumbnail.paste(square(plain, left).crop((0, 0, SIDE // 2, SIDE)))
    ImageDraw.Draw(thumbnail).line((SIDE // 2, 0, SIDE // 2, SIDE), fill="white", width=3)
    return thumbnail


def painted(picture: Image.Image, mask: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """A picture with the mask that an artist painted on it."""
    y, x = np.mgrid[:SIDE, :SIDE]
    stripes = np.where((x + y) // 12 % 2, 200, 150) / 255
    alpha = Image.fromarray((np.asarray(mask.convert("L")) * stripes).astype(np.uint8))
    result = Image.composite(Image.new("RGB", picture.size, color), picture, alpha)
    edge = mask.filter(ImageFilter.MaxFilter(5)).point(lambda v: 255 if v > 127 else 0)
    inner = mask.point(lambda v: 255 if v > 127 else 0)
    outline = Image.fromarray(np.asarray(edge) - np.asarray(inner))
    return Image.composite(Image.new("RGB", picture.size, "white"), result, outline)


def inpainting() -> Image.Image:
    left = 110
    mask = square(read(ASSETS / "mask.png", "L"), left)
    return painted(square(read(ASSETS / "picture.png", "RGB"), left), mask, (214, 62, 140))


def inpainting_flux_fill() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse((110, 215, 330, 345), fill=255)
    return painted(square(read(ASSETS / "example.png", "RGB"), 40), mask, (52, 150, 214))


def paint_by_example() -> Image.Image:
    """The picture with a painted mask, and the example that is to come into it."""
    left = 110
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rounded_rectangle((40, 70, 175, 330), 50, fill=255)
    thumbnail = painted(square(read(ASSETS / "picture.png", "RGB"), left), mask, (222, 130, 40))
    example = square(read(ASSETS / "example.png", "RGB"), 40).resize((150, 150), Image.Resampling.LANCZOS)
    box = (SIDE - 166, SIDE - 166, SIDE - 16, SIDE - 16)
    ImageDraw.Draw(thumbnail).rectangle([box[0] - 4, box[1] - 4, box[2] + 3, box[3] + 3], fill="white")
    thumbnail.paste(example, box)
    return thumbnail


def train_decoder() -> Image.Image:
    """The training node with its live picture."""
    graph = read(ROOT / "docs" / "images" / "workflow_train_decoder.png", "RGB")
    left, top, side = (round(graph.width * part) for part in (0.2244, 0.447, 0.2195))
    return square(graph.crop((left, top, left + side, top + side)), 0)


@torch.inference_mode()
def text_to_image() -> Image.Image:
    """A prompt, a latent and its picture."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    latent = vae.encode(tensor("example.png", "RGB") * 2 - 1)[:, :3]
    mean, spread = (statistic[..., None, None] for statistic in (latent.mean((2, 3)), latent.std((2, 3))))
    cells = picture_of((latent - mean) / spread * 0.35)
    picture = read(ASSETS / "example.png", "RGB")
    left = 40
    thumbnail = square(picture, left)
    latent_half = square(cells.resize(picture.size, Image.Resampling.NEAREST), left).crop((0, 0, SIDE // 2, SIDE))
    thumbnail.paste(latent_half)
    draw = ImageDraw.Draw(thumbnail)
    draw.line((SIDE // 2, 0, SIDE // 2, SIDE), fill="white", width=3)
    draw.rounded_rectangle((30, SIDE - 86, SIDE - 31, SIDE - 31), 12, fill=(30, 31, 34), outline="white", width=3)
    font = ImageFont.load_default(size=22)
    draw.text((SIDE // 2, SIDE - 58), "an island of palms at dusk", fill="white", font=font, anchor="mm")
    return thumbnail


@torch.inference_mode()
def outpainting() -> Image.Image:
    """The workflow's result, with the old frame's edge."""
    vae = asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)
    image, example = (tensor(name, "RGB") * 2 - 1 for name in ("picture.png", "example.png"))
    part, mask, crop = asymvq.crop_for_inpainting(image, None, size=(512, 512), expand=(0, 0, 256, 0), grow=16)
    other = interpolate(example[..., 108:532], (512, 512), mode="bilinear", antialias=True)
    source, painted_ = vae.encode(part), vae.encode(other)
    cells = interpolate(mask, source.shape[-2:], mode="bilinear")
    edited = cells * painted_ + (1 - cells) * source
    decoded = asymvq.decode(vae, edited, image=part, mask=mask, harmonise=1.0)
    whole = picture_of(asymvq.stitch(crop, decoded))
    thumbnail = square(whole, whole.width - whole.height)
    edge = SIDE - round(256 * SIDE / whole.height)
    draw = ImageDraw.Draw(thumbnail)
    for y in range(0, SIDE, 24):
        draw.line((edge, y, edge, y + 12), fill="white", width=3)
    return thumbnail


def blob(*boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    for box in boxes:
        ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def inpainting_sdxl() -> Image.Image:
    return painted(square(read(ASSETS / "picture.png", "RGB"), 110), blob((20, 190, 250, 400)), (80, 170, 90))


def inpainting_z_image() -> Image.Image:
    mask = blob((40, 60, 190, 170), (140, 90, 300, 190))
    return painted(square(read(ASSETS / "example.png", "RGB"), 150), mask, (222, 130, 40))


def before_after(shift: tuple[int, int], tone: tuple[float, float, float]) -> Image.Image:
    """Above as an edit model gives it back, shifted and toned; below with the edit alone."""
    picture = square(read(ASSETS / "picture.png", "RGB"), 110)
    hue = Image.merge("RGB", picture.split()[::-1])
    edited = Image.composite(hue, picture, blob((-40, 200, 260, 480)).filter(ImageFilter.GaussianBlur(8)))
    toned = Image.merge("RGB", [c.point([min(255, round(v * t)) for v in range(256)])
                                for c, t in zip(edited.split(), tone, strict=True)])  # fmt: skip
    shifted = toned.resize((SIDE + 40, SIDE + 40), Image.Resampling.LANCZOS).crop(
        (shift[0], shift[1], SIDE + shift[0], SIDE + shift[1])
    )
    edited.paste(shifted.crop((0, 0, SIDE // 2, SIDE)))
    ImageDraw.Draw(edited).line((SIDE // 2, 0, SIDE // 2, SIDE), fill="white", width=3)
    return edited


def edit_flux2_klein() -> Image.Image:
    return before_after((34, 8), (1.1, 1.0, 0.82))


def edit_qwen() -> Image.Image:
    return before_after((6, 30), (0.9, 1.0, 1.15))


def large_photo() -> Image.Image:
    """A small mask in a picture, and the part that is worked on."""
    thumbnail = painted(square(read(ASSETS / "example.png", "RGB"), 40), blob((150, 190, 230, 260)), (214, 62, 140))
    ImageDraw.Draw(thumbnail).rectangle((90, 130, 290, 320), outline="white", width=4)
    return thumbnail


def video_inpaint() -> Image.Image:
    """Three frames, one behind the other."""
    sheet = Image.new("RGB", (SIDE, SIDE), (30, 31, 34))
    picture = square(read(ASSETS / "picture.png", "RGB"), 110)
    for number in range(3):
        frame = painted(picture, blob((30 + 60 * number, 150, 170 + 60 * number, 290)), (52, 150, 214))
        frame = frame.resize((300, 300), Image.Resampling.LANCZOS)
        corner = (10 + 40 * number, 10 + 40 * number)
        ImageDraw.Draw(sheet).rectangle((corner[0] - 3, corner[1] - 3, corner[0] + 302, corner[1] + 302), fill="white")
        sheet.paste(frame, corner)
    return sheet


def main() -> None:
    for thumbnail in (
        outpainting, inpainting, inpainting_sdxl, inpainting_z_image, inpainting_flux_fill,
        edit_flux2_klein, edit_qwen, large_photo, video_inpaint, paint_by_example, text_to_image, train_decoder,
    ):  # fmt: skip
        save(thumbnail(), thumbnail.__name__)
    save(quickstart(), "01_quickstart")


def save(thumbnail: Image.Image, name: str) -> None:
    thumbnail.save(ROOT / "workflows" / f"{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
