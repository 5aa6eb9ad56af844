"""Asymmetric VQGAN Decode."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..asymvq.decode import Keep, Region
from ..asymvq.masks import grow_mask as grown
from ..asymvq.source import Source, fit_source
from .host import show_on_node
from .tensors import image_tensor, latent_tensor, mask_tensor, to_image
from .vae import AsymmetricVAE, Tiling


class AsymVQDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQDecode",
            display_name="Asymmetric VQGAN Decode",
            category="latent/inpaint",
            description=(
                "Decodes an edited latent together with the source picture and the mask: what the mask keeps stays as "
                "it was, and what was edited fits its neighbours. Without image and mask it is a plain decode."
            ),
            search_aliases=[
                "inpaint decode",
                "keep unmasked",
                "asymmetric vae",
                "vqgan",
                "vae decode inpaint",
                "preserve pixels",
            ],
            inputs=[
                io.Latent.Input("samples", tooltip="The edited latent, from the sampler."),
                io.Vae.Input("vae", tooltip="From Load Asymmetric VQGAN."),
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
                        "to 8 of 255 counts as black."
                    ),
                ),
                io.Combo.Input(
                    "keep",
                    options=Keep,
                    default=Keep.EXACT,
                    tooltip=(
                        "exact: kept pixels are the source's own, bit for bit. "
                        "network: the decoder's picture as it is, as in the paper; it is always decoded in full."
                    ),
                ),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Pixels to grow the mask by before decoding, when the edit reaches beyond it.",
                ),
                io.Combo.Input(
                    "tiling",
                    options=Tiling,
                    default=Tiling.AUTO,
                    advanced=True,
                    tooltip="auto: in tiles when memory runs out. on: always. off: never, fail instead.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=512,
                    min=128,
                    max=4096,
                    step=64,
                    advanced=True,
                    tooltip="Side of a tile, pixels.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="What neighbouring tiles share, pixels: at most half a tile.",
                ),
                io.Combo.Input(
                    "region",
                    options=Region,
                    default=Region.AUTO,
                    advanced=True,
                    tooltip=(
                        "masked: decode only what the mask touches and its surroundings, much faster for small masks. "
                        "full: decode everything, as keep network always does. auto: whichever is less work."
                    ),
                ),
                io.Boolean.Input(
                    "preview",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Show the source and the result on this node.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The source with the edit in it, of the source's size.")],
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
    ) -> io.NodeOutput:
        if not isinstance(vae, AsymmetricVAE):
            raise ValueError(
                "Expected a VAE from Load Asymmetric VQGAN, but got one from a stock loader: its decoder cannot be "
                "shown the picture. Load the asymmetric file with Load Asymmetric VQGAN, or decode with VAE Decode."
            )
        latent = latent_tensor(samples)
        if image is not None:
            image = image_tensor(image)
            mask = None if mask is None else grown(mask_tensor(mask, image), grow_mask)
        source = fit_source(vae.config, latent, image=image, mask=mask, image_range=(0.0, 1.0))
        if cls.hidden is not None:
            show_on_node(_summary(source), cls.hidden.unique_id)
        result = vae.decode_source(
            latent,
            source,
            keep=Keep(keep),
            region=Region(region),
            tiling=Tiling(tiling),
            tile=tile_size,
            overlap=overlap,
        )
        if not preview:
            return io.NodeOutput(result)
        return io.NodeOutput(result, ui=ui.PreviewImage(_pairs(image, result), cls=cls))


def _summary(source: Source | None) -> str:
    """What stands on the node. Always something, so that no older text stays."""
    if source is None:
        return "Without image and mask: a plain decode, nothing is kept."
    share = source.edited_share()
    return " ".join(source.remarks()) or f"Edited: {'under 0.1%' if share < 0.001 else f'{share:.1%}'} of the image."


def _pairs(image: Tensor | None, result: Tensor) -> Tensor:
    """Source, result, source, result, … of (1 or more, 3, H, W) and (B, H, W, 3). Without source: the results."""
    if image is None:
        return result
    source = comfy.utils.repeat_to_batch_size(to_image(image).to(result), len(result))
    return torch.stack([source, result], dim=1).flatten(0, 1)
