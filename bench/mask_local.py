"""What a mask-local decode loses against a full one: errors in the mask and at its edge, photos with thick masks.

    python bench/mask_local.py --images PHOTOS [--vae FILE] [--masks 20] [--seed 0] [--json FILE]
    python bench/mask_local.py --images PHOTOS --contexts 0 8 16 32 64 96 [--colour-shift 0.2] [--plot FILE]
    python bench/mask_local.py --families [--contexts 0 16 48 96 152]    no pictures: the difference to a full decode

The latent is the photo's own, or with `--colour-shift` X that of a copy whose channels are each shifted by up to X;
kept pixels are the source's (`keep="exact"`) in all. PSNR is of the mean squared error over all pictures and masks, of
values in [-1, 1]. `--contexts` are widths in pixels of what a mask-local decode is shown around its mask. `--families`:
random weights in the published shapes, random latents, a mask of 128² in 512²; the largest difference in the mask, over
the full decode's deviation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from chart import draw_chart
from torch import Tensor

import asymvq
from asymvq.autoencoders import PRESETS, tiny, wan
from asymvq.crop import centre_crop
from asymvq.decode import Keep, Region, compose, decode_network, fit_source, make_plan
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, masked_error, seam_error
from asymvq.pictures import read_picture
from asymvq.plan import CONTEXT

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "in the mask": masked_error,
    "its outer 4 px": border_error,
    "seam": seam_error,
}


FAMILIES = {
    "TAESD": tiny.Config(),
    "Wan 2.1, its attention left out": wan.Config(),
    "Wan 2.1": wan.Config(),
    "SD 1.5": PRESETS["base"],
    "TAEF2": tiny.Config(latent_channels=128, latent_packing=2, pooled=True),
}


@torch.inference_mode()
def print_families(contexts: list[int], seed: int) -> None:
    print("| family | reach, px | " + " | ".join(f"{context} px" for context in contexts) + " |")
    print("|---" * (len(contexts) + 2) + "|")
    side, first, last = 512, 192, 320
    mask = torch.zeros(1, 1, side, side)
    mask[..., first:last, first:last] = 1
    for name, shape in FAMILIES.items():
        torch.manual_seed(seed)
        config = shape.replaced(condition=None, encoder_channels=None)
        vae = asymvq.AsymmetricAutoencoder(config).eval()
        if name.endswith("left out") and vae.decoder.mid is not None:
            for parameter in vae.decoder.mid.attn_1.proj.parameters():
                parameter.zero_()
        latent = torch.randn(1, config.latent_channels, side // config.factor, side // config.factor)
        source = fit_source(config, latent, image=torch.zeros(1, 3, side, side), mask=mask)
        full = decode_network(vae, latent, source, make_plan(config, latent, source, region=Region.FULL))
        cells = [f"{config.reach or 'all'}"]
        for context in contexts:
            plan = make_plan(config, latent, source, region=Region.MASKED, context=context)
            local = decode_network(vae, latent, source, plan)
            cells.append(f"{(((local - full) * mask).abs().max() / full.std()).item():.1e}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


@torch.inference_mode()
def measure(
    vae: asymvq.AsymmetricAutoencoder,
    paths: list[Path],
    masks: int,
    seed: int,
    contexts: list[int],
    colour_shift: float,
) -> dict[str, list[float]]:
    """Mean squared errors, measure by measure: of the full decode, then of mask-local ones, context by context."""
    rng, shift_rng = np.random.default_rng(seed), np.random.default_rng(seed)
    errors: dict[str, list[list[float]]] = {name: [] for name in MEASURES}
    for path in paths:
        image = centre_crop(read_picture(path), vae.config.factor)
        shift = torch.from_numpy(shift_rng.uniform(-colour_shift, colour_shift, (1, 3, 1, 1))).float()
        height, width = image.shape[-2:]
        latent = vae.encode((image + shift).clamp(-1, 1) if colour_shift else image)
        for _ in range(masks):
            mask = random_thick_mask(height, width, rng)[None]
            source = fit_source(vae.config, latent, image=image, mask=mask)
            assert source is not None
            plans = [make_plan(vae.config, latent, source, region=Region.FULL)]
            plans += [make_plan(vae.config, latent, source, region=Region.MASKED, context=c) for c in contexts]
            decoded = [compose(decode_network(vae, latent, source, plan), source, Keep.EXACT) for plan in plans]
            for name, error in MEASURES.items():
                errors[name].append([error(picture, image, mask) for picture in decoded])
    return {name: np.mean(rows, axis=0).tolist() for name, rows in errors.items()}


def psnr(error: float) -> float:
    return 10 * math.log10(4 / error)


def print_pair(errors: dict[str, list[float]]) -> None:
    print("| squared error | full | mask-local | ratio |\n|---|---|---|---|")
    for name, (full, local) in errors.items():
        print(f"| {name} | {full:.3e} | {local:.3e} | {local / full:.3f} |")
    full, local = (psnr(error) for error in errors["in the mask"])
    print(f"| in the mask: PSNR, dB | {full:.2f} | {local:.2f} | {local - full:+.2f} dB |")


def print_curve(errors: dict[str, list[float]], contexts: list[int]) -> None:
    names = list(errors)
    print("| context, px | PSNR in the mask, dB | to the full decode, dB | " + " | ".join(names[1:]) + " |")
    print("|---" * (len(names) + 2) + "|")
    whole = psnr(errors["in the mask"][0])
    for i, label in enumerate(["full decode", *map(str, contexts)]):
        value = psnr(errors["in the mask"][i])
        rest = " | ".join(f"{errors[name][i]:.3e}" for name in names[1:])
        print(f"| {label} | {value:.2f} | {value - whole:+.3f} | {rest} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", help="pictures, or folders of PNGs")
    parser.add_argument("--families", action="store_true", help="random weights of every family, without pictures")
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--masks", type=int, default=20, help="a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contexts", type=int, nargs="+", default=[CONTEXT], help="pixels")
    parser.add_argument("--colour-shift", type=float, default=0.0, metavar="X", help="of 2, the range of values")
    parser.add_argument("--plot", type=Path, help="PNG of the PSNR over two contexts or more")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.families:
        print_families(args.contexts if len(args.contexts) > 1 else [0, 16, 48, 96, 152], args.seed)
        return
    if not args.images:
        parser.error("--images or --families")

    paths = [p for path in args.images for p in (sorted(path.glob("*.png")) if path.is_dir() else [path])]
    vae = asymvq.load(args.vae, dtype=torch.float32)
    errors = measure(vae, paths, args.masks, args.seed, args.contexts, args.colour_shift)
    shifted = f", colours shifted by up to {args.colour_shift}" if args.colour_shift else ""
    print(f"{args.vae.name}: {len(paths)} pictures, {args.masks} masks each, seed {args.seed}{shifted}\n")
    if len(args.contexts) == 1:
        print_pair(errors)
    else:
        print_curve(errors, args.contexts)
    if args.plot:
        full, *local = (psnr(error) for error in errors["in the mask"])
        curves = {
            "mask-local": list(zip(args.contexts, local, strict=True)),
            "full": [(c, full) for c in (args.contexts[0], args.contexts[-1])],
        }
        draw_chart(
            curves,
            title="Mask-local decodes that are shown more and more around the mask" + shifted,
            x_label="context, pixels",
            y_label="PSNR in the mask, dB",
            x_ticks=args.contexts,
        ).save(args.plot, optimize=True)
    if args.json:
        args.json.write_text(json.dumps(errors, indent=2) + "\n")


if __name__ == "__main__":
    main()
