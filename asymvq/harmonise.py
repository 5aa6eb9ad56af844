"""Colours and light of an edit made to continue those of the kept pixels. No weights, any decoder.

What a decode gets wrong on kept pixels is estimated and carried into the mask (`asymvq.drift`), and added there.

Of a video, what is estimated from the frames around each is averaged, so that it does not flicker. Frames whose
corrections differ inside the mask, as after a cut or where the light changes, count less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap

import torch
from torch import Tensor

from .detail import DETAIL, low_pass
from .drift import Drift, Surroundings, estimate

FRAMES = 2
"""Of a video, before and after each frame: those whose estimates are averaged."""
STEADY = 0.03
"""Root mean square, in [-1, 1], of what two frames' corrections differ by: with it a weight falls as a Gaussian."""


def harmonise(
    decoded: Tensor,
    *,
    image: Tensor,
    mask: Tensor,
    strength: float = 1.0,
    plain: Tensor | None = None,
    factor: int = 8,
    witness: Tensor | None = None,
    noise_mask: bool = False,
    in_place: bool = False,
    frames: int = 1,
) -> Tensor:
    """`decoded` with the edited pixels' colours and light made to continue the kept ones'. Compose afterwards.

    Args:
        decoded: (B, 3, H, W) in about [-1, 1]. Gradients flow through it.
        image: (B or 1, 3, H, W) in [-1, 1], the source. Only kept pixels count.
        mask: (B or 1, 1, H, W) in [0, 1] or bool, 1 = edited. What is above 0 is corrected, fully; softness is for
            composing.
        strength: 0 changes nothing, 1 is what was estimated, linear between.
        plain: (B, 3, H, W), the same latent's decode without its condition. A conditional decoder gives kept pixels
            back, which then tell nothing; what the plain decode gets wrong does. And it corrects a part of the drift by
            itself: so colours and light are taken from the harmonised plain decode, and detail from `decoded`.
        factor: pixels a latent cell, as the noise mask has them.
        witness: (B or 1, 1, H, W) bool, the pixels that were decoded at all. Where a part alone was, the rest is the
            source and tells nothing.
        noise_mask: whether the latent was made with a noise mask, so that cells that the mask does not touch are the
            source's own.
        in_place: whether `decoded` may be overwritten, which saves a copy of it. Not where gradients are recorded.
        frames: so many pictures in a row are frames of one video; 1: each stands for itself. What is estimated of a
            frame is averaged with what is of the FRAMES before and after it, where they agree, so that colours and
            light do not flicker.

    Returns:
        (B, 3, H, W) of the dtype of `decoded`, computed in float32. Kept pixels stay as decoded; so does all where no
        pixel is kept or none is edited.

    Raises:
        ValueError: shapes or counts that do not fit (the number of pictures is a multiple of `frames`), or a strength
            outside 0 to 1.
    """
    _check(decoded, image, mask, strength, plain, witness)
    check_frames(frames, decoded.shape[0])
    if strength == 0:
        return decoded
    result = decoded if in_place else decoded.clone()

    def of(given: Tensor | None, i: int) -> Tensor | None:
        return None if given is None else given[i % len(given)]

    pictures = (
        Picture(result[i], image[i % len(image)], mask[i % len(mask)], of(plain, i), of(witness, i))
        for i in range(len(result))
    )
    for _ in harmonise_each(pictures, strength=strength, factor=factor, noise_mask=noise_mask, frames=frames):
        pass
    return result


@dataclass(frozen=True)
class Picture:
    """One of those that `harmonise` takes: shapes and values as there, without the batch."""

    decoded: Tensor
    image: Tensor
    mask: Tensor
    plain: Tensor | None = None
    witness: Tensor | None = None
    at: tuple[int, int] = (0, 0)
    """Row and column of its first pixel in a video's frame, of which it may be a part."""


def harmonise_each(
    pictures: Iterable[Picture], *, strength: float, factor: int, noise_mask: bool, frames: int = 1
) -> Iterator[Tensor]:
    """`decoded` of each picture, harmonised in place, in their order. Arguments as `harmonise`.

    Of a video a frame comes once the FRAMES after it were taken: a long one takes the memory of a few.
    """
    # iterators that hold no picture once it was given: it may be a part of much more
    estimates = map(partial(_Estimate.of, factor=factor, noise_mask=noise_mask), pictures)
    return starmap(lambda one, others: one.correct(others, strength, factor), _beside(estimates, frames))


def _beside(estimates: Iterable[_Estimate], frames: int) -> Iterator[tuple[_Estimate, list[Drift]]]:
    """Each picture, with what is estimated of up to FRAMES before and after it in its video."""
    before: deque[Drift | None] = deque(maxlen=FRAMES)
    waiting: deque[_Estimate] = deque()

    def first() -> tuple[_Estimate, list[Drift]]:
        one = waiting.popleft()
        others = [*before, *(other.drift for other in waiting)]
        before.append(one.drift)
        return one, [drift for drift in others if drift is not None]

    for number, _ in enumerate(map(waiting.append, estimates), 1):
        if number % frames == 0:
            while waiting:
                yield first()
            before.clear()
        elif len(waiting) > FRAMES:
            yield first()


@dataclass(frozen=True)
class _Estimate:
    """A picture and what was estimated of it, if there is something to correct and something tells."""

    decoded: Tensor
    plain: Tensor | None = None
    part: Surroundings | None = None
    drift: Drift | None = None

    @classmethod
    def of(cls, picture: Picture, factor: int, noise_mask: bool) -> _Estimate:
        device = picture.decoded.device
        part = Surroundings.of(picture.mask.to(device)[0])
        if part is None:
            return cls(picture.decoded)
        around = part.around
        base = picture.decoded if picture.plain is None else picture.plain
        known = None if picture.witness is None else picture.witness[around].to(device)
        image = picture.image.to(device)[around].float()
        at = (picture.at[0] + around[1].start, picture.at[1] + around[2].start)
        with torch.autocast(device.type, enabled=False):
            drift = estimate(base[around].float(), image, part, known, factor, noise_mask, at)
        return cls(picture.decoded, None if picture.plain is None else picture.plain[part.inside], part, drift)

    def correct(self, others: Sequence[Drift], strength: float, factor: int) -> Tensor:
        """`decoded`, in place; `others` are what is estimated of frames beside it."""
        if self.part is None or self.drift is None:
            return self.decoded
        there, edited = self.decoded[self.part.inside], self.part.edited
        below = (there if self.plain is None else self.plain).float()
        with torch.autocast(there.device.type, enabled=False):
            own, *theirs = (d.inside(self.part, below, self.drift.at, self.drift.step) for d in (self.drift, *others))
            correction = _steady(own, theirs, edited)
            if self.plain is not None:
                correction = low_pass(below + correction - there.float(), edited, factor * DETAIL)
            corrected = torch.where(edited, there.float() + strength * correction, there.float())
        self.decoded[self.part.inside] = corrected.to(there.dtype)
        return self.decoded


def _steady(own: Tensor, theirs: Sequence[Tensor], edited: Tensor) -> Tensor:
    """Mean of corrections (3, h, w), those of other frames weighted by how near they are to `own` where edited."""
    total, weights = own, 1.0
    for other in theirs:
        difference = (other - own).detach()[:, edited].square().mean()
        weight = torch.exp(-0.5 * difference / STEADY**2)
        total, weights = total + weight * other, weights + weight
    return total / weights


def _check(
    decoded: Tensor, image: Tensor, mask: Tensor, strength: float, plain: Tensor | None, witness: Tensor | None
) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"Expected a strength from 0 to 1, but got {strength}.")
    if decoded.ndim != 4 or decoded.shape[1] != 3:
        raise ValueError(f"Expected decoded of shape (B, 3, H, W), but got {tuple(decoded.shape)}.")
    if plain is not None and plain.shape != decoded.shape:
        raise ValueError(
            f"Expected plain of the shape of decoded, {tuple(decoded.shape)}, but got {tuple(plain.shape)}. Give the "
            "plain decode of the same latents."
        )
    given = [("image", image, 3), ("mask", mask, 1), *([] if witness is None else [("witness", witness, 1)])]
    for name, tensor, channels in given:
        count, size = decoded.shape[0], decoded.shape[-2:]
        if tensor.ndim != 4 or tensor.shape[0] not in (1, count) or tensor.shape[1:] != (channels, *size):
            raise ValueError(
                f"Expected {name} of shape ({count} or 1, {channels}, {size[0]}, {size[1]}), as decoded is, but got "
                f"{tuple(tensor.shape)}. Scale it to the decode's size."
            )


def check_frames(frames: int, count: int) -> None:
    """Raises ValueError where `count` pictures are no videos of so many frames."""
    if frames < 1 or count % frames:
        raise ValueError(
            f"Expected frames to divide the number of pictures, {count}, but got {frames}. Give whole videos of so "
            "many frames each, or 1 for pictures that stand for themselves."
        )
