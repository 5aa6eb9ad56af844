"""Trains the bundled demo VAE: a small symmetric VAE first, then a conditional decoder on its frozen encoder.

    python tools/train_demo.py vae --data PHOTOS --out vae.pt --minutes 45
    python tools/train_demo.py decoder --data PHOTOS --base vae.pt --out decoder.pt --minutes 60

    python tools/train_demo.py export --base decoder.pt --out asymvq/assets/demo.safetensors

The first two save their running average every minute; `--resume` goes on from the saved file.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import time
from pathlib import Path

import numpy as np
import torch

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig, ConditionConfig
from asymvq.training.copying import hold_to_code, start_with_copying
from asymvq.training.data import RandomCrops, random_masks
from asymvq.training.step import autoencoder_loss, decoder_loss

CHANNELS = (24, 48, 96, 96)
CONFIG = AutoencoderConfig(
    decoder_channels=CHANNELS, decoder_blocks=3, encoder_channels=CHANNELS, encoder_blocks=1,
    norm_groups=6, condition=None,
)  # fmt: skip


def build(args: argparse.Namespace) -> AsymmetricAutoencoder:
    torch.manual_seed(args.seed)
    if args.stage == "vae":
        vae = AsymmetricAutoencoder(CONFIG)
        start_with_copying(vae)
    else:
        vae = AsymmetricAutoencoder(dataclasses.replace(CONFIG, condition=ConditionConfig()))
        start_with_copying(vae)
        decoder = vae.decoder
        assert decoder.condition_encoder is not None
        # The copy of the kept pixels stays as it was written; training is spent on the generated ones.
        copying = [decoder.norm_out, decoder.conv_out, decoder.condition_encoder.layers[0]]
        for module in copying:
            module.requires_grad_(False)
        base = torch.load(args.base, weights_only=True)["average"]
        learned = {k: v for k, v in base.items() if not k.startswith(("decoder.norm_out.", "decoder.conv_out."))}
        vae.load_state_dict(learned, strict=False)
    if args.resume and args.out.exists():
        vae.load_state_dict(torch.load(args.out, weights_only=True)["weights"])
    return vae.to(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "decoder", "export"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--kept-weight", type=float, default=1.0)
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--photos", type=int, default=12, help="how many pictures of the folder to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.stage == "export":
        export(args.base, args.out)
    else:
        train(args)


def train(args: argparse.Namespace) -> None:
    vae = build(args)
    hold_to_code(vae)
    average = copy.deepcopy(vae)
    if args.resume and args.out.exists():
        average.load_state_dict(torch.load(args.out, weights_only=True)["average"])
        hold_to_code(average)
    trained = vae if args.stage == "vae" else vae.decoder
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=args.lr, betas=(0.9, 0.99))
    crops = RandomCrops(sorted(args.data.glob("*.png"))[: args.photos], size=args.crop)
    rng = np.random.default_rng(args.seed + int(args.resume) * 1000)

    started = saved = time.monotonic()
    logs: list[dict[str, float]] = []
    step = 0
    while (progress := (time.monotonic() - started) / 60 / args.minutes) < 1:
        warm_up = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        image = crops.batch(args.batch, rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.fp32):
            if args.stage == "vae":
                loss, log = autoencoder_loss(vae, image, kl_weight=1e-5)
            else:
                mask = random_masks(args.batch, args.crop, rng)
                mask[::2] = 1.0  # half of the samples without condition
                loss, log = decoder_loss(vae, image, mask, kept_weight=args.kept_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        hold_to_code(vae)
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.parameters(), vae.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        logs.append(log)
        step += 1
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            save(args.out, vae, average)
            means = {key: sum(entry[key] for entry in logs) / len(logs) for key in log}
            print(f"{progress:6.1%} step {step}", {k: round(v, 5) for k, v in means.items()}, flush=True)
            logs.clear()
    save(args.out, vae, average)


def export(trained: Path, out: Path) -> None:
    """Writes the running average of a trained decoder as a VAE that `asymvq.load` reads."""
    vae = AsymmetricAutoencoder(dataclasses.replace(CONFIG, condition=ConditionConfig()))
    vae.load_state_dict(torch.load(trained, weights_only=True)["average"])
    summary = {
        "modelspec.title": "Asymmetric VQGAN demo",
        "asymvq.training": "tools/train_demo.py, Kodak photos 1 to 12",
    }
    asymvq.save(vae, out, metadata=summary)


def save(path: Path, vae: AsymmetricAutoencoder, average: AsymmetricAutoencoder) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save({"weights": vae.state_dict(), "average": average.state_dict()}, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
