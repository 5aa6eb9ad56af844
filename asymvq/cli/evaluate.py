"""`evaluate`: decoders side by side on the user's pictures."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..autoencoder import AsymmetricAutoencoder
from ..colour import ShiftKind, random_shift
from ..crop import centre_crop
from ..evaluation import Result, contestants, evaluate, texts
from ..masks import random_thick_mask
from ..outputs import check_output, replacing
from ..panel import Decoded, draw_panel
from ..perceptual import FrechetDistance, UnavailableError, load_fid, load_lpips
from ..pictures import cover, read_mask, read_picture
from ..pictures.folders import is_picture_name
from ..pictures.opening import SUFFIXES
from .devices import load_vae, out_of_memory_says, parse_device
from .latents import read_latent
from .report import Measured, Report

DEMO_VAE = Path(__file__).resolve().parent.parent / "assets" / "demo.safetensors"
LATENT_SUFFIXES = (".latent", ".safetensors")
PAPER_SIZE = 224
AMPLIFY = 4
"""Less than elsewhere: errors inside the mask are shown too, and they are large."""
PAPER_NOTE = (
    "The paper's pictures are ImageNet's, and Stable Diffusion 1.5 drew what the masks hide. All columns compare where "
    "--latents holds such edits; without them the preservation error does."
)


@dataclass(frozen=True)
class Case:
    """One picture with one mask; tensors as `asymvq.evaluation.evaluate` takes them."""

    name: str
    number: int
    """Of the mask, from 0."""
    image: Tensor
    mask: Tensor
    encoded: Tensor
    latent: Tensor | None
    noise_mask: bool


def run(args: argparse.Namespace) -> None:
    if args.latents is not None and args.colour_shift:
        raise ValueError("Expected --latents or --colour-shift, which changes what is encoded, but got both.")
    paths = list_pictures(args.images)
    size = args.size or (PAPER_SIZE if args.paper else None)
    total = len(paths) * (1 if args.masks else args.masks_per_picture)
    _check_outputs(args, paths)
    device = parse_device(args.device)
    # channels last: a third faster on a CPU
    vaes = {
        name: load_vae(path, dtype=args.dtype, device=device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for name, path in name_files(args.vae or [DEMO_VAE]).items()
    }
    entrants = contestants(vaes)
    notes: list[str] = [PAPER_NOTE] if args.paper else []
    lpips = _metric(lambda: load_lpips(device), args.lpips, args.paper, notes)
    fids = _metric(lambda: _load_fids(len(entrants), total, device), args.fid, args.paper, notes) or []

    measured: list[Measured] = []
    for case in tqdm(_cases(args, paths, vaes, size), total=total, unit="mask", leave=False, disable=None):
        with out_of_memory_says("Evaluate smaller pictures: --size 512.", args.device):
            results = list(
                evaluate(
                    entrants, case.image, case.mask,
                    encoded=case.encoded, latent=case.latent, noise_mask=case.noise_mask, lpips=lpips,
                    round_trips=args.round_trips,
                )
            )  # fmt: skip
        for fid, result in zip(fids, results, strict=False):
            fid.add(result.picture, case.image)
        if case.number == 0:
            with replacing(args.out / f"{case.name}.png", overwrite=args.overwrite) as temporary:
                draw(case, results).save(temporary, format="PNG")
        measured.append(Measured(case.name, case.number, [{**r.measures, "seconds": r.seconds} for r in results]))

    report = Report(_settings(args, paths, size), entrants, measured, [fid.value() for fid in fids])
    with replacing(args.out / "report.json", overwrite=args.overwrite) as temporary:
        temporary.write_text(report.json(), encoding="utf-8")
    paper = f"\n## Beside the paper's\n\n{report.paper()}\n\n" + "\n\n".join(notes) + "\n" if args.paper else ""
    with replacing(args.out / "report.md", overwrite=args.overwrite) as temporary:
        temporary.write_text(report.markdown() + paper, encoding="utf-8")
    print("\n".join([report.text(), "", *report.headlines()]))
    if args.paper:
        print("\n".join(["", report.paper(), "", *notes]))
    print(f"\nWrote {args.out / 'report.md'}, {args.out / 'report.json'} and {len(paths)} pictures beside them")


def _check_outputs(args: argparse.Namespace, pictures: Sequence[Path]) -> None:
    inputs = [*pictures, *(args.vae or [])]
    inputs += [file for folder in (args.masks, args.latents) if folder is not None for file in folder.glob("*")]
    for name in ("report.json", "report.md", *(f"{path.stem}.png" for path in pictures)):
        check_output(args.out / name, overwrite=args.overwrite, inputs=inputs)


def list_pictures(paths: Sequence[Path]) -> list[Path]:
    """Picture files, and those in folders, sorted by name within each.

    Raises:
        ValueError: there is none, or two have the same name, under which their results would be written.
    """
    files = [
        file
        for path in paths
        for file in (sorted(filter(is_picture_name, path.iterdir())) if path.is_dir() else [path])
    ]
    if not files:
        raise ValueError(f"Expected pictures to evaluate on, but found none in {', '.join(map(str, paths))}.")
    if len({file.stem for file in files}) < len(files):
        raise ValueError("Expected pictures of different names, but got some name twice. Rename or leave out one.")
    return files


def name_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without the ending; by their folders' as well where that is ambiguous.

    Raises:
        ValueError: a file is given twice.
    """
    stems = [path.stem for path in paths]
    names = [s if stems.count(s) == 1 else f"{p.resolve().parent.name}/{s}" for s, p in zip(stems, paths, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected VAEs of different names, but got {', '.join(names)}. Rename a file or its folder.")
    return dict(zip(names, paths, strict=True))


def draw(case: Case, results: Sequence[Result]) -> Image.Image:
    """The picture, its mask, and every contestant's decode with its errors."""
    decodes: list[Decoded] = []
    for result in results:
        text = texts(result.measures)
        caption = f"error: kept {text['kept_error']}, border {text['border_error']}"
        decodes.append(Decoded(result.contestant.title, result.picture[0], caption, f"seam {text['seam_error']}"))
    return draw_panel(case.image[0], case.mask[0], decodes, truth=True, amplify=AMPLIFY)


def _cases(
    args: argparse.Namespace, paths: list[Path], vaes: Mapping[str, AsymmetricAutoencoder], size: int | None
) -> Iterator[Case]:
    factor = max(vae.config.factor for vae in vaes.values())
    seed = args.random_masks or 0
    kind = ShiftKind(args.shift_kind)
    masks_rng, colour_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def fit(tensor: Tensor) -> Tensor:
        return centre_crop(tensor if size is None else cover(tensor, (size, size)), factor)

    for path in paths:
        original = read_picture(path)
        image = fit(original)
        if args.masks is None:
            count = args.masks_per_picture
            masks = [random_thick_mask(image.shape[-2], image.shape[-1], masks_rng)[None] for _ in range(count)]
        else:
            mask = fit(_read_mask_of(path, args.masks, original))
            # resizing softens the edge, and the network is shown what is a little grey as edited
            masks = [mask if size is None else (mask > 0.5).float()]
        shift = random_shift((image.shape[-2], image.shape[-1]), args.colour_shift, colour_rng, varies=kind.varies)
        encoded = (image + shift).clamp(-1, 1)
        latent = None if args.latents is None else read_latent(_file_of(path, args.latents, LATENT_SUFFIXES))
        for number, mask in enumerate(masks):
            yield Case(path.stem, number, image, mask, encoded, latent, kind.masked)


def _read_mask_of(picture: Path, folder: Path, image: Tensor) -> Tensor:
    mask = read_mask(_file_of(picture, folder, SUFFIXES))
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"Expected a mask of {image.shape[-1]}×{image.shape[-2]}, the size of {picture}, but got "
            f"{mask.shape[-1]}×{mask.shape[-2]}. Resize it to the picture."
        )
    return mask


def _file_of(picture: Path, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """The file in `folder` that has the picture's name."""
    found = [file for file in sorted(folder.iterdir()) if file.stem == picture.stem and file.suffix.lower() in suffixes]
    if not found:
        raise ValueError(
            f"Expected a file for {picture.name} in {folder}, named {picture.stem} and ending in "
            f"{', '.join(suffixes)}, but got none."
        )
    return found[0]


MetricT = TypeVar("MetricT")


def _metric(load: Callable[[], MetricT], asked: bool, paper: bool, notes: list[str]) -> MetricT | None:
    """What `load` gives, if it is asked for; the paper's table does without what is not at hand, and says so."""
    if not (asked or paper):
        return None
    try:
        return load()
    except UnavailableError as error:
        if asked:
            raise
        notes.append(f"Left out: {error}")
        return None


def _load_fids(count: int, decodes: int, device: torch.device) -> list[FrechetDistance]:
    if decodes < 2:
        raise UnavailableError("Expected at least two pictures or masks for an FID, but got one.")
    return [load_fid(device) for _ in range(count)]


def _settings(args: argparse.Namespace, paths: Sequence[Path], size: int | None) -> dict[str, Any]:
    """What a report says of its making."""
    settings = {
        "pictures": len(paths),
        "masks": args.masks and str(args.masks),
        "random masks, seed": args.random_masks,
        "masks a picture": None if args.masks else args.masks_per_picture,
        "size": size,
        "latents": args.latents and str(args.latents),
        "colour shift, up to": args.colour_shift or None,
        "kind of the shift": args.shift_kind if args.colour_shift else None,
        "round trips": args.round_trips or None,
        "dtype": args.dtype,
        "device": args.device,
        "asymvq": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {name: value for name, value in settings.items() if value is not None}
