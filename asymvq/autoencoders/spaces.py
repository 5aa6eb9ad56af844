"""Latents of the published VAEs, by the names of the models that have them."""

from __future__ import annotations

from ..config import LatentSpace

LATENT_SPACES: dict[str, LatentSpace] = {
    "sd": LatentSpace(0.18215),
    "sdxl": LatentSpace(0.13025),
    "sd3": LatentSpace(1.5305, 0.0609),
    "flux": LatentSpace(0.3611, 0.1159),
}
"""Of the published VAEs: Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3, FLUX.1."""
LATENT_CHANNELS = {"sd": 4, "sdxl": 4, "sd3": 16, "flux": 16}
