"""`train`: a conditional decoder for a VAE, from a folder of pictures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoint import load
from ..config import ConditionKind
from ..grow import grown_config
from ..outputs import check_output, replacing
from ..training.data import Pictures
from ..training.distributed import Processes, joined
from ..training.loop import Report, Training, TrainingError
from ..training.preview import Preview
from ..training.recipe import RECIPES, Precision, Recipe, parse_setting
from ..training.signals import stopping
from ..training.start import condition_to_train, needs_pictures
from ..training.state import state_folder
from . import PROG, Interrupted
from .devices import parse_device

PREVIEWS = 50
"""Pictures drawn in the course of a run."""
TOGETHER = 3.0
"""Seconds in which a signal comes from the terminal and from torchrun too."""


def run(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = _recipe(args)
    device = parse_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.out.suffix.lower() != ".safetensors":
        raise ValueError(f"Expected --out to end in .safetensors, but got {args.out}.")
    # whether an existing file is this run's is seen later; a name that cannot be written is seen at once
    check_output(args.out, overwrite=True, inputs=(args.base,))
    vae = load(args.base, dtype=torch.float32)
    folder = state_folder(args.out) if args.resume else None
    kind = None if args.condition is None else ConditionKind(args.condition)
    condition = condition_to_train(
        vae.config, recipe,
        kind=kind, width=args.condition_width, fades=args.condition_fades, fits=args.condition_fits,
        folder=folder,
    )  # fmt: skip
    config = grown_config(vae.config, args.preset, condition=condition)
    pictures = None
    if recipe.steps or needs_pictures(vae, config, recipe):
        if args.data is None:
            why = "to train on" if recipe.steps else "to match the norms of a fractional width"
            raise ValueError(f"Expected --data, a folder of pictures {why}, but got none. Give one.")
        pictures = Pictures.from_folder(args.data, crop=recipe.crop, crop_scale=recipe.crop_scale)
    held_out = None
    if args.held_out is not None:
        held_out = Pictures.from_folder(args.held_out, crop=recipe.crop, crop_scale=recipe.crop_scale)
    with joined(device) as (processes, own_device):
        training = Training(
            vae, config, pictures, recipe,
            out=args.out, seed=args.seed, resume=args.resume, overwrite=args.overwrite, device=own_device,
            held_out=held_out, processes=processes, save_seconds=60 * args.save_minutes, save_steps=args.save_steps,
        )  # fmt: skip
        if processes.first and pictures is not None:
            count = sum(p.numel() for p in training.parameters)
            how = f"{condition.kind.value} condition"
            print(f"{len(pictures)} pictures, {count / 1e6:.1f} M parameters, {how}, {own_device}, from {args.base}")
        with _log(args.log_dir if processes.first else None) as log:
            try:
                stopped = _train(training, processes, log)
            except TrainingError as error:
                raise ValueError(str(error)) from error
        if processes.first:
            best = training.best.step
            of = "" if best in (None, training.step) else f"; the weights of step {best} did best on held-out pictures"
            print(f"Wrote {args.out} (step {training.step} of {recipe.steps}{of})")
        if stopped and processes.first:
            raise Interrupted(f"stopped and saved; go on with: {_resume_command()}")


def _recipe(args: argparse.Namespace) -> Recipe:
    changes: dict[str, Any] = {name: getattr(args, name) for name in ("steps", "batch", "crop")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if args.dtype:
        changes["precision"] = Precision(args.dtype)
    for setting in args.set:
        changes.update(parse_setting(setting))
    return dataclasses.replace(RECIPES[args.recipe], **changes)


def _train(training: Training, processes: Processes, log: Callable[[Training, Report, Preview], None]) -> bool:
    """Runs to the end, or until a signal stops it. Returns whether one did."""
    if training.recipe.steps == 0:
        with contextlib.closing(training):
            training.save()
        return False
    preview = Preview(training)
    every = max(1, training.recipe.steps // PREVIEWS)
    with (
        stopping(training.stop, together=TOGETHER if processes.count > 1 else 0.0),
        contextlib.closing(iter(training)) as reports,
        tqdm(total=training.recipe.steps, initial=training.step, disable=not processes.first) as bar,
    ):
        try:
            for report in reports:
                bar.update()
                bar.set_postfix_str(f"loss {report.loss:.4g}, {report.samples_per_second:.3g} pictures/s")
                if processes.first and (report.step % every == 0 or report.saved):
                    with replacing(training.folder / "preview.png") as temporary:
                        preview.draw().save(temporary, format="PNG")
                log(training, report, preview)
        except KeyboardInterrupt:
            return True  # a second signal did not wait for the step; what was reached is saved as the block is left
    return not training.finished


@contextlib.contextmanager
def _log(folder: Path | None) -> Iterator[Callable[[Training, Report, Preview], None]]:
    """Writes reports for TensorBoard."""
    if folder is None:
        yield lambda training, report, preview: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"Expected TensorBoard for --log-dir, but got: {error}. Run: pip install tensorboard"
        ) from error
    from torchvision.transforms.functional import pil_to_tensor

    with SummaryWriter(folder) as writer:

        def write(training: Training, report: Report, preview: Preview) -> None:
            figures = {"loss": report.loss, **report.figures}
            for name, value in figures.items():
                writer.add_scalar(f"loss/{name}", value, report.step)
            writer.add_scalar("lr", report.lr, report.step)
            writer.add_scalar("pictures per second", report.samples_per_second, report.step)
            if report.step % max(1, report.steps // PREVIEWS) == 0:
                writer.add_image("preview", pil_to_tensor(preview.row()), report.step)

        yield write


def _resume_command() -> str:
    words = sys.argv[1:] if "--resume" in sys.argv else [*sys.argv[1:], "--resume"]
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")  # of torchrun
    program = PROG if count == "1" else f"torchrun --nproc_per_node {count} {PROG.removeprefix('python ')}"
    return f"{program} {shlex.join(words)}"
