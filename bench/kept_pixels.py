"""What a decoder keeps, and how its edits fit: errors on photos with seeded thick masks, against its own plain decode.

    python bench/kept_pixels.py --images PHOTOS [--vae FILE] [--masks 5] [--seed 0] [--json FILE]

The latent is the photo's own, so that the true picture is known inside the mask too. Squared errors are of values in
[-1, 1], kept pixels as the network gives them (`keep="network"`), of a full decode: a mask-local one leaves most of
them alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import asymvq
from asymvq.crop import centre_crop
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, kept_error, masked_error
from asymvq.pictures import read_picture

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
MEASURES = {"kept pixels": kept_error, "inside the mask": masked_error, "its outer 4 px": border_error}


@torch.inference_mode()
def measure(vae: asymvq.AsymmetricAutoencoder, paths: list[Path], masks: int, seed: int) -> dict[str, list[float]]:
    """Mean errors, measure by measure: of the conditional decode, of the plain one."""
    rng = np.random.default_rng(seed)
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}
    for path in paths:
        image = centre_crop(read_picture(path), vae.config.factor)
        latent = vae.encode(image)
        plain = asymvq.decode(vae, latent)
        for _ in range(masks):
            mask = random_thick_mask(*image.shape[-2:], rng)[None]
            conditional = asymvq.decode(vae, latent, image=image, mask=mask, region="full", keep="network")
            for name, error in MEASURES.items():
                errors[name].append((error(conditional, image, mask), error(plain, image, mask)))
    return {name: np.mean(pairs, axis=0).tolist() for name, pairs in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="pictures, or folders of PNGs")
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--masks", type=int, default=5, help="a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    paths = [p for path in args.images for p in (sorted(path.glob("*.png")) if path.is_dir() else [path])]
    errors = measure(asymvq.load(args.vae, dtype=torch.float32), paths, args.masks, args.seed)
    print(f"{args.vae.name}: {len(paths)} pictures, {args.masks} masks each, seed {args.seed}\n")
    print("| squared error | conditional | plain | ratio |\n|---|---|---|---|")
    for name, (conditional, plain) in errors.items():
        print(f"| {name} | {conditional:.2e} | {plain:.2e} | {conditional / plain:.3g} |")
    if args.json:
        args.json.write_text(json.dumps(errors, indent=2) + "\n")


if __name__ == "__main__":
    main()
