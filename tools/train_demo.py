"""Trains the symmetric VAE that the bundled demo VAE's encoder and first decoder come from.

    python tools/train_demo.py --base EARLIER --data PHOTOS --validate OTHERS --out vae.safetensors --minutes 75

It starts as an earlier VAE without its condition, or from random weights.

Every minute it saves its running average, and beside it (`vae.state`) all that a later run with `--resume` needs to go
on. Minutes are of CPU time, over all runs. The decoder that is shown kept pixels is then trained on the frozen encoder
by `python -m asymvq train --base vae.safetensors …`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.losses import structure_loss
from asymvq.pictures import read_raster
from asymvq.training.data import Pictures, Samples
from asymvq.training.recipe import Recipe

CHANNELS = (24, 48, 96, 96)
CONFIG = AutoencoderConfig(
    decoder_channels=CHANNELS, decoder_blocks=3, encoder_channels=CHANNELS, encoder_blocks=1,
    norm_groups=6, condition=None,
)  # fmt: skip
SHORT_SIDES = (256, 512)
"""Crops are seen as in pictures of these short sides, pixels."""
FLAT = 0.06
"""Standard deviation of a crop below which three of four are left out: there is little to learn from sky."""
L2, SSIM, KL = 2.0, 0.1, 1e-5
"""Weights beside that of L1, 1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a VAE of this shape to start from")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validate", type=Path, help="folder of pictures to measure the plain decode on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    vae = AsymmetricAutoencoder(CONFIG)
    if args.base is not None:
        weights = asymvq.load(args.base, dtype=torch.float32).state_dict()
        condition = "decoder.condition_encoder."
        vae.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith(condition)})
    vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] torch's stubs lack it
    average = copy.deepcopy(vae)
    optimizer = torch.optim.Adam(vae.parameters(), lr=args.lr, betas=(0.9, 0.99))
    state = args.out.with_suffix(".state")
    step, sample, minutes = 0, 0, 0.0
    if args.resume:
        saved = torch.load(state, weights_only=True)
        vae.load_state_dict(saved["vae"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, sample, minutes = saved["step"], saved["sample"], saved["minutes"]
        torch.manual_seed(args.seed + step)
    recipe = dataclasses.replace(
        Recipe(), crop=args.crop, crop_scale=(args.crop / SHORT_SIDES[1], args.crop / SHORT_SIDES[0]),
        harmonise=0.0, unconditioned=1.0,
    )  # fmt: skip
    pictures = Pictures.from_folder(args.data, crop=recipe.crop, crop_scale=recipe.crop_scale)
    samples = Samples(pictures, recipe, CONFIG, seed=args.seed)
    validation = _squares(args.validate) if args.validate else None

    def save() -> None:
        asymvq.save(average, args.out)
        whole = {
            "vae": vae.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
            "step": step, "sample": sample, "minutes": minutes,
        }  # fmt: skip
        torch.save(whole, f"{state}.new")
        os.replace(f"{state}.new", state)

    clock, saves = time.process_time(), int(minutes)
    losses: list[float] = []
    averages, weights = (list[Tensor](module.parameters()) for module in (average, vae))
    if validation is not None:
        print(f"validation {_psnr(average, validation):.3f} dB", flush=True)
    while (progress := minutes / args.minutes) < 1:
        for group in optimizer.param_groups:
            warm_up = min(1.0, (step + 1) / 200)
            group["lr"] = args.lr * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        image, sample = _batch(samples, sample, args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            mean, deviation = vae.posterior(image)
            output = vae.decode(mean + deviation * torch.randn_like(mean)).float()
        variance = deviation.float().square()
        kl = 0.5 * (mean.float().square() + variance - 1 - variance.log()).mean()
        l1 = (output - image).abs().mean()
        loss = l1 + L2 * F.mse_loss(output, image) + SSIM * structure_loss(output, image)[0] + KL * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        get_ema_multi_avg_fn(min(0.999, (step + 1) / (step + 10)))(averages, weights, step)
        losses.append(l1.item())
        step += 1
        minutes += (time.process_time() - clock) / 60
        clock = time.process_time()
        if minutes >= saves + 1:
            saves = int(minutes)
            save()
            line = f"{minutes:6.1f} min step {step} L1 {sum(losses) / len(losses):.5f} KL {kl.item():.2f}"
            if validation is not None and saves % 5 == 0:
                line += f" validation {_psnr(average, validation):.3f} dB"
            print(line, flush=True)
            losses.clear()
    save()


def _batch(samples: Samples, first: int, count: int) -> tuple[Tensor, int]:
    """(count, 3, S, S) and the number of the next sample."""
    crops: list[Tensor] = []
    while len(crops) < count:
        crop = samples.sample(first)[0]
        if first % 4 == 0 or crop.std() > FLAT:
            crops.append(crop)
        first += 1
    return torch.stack(crops).contiguous(memory_format=torch.channels_last), first


def _squares(folder: Path, side: int = 256) -> Tensor:
    """(B, 3, side, side) in [-1, 1]: the middle of every picture."""
    squares: list[Tensor] = []
    for path in sorted(folder.iterdir()):
        picture = read_raster(path).bytes().float().div(127.5).sub(1)
        height, width = picture.shape[1:]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = picture[None, :, top : top + short, left : left + short]
        squares.append(F.interpolate(square, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1))
    return torch.cat(squares)


@torch.no_grad()
def _psnr(vae: AsymmetricAutoencoder, images: Tensor) -> float:
    """Of the plain decode, dB, from the mean squared error over all pictures."""
    errors = [F.mse_loss(vae.decode(vae.encode(image[None])).clamp(-1, 1), image[None]) for image in images]
    return 10 * math.log10(4 / torch.stack(errors).mean().item())


if __name__ == "__main__":
    main()
