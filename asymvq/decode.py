"""Decoding a latent together with its source picture and mask: whole or in tiles, keeping the source's pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from .autoencoder import AsymmetricAutoencoder
from .config import Config
from .crop import Box
from .masks import alpha, edited
from .source import Source, fit_source, nearest
from .tiles import Plan, Tile, feather, plan_full, plan_masked
from .values import is_finite

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
    """Only tiles that touch the mask, with context around them; the rest is the source. Not under `Keep.NETWORK`."""
    FULL = "full"
    """All of it."""


CONTEXT = 48
"""Pixels around the mask that a mask-local decode is shown."""
COMPOSED_ROWS = 512
"""Of a picture at a time, when decode and source are put together."""
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
        latent: (B, C, h, w), unscaled. Of latents, images and masks there may be fewer, by a whole factor, than of
            what there is most: they are taken in turn, a b a b.
        image: (B, 3, H, W) in [-1, 1], the source, or integers, which are scaled by their type. What is NaN under the
            mask does not matter. Its sides may exceed the latent's by less than the factor, where the encoder cropped
            it in the middle: edited pixels of that rim take the nearest decoded one. They may fall short by less than
            the factor, where it was padded at the right and the bottom.
        mask: (B, 1, H, W) in [0, 1], bool or integers, 1 = edited. What is at most `asymvq.masks.MASK_FLOOR` is kept;
            all above is shown to the network as edited, and softness is for the last blend (`asymvq.masks.alpha`).
        region: "full" decodes everything, "masked" only what the mask touches and its surroundings, "auto" what is
            less. The cost of "masked" follows the mask's area. Under keep="network" everything is decoded.
        tile: longest side of a tile in pixels; None sets no limit.
        overlap: what neighbouring tiles share, in pixels; a quarter of the tile by default.
        keep: "exact" or "network".
        batch: pictures, or tiles of one size, that go through the network at once.
        progress: called after each of them.

    Returns:
        (B, 3, H, W) float32 in about [-1, 1] (source pixels are returned as they came).

    Raises:
        ValueError: shapes or counts that do not fit, one of image and mask alone, a VAE without a condition, an
            unknown `keep` or `region`, values out of range or not finite, or tensors that cannot be computed with
            (empty, sparse, without values, of an 8-bit float type).
    """
    keep, region = _choice(Keep, keep, "keep"), _choice(Region, region, "region")
    source = fit_source(vae.config, latent, image=image, mask=mask)
    if source is not None:
        latent = source.cycled(latent)
        if keep is Keep.EXACT and source.unedited():
            whole = source.slice(0, latent.shape[0]).image
            return whole.expand(latent.shape[0], -1, -1, -1).float().clone()
    plan = make_plan(vae.config, latent, source, keep=keep, region=region, tile=tile, overlap=overlap)
    decoded = decode_network(vae, latent, source, plan, batch=batch, progress=progress)
    return decoded if source is None else compose(decoded, source, keep, in_place=True)


ChoiceT = TypeVar("ChoiceT", bound=Enum)


def _choice(kind: type[ChoiceT], value: ChoiceT | str, name: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError:
        options = " or ".join(repr(option.value) for option in kind)
        raise ValueError(f"Expected {name} to be {options}, but got {value!r}.") from None


@torch.no_grad()
def compose(decoded: Tensor, source: Source, keep: Keep, *, in_place: bool = False) -> Tensor:
    """Puts a decoded picture back into its source.

    Args:
        decoded: (B, 3, h, w), the source's window, in the source's own range of values.
        source: in any range; kept pixels come back bit for bit under `Keep.EXACT`. Edited pixels of the rim around the
            window take the nearest decoded ones; its kept ones are the source's under `Keep.NETWORK` too.
        in_place: whether `decoded` may be overwritten: then the result takes its memory where the window is the whole
            picture.

    Returns:
        (B, 3, H, W) of the source's full size.
    """
    top, left = source.window[:2]
    if source.image.shape[-2:] == decoded.shape[-2:]:
        result = decoded if in_place else torch.empty_like(decoded)
    else:
        result = decoded.new_empty(*decoded.shape[:2], *source.image.shape[-2:])
    stripes, rim = source.covered.stripes(COMPOSED_ROWS), source.rim()
    # part by part, so that neither a long batch nor a large picture takes more memory than its result
    for i in range(decoded.shape[0]):
        part = source.slice(i, i + 1)
        for number, box in enumerate((*stripes, *rim)):
            target = box.of(result[i])
            # the network has nothing for the rim: what is edited there continues its nearest pixels
            edit = nearest(decoded[i], Box(box.top - top, box.left - left, box.height, box.width))
            if keep is Keep.NETWORK and number < len(stripes):
                target.copy_(edit)
                continue
            original, share = box.of(part.image)[0].to(decoded), alpha(box.of(part.mask)[0]).to(decoded)
            if not is_finite(original):  # under the mask alone: a soft one would let it through
                original = torch.where(torch.isfinite(original), original, edit)
            # lerp alone would do, were it not for values that are not finite under a zero weight
            torch.where(share > 0, torch.lerp(original, edit, share), original, out=target)
    return result


def make_plan(
    config: Config,
    latent: Tensor,
    source: Source | None,
    *,
    keep: Keep = Keep.EXACT,
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
    if source is None or region is Region.FULL or keep is Keep.NETWORK:
        return full
    around = -(-context // factor)
    pictures = tuple(
        tuple(plan_masked(touched, context=around, tile=cells, overlap=min(shared, around)))
        for touched in source.touched(factor)
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
    if not is_finite(latent):
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
    plans = len(plan.pictures)
    weights = torch.zeros(plans, 1, *output.shape[-2:], device=latent.device)
    for done, group in enumerate(batches, 1):
        z = torch.cat([tile.of(latent[i : i + 1]) for i, tile in group])
        image = mask = None
        if source is not None:
            parts = [(source.slice(i, i + 1), tile) for i, tile in group]
            image = torch.cat([part.crop(part.image, tile, factor) for part, tile in parts])
            mask = edited(torch.cat([part.crop(part.mask, tile, factor) for part, tile in parts]))
            image = image.masked_fill(mask, 0.0)  # what it holds there, NaN too, does not matter
            image, mask = image.to(device, dtype), mask.to(device, dtype)
        decoded = vae.decode(z.to(device, dtype), image=image, mask=mask).to(output)
        for (i, tile), pixels in zip(group, decoded, strict=True):
            if tile == whole:
                output[i] = pixels
                weights[i % plans] = 1.0
                continue
            share = feather(tile, h, w, overlap=plan.overlap, factor=factor).to(output)
            tile.of(output[i], factor).add_(pixels * share)
            if i < plans:
                tile.of(weights[i], factor).add_(share)
        if progress is not None:
            progress(done, len(batches))
    for i in range(count):
        _finish(output[i], weights[i % plans], None if source is None else source.slice(i, i + 1))
    return output


def _finish(output: Tensor, weights: Tensor, source: Source | None) -> None:
    """Turns sums into means, in place, and puts the source where nothing was decoded."""
    if (weights == 1).all():
        return
    output.div_(weights.clamp(min=torch.finfo(weights.dtype).tiny))
    if source is not None:
        # not by a boolean index, whose positions take several times the picture's memory
        torch.where(weights == 0, source.crop(source.image)[0].to(output), output, out=output)
