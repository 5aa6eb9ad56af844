"""Paint by Example files as the published ones are laid out, with random weights and as little in them as works.

The host sizes a UNet by its shapes, so that one level is enough. Its CLIP and VAE it builds in the published size,
whatever is in the file: those tensors are views of a little noise, which torch writes once.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

UNET = {
    "image_size": 32, "in_channels": 9, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1],
    "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1,
    "context_dim": 768, "num_heads": 8, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_channels": 3, "patch_size": 14, "image_size": 224, "hidden_act": "quick_gelu",
    "model_type": "clip_vision_model",
}  # fmt: skip


def noise(shape: tuple[int, ...], name: str) -> Tensor:
    """Norms around 1, biases around 0, matrices that keep their input's scale: views of a few thousand values."""
    strides = [1, 7, 3, 5, 2][: len(shape)][::-1]
    count = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    generator = torch.Generator().manual_seed(len(name) + 31 * count)
    fan_in = math.prod(shape[1:])
    values = torch.randn(count, generator=generator) * (0.1 if len(shape) < 2 else fan_in**-0.5)
    values += 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
    return values.as_strided(shape, strides)


def ldm_checkpoint() -> dict[str, Tensor]:
    """Needs the host on sys.path: the names are those of the host's own modules, which are LDM's."""
    import comfy.clip_model
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from asymvq.paint_by_example import ConditioningHead

    ops = comfy.ops.manual_cast
    with torch.device("meta"):
        head = ConditioningHead()
        parts = {
            "model.diffusion_model.": UNetModel(**UNET, operations=ops),
            "first_stage_model.": AutoencoderKL(ddconfig=VAE, embed_dim=4),
            "cond_stage_model.transformer.": comfy.clip_model.CLIPVisionModelProjection(CLIP_L, None, None, ops),
            "cond_stage_model.mapper.": head.mapper,
            "cond_stage_model.final_ln.": head.final_ln,
            "proj_out.": head.proj_out,
        }
    names = {f"{prefix}{name}": t.shape for prefix, part in parts.items() for name, t in part.state_dict().items()}
    tensors = {name: noise(tuple(shape), name) for name, shape in names.items()}
    others = {  # which older versions of transformers and LDM wrote too
        "cond_stage_model.transformer.vision_model.embeddings.position_ids": torch.arange(257)[None],
        "betas": torch.zeros(1000),
    }
    return {**tensors, "learnable_vector": noise((1, 1, 768), "learnable_vector"), **others}


def write_checkpoint(path: Path) -> None:
    torch.save({"state_dict": ldm_checkpoint(), "global_step": 1}, path)
