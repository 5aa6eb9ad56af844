"""`harmonise`: an edited picture into its source."""

from __future__ import annotations

import argparse

import torch

from ..compose import paste
from ..outputs import check_output
from ..pictures import prepare_output, read_mask, read_raster, write_picture


def run(args: argparse.Namespace) -> None:
    prepare_output(args.out, (".png",))
    check_output(args.out, overwrite=args.overwrite, inputs=(args.image, args.edited, args.mask))
    source, edited = read_raster(args.image), read_raster(args.edited)
    lost = [] if edited.bits <= source.bits else [f"its {edited.bits} bits are rounded to the source's {source.bits}"]
    source.warn(args.image, *source.metadata.lost)
    edited.warn(args.edited, *lost)
    image, picture, mask = source.image(), edited.image(), read_mask(args.mask)
    if picture.shape != image.shape:
        sizes = [f"{tensor.shape[-1]}×{tensor.shape[-2]}" for tensor in (picture, image)]
        raise ValueError(
            f"Expected an edited picture of the source's size, but got {sizes[0]} for a source of {sizes[1]} pixels "
            "(width×height). Scale it to the source, or align it (asymvq.align)."
        )
    with torch.inference_mode():
        result = paste(picture, image=image, mask=mask, harmonise=args.strength)[0]
    write_picture(args.out, result, source=source, mask=mask[0], overwrite=args.overwrite)
    print(f"{args.out}: {result.shape[-1]}×{result.shape[-2]}")
