"""Decoding a latent together with its source picture and mask: whole or in tiles, keeping the source's pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .autoencoder import AsymmetricAutoencoder, check_decode_arguments
from .config import AutoencoderConfig
from .tiles import Tile, feather, plan_tiles

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (done, total) after each piece of work. What it raises ends the decode."""


class Keep(str, Enum):
    """What becomes of the pixels that the mask keeps."""

    EXACT = "exact"
    """The source's values, bit for bit; where the mask is soft, it is the alpha."""
    NETWORK = "network"
    """What the decoder makes of them: the paper's output."""


def decode(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    *,
    image: Tensor | None = None,
    mask: Tensor | None = None,
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
        mask: (B or 1, 1, H, W) in [0, 1], 1 = edited. The network is shown mask > 0; softness is for the last blend.
        tile: side of a tile in pixels; None decodes whole pictures.
        overlap: what neighbouring tiles share, in pixels; a quarter of the tile by default.
        keep: "exact" or "network".
        batch: pictures that go through the network at once.
        progress: called after each batch or tile.

    Returns:
        (B, 3, H, W) float32 in about [-1, 1] (source pixels are returned as they came).

    Raises:
        ValueError: shapes or counts that do not fit, one of image and mask alone, a VAE without a condition, an
            unknown `keep`, or numbers that are not finite.
    """
    try:
        keep = Keep(keep)
    except ValueError:
        raise ValueError(f"Expected keep to be 'exact' or 'network', but got {keep!r}.") from None
    source = fit_source(vae.config, latent, image=image, mask=mask)
    if source is None:
        return decode_network(vae, latent, None, tile=tile, overlap=overlap, batch=batch, progress=progress)
    if keep is Keep.EXACT and source.unedited():
        return source.image.expand(latent.shape[0], -1, -1, -1).float().clone()
    decoded = decode_network(vae, latent, source, tile=tile, overlap=overlap, batch=batch, progress=progress)
    return compose(decoded, source, keep)


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


def compose(decoded: Tensor, source: Source, keep: Keep) -> Tensor:
    """Puts a decoded picture back into its source.

    Args:
        decoded: (B, 3, h, w), the source's window, in the source's own range of values.
        source: in any range; kept pixels come back bit for bit under `Keep.EXACT`.

    Returns:
        (B, 3, H, W) of the source's full size.
    """
    top, left, height, width = source.window
    result = source.image.to(decoded.device, decoded.dtype).expand(decoded.shape[0], -1, -1, -1).clone()
    target = result[..., top : top + height, left : left + width]
    if keep is Keep.EXACT:
        alpha = source.crop(source.mask).to(decoded.device, decoded.dtype)
        # lerp alone would do, were it not for values that are not finite under a zero weight
        decoded = torch.where(alpha > 0, torch.lerp(target, decoded, alpha), target)
    target.copy_(decoded)
    return result


@torch.no_grad()
def decode_network(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    source: Source | None,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The network's own output for the window that the latent covers, (B, 3, h·factor, w·factor) float32.

    `source.image` is in [-1, 1]. Latents stay where they are until their turn; the result is on the latent's device.
    `device` and `dtype` are what the network computes on and in: its weights' own by default.
    """
    if not torch.isfinite(latent).all():
        raise ValueError("Expected a finite latent, but it holds NaN or infinity: the step before it went wrong.")
    config = vae.config
    weight: Tensor = vae.decoder.conv_in.weight
    device, dtype = device or weight.device, dtype or weight.dtype
    count, _, h, w = latent.shape
    tiles = [Tile(0, 0, h, w)]
    shared = 0
    if tile is not None:
        shared = (tile // 4 if overlap is None else overlap) // config.factor
        tiles = plan_tiles(h, w, tile=tile // config.factor, overlap=shared)
    output = torch.zeros(count, config.image_channels, h * config.factor, w * config.factor, device=latent.device)
    total = len(tiles) * -(-count // batch)
    done = 0
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        part = None if source is None else source.slice(start, stop)
        for piece in tiles:
            image = mask = None
            if part is not None:
                image, mask = (piece.of(part.crop(t), config.factor) for t in (part.image, part.mask))
            pixels = _decode_finite(vae, piece.of(latent[start:stop]), image, mask, device=device, dtype=dtype)
            pixels = pixels.to(output)
            if len(tiles) > 1:
                pixels *= feather(piece, h, w, overlap=shared, factor=config.factor).to(output)
            piece.of(output[start:stop], config.factor).add_(pixels)
            done += 1
            if progress is not None:
                progress(done, total)
    if len(tiles) > 1:
        weights = torch.zeros_like(output[0, 0])
        for piece in tiles:
            piece.of(weights, config.factor).add_(feather(piece, h, w, overlap=shared, factor=config.factor).to(output))
        output /= weights
    return output


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
        if image is None or mask is None:
            pixels = vae.decode(z)
        else:
            pictures = image.to(device, precision).expand(len(z), -1, -1, -1)
            masks = (mask.to(device) > 0).to(precision).expand(len(z), -1, -1, -1)
            pixels = vae.decode(z, image=pictures, mask=masks)
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
