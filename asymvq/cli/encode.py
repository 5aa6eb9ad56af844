"""`encode`: picture to latent."""

from __future__ import annotations

import argparse

import torch
from tqdm import tqdm

from ..crop import centre_crop
from ..encode import encode
from ..outputs import check_output
from ..pictures import prepare_output, read_picture
from .devices import load_vae, out_of_memory_says, parse_device
from .latents import write_latent


def run(args: argparse.Namespace) -> None:
    prepare_output(args.out, (".latent", ".safetensors"))
    check_output(args.out, overwrite=args.overwrite, inputs=(args.vae, args.base_vae, args.image))
    image = read_picture(args.image)
    vae = load_vae(args.vae, dtype=args.dtype, device=parse_device(args.device), base=args.base_vae)
    advice = "Tiles of 256 pixels do not fit either: close other programs, or choose another --device or --dtype."
    with tqdm(unit="tile", leave=False, disable=None) as bar:

        def progress(done: float, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with out_of_memory_says(advice, args.device), torch.inference_mode():
            latent = encode(
                vae, centre_crop(image, vae.factor), tile=args.tile, overlap=args.overlap, progress=progress
            )
    write_latent(args.out, latent, overwrite=args.overwrite)
    print(f"{args.out}: latent of shape {tuple(latent.shape)}")
