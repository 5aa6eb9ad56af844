"""Paint by Example: two loaders and the conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..asymvq.checkpoint.reading import open_tensors
from ..asymvq.checkpoint.tensors import read_each
from ..asymvq.crop import centre_crop
from ..asymvq.paint_by_example import (
    EXAMPLE_SIZE,
    FACTOR,
    LATENT_CHANNELS,
    UNET_CHANNELS,
    ConditioningHead,
    ExampleFit,
    build_head,
    concat_channels,
    fit_example,
    kept,
    load_head,
)
from . import host
from .host import CATEGORY, file_fingerprint, plain_errors
from .tensors import image_tensor, in_turn, mask_tensor, require_one_size, to_image

HeadType = io.Custom("PBE_HEAD")
TOWER = "cond_stage_model.transformer."
AVERAGED = "model_ema."
COND_STAGE = ("cond_stage_model.", "proj_out.", "learnable_vector")


class Head:
    """What a PBE_HEAD is: the conditioning head under the host's memory management."""

    def __init__(self, head: ConditioningHead):
        host.archive_model_dtypes(head)
        self.patcher = host.CoreModelPatcher(
            head,
            load_device=host.text_encoder_device(),
            offload_device=host.text_encoder_offload_device(),
        )

    @property
    def width(self) -> int:
        """Of the vision tower that it belongs to."""
        return self.patcher.model.width

    def encode(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) to the contexts with and without the examples: (B, 1, 768) and (1, 1, 768)."""
        host.load_models_gpu([self.patcher])
        head, device = self.patcher.model, host.intermediate_device()
        context = head(pooled.to(self.patcher.load_device, torch.float32))
        return context.to(device), head.learnable_vector.to(device, torch.float32)


class AsymVQPaintByExampleLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQPaintByExampleLoader",
            display_name="Load Paint by Example",
            category=CATEGORY,
            description=(
                "Loads a whole Paint by Example checkpoint (.ckpt or .safetensors): a Stable Diffusion that paints "
                "what an example picture shows. It takes no prompt, so there is no CLIP for text."
            ),
            search_aliases=["paint by example", "example inpainting", "image prompt", "load checkpoint"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=host.get_filename_list("checkpoints"),
                    tooltip="A checkpoint in models/checkpoints that holds all parts of Paint by Example.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model, for the sampler."),
                io.ClipVision.Output(tooltip="The CLIP vision model that looks at the example."),
                HeadType.Output(
                    display_name="PBE_HEAD",
                    tooltip="The conditioning head: turns what CLIP sees in the example into conditioning.",
                ),
                io.Vae.Output(
                    tooltip=("The VAE of Stable Diffusion 1. Every asymmetric VAE for SD 1.x can decode its latents.")
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str) -> str:
        """A file that was written anew is loaded anew."""
        return file_fingerprint(host.get_full_path_or_raise("checkpoints", ckpt_name))

    @classmethod
    @plain_errors
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        path = host.get_full_path_or_raise("checkpoints", ckpt_name)
        tensors, metadata = _read(path)
        head = build_head(tensors, ops=host.manual_cast)
        for parameter in head.parameters():  # not mapped from the file, which may be overwritten while it is in use
            parameter.data = parameter.data.clone()
        _check_complete(tensors)
        clip_vision = _load_tower(tensors)
        # the host would take the rest of the cond stage for a text encoder
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(COND_STAGE)}
        model, _, vae, _ = host.load_state_dict_guess_config(rest, output_clip=False, metadata=metadata)
        # how the host loads the model once more, where a node wants a copy of its own
        model.cached_patcher_init = (host.load_checkpoint_guess_config_model_only, (path,))
        return io.NodeOutput(model, clip_vision, Head(head), vae)


class AsymVQPaintByExampleHeadLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQPaintByExampleHeadLoader",
            display_name="Load Paint by Example Head",
            category=CATEGORY,
            description=(
                "Loads Paint by Example's conditioning head alone, for those who have diffusers' files: image_encoder "
                "goes here, unet into Load Diffusion Model, vae into Load VAE, and Load CLIP Vision takes any CLIP "
                "ViT-L/14."
            ),
            search_aliases=["paint by example", "image encoder", "diffusers", "mapper"],
            inputs=[
                io.Combo.Input(
                    "head_name",
                    options=host.get_filename_list("clip_vision"),
                    tooltip="The model file of diffusers' image_encoder folder. Put it into models/clip_vision.",
                )
            ],
            outputs=[
                HeadType.Output(
                    display_name="PBE_HEAD",
                    tooltip="The conditioning head: turns what CLIP sees in the example into conditioning.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, head_name: str) -> str:
        """A file that was written anew is loaded anew."""
        return file_fingerprint(host.get_full_path_or_raise("clip_vision", head_name))

    @classmethod
    @plain_errors
    def execute(cls, head_name: str) -> io.NodeOutput:
        path = host.get_full_path_or_raise("clip_vision", head_name)
        return io.NodeOutput(Head(load_head(path, ops=host.manual_cast)))


class AsymVQPaintByExampleConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQPaintByExampleConditioning",
            display_name="Paint by Example Conditioning",
            category=CATEGORY,
            description=(
                "Tells Paint by Example what to paint (the example) and where (the mask). The latent is empty, of the "
                "picture's size: sample it with denoise 1, then decode it together with the picture and the mask."
            ),
            search_aliases=["paint by example", "example inpainting", "image prompt", "reference inpaint"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="From Load Paint by Example, or any CLIP ViT-L/14."),
                HeadType.Input("head", tooltip="From Load Paint by Example, or Load Paint by Example Head."),
                io.Vae.Input(
                    "vae",
                    tooltip=("A VAE of Stable Diffusion 1.x. An asymmetric one works too: its encoder is the same."),
                ),
                io.Image.Input("image", tooltip="The source picture. Sides of about 512 pixels give the best results."),
                io.Mask.Input(
                    "mask", tooltip="White (1) is painted, black (0) is kept. It must have the size of the image."
                ),
                io.Image.Input(
                    "example",
                    tooltip=(
                        "A picture of what to paint. The subject should be large, with little background."
                        " Give one example, or one for each picture."
                    ),
                ),
                io.Combo.Input(
                    "example_fit",
                    options=ExampleFit,
                    default=ExampleFit.STRETCH,
                    tooltip=(
                        "How an example that is not square is made square. stretch: as the model was "
                        "trained. center crop: the longer side is cut. pad: neutral borders are added."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="Conditioning with the example, for the sampler."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="Conditioning without the example, which guidance (cfg) leads away from.",
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="An empty latent of the picture's size. Sample it with denoise 1."
                ),
            ],
        )

    @classmethod
    @plain_errors
    def execute(
        cls,
        clip_vision: Any,
        head: Head,
        vae: Any,
        image: Tensor,
        mask: Tensor,
        example: Tensor,
        example_fit: str = ExampleFit.STRETCH,
    ) -> io.NodeOutput:
        image, example = image_tensor(image), image_tensor(example)
        mask = mask_tensor(mask, image)
        count = _check_inputs(image, mask, example)
        _check_clip_vision(clip_vision, head)
        edits = max(len(image), len(mask))
        image, mask = (host.repeat_to_batch_size(tensor, edits) for tensor in (image, mask))

        keep = kept(centre_crop(mask, FACTOR)).to(image.device)
        # mid-grey is 0 in the VAE's [-1, 1]
        latent = vae.encode(to_image(torch.where(keep > 0, centre_crop(image, FACTOR), 0.5)))
        if latent.shape[1:] != (LATENT_CHANNELS, keep.shape[-2] // FACTOR, keep.shape[-1] // FACTOR):
            raise ValueError(
                f"Expected a VAE of Stable Diffusion 1.x, with {LATENT_CHANNELS} channels and 1/{FACTOR} of the "
                f"picture's size, but its latent has shape {tuple(latent.shape)}. Use the VAE of the Paint by Example "
                "checkpoint, or an asymmetric one for SD 1.x."
            )
        if not latent.isfinite().all():
            raise ValueError(
                "Expected a finite latent, but this VAE made NaN or infinity of the picture: half precision is too "
                "little for it. Load it with Load Asymmetric VQGAN, or start ComfyUI with --fp32-vae."
            )
        channels = host.repeat_to_batch_size(concat_channels(latent, keep.to(latent.device)), count)
        context, unconditional = head.encode(_pooled(clip_vision, head, fit_example(example, ExampleFit(example_fit))))

        # noise_concat takes the place of what the host would put beside the noise for a text-inpainting UNet
        positive = [[host.repeat_to_batch_size(context, count), {"noise_concat": channels}]]
        negative = [[host.repeat_to_batch_size(unconditional, count), {"noise_concat": channels}]]
        # a first latent that is not zero would shine through: the host adds the noise to it
        empty = torch.zeros_like(channels[:, :LATENT_CHANNELS])
        return io.NodeOutput(positive, negative, {"samples": empty})


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Safetensors as the host reads them, so that it can map and off-load them; pickles without running them."""
    if path.lower().endswith((".safetensors", ".sft")):
        return host.load_torch_file(path, return_metadata=True)
    with open_tensors(Path(path)) as file:
        # averaged copies, which nothing here uses, make up a good part of an original checkpoint
        used = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(AVERAGED)}
        return dict(read_each(used, [file], expanded=True)), file.metadata


def _check_complete(tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError where a checkpoint that has the head lacks one of the other parts."""
    parts = {
        "the vision tower": f"{TOWER}vision_model.post_layernorm.weight",
        "the UNet": "model.diffusion_model.input_blocks.0.0.weight",
        "the VAE": "first_stage_model.decoder.conv_in.weight",
    }
    missing = [part for part, name in parts.items() if name not in tensors]
    if missing:
        raise ValueError(
            f"Expected a whole Paint by Example checkpoint, but got one without {' and '.join(missing)}. Download it "
            "again, or load the parts one by one, with Load Paint by Example Head."
        )
    channels = tensors[parts["the UNet"]].shape[1]
    if channels != UNET_CHANNELS:
        raise ValueError(
            f"Expected a UNet with {UNET_CHANNELS} input channels (noise, picture, mask), but got {channels}. It is "
            "not Paint by Example's; download the checkpoint again."
        )


def _load_tower(tensors: Mapping[str, Tensor]) -> host.ClipVisionModel:
    """CLIP vision of a checkpoint's tower, whose `image_embeds` are the pooled output, without a projection."""
    tower = {name.removeprefix(TOWER): tensor for name, tensor in tensors.items() if name.startswith(TOWER)}
    # older hosts warn of a missing projection, and make one up
    clip_vision = host.load_clipvision_from_sd({**tower, "visual_projection.weight": torch.zeros(768, 1024)})
    if clip_vision is None:
        raise ValueError(
            "Expected a CLIP ViT-L/14 vision tower in the checkpoint, but got an incomplete one. Download it again."
        )
    clip_vision.model.visual_projection = torch.nn.Identity()
    return clip_vision


def _check_inputs(image: Tensor, mask: Tensor, example: Tensor) -> int:
    """How many pictures there are. Raises ValueError where sizes or counts do not fit, or nothing is masked."""
    require_one_size(image, mask)
    count = in_turn({"image": len(image), "mask": len(mask), "example": len(example)})
    if not (kept(centre_crop(mask, FACTOR)) == 0).flatten(1).any(dim=1).all():
        raise ValueError(
            "Expected a mask with something to paint, but got one that is empty (nowhere above 0.5). Paint it: "
            "right-click the Load Image node and open the mask editor."
        )
    return count


def _check_clip_vision(clip_vision: Any, head: Head) -> None:
    config = clip_vision.config
    expected = {"model_type": "clip_vision_model", "hidden_size": head.width, "image_size": EXAMPLE_SIZE}
    got = {name: config.get(name) for name in expected}
    if got != expected:
        raise ValueError(
            f"Expected CLIP ViT-L/14, of width {head.width} and for {EXAMPLE_SIZE} pixels, but got "
            f"{got['model_type']} of width {got['hidden_size']} for {got['image_size']} pixels. Use the CLIP vision of "
            "Load Paint by Example, or load a CLIP ViT-L/14 with Load CLIP Vision."
        )


def _pooled(clip_vision: Any, head: Head, example: Tensor) -> Tensor:
    """(B, width) of `example` (B, 3, 224, 224): the class token after the tower's last norm."""
    output = clip_vision.encode_image(to_image(example), crop=False)
    if output["image_embeds"].shape[-1] == head.width:
        return output["image_embeds"]
    # a tower that was loaded with CLIP's projection gives what follows that
    return clip_vision.model.vision_model.post_layernorm(output["last_hidden_state"][:, 0])
