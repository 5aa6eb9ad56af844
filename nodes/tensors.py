"""Between the host's IMAGE, MASK and LATENT and the library's tensors. Values stay in the host's range, [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..asymvq.values import image_values, mask_values, why_unusable

OUT_OF_RANGE = "The node that made it leaves ComfyUI's range: scale or clamp its values to [0, 1] first."


def require_tensor(value: object, what: str) -> Tensor:
    """`value`, a tensor that can be computed with.

    Raises:
        ValueError: something else, which a graph in API format may hold in a wire's place, or a tensor as other packs
            may make it: empty, sparse, without values, of an 8-bit float type.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"Expected {what}, but got {str(value)[:40]!r}. Connect a node's output.")
    fault = why_unusable(value)
    if fault is not None:
        raise ValueError(f"Expected {what}, but got {fault}. Look at the node that made it.")
    return value


def latent_tensor(samples: dict[str, Any]) -> Tensor:
    """(B, C, h, w) of a LATENT. One of a video model is of a picture where it has one frame.

    Raises:
        ValueError: no latent at all, one of several frames or of sound, or one that cannot be computed with.
    """
    latent: Any = samples.get("samples") if isinstance(samples, dict) else samples
    if getattr(latent, "is_nested", False):
        raise ValueError(
            "Expected a picture's latent, but got a nested one (video with sound). Decode it with the node of the "
            "model that made it."
        )
    latent = require_tensor(latent, "a latent")
    latent = without_time(latent)
    if latent.ndim != 4:
        raise ValueError(
            f"Expected a picture's latent of 4 dimensions (batch, channels, height, width), but got {latent.ndim}: "
            f"{tuple(latent.shape)}. Latents of video models belong in their own VAE's decode: load it with Load VAE, "
            "which this node takes too."
        )
    if not latent.is_floating_point():
        raise ValueError(f"Expected a latent of floats, but got {latent.dtype}. Look at the node that made it.")
    return latent


def without_time(latent: Tensor) -> Tensor:
    """(B, C, T, h, w) as (B, C, h, w) where T is 1; anything else as it is.

    Raises:
        ValueError: several frames.
    """
    if latent.ndim == 5 and latent.shape[2] > 1:
        raise ValueError(
            "Expected a picture's latent of 4 dimensions (batch, channels, height, width), or of one frame, but got "
            f"5 dimensions with {latent.shape[2]} frames: {tuple(latent.shape)}. Latents of video models belong in "
            "their own VAE's decode: load it with Load VAE, which Asymmetric VQGAN Decode takes too."
        )
    return latent[:, :, 0] if latent.ndim == 5 and latent.shape[2] == 1 else latent


def image_tensor(image: Tensor) -> Tensor:
    """An IMAGE (B, H, W, 3 or more) as (B, 3, H, W), floats in [0, 1]. A fourth channel (alpha) is dropped.

    Raises:
        ValueError: not a batch of colour pictures, or values out of range (`asymvq.values.image_values`).
    """
    image = require_tensor(image, "an image")
    if image.ndim != 4 or image.shape[-1] < 3:
        raise ValueError(f"Expected an image of shape (batch, height, width, 3), but got {tuple(image.shape)}.")
    return image_values(image[..., :3].movedim(-1, 1), low=0.0, high=1.0, mend=OUT_OF_RANGE)


def mask_tensor(mask: Tensor, image: Tensor) -> Tensor:
    """A MASK (H, W) or (B, H, W) as (B, 1, H, W), in [0, 1].

    Args:
        image: (B, 3, H, W), the picture that it belongs to: only for a better message.

    Raises:
        ValueError: not a mask, the host's empty placeholder, or values out of range (`asymvq.values.mask_values`).
    """
    mask = require_tensor(mask, "a mask")
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim not in (2, 3):
        raise ValueError(f"Expected a mask of shape (batch, height, width), but got {tuple(mask.shape)}.")
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if mask.shape[-2:] == (64, 64) != image.shape[-2:] and not mask.any():
        raise ValueError(
            "Expected a mask, but got the empty 64×64 one that Load Image gives for a picture without a mask. Paint "
            "one: right-click the Load Image node and open the mask editor."
        )
    return mask_values(mask, mend=OUT_OF_RANGE)


def require_one_size(image: Tensor, mask: Tensor) -> None:
    """Raises ValueError, with both sizes, where image (B, 3, H, W) and mask (B, 1, H, W) differ in theirs."""
    if image.shape[-2:] != mask.shape[-2:]:
        sizes = [f"{tensor.shape[-1]}×{tensor.shape[-2]}" for tensor in (image, mask)]
        raise ValueError(
            f"Expected image and mask of one size, but got an image of {sizes[0]} and a mask of {sizes[1]} pixels "
            "(width×height). Resize the mask to the image, or use the mask that was made for it."
        )


def in_turn(counts: Mapping[str, int]) -> int:
    """How many pictures there are: of some there may be fewer, by a whole factor, which are then taken in turn.

    Raises:
        ValueError: a count that does not divide the largest.
    """
    count = max(counts.values())
    if any(count % number for number in counts.values()):
        found = ", ".join(f"{number} of {name}" for name, number in counts.items())
        raise ValueError(
            f"Expected as many of each, or numbers that divide the largest and are taken in turn, but got {found}. "
            "Repeat or drop some, or give a single one for all."
        )
    return count


def taken(tensor: Tensor, i: int) -> Tensor:
    """The i-th of those there are, taken in turn, as a batch of one."""
    return tensor[i % len(tensor)][None]


def to_image(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) as an IMAGE (B, H, W, 3)."""
    return pictures.movedim(1, -1)


def to_signed(pictures: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return pictures * 2.0 - 1.0


def in_range_to_signed(pictures: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], for the host's encode.

    Raises:
        ValueError: values out of range.
    """
    return to_signed(image_values(pictures, low=0.0, high=1.0, mend=OUT_OF_RANGE))
