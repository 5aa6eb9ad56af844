"""The ways to name tensors, of all families."""

from __future__ import annotations

from enum import Enum


class Layout(str, Enum):
    NATIVE = "native"
    """Our own, of any family: see `asymvq.checkpoint.native`."""

    PAPER = "paper"
    """buxiangzhiren/Asymmetric_VQGAN: LDM keys, `decoder.encoder` sees the masked picture."""
    ASUKA = "asuka"
    """Yikai-Wang/asuka-misato: LDM keys, `decoder.encoder` also sees the mask."""
    DIFFUSERS = "diffusers"
    """diffusers' AsymmetricAutoencoderKL."""
    STOCK_LDM = "stock LDM"
    """A VAE without a condition: of Stable Diffusion, FLUX.1, FLUX.2 …"""
    STOCK_DIFFUSERS = "stock diffusers"
    """diffusers' AutoencoderKL, AutoencoderKLFlux2."""

    WAN = "Wan"
    """Wan-Video/Wan2.1."""
    WAN_DIFFUSERS = "Wan diffusers"
    """diffusers' AutoencoderKLWan, AutoencoderKLQwenImage."""

    TAESD = "TAESD"
    """Both networks in one file, as ComfyUI writes them."""
    TAESD_MODULE = "TAESD module"
    """Both as attributes of madebyollin/taesd's class."""
    TAESD_ENCODER = "TAESD encoder"
    """As published: bare numbers."""
    TAESD_DECODER = "TAESD decoder"
    TAESD_DIFFUSERS = "TAESD diffusers"
    """diffusers' AutoencoderTiny."""

    def __str__(self) -> str:
        return self.value
