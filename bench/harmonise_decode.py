"""Ways to a picture beside each other: a plain and a conditional decode, each pasted and harmonised.

    python bench/harmonise_decode.py --images PHOTOS... [--vae FILE] [--masks 6] [--size 256] [--scale 1.0] [--seed 0]

Latents and masks as in bench/harmonise_quality.py; `--scale` is of the masks. Ratios of mean squared errors to plain
decode + paste, `asymvq.metrics`: in the mask / its outer 4 px / the seam / the mean colour, with 95 % bootstrap
intervals over the photos.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import harmonise_quality as quality
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import asymvq
from asymvq.colour import random_shift
from asymvq.masks import random_thick_mask
from asymvq.pictures import cover, read_picture

DRIFTS = ("own", "global", "varying")
REGIONS = ("full", "masked")


def latents(vae: asymvq.AsymmetricAutoencoder, image: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Of the picture, and of copies whose colours drift."""
    size = (image.shape[-2], image.shape[-1])
    changes = (0.0, *(random_shift(size, quality.SHIFT, rng, varies=varies) for varies in (False, True)))
    return {name: vae.encode((image + change).clamp(-1, 1)) for name, change in zip(DRIFTS, changes, strict=True)}


def ways(vae: asymvq.AsymmetricAutoencoder, latent: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    plain = asymvq.decode(vae, latent)
    harmonised = asymvq.harmonise(plain, image=image, mask=mask, factor=vae.factor)
    found = {
        "paste": torch.where(mask > 0, plain, image),
        "plain + harmonise": torch.where(mask > 0, harmonised, image),
    }
    for region in REGIONS:
        for strength, name in ((0.0, "conditional"), (1.0, "conditional + harmonise")):
            found[f"{name}, {region}"] = asymvq.decode(
                vae, latent, image=image, mask=mask, region=region, harmonise=strength
            )
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=quality.DEMO)
    parser.add_argument("--masks", type=int, default=6, help="a photo")
    parser.add_argument("--size", type=int, default=quality.SIZE)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vae = asymvq.load(args.vae, dtype=torch.float32).eval()

    rows: dict[tuple[str, str], list[list[float]]] = {}
    photos: list[str] = []
    for path in tqdm(args.images, unit="photo"):
        rng = np.random.default_rng([args.seed, zlib.crc32(path.name.encode())])
        image = cover(read_picture(path), (args.size, args.size))
        for _ in range(args.masks):
            mask = random_thick_mask(args.size, args.size, rng, scale=args.scale)[None]
            photos.append(path.stem)
            for drift, latent in latents(vae, image, rng).items():
                for way, output in ways(vae, latent, image, mask).items():
                    rows.setdefault((way, drift), []).append(quality.measured(output, image, mask))

    print(f"| | {' | '.join(DRIFTS)} |\n|---|{'---|' * len(DRIFTS)}")
    for way in dict.fromkeys(way for way, _ in rows):
        if way == "paste":
            continue
        cells = []
        for drift in DRIFTS:
            paste, found = np.array(rows["paste", drift]), np.array(rows[way, drift])
            value, low, high = ("/".join(f"{x:.2f}" for x in part) for part in quality.ratios(found, paste, photos))
            cells.append(f"{value} ({low} to {high})")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
