"""Asymmetric VQGAN Decode."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..asymvq.autoencoder import check_together
from ..asymvq.decode import Keep, Region
from ..asymvq.masks import grow_mask as grown
from ..asymvq.source import Source, fit_source
from . import host
from .host import CATEGORY, say
from .inputs import video_input
from .stock import decode_pictures, frames_of, put_into_source
from .tensors import image_tensor, latent_tensor, mask_tensor, require_one_size, to_image
from .vae import AsymmetricVAE, Tiling

HARMONISE = 1.0
"""What the widget begins with."""


class AsymVQDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQDecode",
            display_name="Asymmetric VQGAN Decode (Inpaint)",
            category=CATEGORY,
            description=(
                "Decodes an edited latent together with the source picture and the mask: what the mask keeps stays as "
                "it was, bit for bit, and what was edited fits its neighbours. For any VAE, video too; an asymmetric "
                "one is shown the kept pixels besides. Without image and mask it is a plain decode."
            ),
            search_aliases=[
                "inpaint decode",
                "keep unmasked",
                "asymmetric vae",
                "vqgan",
                "vae decode inpaint",
                "preserve pixels",
                "paste back",
                "composite original",
                "color match",
                "seam",
                "inpaint",
                "inpainting",
                "outpaint",
                "preserve original pixels",
                "restore unmasked",
                "keep original",
                "局部重绘",
                "重绘",
                "扩图",
                "接缝",
            ],
            inputs=[
                io.Latent.Input("samples", tooltip="The edited latent that comes from the sampler."),
                io.Vae.Input(
                    "vae",
                    tooltip=(
                        "From Load Asymmetric VQGAN: its decoder is shown the kept pixels. Any other VAE (SD, SDXL, "
                        "FLUX.2, Qwen, Wan, video) decodes as in VAE Decode and cannot be shown them: its picture is "
                        "harmonised and put into the source."
                    ),
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip=(
                        "The source picture, the one that was encoded. One picture serves a whole batch; several are "
                        "taken in turn."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "White (1) was edited, black (0) is kept, grey blends the two. Of the image's size. Noise up "
                        "to 8 of 255 counts as black. Not wired: the latent's own, from Set Latent Noise Mask."
                    ),
                ),
                io.Combo.Input(
                    "keep",
                    options=Keep,
                    default=Keep.EXACT,
                    tooltip=(
                        "exact: kept pixels are the source's own, bit for bit. "
                        "network: the decoder's picture as it is, as in the paper; always decoded in full, never "
                        "harmonised."
                    ),
                ),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=0,
                    max=256,
                    tooltip=(
                        "How many pixels the mask is grown by before decoding. Use it when the edit reaches beyond the "
                        "mask."
                    ),
                ),
                io.Combo.Input(
                    "tiling",
                    options=Tiling,
                    default=Tiling.AUTO,
                    advanced=True,
                    tooltip=(
                        "auto: in tiles when memory runs out. on: always. off: never, fail instead (a VAE of a stock "
                        "loader goes over to tiles by itself)."
                    ),
                ),
                io.Int.Input(
                    "tile_size",
                    default=512,
                    min=128,
                    max=4096,
                    step=64,
                    advanced=True,
                    tooltip="The side of a tile, in pixels.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="How many pixels neighbouring tiles share; at most half a tile.",
                ),
                io.Combo.Input(
                    "region",
                    options=Region,
                    default=Region.AUTO,
                    advanced=True,
                    tooltip=(
                        "masked: decode only what the mask touches and its surroundings, much faster for small masks. "
                        "full: decode everything, as keep network and VAEs of stock loaders always do. auto: whichever "
                        "is less work."
                    ),
                ),
                io.Boolean.Input(
                    "preview",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Show the source and the result side by side on this node.",
                ),
                io.Float.Input(
                    "harmonise",
                    default=HARMONISE,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "How far the edit's colours and light are made to continue the kept pixels'. 0: not at all. "
                        "With an asymmetric VAE it costs a second decode. A noise mask in the latent is taken into "
                        "account. Frames of a video latent stay steady. Not with keep network."
                    ),
                ),
                video_input(
                    " For models of pictures that make videos, such as AnimateDiff. A video model's latent is one "
                    "anyway.",
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output(tooltip="The source picture with the edit in it, in the source's size.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        keep: str = Keep.EXACT,
        grow_mask: int = 0,
        tiling: str = Tiling.AUTO,
        tile_size: int = 512,
        overlap: int = 64,
        region: str = Region.AUTO,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        preview: bool = False,
        harmonise: float = 0.0,  # graphs in API format from before there was the input stay as they were
        video: bool = False,
    ) -> io.NodeOutput:
        if not callable(getattr(vae, "decode", None)):
            raise ValueError(
                f"Expected a VAE, but got {type(vae).__name__}. Connect Load Asymmetric VQGAN or Load VAE."
            )
        own_mask = samples.get("noise_mask") if isinstance(samples, dict) else None
        if image is not None and mask is None:
            mask = own_mask
        check_together(image=image, mask=mask)
        pictures = None
        if image is not None and mask is not None:
            pictures = image_tensor(image)
            mask = grown(mask_tensor(mask, pictures), grow_mask)
            require_one_size(pictures, mask)
        masked = own_mask is not None
        if isinstance(vae, AsymmetricVAE):
            latent = latent_tensor(samples)
            source = fit_source(vae.config, latent, image=pictures, mask=mask, image_range=(0.0, 1.0))
            said = cls._say(source)
            result = vae.decode_source(
                latent, source,
                keep=Keep(keep), region=Region(region), tiling=Tiling(tiling), tile=tile_size, overlap=overlap,
                harmonise=harmonise, noise_mask=masked, frames=_most(latent, source) if video else 1,
            )  # fmt: skip
        else:
            source = None if pictures is None else Source(pictures, mask, (0, 0, *pictures.shape[-2:]))
            said = cls._say(source)
            result = decode_pictures(vae, samples, tiling=Tiling(tiling), tile=tile_size, overlap=overlap)
            if source is not None:
                frames = frames_of(samples, result)
                if video and frames == 1:
                    frames = _most(result, source)
                result = put_into_source(
                    result, vae, image=image, mask=mask, keep=Keep(keep), harmonise=harmonise, noise_mask=masked,
                    frames=frames,
                )  # fmt: skip
        if not preview:
            return io.NodeOutput(result, ui=said)
        return io.NodeOutput(result, ui={**ui.PreviewImage(_pairs(pictures, result), cls=cls).as_dict(), **said})

    @classmethod
    def _say(cls, source: Source | None) -> dict[str, tuple[str]]:
        # always something, so that no older text stays
        plain = "Without image and mask: a plain decode, nothing is kept."
        return say(cls, plain if source is None else source.summary())


def _most(decoded: Tensor, source: Source | None) -> int:
    """How many results there are: as many as of what there is most, the rest is taken in turn."""
    return max(len(decoded), 0 if source is None else source.count)


def _pairs(image: Tensor | None, result: Tensor) -> Tensor:
    """Source, result, source, result, … of (1 or more, 3, H, W) and (B, H, W, 3). Without source: the results."""
    result = result[..., :3]
    if image is None:
        return result
    source = host.repeat_to_batch_size(to_image(image).to(result), len(result))
    return torch.stack([source, result], dim=1).flatten(0, 1)
