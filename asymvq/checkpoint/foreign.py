"""What a file is that cannot be read here, in words: the models that people mistake for a VAE of this kind."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import shown

_LOOKED_AT, _LONGEST = 5_000, 200
"""Names, and characters of one: as much as any VAE has. More would only cost time."""

_QUANTISED = re.compile(
    r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale\w*|input_scale|comfy_quant|absmax|quant_map|quant_state\b.*"
    r"|qweight|qzeros|qscales?|scales|zero_point)$"
)

_AUTOENCODERS = (
    # Name, and a tensor that only it has. The first that fits is said.
    ("a stage of Stable Cascade", r"(^|\.)(vquantizer\.|backbone\.1\.0\.block\.|blocks\.\d+\.num_batches_tracked$)"),
    ("a VQ model, whose latents are the entries of a codebook", r"(^|\.)(quantize|quantizer|codebook)\.(?!conv)"),
    ("the VAE of CogVideoX", r"(^|\.)(en|de)coder\.\w+\.resnets\.0\.norm1\.norm_layer\."),
    ("the VAE of HunyuanVideo", r"(^|\.)(en|de)coder\.conv_in\.conv\.weight$"),
    ("the VAE of HunyuanImage", r"(^|\.)decoder\.up\.0\.upsample\."),
    ("the VAE of Stable Video Diffusion", r"(^|\.)(time_stack|time_mix_conv|mix_factor|temporal_res_block)(\.|$)"),
    ("the VAE of SeedVR2", r"\.upscale_conv\."),
    ("the VAE of LTX-Video", r"(^|\.)(per_channel_statistics\.|decoder\.conv_in_x_t\.)"),
    ("the VAE of Cosmos", r"(^|\.)(un)?patcher3d\."),
    ("the VAE of Mochi", r"(^|\.)blocks\.2\.blocks\.3\.stack\."),
    ("Mage-VAE", r"(^|\.)student\.dconv_encoder\."),
    ("a DC-AE, as Sana has it", r"(^|\.)decoder\.(stages\.\d+\.op_list|up_blocks\.\d+\.\d+)\."),
    ("an audio VAE", r"(^|\.)(vocoder\.|decoder\.layers\.\d+\.layers\.\d+\.(beta|alpha)$)"),
    ("the sign of a model without a VAE, which works on pixels", r"(^|\.)pixel_space_vae$"),
    ("a consistency decoder", r"(^|\.)decoder_unet\."),
)

_OTHERS = (
    ("a LoRA", r"(?i)lora"),
    ("a ControlNet", r"(^|\.)(control_model|controlnet_cond_embedding|input_hint_block)\."),
    (
        "a diffusion model without a VAE",
        r"(^|\.)(diffusion_model|input_blocks|time_embed\w*|double_blocks|joint_blocks|transformer_blocks"
        r"|single_transformer_blocks)\.",
    ),
    ("an encoder alone", r"(^|\.)encoder\.conv_in\.weight$|^conv_in\.weight$"),
    ("a CLIP or another text encoder", r"(^|\.)(text_model|vision_model|embed_tokens|shared|token_embedding)\."),
    ("an upscaler", r"(^|\.)(conv_first|conv_body|RDB1|rdb1)\.|^model\.\d+\.(weight|sub\.)"),
)


def _first_match(kinds: Iterable[tuple[str, str]], names: list[str]) -> tuple[str, str] | None:
    names = [name for name in names[:_LOOKED_AT] if len(name) <= _LONGEST]
    for kind, pattern in kinds:
        compiled = re.compile(pattern)
        for name in names:
            if compiled.search(name):
                return kind, name
    return None


def foreign_autoencoder(names: Iterable[str]) -> str | None:
    """Which other kind of autoencoder has tensors of these names, and the one that tells it."""
    match = _first_match(_AUTOENCODERS, list(names))
    return match and f"{match[0]} ({shown(match[1])})"


def quantised(names: Iterable[str]) -> str | None:
    """The tensor that tells quantised weights, which are worth nothing without their scales."""
    return next((name for name in names if _QUANTISED.search(name)), None)


def what_else(names: Iterable[str]) -> str:
    """What a file without a decoder is."""
    names = list(names)
    if not names:
        return "a file without tensors"
    if found := foreign_autoencoder(names):
        return found
    if match := _first_match(_OTHERS, names):
        return match[0]
    first = ", ".join(shown(name) for name in names[:2])
    return f"one tensor, {first}" if len(names) == 1 else f"{len(names)} tensors, the first of them {first}"
