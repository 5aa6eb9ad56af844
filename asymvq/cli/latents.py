"""Latent files: ComfyUI's `.latent` and plain `.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoint import CheckpointError
from ..checkpoint.errors import shown
from ..checkpoint.safetensors_header import read_safetensors
from ..checkpoint.source import Source
from ..checkpoint.tensors import TensorFile, read_each
from ..outputs import replacing

KEYS = ("latent", "latent_tensor", "samples")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
VERSION_KEY = "latent_format_version_0"
OLD_SCALE = 0.18215
"""ComfyUI's `.latent` files without the version key hold latents times this."""


def read_latent(path: Path) -> Tensor:
    """(B, C, h, w) float32, finite, unscaled, as in ComfyUI's LATENT.

    Raises:
        OSError: no such file.
        ValueError: not a safetensors file, no telling which of its tensors is the latent, or none of a picture.
    """
    try:
        with Source(path) as source:
            file = TensorFile(source, *read_safetensors(source))
            versioned = file.tensors.pop(VERSION_KEY, None) is not None
            key = _key(file.tensors, path)
            latent = dict(read_each({key: file.tensors[key]}, [file]))[key]
    except CheckpointError as error:
        raise ValueError(f"Expected a latent (.latent or .safetensors), but got {path}: {error}") from error
    if latent.dtype not in DTYPES:
        raise ValueError(
            f"Expected a latent in float16, bfloat16 or float32, but {path} holds {str(latent.dtype)[6:]}. Save it "
            "anew, from the latent itself."
        )
    if latent.ndim != 4 or not latent.numel():
        video = " Latents of videos are not decoded here." if latent.ndim == 5 else ""
        raise ValueError(
            f"Expected a picture's latent of shape (batch, channels, height, width), but {path} holds "
            f"{tuple(latent.shape)}.{video}"
        )
    latent = latent.float()
    if not torch.isfinite(latent).all():
        raise ValueError(
            f"Expected a finite latent, but {path} holds NaN or infinity: the step that made it went wrong. Make it "
            "anew, in float32."
        )
    return latent / OLD_SCALE if key == "latent_tensor" and not versioned else latent


def _key(tensors: Mapping[str, Tensor], path: Path) -> str:
    for key in KEYS:
        if key in tensors:
            return key
    if len(tensors) == 1:
        return next(iter(tensors))
    names = ", ".join(map(shown, sorted(tensors)[:4]))
    raise ValueError(
        f"Expected a file with a tensor 'latent', 'latent_tensor' or 'samples', or with one tensor only, but {path} "
        f"holds {len(tensors)}: {names}{', …' if len(tensors) > 4 else ''}."
    )


def write_latent(path: Path, latent: Tensor, *, overwrite: bool = True) -> None:
    """Writes (B, C, h, w), unscaled: as ComfyUI's SaveLatent into `.latent`, else under the key `latent`.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is not set.
    """
    latent = latent.detach().cpu().contiguous()
    with replacing(path, overwrite=overwrite) as temporary:
        if path.suffix.lower() == ".latent":
            save_file({"latent_tensor": latent, VERSION_KEY: torch.tensor([])}, temporary)
        else:
            save_file({"latent": latent}, temporary)
