"""Whether harmonising video frames one by one makes them flicker: frames that pan over photos, beside plain + paste.

    python bench/harmonise_flicker.py --images PHOTOS... [--vae FILE | --taef2 FOLDER] [--frames 12] [--step 3]
        [--seed 0]

Frames of 256² move over a photo by `--step` pixels down and right each, and a seeded thick mask moves with its content.
Each frame is encoded by itself, its colours shifted:

    own         not at all
    global      by one colour, the same in all frames, up to ±0.2 a channel
    varying     linearly over the frame, likewise
    trembling   by another colour each frame, up to ±0.2 a channel

Flicker is the mean squared difference of a pixel's error from its error in the frame before, following the content,
over pixels that are edited in both: of single pixels, and of means over 32² pixels, which are what is seen of colour
and light. Pasting's as a root of the mean, in levels of 255; then ratios of the means, with 95 % bootstrap intervals
over the photos.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import harmonise_quality as quality
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import asymvq
from asymvq.colour import random_shift
from asymvq.intervals import interval
from asymvq.masks import random_thick_mask
from asymvq.pictures import cover, read_picture

SIZE = quality.SIZE
PATCH = 32
DRIFTS = ("own", "global", "varying", "trembling")


def shifts(drift: str, frames: int, rng: np.random.Generator) -> list[Tensor]:
    """What is added to each frame."""
    if drift == "own":
        return [torch.zeros(1)] * frames
    if drift == "trembling":
        return [random_shift((SIZE, SIZE), quality.SHIFT, rng) for _ in range(frames)]
    return [random_shift((SIZE, SIZE), quality.SHIFT, rng, varies=drift == "varying")] * frames


def flicker(errors: Tensor, masks: Tensor, step: int) -> tuple[float, float]:
    """Of single pixels and of patches. errors: (T, 3, H, W); masks (T, 1, H, W), 1 = edited."""
    # what is at p in one frame is at p - step in the next
    before, after = errors[:-1, :, step:, step:], errors[1:, :, : SIZE - step, : SIZE - step]
    both = masks[:-1, :, step:, step:] * masks[1:, :, : SIZE - step, : SIZE - step]
    change = (after - before) * both
    pixels = change.square().sum() / both.sum() / 3
    share = F.avg_pool2d(both, PATCH)
    patches = F.avg_pool2d(change, PATCH) / share.clamp(min=1e-6)
    whole = (share > 0.5).float()  # patches of which most is edited
    return pixels.item(), ((patches.square() * whole).sum() / whole.sum().clamp(min=1) / 3).item()


@torch.inference_mode()
def measured(
    vae: asymvq.AsymmetricAutoencoder, path: Path, frames: int, step: int, seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    side = SIZE + step * (frames - 1)
    photo, whole = cover(read_picture(path), (side, side)), random_thick_mask(side, side, rng)[None]
    windows = [(..., slice(t * step, t * step + SIZE), slice(t * step, t * step + SIZE)) for t in range(frames)]
    images, masks = (torch.cat([picture[window] for window in windows]) for picture in (photo, whole))
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for drift in DRIFTS:
        given = zip(images.split(1), shifts(drift, frames, rng), strict=True)
        decoded = torch.cat([asymvq.decode(vae, vae.encode((image + shift).clamp(-1, 1))) for image, shift in given])
        harmonised = asymvq.harmonise(decoded, image=images, mask=masks, factor=vae.factor)
        for way, output in (("paste", decoded), ("harmonise", harmonised)):
            found[way, drift] = flicker(output - images, masks, step)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=quality.DEMO)
    parser.add_argument("--taef2", type=Path, help="folder of the real TAEF2's two files, instead of --vae")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--step", type=int, default=3, help="pixels a frame")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vae = asymvq.load(args.vae, dtype=torch.float32) if args.taef2 is None else quality.taef2(args.taef2)
    rows = [
        measured(vae, path, args.frames, args.step, args.seed) for path in tqdm(args.images, unit="photo", disable=None)
    ]
    photos = [path.stem for path in args.images]
    print(f"| flicker ÷ pasting's | {' | '.join(DRIFTS)} |\n|---|{'---|' * len(DRIFTS)}")
    for i, what in enumerate(("of pixels", f"of {PATCH}² patches")):
        levels = [127.5 * np.sqrt(np.mean([row["paste", drift][i] for row in rows])) for drift in DRIFTS]
        print(f"| {what}, pasting's, levels | {' | '.join(f'{value:.2f}' for value in levels)} |")
        cells: list[str] = []
        for drift in DRIFTS:
            ours, paste = ([row[way, drift][i] for row in rows] for way in ("harmonise", "paste"))
            ends = interval(ours, paste, photos) if len(photos) > 1 else (float("nan"),) * 2
            highest = max(a / b for a, b in zip(ours, paste, strict=True) if b)
            cells.append(f"{sum(ours) / sum(paste):.2f} ({ends[0]:.2f} to {ends[1]:.2f}; highest {highest:.2f})")
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
