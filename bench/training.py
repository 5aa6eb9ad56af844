"""Training speed and memory: our loop against a plain one around diffusers' model, with the same weights and losses.

    python bench/training.py --data PHOTOS [--channels 32] [--batch 4] [--crop 128] [--steps 12] [--device cpu]

Every loop runs in a process of its own. Samples a second are those after the first steps, on a CPU by the processor's
time, so that what else runs does not count; memory is the process's peak above what it had before the first step (on
CUDA: the allocator's peak). Neither measuring nor saving counts. Cached latents are timed once all crops are seen.

    python bench/training.py --data PHOTOS --samples [--batch 4] [--crop 256]

measures the pictures' side alone, with 1, 2 … threads: samples a second while pictures are read for the first time, and
when they are in memory. What a GPU trains faster than this, it waits for.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import asymvq
from asymvq.autoencoders import AutoencoderConfig
from asymvq.training.data import Pictures, Samples
from asymvq.training.loop import Training
from asymvq.training.prefetch import Prefetched
from asymvq.training.recipe import RECIPES, Precision, Recipe
from asymvq.training.step import Criterion, reconstruction_terms, sample_latent

WARM_UP = 2
SAMPLES = 400
"""That the making of samples is timed on."""
LOOPS = {
    "diffusers": "a plain loop around AsymmetricAutoencoderKL",
    "diffusers, bf16": "the same under autocast",
    "ours": "as `python -m asymvq train`",
    "ours, cached": "with --set fixed_crops=1: latents are encoded once",
    "ours, bf16": "with --dtype bf16",
    "ours, bf16, recompute": "and --set recompute=true",
}


def recipe_of(args: argparse.Namespace, **changes: Any) -> Recipe:
    base = dataclasses.replace(
        RECIPES["fidelity"], harmonise=0.0, through_harmonise=0.0, held_out=0.0, crop_scale=(0.25, 0.5)
    )
    return dataclasses.replace(base, steps=args.steps, batch=args.batch, crop=args.crop, **changes)


def config_of(args: argparse.Namespace) -> AutoencoderConfig:
    widths = tuple(args.channels * m for m in (1, 2, 4, 4))
    return AutoencoderConfig(decoder_channels=widths, encoder_channels=(32, 64, 128, 128), encoder_blocks=2)


def ours(args: argparse.Namespace, pictures: Pictures, folder: Path, recipe: Recipe) -> Iterator[None]:
    vae = asymvq.load(folder / "vae")
    out = folder / "trained.safetensors"
    for _ in Training(vae, vae.config, pictures, recipe, out=out, device=args.device, save_seconds=1e9):
        yield


def theirs(args: argparse.Namespace, pictures: Pictures, folder: Path, recipe: Recipe) -> Iterator[None]:
    from diffusers import AsymmetricAutoencoderKL

    vae = AsymmetricAutoencoderKL.from_pretrained(folder / "vae").to(args.device).train()
    for part in (vae.encoder, vae.quant_conv, vae.post_quant_conv):
        part.requires_grad_(False)
    optimizer = torch.optim.Adam(vae.decoder.parameters(), lr=recipe.lr, betas=recipe.betas)
    samples = Samples(pictures, recipe, config_of(args), seed=0)
    criterion = Criterion(recipe, reconstruction_terms(recipe, torch.device(args.device)))
    half = recipe.precision is Precision.BF16
    for step in range(recipe.steps):
        batch = samples.batch(step * recipe.batch, recipe.batch)
        image, encoded, mask = (t.to(args.device) for t in (batch.image, batch.encoded, batch.mask))
        with torch.autocast(torch.device(args.device).type, dtype=torch.bfloat16, enabled=half):
            with torch.no_grad():
                posterior = vae.encode(encoded).latent_dist
                latent = sample_latent(posterior.mean, posterior.std, batch)
            output = vae.decode(latent, image=image, mask=mask).sample
        loss, _ = criterion.reconstruction(output.float(), image, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), recipe.clip)
        optimizer.step()
        yield


def run_one(args: argparse.Namespace) -> None:
    """In a process of its own: prints a JSON object."""
    changes: dict[str, Any] = {"recompute": "recompute" in args.loop}
    if "bf16" in args.loop:
        changes["precision"] = Precision.BF16
    recipe = recipe_of(args, **changes)
    pictures = Pictures.from_folder(args.data, crop=recipe.crop, crop_scale=recipe.crop_scale)
    warm_up, timed = WARM_UP, args.steps - WARM_UP
    if "cached" in args.loop:
        warm_up += math.ceil(len(pictures) / recipe.batch)
        recipe = dataclasses.replace(recipe, fixed_crops=1)
    recipe = dataclasses.replace(recipe, steps=warm_up + timed + 1)  # the last is not timed: it saves
    loop = theirs if args.loop.startswith("diffusers") else ours
    seconds = math.nan
    cuda = args.device.startswith("cuda")
    before = memory(cuda)
    with torch.random.fork_rng(devices=[]):
        clock = time.perf_counter if cuda else time.process_time
        start = clock()
        for step, _ in enumerate(loop(args, pictures, args.weights, recipe), 1):
            if step == warm_up:
                start = clock()
            if step == warm_up + timed:
                if cuda:
                    torch.cuda.synchronize()
                seconds = clock() - start
    rate = timed * args.batch / seconds
    print(json.dumps({"samples_per_second": rate, "peak_mib": memory(cuda) - before}))


def time_samples(args: argparse.Namespace) -> None:
    """Prints a table: crops with masks made by threads, as training asks for them, without a network."""
    recipe = recipe_of(args, harmonise=0.5)
    batches = max(2, SAMPLES // args.batch)
    print(
        f"batch {args.batch}, {args.crop}²\n\n| threads | first time, samples/s | in memory, samples/s |\n|---|---|---|"
    )
    for threads in range(1, (os.cpu_count() or 1) + 1):
        pictures = Pictures.from_folder(args.data, crop=recipe.crop, crop_scale=recipe.crop_scale)
        samples = Samples(pictures, recipe, config_of(args), seed=0)
        rates = []
        for _ in ("first time", "in memory"):
            numbers = ((number * args.batch, args.batch) for number in itertools.count())
            with Prefetched(samples, numbers, threads=threads) as made:
                start = time.perf_counter()
                for _ in range(batches):
                    next(made)
                rates.append(batches * args.batch / (time.perf_counter() - start))
        print(f"| {threads} | {rates[0]:.1f} | {rates[1]:.1f} |", flush=True)


def memory(cuda: bool) -> float:
    """MiB: the highest so far."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=32, help="of the finest level; 128 is Stable Diffusion's")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", action="store_true", help="time the making of samples alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.samples:
        time_samples(args)
        return
    if args.loop:
        run_one(args)
        return

    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        asymvq.save(
            asymvq.AsymmetricAutoencoder(config_of(args)), Path(folder) / "vae", layout="diffusers", latents="sd"
        )
        for name in LOOPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--loop", name, "--weights", folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[name] = json.loads(output.splitlines()[-1])
            for left in Path(folder).glob("trained*"):
                left.unlink() if left.is_file() else [*map(Path.unlink, left.iterdir()), left.rmdir()]
    reference = results["diffusers"]
    print(f"decoder {config_of(args).decoder_channels}, batch {args.batch}, {args.crop}², {args.device}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    print(
        "| loop | | samples/s | against diffusers | peak memory, MiB | against diffusers |\n|---|---|---|---|---|---|"
    )
    for name, result in results.items():
        speed, peak = result["samples_per_second"], result["peak_mib"]
        print(f"| {name} | {LOOPS[name]} | {speed:.2f} | {speed / reference['samples_per_second']:.2f} "
              f"| {peak:.0f} | {peak / reference['peak_mib']:.2f} |")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"settings": vars(args) | {"data": None}, "results": results}, default=str))


if __name__ == "__main__":
    main()
