"""The paper's question on a small scale: what do larger decoders bring, and what does it bring to grow them?

    python bench/sizes.py --train PHOTOS --test PHOTOS --out DIR [--steps 400]

Takes the bundled VAE without its condition as the stock VAE, and trains "base", "1.5x" and "2x" decoders of it with one
recipe, and a "2x" one from scratch. Writes a table, and the curve of the grown and the new 2x decoder. A run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.crop import centre_crop
from asymvq.grow import grow, grown_config, match_norms
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, kept_error, masked_error, psnr
from asymvq.pictures import read_picture
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.plot import draw_losses
from asymvq.training.recipe import RECIPES, Recipe, Start

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
RECIPE = dataclasses.replace(
    RECIPES["fidelity"],
    ssim=0.0,
    crop=96,
    crop_scale=(0.1875, 0.25),
    harmonise=0.0,
    lr=1e-3,
    decoder_lr=0.3,
    warm_up=50,
)
RUNS = {
    "base": ("base", Start.GROW),
    "1.5x": ("1.5x", Start.GROW),
    "2x": ("2x", Start.GROW),
    "2x from scratch": ("2x", Start.SCRATCH),
}


def stock_vae() -> AsymmetricAutoencoder:
    """The bundled VAE as an ordinary one."""
    demo = asymvq.load(DEMO, dtype=torch.float32)
    config: AutoencoderConfig = dataclasses.replace(demo.config, condition=None)
    vae = AsymmetricAutoencoder(config).eval().requires_grad_(False)
    vae.load_state_dict(demo.state_dict(), strict=False)
    return vae


def train(name: str, stock: AsymmetricAutoencoder, pictures: Pictures, recipe: Recipe, out: Path) -> dict[str, object]:
    preset, start = RUNS[name]
    path = out / f"{name.replace(' ', '_')}.safetensors"
    recipe = dataclasses.replace(recipe, start=start)
    run = Training(stock, grown_config(stock.config, preset), pictures, recipe, out=path, resume=True, save_seconds=60)
    started = time.monotonic()
    for report in run:
        if report.step % 20 == 0:
            print(f"{name}: step {report.step}, loss {report.loss:.4g}, {report.seconds_left:.0f} s left", flush=True)
    return {"path": str(path), "seconds": time.monotonic() - started, "curve": run.history["generated"]}


@torch.inference_mode()
def measure(vaes: dict[str, AsymmetricAutoencoder], paths: list[Path], masks: int) -> dict[str, list[float]]:
    """Kept-pixel error, border error and error inside the mask, by name; the first is the stock VAE, pasted back."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in ("stock", "stock + paste", *list(vaes)[1:])}

    def errors(output: Tensor, image: Tensor, mask: Tensor) -> tuple[float, ...]:
        return tuple(f(output, image, mask) for f in (kept_error, border_error, masked_error))

    for path in paths:
        image = centre_crop(read_picture(path), 8)
        latent = vaes["stock"].encode(image)
        for _ in range(masks):
            mask = random_thick_mask(*image.shape[-2:], rng)[None]
            plain = vaes["stock"].decode(latent)
            rows["stock"].append(errors(plain, image, mask))
            rows["stock + paste"].append(errors(torch.where(mask > 0, plain, image), image, mask))
            for name, vae in list(vaes.items())[1:]:
                output = vae.decode(latent, image=image, mask=mask)
                rows[name].append(errors(output, image, mask))
    return {name: np.mean(values, axis=0).tolist() for name, values in rows.items()}


@torch.no_grad()
def distance_at_start(stock: AsymmetricAutoencoder, preset: str, paths: list[Path]) -> float:
    """PSNR in dB of the untrained larger decoder against the stock one, after its norms were matched."""
    grown = grow(stock, grown_config(stock.config, preset))
    seen, *unseen = (stock.encode(centre_crop(read_picture(path), 8)) for path in paths)
    match_norms(grown, stock, seen)
    return float(np.mean([psnr(grown.decode(latent), stock.decode(latent)) for latent in unseen]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--masks", type=int, default=2, help="a picture")
    args = parser.parse_args()

    stock, recipe = stock_vae(), dataclasses.replace(RECIPE, steps=args.steps)
    pictures = Pictures.from_folder(args.train, crop=recipe.crop, crop_scale=recipe.crop_scale)
    runs = {name: train(name, stock, pictures, recipe, args.out) for name in RUNS}
    vaes = {"stock": stock, **{name: asymvq.load(str(run["path"])) for name, run in runs.items()}}
    tests = sorted(args.test.glob("*.png"))
    errors = measure(vaes, tests, args.masks)
    pasted = errors["stock + paste"][1]

    print(f"\n{args.steps} steps, {len(pictures)} training and {len(tests)} test pictures\n")
    print("| decoder | parameters | kept-pixel error | border error / stock + paste | PSNR inside the mask | seconds |")
    print("|---|---|---|---|---|---|")
    for name, (kept, border, inside) in errors.items():
        vae = vaes.get(name, stock)
        count = sum(p.numel() for p in vae.decoder.parameters()) / 1e6
        seconds = f"{runs[name]['seconds']:.0f}" if name in runs else "–"
        decibels = 10 * np.log10(4 / inside)
        print(f"| {name} | {count:.1f} M | {kept:.2e} | {border / pasted:.3f} | {decibels:.2f} dB | {seconds} |")
    closeness = distance_at_start(stock, "1.5x", tests)
    print(f"\n1.5x at step 0 against stock: {closeness:.1f} dB")
    (args.out / "sizes.json").write_text(json.dumps({"errors": errors, "closeness": closeness, "runs": runs}, indent=1))
    curves = {"grown 2x": runs["2x"]["curve"], "2x from scratch": runs["2x from scratch"]["curve"]}
    draw_losses(curves, title="L1 of generated pixels, photos 1 to 12").save(args.out / "grown_or_new.png")


if __name__ == "__main__":
    main()
