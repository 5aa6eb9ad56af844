"""`convert`: a checkpoint in another layout or precision."""

from __future__ import annotations

import argparse
import dataclasses

from ..checkpoint import build, read, read_with_base, save, with_latents
from ..checkpoint.native import CONFIG_KEY, LATENTS_KEY
from ..checkpoint.writing import output_files
from ..config import Config, LatentSpace
from ..outputs import check_output
from .devices import parse_dtype

REWRITTEN = {"format", "asymvq.format", CONFIG_KEY, LATENTS_KEY}
"""Metadata that belongs to a file, not to its model; the rest goes along."""


def run(args: argparse.Namespace) -> None:
    inputs = [path for path in (args.input, args.base_vae) if path is not None]
    for path in output_files(args.output, args.layout):
        check_output(path, overwrite=args.overwrite, inputs=inputs)
    checkpoint = read(args.input)
    base = args.base_vae
    if base is not None and checkpoint.config.encoder_channels is None:
        checkpoint, base = read_with_base(args.input, base), None
    elif base is not None and args.layout == "native":
        raise ValueError(
            f"Expected --base-vae for a decoder without an encoder, but {args.input} has one. Leave it out."
        )
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in REWRITTEN}
    config = _with_said_latents(checkpoint.config, args)
    vae = build(dataclasses.replace(checkpoint, config=config))
    try:
        save(
            vae, args.output,
            layout=args.layout, dtype=parse_dtype(args.dtype), metadata=metadata, overwrite=args.overwrite, base=base,
        )  # fmt: skip
    except ValueError as error:
        if config.latents is None and "scaling factor" in str(error):
            raise ValueError(f"{error} Use --latents or --scaling-factor.") from error
        raise
    print(
        f"Wrote {args.output} ({args.layout} layout, read as {checkpoint.layout.value}; {describe(config.latents)}"
        f"{_said_otherwise(checkpoint.config.latents, config.latents)})"
    )


def describe(latents: LatentSpace | None) -> str:
    """In a few words, for people."""
    if latents is None:
        return "scaling factor not known"
    shift = "" if latents.shift_factor is None else f", shift factor {latents.shift_factor:g}"
    return f"scaling factor {latents.scaling_factor:g}{shift}"


def _said_otherwise(file: LatentSpace | None, written: LatentSpace | None) -> str:
    return "" if file is None or file == written else f", where the file said {describe(file)}"


def _with_said_latents(config: Config, args: argparse.Namespace) -> Config:
    """`config` with what the command line says; the rest as the file does."""
    config = with_latents(config, args.latents)
    scaling, shift = args.scaling_factor, args.shift_factor
    if scaling is None and shift is None:
        return config
    if scaling is None and config.latents is None:
        raise ValueError("Expected --scaling-factor with --shift-factor, but got the shift alone. Say both.")
    given = {name: v for name, v in (("scaling_factor", scaling), ("shift_factor", shift)) if v is not None}
    known = {} if config.latents is None else config.latents.to_dict()
    return config.replaced(latents=LatentSpace.from_dict(known | given))
