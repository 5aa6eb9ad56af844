"""Latent files: ComfyUI's `.latent` and plain `.safetensors`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..outputs import replacing

VERSION_KEY = "latent_format_version_0"
OLD_SCALE = 0.18215
"""ComfyUI's `.latent` files without the version key hold latents times this."""


def read_latent(path: Path) -> Tensor:
    """(B, C, h, w) float32, unscaled, as in ComfyUI's LATENT.

    Raises:
        OSError: no such file.
        ValueError: not a safetensors file, or no telling which of its tensors is the latent.
    """
    with path.open("rb"):  # an OSError that names the file, where safetensors' own does not
        pass
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"Expected a latent (.latent or .safetensors), but got {path}: {error}") from error
    versioned = tensors.pop(VERSION_KEY, None) is not None
    for key in ("latent", "latent_tensor", "samples"):
        if key in tensors:
            break
    else:
        if len(tensors) != 1:
            raise ValueError(
                f"Expected a file with a tensor 'latent', 'latent_tensor' or 'samples', or with one tensor only, but "
                f"{path} holds {len(tensors)}: {', '.join(sorted(tensors)[:4])}{', …' if len(tensors) > 4 else ''}."
            )
        key = next(iter(tensors))
    latent = tensors[key].float()
    return latent / OLD_SCALE if key == "latent_tensor" and not versioned else latent


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
