"""The parts of a graph as data: nodes with their sockets, the files that they name, groups of stacks of nodes.

A wire is named by where it comes from: "loader" is that node's first output, "pictures.mask" one by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OURS, STOCK = {"cnr_id": "asymvq", "ver": "0.1.0"}, {"cnr_id": "comfy-core", "ver": "0.33.0"}
NOTE_COLOR, OURS_COLOR = ("#321", "#432"), ("#233", "#355")

# what a node takes by wire and what it gives, in its schema's order; "widget": an input that is a widget too
SOCKETS = {
    "AsymVQAlign": (
        "edited IMAGE, source IMAGE, mask MASK",
        "aligned IMAGE, shift_x FLOAT, shift_y FLOAT, scale FLOAT, rotation FLOAT",
    ),
    "AsymVQChangeMask": ("edited IMAGE, source IMAGE, vae VAE", "MASK MASK"),
    "AsymVQHarmonise": ("edited IMAGE, source IMAGE, mask MASK", "IMAGE IMAGE"),
    "AsymVQInpaintCrop": ("image IMAGE, mask MASK", "image IMAGE, mask MASK, crop ASYMVQ_CROP"),
    "AsymVQStitch": ("crop ASYMVQ_CROP, image IMAGE", "IMAGE IMAGE"),
    "CFGGuider": ("model MODEL, positive CONDITIONING, negative CONDITIONING", "GUIDER GUIDER"),
    "CFGNorm": ("model MODEL", "patched_model MODEL"),
    "CLIPLoader": ("", "CLIP CLIP"),
    "CreateVideo": ("images IMAGE, audio AUDIO, fps FLOAT widget", "VIDEO VIDEO"),
    "DifferentialDiffusion": ("model MODEL", "MODEL MODEL"),
    "EmptyFlux2LatentImage": ("width INT widget, height INT widget", "LATENT LATENT"),
    "Flux2Scheduler": ("width INT widget, height INT widget", "SIGMAS SIGMAS"),
    "FluxKontextImageScale": ("image IMAGE", "IMAGE IMAGE"),
    "FluxKontextMultiReferenceLatentMethod": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "GetImageSize": ("image IMAGE", "width INT, height INT, batch_size INT"),
    "GetVideoComponents": ("video VIDEO", "images IMAGE, audio AUDIO, fps FLOAT"),
    "ImageFromBatch": ("image IMAGE", "IMAGE IMAGE"),
    "ImageScale": ("image IMAGE", "IMAGE IMAGE"),
    "ImageScaleToTotalPixels": ("image IMAGE", "IMAGE IMAGE"),
    "KSamplerSelect": ("", "SAMPLER SAMPLER"),
    "LoadVideo": ("", "VIDEO VIDEO"),
    "LoraLoaderModelOnly": ("model MODEL", "MODEL MODEL"),
    "ModelSamplingAuraFlow": ("model MODEL", "MODEL MODEL"),
    "ModelSamplingSD3": ("model MODEL", "MODEL MODEL"),
    "RandomNoise": ("", "NOISE NOISE"),
    "ReferenceLatent": ("conditioning CONDITIONING, latent LATENT", "CONDITIONING CONDITIONING"),
    "SAM3_Detect": ("model MODEL, image IMAGE, conditioning CONDITIONING", "masks MASK, bboxes BOUNDING_BOX"),
    "SamplerCustomAdvanced": (
        "noise NOISE, guider GUIDER, sampler SAMPLER, sigmas SIGMAS, latent_image LATENT",
        "output LATENT, denoised_output LATENT",
    ),
    "SaveVideo": ("video VIDEO", "video VIDEO"),
    "SetLatentNoiseMask": ("samples LATENT, mask MASK", "LATENT LATENT"),
    "TextEncodeQwenImageEditPlus": ("clip CLIP, vae VAE, image1 IMAGE", "CONDITIONING CONDITIONING"),
    "TrimVideoLatent": ("samples LATENT, trim_amount INT widget", "LATENT LATENT"),
    "WanVaceToVideo": (
        "positive CONDITIONING, negative CONDITIONING, vae VAE, control_video IMAGE, control_masks MASK, width "
        "INT widget, height INT widget, length INT widget",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT, trim_latent INT",
    ),
    "InvertMask": ("mask MASK", "MASK MASK"),
    "MaskPreview": ("mask MASK", ""),
    "MaskToImage": ("mask MASK", "IMAGE IMAGE"),
    "AsymVQCompare": (
        "reference IMAGE, results.result_1 IMAGE, results.result_2 IMAGE, mask MASK",
        "panel IMAGE, kept_error FLOAT, masked_error FLOAT, border_error FLOAT, seam_error FLOAT, colour_error FLOAT, "
        "masked_psnr FLOAT, masked_ssim FLOAT, gradient_error FLOAT",
    ),
    "AsymVQLossPlot": ("loss_map LOSS_MAP", "IMAGE IMAGE"),
    "AsymVQTrain": ("vae VAE, images IMAGE", "VAE VAE, loss_map LOSS_MAP, path STRING"),
    "AsymVQCropAroundMask": ("image IMAGE, mask MASK", "image IMAGE, mask MASK, x INT, y INT"),
    "AsymVQDemoPictures": ("", "picture IMAGE, mask MASK, example IMAGE"),
    "AsymVQLoader": ("", "VAE VAE"),
    "AsymVQRandomMask": ("", "MASK MASK"),
    "AsymVQPaintByExampleConditioning": (
        "clip_vision CLIP_VISION, head PBE_HEAD, vae VAE, image IMAGE, mask MASK, example IMAGE",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT",
    ),
    "AsymVQPaintByExampleLoader": ("", "MODEL MODEL, CLIP_VISION CLIP_VISION, PBE_HEAD PBE_HEAD, VAE VAE"),
    "AsymVQDecode": ("samples LATENT, vae VAE, image IMAGE, mask MASK", "IMAGE IMAGE"),
    "CheckpointLoaderSimple": ("", "MODEL MODEL, CLIP CLIP, VAE VAE"),
    "CLIPTextEncode": ("clip CLIP", "CONDITIONING CONDITIONING"),
    "ConditioningZeroOut": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "DualCLIPLoader": ("", "CLIP CLIP"),
    "EmptyLatentImage": ("", "LATENT LATENT"),
    "FluxGuidance": ("conditioning CONDITIONING", "CONDITIONING CONDITIONING"),
    "GrowMask": ("mask MASK", "MASK MASK"),
    "ImageCompositeMasked": (
        "destination IMAGE, source IMAGE, mask MASK, x INT widget, y INT widget",
        "IMAGE IMAGE",
    ),
    "InpaintModelConditioning": (
        "positive CONDITIONING, negative CONDITIONING, vae VAE, pixels IMAGE, mask MASK",
        "positive CONDITIONING, negative CONDITIONING, latent LATENT",
    ),
    "KSampler": (
        "model MODEL, positive CONDITIONING, negative CONDITIONING, latent_image LATENT",
        "LATENT LATENT",
    ),
    "LatentCompositeMasked": ("destination LATENT, source LATENT, mask MASK", "LATENT LATENT"),
    "LoadImage": ("", "IMAGE IMAGE, MASK MASK"),
    "MarkdownNote": ("", ""),
    "PreviewImage": ("images IMAGE", ""),
    "SaveImage": ("images IMAGE", ""),
    "UNETLoader": ("", "MODEL MODEL"),
    "VAEDecode": ("samples LATENT, vae VAE", "IMAGE IMAGE"),
    "VAEEncode": ("pixels IMAGE, vae VAE", "LATENT LATENT"),
    "VAELoader": ("", "VAE VAE"),
}

FILES = {  # where a file is to lie, and its repository and path on Hugging Face
    "vae": [
        "cross-attention/asymmetric-autoencoder-kl-x-1-5/resolve/main/diffusion_pytorch_model.safetensors",
        "yikaiwang/ASUKA-FLUX.1-Fill/resolve/main/asuka_decoder.ckpt",
        "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
        "Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
        "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/vae/qwen_image_vae.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/vae/wan_2.1_vae.safetensors",
    ],
    "checkpoints": [
        "webui/stable-diffusion-inpainting/resolve/main/sd-v1-5-inpainting.safetensors",
        "Fantasy-Studio/Paint-by-Example/resolve/refs%2Fpr%2F3/model.safetensors",
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
    ],
    "diffusion_models": [
        "Comfy-Org/flux1-dev/resolve/main/split_files/diffusion_models/flux1-fill-dev.safetensors",
        "black-forest-labs/FLUX.2-klein-4b-fp8/resolve/main/flux-2-klein-4b-fp8.safetensors",
        "Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/"
        "qwen_image_edit_2511_fp8mixed.safetensors",
        "Comfy-Org/z_image_turbo/resolve/main/split_files/diffusion_models/z_image_turbo_bf16.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/diffusion_models/wan2.1_vace_14B_fp16.safetensors",
    ],
    "loras": [
        "lightx2v/Qwen-Image-Edit-2511-Lightning/resolve/main/"
        "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    ],
    "text_encoders": [
        "comfyanonymous/flux_text_encoders/resolve/main/clip_l.safetensors",
        "comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp8_e4m3fn_scaled.safetensors",
        "Comfy-Org/z_image_turbo/resolve/main/split_files/text_encoders/qwen_3_4b.safetensors",
        "Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files/text_encoders/"
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders/"
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    ],
}
MODELS = {
    path.rsplit("/", 1)[1]: {
        "name": path.rsplit("/", 1)[1],
        "url": f"https://huggingface.co/{path}",
        "directory": directory,
    }
    for directory, paths in FILES.items()
    for path in paths
}


@dataclass(frozen=True)
class Node:
    name: str
    type: str
    height: int
    values: tuple[Any, ...] = ()
    wires: dict[str, str] = field(default_factory=dict)
    title: str = ""
    muted: bool = False

    @property
    def inputs(self) -> list[list[str]]:
        """Name and type of each, and "widget" where it is one too."""
        return [socket.split() for socket in filter(None, SOCKETS[self.type][0].split(", "))]

    @property
    def outputs(self) -> list[list[str]]:
        return [socket.split() for socket in filter(None, SOCKETS[self.type][1].split(", "))]

    @property
    def properties(self) -> dict[str, Any]:
        if self.type == "MarkdownNote":
            return {}
        properties = {"Node name for S&R": self.type, **(OURS if self.type.startswith("AsymVQ") else STOCK)}
        models = [MODELS[value] for value in self.values if value in MODELS]
        return {**properties, "models": models} if models else properties

    @property
    def look(self) -> dict[str, str]:
        title = {"title": self.title} if self.title else {}
        if self.type == "MarkdownNote" or self.type.startswith("AsymVQ"):
            title["color"], title["bgcolor"] = NOTE_COLOR if self.type == "MarkdownNote" else OURS_COLOR
        return title


@dataclass(frozen=True)
class Group:
    title: str
    color: str
    stacks: list[tuple[int, list[Node]]]  # width, nodes from top to bottom
