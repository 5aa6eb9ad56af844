"""Decodes by VAEs of the host's own loaders, whatever their latents are: the host's business, as in its own nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..asymvq.compose import Keep, paste
from ..asymvq.values import image_values, is_finite
from . import host
from .memory import give_back_memory
from .progress import HostProgress
from .tensors import OUT_OF_RANGE, image_tensor, to_image
from .vae import Tiling, result_dtype


def decode_pictures(vae: Any, samples: Any, *, tiling: Tiling, tile: int, overlap: int) -> Tensor:
    """(B, H, W, C) as *VAE Decode* gives them, or *VAE Decode (Tiled)*; the frames of videos one after another.

    Raises:
        ValueError: no latent, or a VAE of no pictures.
    """
    if not (isinstance(samples, dict) and isinstance(samples.get("samples"), Tensor)):
        raise ValueError(f"Expected a latent, but got {str(samples)[:40]!r}. Connect a node's output.")
    if tiling is Tiling.ON:
        pictures = host.VAEDecodeTiled().decode(vae, samples, tile, overlap)[0]
    else:
        pictures = host.VAEDecode().decode(vae, samples)[0]
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or pictures.shape[-1] < 3:
        found = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise ValueError(
            f"Expected a VAE of pictures or videos, but what this one decoded is {found}. Decode it with the nodes of "
            "its own model."
        )
    return pictures


def through(vae: Any, pictures: Tensor) -> Tensor:
    """What comes back of (B, 3, H, W) in [0, 1] when a VAE encodes and decodes it, likewise.

    Raises:
        ValueError: no VAE, one of no pictures, or a decode that is not finite.
    """
    if not (callable(getattr(vae, "encode", None)) and callable(getattr(vae, "decode", None))):
        raise ValueError(f"Expected a VAE, but got {type(vae).__name__}. Connect Load Asymmetric VQGAN or Load VAE.")
    latent = vae.encode(to_image(pictures))
    back = decode_pictures(vae, {"samples": latent}, tiling=Tiling.AUTO, tile=512, overlap=64)
    _require_finite(back)
    return back[..., :3].movedim(-1, 1)


def _require_finite(pictures: Tensor) -> None:
    if not is_finite(pictures):
        raise ValueError(
            "Expected finite pixels, but the VAE gave NaN or infinity: its half precision overflowed, or the latent is "
            "broken. Start ComfyUI with --fp32-vae, or look at the node that made the latent."
        )


def frames_of(samples: dict[str, Any], pictures: Tensor) -> int:
    """How many of the pictures in a row are frames of one video: those of a latent that has a time."""
    latent = samples["samples"]
    return len(pictures) // len(latent) if latent.ndim == 5 and len(pictures) % len(latent) == 0 else 1


def put_into_source(
    pictures: Tensor,
    vae: Any,
    *,
    image: Tensor,
    mask: Tensor,
    keep: Keep,
    harmonise: float,
    noise_mask: bool,
    frames: int = 1,
) -> Tensor:
    """Decoded pictures (B, H, W, C) into their source; what the mask keeps is the source's, bit for bit.

    Args:
        vae: that decoded them: how much its encoder may have cropped off depends on it.
        image: (B, H, W, 3 or more), as it comes. A fourth channel counts where the pictures have one.
        mask: (B, 1, H, W) in [0, 1].
        frames: so many pictures in a row are frames of one video (`asymvq.harmonise`).

    Returns:
        (B, H, W, C), of the source's size.

    Raises:
        ValueError: sizes or counts that do not fit, or a decode that is not finite.
    """
    _require_finite(pictures)
    source = image_tensor(image)
    more = pictures.shape[-1] - 3
    if more:
        alpha = image[..., 3 : 3 + more].movedim(-1, 1)
        whole = alpha.shape[1] == more
        alpha = image_values(alpha, low=0.0, high=1.0, mend=OUT_OF_RANGE) if whole else torch.ones_like(source[:, :1])
        source = torch.cat([source, alpha.expand(-1, more, -1, -1)], dim=1)
    result = paste(
        pictures.movedim(-1, 1), image=source, mask=mask, harmonise=harmonise, noise_mask=noise_mask, keep=keep,
        factor=spatial_factor(vae), image_range=(0.0, 1.0), dtype=result_dtype(source), progress=HostProgress(),
        called="decoded picture", frames=frames,
    )  # fmt: skip
    give_back_memory(result.device)
    return to_image(result)


def spatial_factor(vae: Any) -> int:
    """Sides of what this VAE encodes are multiples of it; the host crops the rest off in the middle."""
    compression = getattr(vae, "spacial_compression_encode", None)
    return max(1, int(compression())) if callable(compression) else 8
