"""Decoded and edited pictures put into their source: what the mask keeps is the source's, bit for bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum

import torch
from torch import Tensor

from .crop import Box
from .harmonise import Picture, check_frames, harmonise_each
from .masks import alpha, edited
from .runtime import Progress
from .source import Source, fit_pictures, nearest
from .values import image_values, is_finite

CELL = 8
"""Pixels of a latent's cell, where an edit does not tell of its autoencoder."""
COMPOSED_ROWS = 512
"""Of a picture at a time, when decode and source are put together."""


class Keep(str, Enum):
    """What becomes of the pixels that the mask keeps."""

    EXACT = "exact"
    """The source's values, bit for bit; where the mask is soft, it is the alpha."""
    NETWORK = "network"
    """What the decoder makes of them: the paper's output."""


@torch.no_grad()
def compose(decoded: Tensor, source: Source, keep: Keep, *, in_place: bool = False) -> Tensor:
    """Puts a decoded picture back into its source.

    Args:
        decoded: (B, C, h, w), the source's window, in the source's own range of values.
        source: in any range; kept pixels come back bit for bit under `Keep.EXACT`. Edited pixels of the rim around the
            window take the nearest decoded ones; its kept ones are the source's under `Keep.NETWORK` too.
        in_place: whether `decoded` may be overwritten: then the result takes its memory where the window is the whole
            picture.

    Returns:
        (B, C, H, W) of the source's full size.
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


@torch.no_grad()
def paste(
    pictures: Tensor,
    *,
    image: Tensor,
    mask: Tensor,
    harmonise: float = 0.0,
    noise_mask: bool = False,
    keep: Keep = Keep.EXACT,
    factor: int = 1,
    image_range: tuple[float, float] = (-1.0, 1.0),
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    called: str = "edited picture",
    frames: int = 1,
) -> Tensor:
    """Edited pictures, wherever they come from, put into their source picture by picture.

    Args:
        pictures: (B, C, H, W), three channels and perhaps others, such as alpha. Of pictures, images and masks there
            may be fewer, by a whole factor, than of what there is most: they are taken in turn.
        image: (B, C, H, W), the source, or integers, which are scaled by their type.
        mask: (B, 1, H, W) in [0, 1], bool or integers, 1 = edited.
        harmonise: 0 to 1, how far the edit's colours and light are made to continue the kept ones
            (`asymvq.harmonise`). Not under `Keep.NETWORK`.
        noise_mask: whether the latents that were decoded were made with a noise mask.
        keep: what becomes of kept pixels.
        factor: of the autoencoder that decoded the pictures. They may be smaller than the source by less than it, as
            after an encoder that crops in the middle.
        image_range: of `pictures` and `image`.
        dtype: of the result, float32 by default. Where it differs from the image's, kept pixels are rounded.
        progress: called after each picture.
        called: what an error calls one of `pictures`.
        frames: so many results in a row are frames of one video, harmonised steadily (`asymvq.harmonise`).

    Returns:
        (B, C, H, W), of the source's size. Where the mask keeps, it is the source bit for bit.

    Raises:
        ValueError: sizes or counts that do not fit, values out of range or not finite, a strength outside 0 to 1, or
            frames that do not divide the number of results.
    """
    check_strength(harmonise)
    if pictures.ndim != 4 or pictures.shape[1] < 3:
        raise ValueError(f"Expected {called}s of shape (B, 3, H, W), but got {tuple(pictures.shape)}.")
    pictures = image_values(pictures, low=image_range[0], high=image_range[1])
    if not is_finite(pictures):
        raise ValueError(
            f"Expected finite {called}s, but they hold NaN or infinity: the step that made them went wrong. Make them "
            "anew, in float32."
        )
    source = fit_pictures(pictures, image=image, mask=mask, factor=factor, image_range=image_range, called=called)
    count = max(source.count, pictures.shape[0])
    check_frames(frames, count)
    result = torch.empty(
        count, pictures.shape[1], *source.image.shape[-2:], dtype=dtype or torch.float32, device=pictures.device
    )
    edits = (pictures[i % len(pictures)][None].to(result.dtype) for i in range(count))
    if harmonise and keep is Keep.EXACT:
        parts = ((picture, source.slice(i, i + 1)) for i, picture in enumerate(edits))
        edits = harmonised_parts(
            parts, harmonise, factor=factor, image_range=image_range, noise_mask=noise_mask, frames=frames
        )
    for i, picture in enumerate(edits):
        result[i] = compose(picture, source.slice(i, i + 1), keep)[0]
        if progress is not None:
            progress(i + 1, count)
    return result


def harmonised_parts(
    parts: Iterable[tuple[Tensor, Source]],
    strength: float,
    *,
    factor: int = 1,
    image_range: tuple[float, float] = (-1.0, 1.0),
    noise_mask: bool = False,
    frames: int = 1,
) -> Iterator[Tensor]:
    """Pictures (1, C, h, w), each the window of its source, harmonised where that edits them; in any range of values.

    Of a video they come a few frames behind what was taken of `parts`.
    """
    low, high = image_range
    middle, half, cell = (low + high) / 2, (high - low) / 2, factor if factor > 1 else CELL
    waiting: deque[Tensor] = deque()

    def signed() -> Iterator[Picture]:
        for picture, part in parts:
            waiting.append(picture)
            colours = picture[0, :3].float()
            image = (part.crop(part.image)[0, :3].to(colours) - middle) / half
            yield Picture((colours - middle) / half, image, edited(part.crop(part.mask))[0])

    for harmonised in harmonise_each(signed(), strength=strength, factor=cell, noise_mask=noise_mask, frames=frames):
        picture = waiting.popleft()
        colours = picture[:, :3].float()
        change = harmonised - (colours - middle) / half
        # only what changes is added: where nothing does, no rounding of the ranges is seen either
        changed = torch.where(change == 0, colours, (colours + change * half).clamp(low, high))
        yield torch.cat([changed.to(picture.dtype), picture[:, 3:]], dim=1)


def check_strength(harmonise: float) -> None:
    """Raises ValueError outside 0 to 1."""
    if not 0 <= harmonise <= 1:
        raise ValueError(f"Expected harmonise to be from 0 to 1, but got {harmonise}.")
