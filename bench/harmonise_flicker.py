"""Whether harmonising makes video frames flicker: frames that pan over photos, beside plain + paste.

    python bench/harmonise_flicker.py --images PHOTOS... [--vae FILE | --taef2 FOLDER] [--frames 12] [--step 3]
        [--seed 0]

Frames of 256² move over a photo by `--step` pixels down and right each, and a seeded thick mask moves with its content.
Each frame is encoded by itself, its colours shifted:

    own         not at all
    global      by one colour, the same in all frames, up to ±0.2 a channel
    varying     linearly over the frame, likewise
    drifting    by a colour that goes in equal steps from one such to another
    trembling   by another colour each frame, up to ±0.2 a channel
    cut         as global; in the middle, another photo with another colour follows (it is not counted as flicker)

Flicker is the mean squared difference of a pixel's error from its error in the frame before, following the content,
over pixels that are edited in both: of single pixels, and of means over 32² pixels, which are what is seen of colour
and light. Pasting's as a root of the mean, in levels of 255; then ratios of the means, with 95 % bootstrap intervals
over the photos, of frames harmonised one by one and as a video. Of the error in the mask, the ratio alone.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass
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
DRIFTS = ("own", "global", "varying", "drifting", "trembling", "cut")
FLICKER = ("flicker of pixels", f"flicker of {PATCH}² patches")
ERROR = "error in the mask"


@dataclass
class Clip:
    """Frames, their masks (T, 1, H, W) and their decodes (T, 3, H, W) under each drift."""

    images: Tensor
    masks: Tensor
    decoded: dict[str, Tensor]

    def followed_by(self, other: Clip) -> Clip:
        """Its first half, and the second half of another."""
        half = len(self.images) // 2

        def both(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a[:half], b[half:]])

        decoded = {"cut": both(self.decoded["global"], other.decoded["global"])}
        return Clip(both(self.images, other.images), both(self.masks, other.masks), decoded)


def shifts(drift: str, frames: int, rng: np.random.Generator) -> list[Tensor]:
    """What is added to each frame."""
    if drift == "own":
        return [torch.zeros(1)] * frames
    if drift == "trembling":
        return [random_shift((SIZE, SIZE), quality.SHIFT, rng) for _ in range(frames)]
    first = random_shift((SIZE, SIZE), quality.SHIFT, rng, varies=drift == "varying")
    last = random_shift((SIZE, SIZE), quality.SHIFT, rng) if drift == "drifting" else first
    return [torch.lerp(first, last, t / (frames - 1)) for t in range(frames)]


def flicker(errors: Tensor, masks: Tensor, step: int, cut: int | None = None) -> tuple[float, float]:
    """Of single pixels and of patches. errors: (T, 3, H, W); masks (T, 1, H, W), 1 = edited; cut: before that frame."""
    # what is at p in one frame is at p - step in the next
    before, after = errors[:-1, :, step:, step:], errors[1:, :, : SIZE - step, : SIZE - step]
    both = masks[:-1, :, step:, step:] * masks[1:, :, : SIZE - step, : SIZE - step]
    if cut is not None:
        both[cut - 1] = 0
    change = (after - before) * both
    pixels = change.square().sum() / both.sum() / 3
    share = F.avg_pool2d(both, PATCH)
    patches = F.avg_pool2d(change, PATCH) / share.clamp(min=1e-6)
    whole = (share > 0.5).float()  # patches of which most is edited
    return pixels.item(), ((patches.square() * whole).sum() / whole.sum().clamp(min=1) / 3).item()


@torch.inference_mode()
def make_clip(vae: asymvq.AsymmetricAutoencoder, path: Path, frames: int, step: int, seed: int) -> Clip:
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    side = SIZE + step * (frames - 1)
    photo, whole = cover(read_picture(path), (side, side)), random_thick_mask(side, side, rng)[None]
    windows = [(..., slice(t * step, t * step + SIZE), slice(t * step, t * step + SIZE)) for t in range(frames)]
    images, masks = (torch.cat([picture[window] for window in windows]) for picture in (photo, whole))
    decoded: dict[str, Tensor] = {}
    for drift in DRIFTS[:-1]:
        given = zip(images.split(1), shifts(drift, frames, rng), strict=True)
        latents = [vae.encode((image + shift).clamp(-1, 1)) for image, shift in given]
        decoded[drift] = torch.cat([asymvq.decode(vae, latent) for latent in latents]).half()
    return Clip(images, masks, decoded)


@torch.inference_mode()
def measured(clip: Clip, factor: int, step: int) -> dict[tuple[str, str], dict[str, float]]:
    """By way and drift, what is measured."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    count = len(clip.images)
    for drift, half in clip.decoded.items():
        outputs = {"paste": half.float()}
        for way, frames in (("one by one", 1), ("as a video", count)):
            outputs[way] = asymvq.harmonise(
                outputs["paste"], image=clip.images, mask=clip.masks, factor=factor, frames=frames
            )
        for way, output in outputs.items():
            values = flicker(output - clip.images, clip.masks, step, count // 2 if drift == "cut" else None)
            error = ((output - clip.images).square() * clip.masks).sum() / clip.masks.sum() / 3
            found[way, drift] = dict(zip(FLICKER, values, strict=True)) | {ERROR: error.item()}
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
    paths = tqdm(args.images, unit="photo")
    clips = [make_clip(vae, path, args.frames, args.step, args.seed) for path in paths]
    rows = [
        measured(clip, vae.factor, args.step) | measured(clip.followed_by(other), vae.factor, args.step)
        for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True)
    ]
    photos = [path.stem for path in args.images]
    print(f"| ÷ pasting's | {' | '.join(DRIFTS)} |\n|---|{'---|' * len(DRIFTS)}")
    for what in (*FLICKER, ERROR):
        if what != ERROR:
            levels = [127.5 * np.sqrt(np.mean([row["paste", drift][what] for row in rows])) for drift in DRIFTS]
            print(f"| {what}, pasting's, levels | {' | '.join(f'{value:.2f}' for value in levels)} |")
        for way in ("one by one", "as a video"):
            cells: list[str] = []
            for drift in DRIFTS:
                ours, paste = ([row[w, drift][what] for row in rows] for w in (way, "paste"))
                cells.append(f"{sum(ours) / sum(paste):.2f}")
                if what != ERROR and len(photos) > 1:
                    low, high = interval(ours, paste, photos)
                    highest = max(a / b for a, b in zip(ours, paste, strict=True) if b)
                    cells[-1] += f" ({low:.2f} to {high:.2f}; highest {highest:.2f})"
            print(f"| {what}, harmonised {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
