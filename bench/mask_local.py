"""What a mask-local decode loses against a full one: errors in the mask and at its edge, photos with thick masks.

    python bench/mask_local.py --images PHOTOS [--vae FILE] [--masks 20] [--seed 0] [--json FILE]

The latent is the photo's own; kept pixels are the source's (`keep="exact"`) in both. PSNR is of the mean squared error
over all pictures and masks, of values in [-1, 1].
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import asymvq
from asymvq.crop import centre_crop
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, masked_error, seam_error
from asymvq.pictures import read_picture

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "in the mask": masked_error,
    "its outer 4 px": border_error,
    "seam": seam_error,
}
REGIONS = ("full", "masked")


@torch.inference_mode()
def measure(vae: asymvq.AsymmetricAutoencoder, paths: list[Path], masks: int, seed: int) -> dict[str, list[float]]:
    """Mean squared errors, measure by measure: of the full decode, of the mask-local one."""
    rng = np.random.default_rng(seed)
    errors: dict[str, list[list[float]]] = {name: [] for name in MEASURES}
    for path in paths:
        image = centre_crop(read_picture(path), vae.config.factor)
        latent = vae.encode(image)
        for _ in range(masks):
            mask = random_thick_mask(*image.shape[-2:], rng)[None]
            decoded = [asymvq.decode(vae, latent, image=image, mask=mask, region=region) for region in REGIONS]
            for name, error in MEASURES.items():
                errors[name].append([error(picture, image, mask) for picture in decoded])
    return {name: np.mean(rows, axis=0).tolist() for name, rows in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="pictures, or folders of PNGs")
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--masks", type=int, default=20, help="a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    paths = [p for path in args.images for p in (sorted(path.glob("*.png")) if path.is_dir() else [path])]
    errors = measure(asymvq.load(args.vae, dtype=torch.float32), paths, args.masks, args.seed)
    print(f"{args.vae.name}: {len(paths)} pictures, {args.masks} masks each, seed {args.seed}\n")
    print("| squared error | full | mask-local | ratio |\n|---|---|---|---|")
    for name, (full, local) in errors.items():
        print(f"| {name} | {full:.3e} | {local:.3e} | {local / full:.3f} |")
    full, local = (10 * math.log10(4 / error) for error in errors["in the mask"])
    print(f"| in the mask: PSNR, dB | {full:.2f} | {local:.2f} | {local - full:+.2f} dB |")
    if args.json:
        args.json.write_text(json.dumps(errors, indent=2) + "\n")


if __name__ == "__main__":
    main()
