"""`convert`: a checkpoint in another layout or precision."""

from __future__ import annotations

import argparse

from ..checkpoint import build, read, save
from .devices import parse_dtype

REWRITTEN = {"format", "asymvq.format", "asymvq.config"}
"""Metadata that belongs to a file, not to its model; the rest goes along."""


def run(args: argparse.Namespace) -> None:
    checkpoint = read(args.input)
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in REWRITTEN}
    save(build(checkpoint), args.output, layout=args.layout, dtype=parse_dtype(args.dtype), metadata=metadata)
    print(f"Wrote {args.output} ({args.layout} layout, read as {checkpoint.layout.value})")
