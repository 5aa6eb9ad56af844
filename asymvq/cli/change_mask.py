"""`change-mask`: the mask of what an edit changed."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ..align import align
from ..change import change_mask
from ..decode import decode
from ..encode import encode
from ..outputs import check_output, replacing
from ..pictures import prepare_output, read_raster, to_pillow
from .devices import load_vae, parse_device


def run(args: argparse.Namespace) -> None:
    prepare_output(args.out, (".png",))
    check_output(args.out, overwrite=args.overwrite, inputs=(args.image, args.edited, args.vae, args.base_vae))
    vae = args.vae and load_vae(args.vae, dtype=None, device=parse_device(args.device), base=args.base_vae)

    def round_trip(picture: Tensor) -> Tensor:
        return decode(vae, encode(vae, picture)).clamp(-1, 1)

    image, edited = read_raster(args.image).image(), read_raster(args.edited).image()
    with torch.inference_mode():
        if args.align:
            aligned = align(edited, image)
            edited = aligned.picture
            if not aligned.sure.all():
                print("Where the edit lies is not certain: it was only scaled to the source's size.")
        mask = change_mask(
            edited, image, sensitivity=args.sensitivity, grow=args.grow, feather=args.feather,
            round_trip=round_trip if vae else None,
        )  # fmt: skip
    picture = to_pillow(mask[0].expand(3, -1, -1) * 2 - 1).convert("L")
    with replacing(args.out, overwrite=args.overwrite) as file:
        picture.save(file, "PNG")
    share = float((mask > 0.5).float().mean())
    print(f"{args.out}: {share:.1%} of the picture" if share else f"{args.out}: nothing changed, the mask is empty")
