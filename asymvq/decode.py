"""Decoding a latent together with its source picture and mask: whole or in tiles, keeping the source's pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from . import lean
from .autoencoder import AsymmetricAutoencoder, check_decode_arguments
from .config import AutoencoderConfig, MaskReduction
from .decoder import reduce_mask
from .tiles import Plan, Tile, feather, plan_full, plan_masked

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (done, total) after each piece of work. What it raises ends the decode."""


class Keep(str, Enum):
    """What becomes of the pixels that the mask keeps."""

    EXACT = "exact"
    """The source's values, bit for bit; where the mask is soft, it is the alpha."""
    NETWORK = "network"
    """What the decoder makes of them: the paper's output."""


class Region(str, Enum):
    """What is decoded of a picture with a mask."""

    AUTO = "auto"
    """MASKED where that is less to decode."""
    MASKED = "masked"
    """Only tiles that touch the mask, with context around them; the rest is the source."""
    FULL = "full"
    """All of it."""


CONTEXT = 48
"""Pixels around the mask that a mask-local decode is shown."""
AUTO_SHARE = 0.8
"""Of the full decode's area: what a mask-local one may take at most to be chosen."""


def decode(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    *,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    region: Region | str = Region.AUTO,
    tile: int | None = None,
    overlap: int | None = None,
    keep: Keep | str = Keep.EXACT,
    batch: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """A picture of the size of `image`, or of the latent times the factor where there is none.

    Args:
        vae: with a condition, if image and mask are given.
        latent: (B, C, h, w), unscaled.
        image: (B or 1, 3, H, W) in [-1, 1], the source. Its sides may exceed the latent's by less than the factor:
            the border that an encoder crops off centrally is put back.
        mask: (B or 1, 1, H, W) in [0, 1] or bool, 1 = edited. The network is shown mask > 0; softness is for the last
            blend.
        region: "full" decodes everything, "masked" only what the mask touches and its surroundings, "auto" what is
            less. The cost of "masked" follows the mask's area.
        tile: longest side of a tile in pixels; None sets no limit.
        overlap: what neighbouring tiles share, in pixels; a quarter of the tile by default.
        keep: "exact" or "network".
        batch: pictures, or tiles of one size, that go through the network at once.
        progress: called after each of them.

    Returns:
        (B, 3, H, W) float32 in about [-1, 1] (source pixels are returned as they came).

    Raises:
        ValueError: shapes or counts that do not fit, one of image and mask alone, a VAE without a condition, an
            unknown `keep` or `region`, or numbers that are not finite.
    """
    keep, region = _choice(Keep, keep, "keep"), _choice(Region, region, "region")
    source = fit_source(vae.config, latent, image=image, mask=mask)
    if source is not None and keep is Keep.EXACT and source.unedited():
        return source.image.expand(latent.shape[0], -1, -1, -1).float().clone()
    plan = make_plan(vae.config, latent, source, region=region, tile=tile, overlap=overlap)
    decoded = decode_network(vae, latent, source, plan, batch=batch, progress=progress)
    return decoded if source is None else compose(decoded, source, keep, in_place=True)


ChoiceT = TypeVar("ChoiceT", bound=Enum)


def _choice(kind: type[ChoiceT], value: ChoiceT | str, name: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError:
        options = " or ".join(repr(option.value) for option in kind)
        raise ValueError(f"Expected {name} to be {options}, but got {value!r}.") from None


@dataclass(frozen=True)
class Source:
    """A source picture and its mask, matched to a latent.

    image (B or 1, 3, H, W) and mask (B or 1, 1, H, W) are as they came; `window` is (top, left, height, width) of the
    part that the latent covers.
    """

    image: Tensor
    mask: Tensor
    window: tuple[int, int, int, int]

    def crop(self, tensor: Tensor) -> Tensor:
        top, left, height, width = self.window
        return tensor[..., top : top + height, left : left + width]

    def unedited(self) -> bool:
        """Whether the mask keeps every pixel, so that there is nothing to decode. Says so in the log."""
        empty = not self.mask.any()
        if empty:
            logger.warning("The mask is empty: nothing is edited, and the source is returned as it is.")
        return empty

    def slice(self, start: int, stop: int) -> Source:
        """Pictures `start` to `stop`; one that serves a whole batch stays one."""
        image, mask = (t if t.shape[0] == 1 else t[start:stop] for t in (self.image, self.mask))
        return Source(image, mask, self.window)


def fit_source(
    config: AutoencoderConfig, latent: Tensor, *, image: Tensor | None, mask: Tensor | None
) -> Source | None:
    """Matches image and mask to a latent; None where neither is given. Arguments and errors as `decode`."""
    if image is None or mask is None:
        check_decode_arguments(config, latent, image=image, mask=mask)
        return None
    if latent.ndim != 4:
        check_decode_arguments(config, latent, image=None, mask=None)
    if not mask.is_floating_point():
        mask = mask.float()
    for name, tensor, channels in (("image", image, config.image_channels), ("mask", mask, 1)):
        if tensor.ndim != 4 or tensor.shape[1] != channels:
            raise ValueError(f"Expected {name} of shape (B, {channels}, H, W), but got {tuple(tensor.shape)}.")
        if tensor.shape[0] not in (1, latent.shape[0]):
            raise ValueError(
                f"Expected one {name}, or one for each of the {latent.shape[0]} latents, but got {tensor.shape[0]}. "
                f"Repeat or drop some, or give a single {name} for all."
            )
    if image.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"Expected image and mask of one size, but got an image of {_size(image)} and a mask of {_size(mask)} "
            "pixels (width×height). Resize the mask to the image, or use the mask that was made for it."
        )
    factor = config.factor
    height, width = latent.shape[-2] * factor, latent.shape[-1] * factor
    spare = (image.shape[-2] - height, image.shape[-1] - width)
    if not all(0 <= s < factor for s in spare):
        raise ValueError(
            f"Expected an image of {width}×{height} pixels for a latent of {latent.shape[-1]}×{latent.shape[-2]}, but "
            f"got {_size(image)}. Give the image that was encoded, or scale it to that size."
        )
    window = (spare[0] // 2, spare[1] // 2, height, width)
    source = Source(image, mask, window)
    check_decode_arguments(config, latent[:1], image=source.crop(image[:1]), mask=source.crop(mask[:1]))
    return source


@torch.no_grad()
def compose(decoded: Tensor, source: Source, keep: Keep, *, in_place: bool = False) -> Tensor:
    """Puts a decoded picture back into its source.

    Args:
        decoded: (B, 3, h, w), the source's window, in the source's own range of values.
        source: in any range; kept pixels come back bit for bit under `Keep.EXACT`.
        in_place: whether `decoded` may be overwritten: then the result takes its memory where the window is the whole
            picture.

    Returns:
        (B, 3, H, W) of the source's full size.
    """
    top, left, height, width = source.window
    if source.image.shape[-2:] == decoded.shape[-2:]:
        result = decoded if in_place else torch.empty_like(decoded)
    else:
        result = source.image.to(decoded.device, decoded.dtype).expand(decoded.shape[0], -1, -1, -1).clone()
    # picture by picture, so that a long batch takes no more memory than its result
    for i in range(decoded.shape[0]):
        target = result[i, :, top : top + height, left : left + width]
        if keep is Keep.NETWORK:
            target.copy_(decoded[i])
            continue
        part = source.slice(i, i + 1)
        original, alpha = (part.crop(t)[0].to(decoded) for t in (part.image, part.mask))
        # lerp alone would do, were it not for values that are not finite under a zero weight
        torch.where(alpha > 0, torch.lerp(original, decoded[i], alpha), original, out=target)
    return result


def make_plan(
    config: AutoencoderConfig,
    latent: Tensor,
    source: Source | None,
    *,
    region: Region = Region.AUTO,
    tile: int | None = None,
    overlap: int | None = None,
    context: int = CONTEXT,
) -> Plan:
    """Which tiles to decode.

    Arguments and errors as `decode`; `source` is what `fit_source` made of image and mask, `context` the pixels around
    the mask that a mask-local decode is shown, in whole cells of the latent.
    """
    factor = config.factor
    height, width = latent.shape[-2:]
    cells = None if tile is None else tile // factor
    shared = 0 if tile is None else (tile // 4 if overlap is None else overlap) // factor
    full = plan_full(height, width, tile=cells, overlap=shared)
    if source is None or region is Region.FULL:
        return full
    touched = reduce_mask(source.crop(source.mask), (height, width), MaskReduction.ANY)[:, 0] > 0
    around = -(-context // factor)
    pictures = tuple(
        tuple(plan_masked(mask, context=around, tile=cells, overlap=min(shared, around))) for mask in touched
    )
    if region is Region.AUTO:
        areas = [sum(part.area for part in tiles) for tiles in pictures]
        if sum(areas) / len(areas) > AUTO_SHARE * sum(part.area for part in full.of(0)):
            return full
    return Plan(pictures, around)


@torch.no_grad()
def decode_network(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    source: Source | None,
    plan: Plan,
    *,
    batch: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The network's own output for the window that the latent covers, (B, 3, h·factor, w·factor) float32.

    `source.image` is in [-1, 1]; what the plan leaves out is taken from it. Latents stay where they are until their
    turn; the result is on the latent's device. `device` and `dtype` are what the network computes on and in: its
    weights' own by default.
    """
    if not torch.isfinite(latent).all():
        raise ValueError("Expected a finite latent, but it holds NaN or infinity: the step before it went wrong.")
    config, factor = vae.config, vae.config.factor
    weight: Tensor = vae.decoder.conv_in.weight
    device, dtype = device or weight.device, dtype or weight.dtype
    count, _, h, w = latent.shape
    whole = Tile(0, 0, h, w)

    jobs: dict[tuple[int, int], list[tuple[int, Tile]]] = {}
    for picture in range(count):
        for tile in plan.of(picture):
            jobs.setdefault((tile.height, tile.width), []).append((picture, tile))
    batches = [group[i : i + batch] for group in jobs.values() for i in range(0, len(group), batch)]

    output = torch.zeros(count, config.image_channels, h * factor, w * factor, device=latent.device)
    weights = torch.zeros(len(plan.pictures), 1, *output.shape[-2:], device=latent.device)
    for done, group in enumerate(batches, 1):
        z = torch.cat([tile.of(latent[i : i + 1]) for i, tile in group])
        image = mask = None
        if source is not None:
            parts = [(source.slice(i, i + 1), tile) for i, tile in group]
            image = torch.cat([tile.of(part.crop(part.image), factor) for part, tile in parts])
            mask = torch.cat([tile.of(part.crop(part.mask), factor) for part, tile in parts])
        decoded = _decode_finite(vae, z, image, mask, device=device, dtype=dtype).to(output)
        for (i, tile), pixels in zip(group, decoded, strict=True):
            if tile == whole:
                output[i] = pixels
                weights[min(i, len(weights) - 1)] = 1.0
                continue
            share = feather(tile, h, w, overlap=plan.overlap, factor=factor).to(output)
            tile.of(output[i], factor).add_(pixels * share)
            if i < len(weights):
                tile.of(weights[i], factor).add_(share)
        if progress is not None:
            progress(done, len(batches))
    for i in range(count):
        _finish(output[i], weights[min(i, len(weights) - 1)], None if source is None else source.slice(i, i + 1))
    return output


def _finish(output: Tensor, weights: Tensor, source: Source | None) -> None:
    """Turns sums into means, in place, and puts the source where nothing was decoded."""
    if (weights == 1).all():
        return
    output.div_(weights.clamp(min=torch.finfo(weights.dtype).tiny))
    if source is not None:
        # not by a boolean index, whose positions take several times the picture's memory
        torch.where(weights == 0, source.crop(source.image)[0].to(output), output, out=output)


def _decode_finite(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    image: Tensor | None,
    mask: Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """One pass of the network; once more in float32 where half precision overflowed."""
    for precision in dict.fromkeys((dtype, torch.float32)):
        z = latent.to(device, precision)
        network = partial(lean.decode, vae) if lean.pays(vae, z) else vae.decode
        if image is None or mask is None:
            pixels = network(z)
        else:
            pixels = network(z, image=image.to(device, precision), mask=(mask > 0).to(device, precision))
        if torch.isfinite(pixels).all():
            return pixels
        if precision != torch.float32:
            logger.warning("The decode in %s gave NaN or infinity: decoding again in float32.", precision)
    raise ValueError(
        "The decoder gave NaN or infinity in float32 too. Check that the latent was made for this VAE, and that the "
        "sampler's picture is not broken already."
    )


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]}×{tensor.shape[-2]}"
