"""The paper's question on a small scale: what do larger decoders bring, with the same steps and in the same time?

    python bench/sizes.py --train PHOTOS --test PHOTOS... --out DIR [--steps 400] [--masks 2]
        [--presets base 1.5x 2x 3x+3] [--resume]

Takes the bundled VAE without its condition as the stock VAE and trains decoders of these sizes with an affine
condition, all with one recipe: for the same steps, and for as many as take the processor time of the first one's. A
table of ratios of squared errors, conditional decode to the stock VAE's plain one, both harmonised, as
bench/condition.py has them; "detail": energy of fine detail in the mask, over the truth's. Writes the loss on held-out
pictures as curves too. `--resume` takes the decoders that an earlier call with the same photos has finished in DIR,
where they had as many steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import condition as conditions
import harmonise_quality as quality
import numpy as np
import torch

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig, ConditionConfig
from asymvq.grow import grown_config
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.plot import draw_losses
from asymvq.training.recipe import RECIPES, Precision, Recipe

CONDITION = 32
"""Channels of its maps, for all sizes."""
DRIFTS = ("own", "varying")
RECIPE = dataclasses.replace(
    RECIPES["fidelity"],
    crop=96, crop_scale=(0.1875, 0.375), l1=0.0, l2=1.0, ssim=0.04, border=6.0, mask_scale=1.5, unconditioned=0.15,
    through_harmonise=0.85, composed=True, precision=Precision.BF16, lr=1e-3, decoder_lr=0.05, warm_up=50, average=0.99,
    measured=12,
)  # fmt: skip


@dataclasses.dataclass
class Run:
    vae: AsymmetricAutoencoder
    steps: int
    seconds: float
    """Of the processor, measuring and saving included."""
    curve: list[float]
    """Loss on held-out pictures, step by step; NaN where it was not measured."""


def stock_vae() -> AsymmetricAutoencoder:
    """The bundled VAE as an ordinary one."""
    demo = asymvq.load(quality.DEMO, dtype=torch.float32)
    vae = AsymmetricAutoencoder(demo.config.replaced(condition=None)).eval().requires_grad_(False)
    vae.load_state_dict(demo.state_dict(), strict=False)
    return vae


def config_of(preset: str, stock: AsymmetricAutoencoder) -> AutoencoderConfig:
    return grown_config(stock.config, preset, condition=ConditionConfig.affine(CONDITION))


def train(preset: str, stock: AsymmetricAutoencoder, pictures: Pictures, recipe: Recipe, path: Path) -> Run:
    config = config_of(preset, stock)
    run = Training(stock, config, pictures, recipe, out=path, overwrite=True)
    started = time.process_time()
    for report in run:
        if report.step % 20 == 0:
            print(f"{path.stem}: step {report.step} of {report.steps}, loss {report.loss:.4g}", flush=True)
    seconds = time.process_time() - started
    return Run(asymvq.load(path, dtype=torch.float32), recipe.steps, seconds, run.history["held_out"])


@torch.inference_mode()
def measured(stock: AsymmetricAutoencoder, runs: dict[str, Run], paths: list[Path], masks: int) -> dict[str, list[str]]:
    """By drift, a cell a run: ratios, their intervals, and detail."""
    rows: dict[tuple[str, str], list[list[float]]] = {}
    photos: dict[str, list[str]] = {}
    for case in conditions.cases(stock, paths, masks=masks, size=quality.SIZE, seed=0):
        if case.drift in DRIFTS:
            photos.setdefault(case.drift, []).append(case.photo)
            outputs = {"truth": case.image, "stock": case.harmonised(stock)}
            outputs |= {name: case.conditional(run.vae) for name, run in runs.items()}
            for name, output in outputs.items():
                rows.setdefault((name, case.drift), []).append(case.measured(output))
    table = {key: np.array(values) for key, values in rows.items()}
    cells: dict[str, list[str]] = {}
    for drift in DRIFTS:
        truth, plain = table["truth", drift][:, 4].sum(), table["stock", drift]
        print(f"stock, {drift}: detail {plain[:, 4].sum() / truth:.3f}")
        for name in runs:
            found = table[name, drift]
            value, low, high = (
                "/".join(f"{x:.3f}" for x in part) for part in quality.ratios(found[:, :4], plain[:, :4], photos[drift])
            )
            detail = found[:, 4].sum() / truth
            cells.setdefault(name, []).append(f"{value} ({low} to {high}), {detail:.3f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--masks", type=int, default=2, help="a picture")
    parser.add_argument("--presets", nargs="+", default=["base", "1.5x", "2x", "3x+3"], metavar="SIZE")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    stock, recipe = stock_vae(), dataclasses.replace(RECIPE, steps=args.steps)
    for preset in args.presets:
        config_of(preset, stock)  # refused now, not after the hours of those before it
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = Pictures.from_folder(args.train, crop=recipe.crop, crop_scale=recipe.crop_scale)
    log = args.out / "sizes.json"
    done = json.loads(log.read_text()) if args.resume and log.is_file() else {}

    def trained(name: str, preset: str, steps: int, path: Path) -> Run:
        had, seconds, curve = done.get(name, (0, 0.0, []))
        if had == steps and path.is_file():
            return Run(asymvq.load(path, dtype=torch.float32), steps, seconds, curve)
        run = train(preset, stock, pictures, dataclasses.replace(recipe, steps=steps), path)
        done[name] = (run.steps, run.seconds, run.curve)
        log.write_text(json.dumps(done))
        return run

    runs = {
        preset: trained(preset, preset, args.steps, args.out / f"{preset}_steps.safetensors") for preset in args.presets
    }
    for preset in args.presets[1:]:
        steps = max(1, round(args.steps * runs[args.presets[0]].seconds / runs[preset].seconds))
        name = f"{preset}, {args.presets[0]}'s time"
        runs[name] = trained(name, preset, steps, args.out / f"{preset}_seconds.safetensors")
    cells = measured(stock, runs, args.test, args.masks)

    print(f"\n{len(pictures)} training and {len(args.test)} test pictures\n")
    print(f"| decoder | parameters | steps | processor time | held out | {' | '.join(DRIFTS)} |")
    print(f"|{'---|' * (5 + len(DRIFTS))}")
    for name, run in runs.items():
        count = sum(p.numel() for p in run.vae.decoder.parameters()) / 1e6
        held_out = min(value for value in run.curve if math.isfinite(value))  # of what is saved
        row = [name, f"{count:.1f} M", str(run.steps), f"{run.seconds:.0f} s", f"{held_out:.5f}", *cells[name]]
        print(f"| {' | '.join(row)} |")
    curves = {preset: runs[preset].curve for preset in args.presets}
    draw_losses(curves, title="Loss on held-out photos, by size").save(args.out / "sizes.png")


if __name__ == "__main__":
    main()
