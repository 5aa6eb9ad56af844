"""Pictures to training samples. A sample is a function of the seed and its number alone, so that a run that goes on
after a stop, or on other devices, sees what it would have seen.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..masks import random_thick_mask
from ..pictures import PictureError, open_picture, read_raster
from ..pictures.folders import pictures_in
from ..pictures.opening import SUFFIXES
from .harmonise import ColourShift, Drift
from .recipe import Recipe
from .state import STATE_SUFFIX

logger = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30
HASHED_BYTES = 1 << 16
"""Of a large file's beginning, middle and end: enough to tell that its content is another."""
NAMED = 5
"""How many skipped files are named in one line of the log."""


class Pictures:
    """Training pictures, read when they are first needed.

    They are kept in memory (up to 2 GiB), no larger than the crops need.

    Args:
        sources: files, or tensors (3, H, W) uint8.
        crop: side of the training crops, pixels: what is smaller is left out, and named in the log.
        crop_scale: as `Recipe.crop_scale`.

    Raises:
        ValueError: nothing is left to train on.
    """

    def __init__(self, sources: Sequence[Path | Tensor], *, crop: int, crop_scale: tuple[float, float]):
        self.largest_side = max(crop, round(crop / crop_scale[0]))
        """What a picture's short side is reduced to: its smallest crops then have `crop` pixels a side."""
        self.sources: list[Path | Tensor] = []
        skipped: list[str] = []
        for number, source in enumerate(sources):
            reason = _unfit(source, crop)
            if reason is None:
                self.sources.append(source)
            else:
                skipped.append(f"{source if isinstance(source, Path) else f'picture {number}'} ({reason})")
        self.skipped = skipped
        if skipped:
            more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
            logger.warning("Skipped %d pictures: %s%s.", len(skipped), ", ".join(skipped[:NAMED]), more)
        if not self.sources:
            raise ValueError(
                f"Expected pictures of at least {crop} pixels a side to train on, but got {len(sources)} of which none "
                "can be used. Choose a folder with larger pictures, or train on smaller crops."
            )
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()  # several threads make samples

    @classmethod
    def from_folder(cls, folder: Path, *, crop: int, crop_scale: tuple[float, float]) -> Pictures:
        """Every picture file below `folder`, except in folders of training runs, which hold previews, and hidden ones.

        Raises:
            ValueError: there is no such folder, too much in it, or nothing to train on.
        """
        files = pictures_in(folder, skip=lambda name: name.endswith(STATE_SUFFIX))
        if not files:
            raise ValueError(f"Expected pictures ({', '.join(SUFFIXES)}) in {folder} or below, but found none.")
        return cls(files, crop=crop, crop_scale=crop_scale)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> Tensor:
        """(3, H, W) uint8. A file that turns out to be broken is replaced by the next that is not."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        for other in range(len(self)):
            source = self.sources[(number + other) % len(self)]
            try:
                picture = source if isinstance(source, Tensor) else _read(source)
            except (ValueError, OSError) as error:
                logger.warning("Skipped a picture: %s", error)
                self.skipped.append(f"{source} (unreadable)")
                continue
            return self._remember(number, _reduced(picture, self.largest_side))
        raise ValueError(f"Expected pictures to train on, but none of {len(self)} files can be read.")

    def split(self, share: float) -> tuple[Pictures, Pictures | None]:
        """All but a share of them, and that share, rounded down: the same for the same pictures. None where it is
        empty."""
        count = int(share * len(self))
        if not count:
            return self, None
        chosen = set(np.random.default_rng([len(self), 4]).permutation(len(self))[:count].tolist())
        parts = [[s for i, s in enumerate(self.sources) if (i in chosen) is held] for held in (False, True)]
        rest, held_out = (copy.copy(self) for _ in parts)
        for part, sources in zip((rest, held_out), parts, strict=True):
            part.sources, part._cache, part._cached_bytes, part._lock = sources, OrderedDict(), 0, threading.Lock()
        return rest, held_out

    def digest(self) -> str:
        """Tells other pictures apart by their content and order, not by their names. Of large files it reads parts."""
        digest = hashlib.sha256()
        for source in self.sources:
            if isinstance(source, Tensor):
                digest.update(f"{tuple(source.shape)}".encode() + source.contiguous().numpy().tobytes())
            else:
                digest.update(_content(source))
        return digest.hexdigest()

    def _remember(self, number: int, picture: Tensor) -> Tensor:
        with self._lock:
            if number in self._cache:
                return self._cache[number]
            self._cache[number] = picture
            self._cached_bytes += picture.numel()
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].numel()
        return picture


@dataclass(frozen=True)
class Batch:
    """Samples on the CPU, float32."""

    image: Tensor
    """(B, 3, S, S) in [-1, 1]: the target, and where the kept pixels come from."""
    encoded: Tensor
    """(B, 3, S, S): what the latent is made of, `image` or a drifting copy."""
    mask: Tensor
    """(B, 1, S, S) of 0 and 1; all ones where a sample has no condition."""
    noise: Tensor
    """(B, C, s, s) standard normal, for the sample of the posterior."""
    extra_noise: Tensor
    """(B, C, s, s) normal, in units of each latent's own deviation; 0 where nothing was shifted."""
    inside: Tensor
    """(B, 1, 1, 1) bool: whether latent cells that the mask does not touch are those of `source`."""
    source: Tensor
    """(B, 3, S, S): the picture that was edited, `image` but where the edit shows another."""
    harmonised: Tensor
    """(B, 1, 1, 1) bool: whether the losses see the harmonised output."""
    crops: tuple[int, ...] | None
    """Numbers of the fixed crops, where there are any."""


class Samples:
    """Numbered training samples.

    Args:
        config: of the VAE, for the latent's shape.
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, config: Config, *, seed: int):
        if recipe.crop % config.factor:
            raise ValueError(f"Expected a crop that is a multiple of {config.factor}, but got {recipe.crop}.")
        self.pictures, self.recipe, self.seed = pictures, recipe, seed
        side = recipe.crop // config.factor
        self.latent_shape = (config.latent_channels, side, side)

    def batch(self, first: int, count: int) -> Batch:
        """Samples `first` to `first + count - 1`."""
        return self.collate(first, [self.sample(number) for number in range(first, first + count)])

    def collate(self, first: int, rows: Sequence[tuple[Tensor, ...]]) -> Batch:
        """A batch of what `sample` gives for consecutive numbers from `first` on."""
        count = len(rows)
        fixed = self.recipe.fixed_crops
        crops = tuple(number % fixed for number in range(first, first + count)) if fixed else None
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)), crops=crops)

    def preview(self, seed: int) -> Tensor:
        """(3, S, S) in [-1, 1]: a crop that no step's number stands for."""
        return self._crop(0, np.random.default_rng([seed, 3]))

    def sample(self, number: int) -> tuple[Tensor, ...]:
        """One row of a batch: image, encoded, mask, noise, extra noise, inside, source, harmonised. Threads may call
        it."""
        recipe, side = self.recipe, self.recipe.crop
        crop_number = number % recipe.fixed_crops if recipe.fixed_crops else number
        crop_rng = np.random.default_rng([self.seed, 0, crop_number])
        image = self._crop(self._shuffled(crop_number), crop_rng)
        shift, shifted = ColourShift.random(crop_rng), crop_rng.random() < recipe.harmonise
        drift = Drift.random(crop_rng, shift, varying=recipe.varying, softened=recipe.softened)
        inside = crop_rng.random() < recipe.inside

        rng = np.random.default_rng([self.seed, 1, number])
        noise, extra_noise = torch.from_numpy(rng.standard_normal((2, *self.latent_shape), dtype=np.float32))
        conditioned = rng.random() >= recipe.unconditioned
        mask = random_thick_mask(side, side, rng, scale=recipe.mask_scale) if conditioned else torch.ones(1, side, side)
        # without kept pixels nothing tells what the true colours are
        shifted = shifted and (conditioned or recipe.fixed_crops > 0)
        encoded = drift(image) if shifted else image
        target = image if conditioned else encoded
        shows_other, harmonised = rng.random(size=2) < (recipe.other, recipe.through_harmonise)
        shows_other = bool(shows_other) and conditioned and not recipe.fixed_crops
        if shows_other:
            other = self._crop(int(rng.integers(len(self.pictures))), rng)
            target, encoded = torch.where(mask > 0, other, image), drift(other) if shifted else other
        flags = (shows_other or (inside and shifted and conditioned), bool(harmonised) and conditioned)
        only_inside, seen_harmonised = (torch.tensor(flag).view(1, 1, 1) for flag in flags)
        extra_noise *= recipe.latent_noise * shifted
        return target, encoded, mask, noise, extra_noise, only_inside, image, seen_harmonised

    def _shuffled(self, number: int) -> int:
        """Every picture once, then all again in another order."""
        epoch, position = divmod(number, len(self.pictures))
        return int(np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.pictures))[position])

    def _crop(self, picture_number: int, rng: np.random.Generator) -> Tensor:
        picture, size = self.pictures[picture_number], self.recipe.crop
        _, height, width = picture.shape
        side = max(1, round(min(height, width) * rng.uniform(*self.recipe.crop_scale)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        mirrored = rng.random() < 0.5
        crop = picture[:, top : top + side, left : left + side].float().div(127.5).sub(1)
        if side != size:
            # as area resizing where it reduces, smooth where it enlarges
            crop = F.interpolate(crop[None], size=(size, size), mode="bicubic", antialias=True)[0].clamp(-1, 1)
        if self.recipe.recoloured and rng.random() < self.recipe.recoloured:
            crop = recoloured(crop, rng)
        if self.recipe.turned and rng.random() < self.recipe.turned:
            crop = crop.rot90(int(rng.integers(1, 4)), (-2, -1))
        return crop.flip(-1) if mirrored else crop


def recoloured(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, H, W) in [-1, 1] with its channels in another order and each one's own gamma, from 2/3 to 3/2."""
    gamma = torch.from_numpy(1.5 ** rng.uniform(-1, 1, size=(3, 1, 1))).to(picture)
    light = (picture[rng.permutation(3)] + 1) / 2
    return 2 * light**gamma - 1


def _unfit(source: Path | Tensor, crop: int) -> str | None:
    """Why a picture cannot be used, as far as its header tells."""
    if isinstance(source, Tensor):
        height, width = source.shape[1:]
    else:
        try:
            with open_picture(source) as picture:
                width, height = picture.size
        except PictureError as error:
            return error.reason
        except (OSError, ValueError) as error:
            return f"unreadable: {error.strerror if isinstance(error, OSError) else 'no regular file'}"
    return f"{width}×{height}: too small" if min(height, width) < crop else None


def _content(path: Path) -> bytes:
    """Of a file: all of it, or its size with three parts. Empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            parts = [f"{size} ".encode()]
            starts = (0, (size - HASHED_BYTES) // 2, size - HASHED_BYTES)
            for start in starts if size > HASHED_BYTES else starts[:1]:
                file.seek(start)
                parts.append(file.read(HASHED_BYTES))
            return b"".join(parts)
    except OSError:
        return b""


def _read(path: Path) -> Tensor:
    raster = read_raster(path)
    raster.warn(path)
    return raster.bytes()


def _reduced(picture: Tensor, largest_side: int) -> Tensor:
    _, height, width = picture.shape
    scale = largest_side / min(height, width)
    if scale >= 1:
        return picture
    size = (max(largest_side, round(height * scale)), max(largest_side, round(width * scale)))
    # a channel at a time: beside a large picture there is no second one in floats
    return torch.stack(
        [F.interpolate(c[None, None].float(), size=size, mode="area")[0, 0].round().byte() for c in picture]
    )
