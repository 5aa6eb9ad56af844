"""Asymmetric VQGAN decoders (arXiv 2306.04632): decode a latent together with the pixels that are to be kept.

vae = asymvq.load("asymmetric.safetensors")
picture = asymvq.decode(vae, latent, image=source, mask=mask)
"""

from .align import Aligned, align
from .autoencoder import AsymmetricAutoencoder
from .autoencoders import LATENT_SPACES, PRESETS, AutoencoderConfig
from .change import change_mask
from .checkpoint import CheckpointError, load, save
from .config import ConditionConfig, ConditionKind, LatentSpace, MaskReduction
from .decode import Keep, decode
from .encode import encode
from .harmonise import harmonise
from .stitch import Crop, crop_for_inpainting, stitch

__version__ = "0.1.0"

__all__ = [
    "LATENT_SPACES",
    "PRESETS",
    "Aligned",
    "AsymmetricAutoencoder",
    "AutoencoderConfig",
    "CheckpointError",
    "ConditionConfig",
    "ConditionKind",
    "Crop",
    "Keep",
    "LatentSpace",
    "MaskReduction",
    "align",
    "change_mask",
    "crop_for_inpainting",
    "decode",
    "encode",
    "harmonise",
    "load",
    "save",
    "stitch",
]
