"""Files as the published ones are named and laid out, with random weights and as little in them as the host builds.

Where the host reads a size from the shapes it is small. What it builds in the published size whatever is in the file,
SD's CLIP and the KL VAEs, is made of views of a little noise, which torch writes once: such files end in `.ckpt` here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from families import built
from safetensors.torch import save_file
from torch import Tensor, nn

import asymvq
from asymvq.autoencoders import AutoencoderConfig, wan
from asymvq.config import ConditionConfig, MaskReduction

from .synthetic import UNET, VAE, noise, write_checkpoint

ASYMMETRIC = AutoencoderConfig(
    decoder_channels=(32, 64, 64, 64), decoder_blocks=2, encoder_channels=(32, 32, 32, 64), encoder_blocks=1
)
ASUKA = AutoencoderConfig(
    latent_channels=16, decoder_channels=(32, 32, 64, 64), decoder_blocks=1, encoder_channels=None,
    condition=ConditionConfig(sees_mask=True, mask_reduction=MaskReduction.ANY), quant_conv=False,
    post_quant_conv=False,
)  # fmt: skip
WAN_VAE = wan.Config(decoder_channels=(16, 32, 64, 64), encoder_channels=(16, 32, 64, 64))
FLUX = {
    "context_in_dim": 4096, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1,
    "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "guidance_embed": True, "txt_ids_dims": [], "in_channels": 96, "out_channels": 16, "vec_in_dim": 768,
}  # fmt: skip
KLEIN = FLUX | {
    "context_in_dim": 7680, "mlp_ratio": 3.0, "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1,
    "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3], "in_channels": 128, "out_channels": 128,
    "vec_in_dim": None, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
VACE = {"dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 2, "vace_layers": 1, "vace_in_dim": 96}


def random(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Noise under a module's names; a module on the meta device is enough."""
    return {f"{prefix}{name}": noise(tuple(t.shape), name) for name, t in module.state_dict().items()}


def stable_diffusion(channels: int) -> dict[str, Tensor]:
    """A whole SD 1.5 checkpoint, whose UNet takes `channels`: 4, or 9 for inpainting."""
    import comfy.clip_model
    import comfy.ops
    import comfy.sd1_clip
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    ops = comfy.ops.manual_cast
    config = json.loads((Path(comfy.sd1_clip.__file__).parent / "sd1_clip_config.json").read_text("utf-8"))
    with torch.device("meta"):
        clip = comfy.clip_model.CLIPTextModel(config, None, "meta", ops)
        unet = UNetModel(**UNET | {"in_channels": channels}, operations=ops)
    text = {name: t for name, t in random(clip, "cond_stage_model.transformer.").items() if "projection" not in name}
    first_stage = {f"first_stage_model.{name}": t for name, t in kl().items()}
    return {**random(unet, "model.diffusion_model."), **text, **first_stage}


def kl(**more: int | bool) -> dict[str, Tensor]:
    """The VAE of SD and SDXL; of FLUX with `z_channels=16`, of FLUX.2 with 32."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = VAE | more
    with torch.device("meta"):
        network = AutoencoderKL(ddconfig=config, embed_dim=config["z_channels"])
    tensors = {name: noise(tuple(t.shape), name) for name, t in network.state_dict().items() if t.is_floating_point()}
    if config["z_channels"] == 16:
        tensors = {name: t for name, t in tensors.items() if "quant_conv" not in name}
    return {name: t.abs() + 0.5 if name.endswith("running_var") else t for name, t in tensors.items()}


def flux(parameters: dict[str, object]) -> dict[str, Tensor]:
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    return random(Flux(operations=comfy.ops.manual_cast, device="meta", **parameters))


def vace() -> dict[str, Tensor]:
    import comfy.ops
    from comfy.ldm.wan.model import VaceWanModel

    return random(VaceWanModel(operations=comfy.ops.manual_cast, device="meta", **VACE))


def wan_vae() -> dict[str, Tensor]:
    """With what joins frames, which our model of one frame lacks."""
    vae = built(WAN_VAE)
    tensors, _ = wan.write(vae.state_dict(), vae.config, "Wan")
    generator = torch.Generator().manual_seed(0)
    return {name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


def asuka() -> dict[str, Tensor]:
    state = built(ASUKA).state_dict()
    return {name.replace("decoder.condition_encoder.", "decoder.encoder."): t for name, t in state.items()}


PLAIN = ("vae/ae", "vae/diffusion_pytorch_model")
"""Read by our own loader, which refuses tensors that share their bytes: in safetensors."""


def file_of(name: str) -> str:
    return f"{name}.safetensors" if name in PLAIN else f"{name}.ckpt"


def write(models: Path, names: Iterable[str]) -> None:
    """Those of a workflow's files that are among them; the folder below `models` is where the workflow wants them."""
    makers = {
        "checkpoints/sd-v1-5-inpainting": lambda: stable_diffusion(9),
        "checkpoints/v1-5-pruned-emaonly-fp16": lambda: stable_diffusion(4),
        "diffusion_models/flux1-fill-dev": lambda: flux(FLUX),
        "diffusion_models/flux-2-klein-4b-fp8": lambda: flux(KLEIN),
        "diffusion_models/wan2.1_vace_14B_fp16": vace,
        "vae/sdxl_vae": kl,
        "vae/flux2-vae": lambda: kl(z_channels=32, batch_norm_latent=True),
        "vae/qwen_image_vae": wan_vae,
        "vae/wan_2.1_vae": wan_vae,
        "vae/asuka_decoder": asuka,
    }
    for name in names:
        path = models / file_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            continue
        if name == "checkpoints/model":
            write_checkpoint(path)
        elif name == "vae/diffusion_pytorch_model":
            asymvq.save(built(ASYMMETRIC), path, layout="diffusers", latents="sd")
        elif name == "vae/ae":
            save_file({key: tensor.half().contiguous() for key, tensor in kl(z_channels=16).items()}, path)
        else:
            torch.save(makers[name](), path)
