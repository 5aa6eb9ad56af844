"""Trains the symmetric VAE that the bundled demo VAE's encoder and first decoder come from.

    python tools/train_demo.py --data PHOTOS --out vae.safetensors --minutes 45

It saves its running average every minute. The conditional decoder on its frozen encoder is then trained by
`python -m asymvq train --base vae.safetensors --set copying=true …`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import time
from pathlib import Path

import torch

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig
from asymvq.training.copying import hold_to_code, start_with_copying
from asymvq.training.data import Pictures, Samples
from asymvq.training.recipe import Recipe
from asymvq.training.step import autoencoder_loss

CHANNELS = (24, 48, 96, 96)
CONFIG = AutoencoderConfig(
    decoder_channels=CHANNELS, decoder_blocks=3, encoder_channels=CHANNELS, encoder_blocks=1,
    norm_groups=6, condition=None,
)  # fmt: skip
CROPS = Recipe(crop=96, crop_scale=(0.1875, 0.375), harmonise=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=CROPS.crop)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    vae = AsymmetricAutoencoder(CONFIG).to(memory_format=torch.channels_last)
    start_with_copying(vae)
    average = copy.deepcopy(vae)
    optimizer = torch.optim.Adam(vae.parameters(), lr=args.lr, betas=(0.9, 0.99))
    recipe = dataclasses.replace(CROPS, crop=args.crop)
    pictures = Pictures.from_folder(args.data, crop=recipe.crop, crop_scale=recipe.crop_scale)
    samples = Samples(pictures, recipe, CONFIG, seed=args.seed)

    started = saved = time.monotonic()
    losses: list[float] = []
    step = 0
    while (progress := (time.monotonic() - started) / 60 / args.minutes) < 1:
        warm_up = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        image = samples.batch(step * args.batch, args.batch).image.contiguous(memory_format=torch.channels_last)
        loss, log = autoencoder_loss(vae, image, kl_weight=1e-5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        hold_to_code(vae)
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.parameters(), vae.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        losses.append(log["l1"])
        step += 1
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            asymvq.save(average, args.out)
            print(f"{progress:6.1%} step {step} L1 {sum(losses) / len(losses):.5f}", flush=True)
            losses.clear()
    asymvq.save(average, args.out)


if __name__ == "__main__":
    main()
