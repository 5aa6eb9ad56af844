"""`decode`: latent to picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from ..decode import decode
from ..outputs import check_output
from ..pictures import prepare_output, read_mask, read_raster, write_picture
from .devices import load_vae, out_of_memory_says, parse_device
from .latents import read_latent

SHARE_OF_WORK = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
"""A progress bar without counts."""


def run(args: argparse.Namespace) -> None:
    prepare_output(args.out, (".png",))
    latent = read_latent(args.latent)
    for path in _paths(args.out, latent.shape[0] if latent.ndim == 4 else 1):
        check_output(
            path, overwrite=args.overwrite, inputs=(args.latent, args.vae, args.base_vae, args.image, args.mask)
        )
    source = None if args.image is None else read_raster(args.image)
    if source is not None:
        source.warn(args.image, *source.metadata.lost)
    image = None if source is None else source.image()
    mask = None if args.mask is None else read_mask(args.mask)
    vae = load_vae(args.vae, dtype=args.dtype, device=parse_device(args.device), base=args.base_vae)
    with tqdm(bar_format=SHARE_OF_WORK, leave=False, disable=None) as bar:

        def progress(done: float, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        advice = "Tiles of 128 pixels do not fit either: close other programs, or choose another --device or --dtype."
        with out_of_memory_says(advice, args.device), torch.inference_mode():
            pictures = decode(
                vae, latent, image=image, mask=mask,
                tile=args.tile, overlap=args.overlap, keep=args.keep, harmonise=args.harmonise,
                noise_mask=args.noise_mask, progress=progress, frames=latent.shape[0] if args.video else 1,
            )  # fmt: skip
    for path, picture in zip(_paths(args.out, len(pictures)), pictures, strict=True):
        write_picture(path, picture, source=source, mask=None if mask is None else mask[0], overwrite=args.overwrite)
        print(f"{path}: {picture.shape[-1]}×{picture.shape[-2]}")


def _paths(out: Path, count: int) -> list[Path]:
    """`out` itself for one picture; for a batch out_00001.png, out_00002.png, …"""
    if count == 1:
        return [out]
    return [out.with_stem(f"{out.stem}_{number:05}") for number in range(1, count + 1)]
