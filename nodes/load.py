"""Load Asymmetric VQGAN."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path

import torch
from comfy_api.latest import io

from ..asymvq.autoencoders import preset_name
from ..asymvq.checkpoint import Checkpoint, read, with_encoder
from ..asymvq.precision import DTYPES, why_slow
from . import host
from .host import CATEGORY, file_fingerprint, plain_errors, say
from .vae import AsymmetricVAE

logger = logging.getLogger(__name__)

BUNDLED = "demo (bundled)"
NO_BASE = "none"
PREVIEWS = "vae_approx"
"""The host's folder of the small VAEs that draw its previews."""
DEMO_FILE = Path(__file__).parent.parent / "asymvq" / "assets" / "demo.safetensors"


class Precision(str, Enum):
    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def dtype(self) -> torch.dtype | None:
        """None for AUTO: see `AsymmetricVAE`."""
        return DTYPES.get(self.value)


def vae_path(name: str) -> Path:
    if name == BUNDLED:
        return DEMO_FILE
    folder, _, rest = name.partition("/")
    if folder == PREVIEWS and host.get_full_path("vae", name) is None:
        return Path(host.get_full_path_or_raise(PREVIEWS, rest))
    return Path(host.get_full_path_or_raise("vae", name))


def vae_names() -> list[str]:
    """Files of models/vae, then those of models/vae_approx under its name."""
    small = host.get_filename_list(PREVIEWS)
    return [*host.get_filename_list("vae"), *(f"{PREVIEWS}/{name}" for name in small)]


class AsymVQLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = vae_names()
        return io.Schema(
            node_id="AsymVQLoader",
            display_name="Load Asymmetric VQGAN",
            category=CATEGORY,
            description=(
                "Loads an asymmetric VAE, whose decoder can be shown the pixels to keep, or a stock one (SD, SDXL, "
                "SD3, FLUX.1, FLUX.2, Qwen-Image, Wan 2.1, TAESD). The file's layout is recognised by itself. The VAE "
                "works in every stock node too."
            ),
            search_aliases=[
                "asymmetric vae",
                "vqgan",
                "asymmetric autoencoder",
                "keep unmasked",
                "load vae",
                "asuka",
                "加载VAE",
            ],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=[*files, BUNDLED],
                    tooltip="A file of the models/vae folder, one of models/vae_approx (the tiny VAEs' decoders), or "
                    "the small demo VAE that comes with the pack.",
                ),
                io.Combo.Input(
                    "base_vae",
                    options=[NO_BASE, *files],
                    default=NO_BASE,
                    optional=True,
                    tooltip=(
                        "Only for a file that holds a decoder without an encoder: the VAE that it was made for, or its "
                        "encoder's file. Its encoder is used when you encode."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=Precision,
                    default=Precision.AUTO,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The precision to compute in. auto: what ComfyUI chooses for this device, and "
                        "fp32 for very small VAEs."
                    ),
                ),
            ],
            outputs=[io.Vae.Output(tooltip="For Asymmetric VQGAN Decode, and every stock VAE node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, vae_name: str, base_vae: str = NO_BASE, dtype: str = Precision.AUTO) -> str:
        """A file that was written anew is loaded anew."""
        paths = [vae_path(name) for name in (vae_name, base_vae) if name != NO_BASE]
        return ";".join(file_fingerprint(path) for path in paths) + f":{dtype}"

    @classmethod
    @plain_errors
    def execute(cls, vae_name: str, base_vae: str = NO_BASE, dtype: str = Precision.AUTO) -> io.NodeOutput:
        checkpoint = read(vae_path(vae_name))
        if base_vae != NO_BASE and checkpoint.config.encoder_channels is None:
            checkpoint = with_encoder(checkpoint, read(vae_path(base_vae), encoder_alone=True))
        elif base_vae != NO_BASE:
            logger.info("%s has an encoder of its own: base_vae %s is not used.", vae_name, base_vae)
        vae = AsymmetricVAE(checkpoint, dtype=Precision(dtype).dtype)
        logger.info("%s: %s, computed in %s.", vae_name, describe(checkpoint), vae.vae_dtype)
        slow = why_slow(vae.vae_dtype, vae.device)
        return io.NodeOutput(vae, ui=say(cls, " ".join(filter(None, (recognised(checkpoint), slow)))))


def recognised(checkpoint: Checkpoint) -> str:
    """What the file is good for, in a line or two for the node."""
    config = checkpoint.config
    if config.condition is None:
        text = (
            "A stock VAE, not an asymmetric one: its decoder cannot be shown the kept pixels. Asymmetric VQGAN Decode "
            "harmonises what it draws; Train Asymmetric VQGAN Decoder makes one that is shown them."
        )
    else:
        text = "An asymmetric VAE: Asymmetric VQGAN Decode shows it the kept pixels."
    alone = " A decoder alone: choose its VAE in base_vae to encode." if config.encoder_channels is None else ""
    return f"{text}{alone} {config.latent_channels} latent channels."


def describe(checkpoint: Checkpoint) -> str:
    """What was recognised, in one line for the log."""
    config = checkpoint.config
    blocks = sorted(set(config.decoder_block_counts))
    parts = [
        f"{checkpoint.layout.value} layout",
        f"{preset_name(config) or 'custom'} decoder {'/'.join(map(str, config.decoder_channels))}",
        f"{' to '.join(map(str, dict.fromkeys((blocks[0], blocks[-1]))))} blocks a level",
        f"{config.latent_channels} latent channels",
        "no condition: a stock VAE" if config.condition is None else f"conditional ({config.condition.kind.value})",
    ]
    if config.encoder_channels is None:
        parts.append("no encoder")
    return ", ".join(parts)
