"""The VAE that our loader hands to the graph: the host's own class around our module."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..asymvq.autoencoder import AsymmetricAutoencoder
from ..asymvq.checkpoint import Checkpoint, build, to_native
from ..asymvq.config import Config
from ..asymvq.decode import Keep, Region, Source, decode_source
from ..asymvq.precision import suggested_dtype
from ..asymvq.runtime import Runtime, is_out_of_memory
from . import host
from .memory import DecodeMemory, EncodeMemory, give_back_memory, on_this_machine
from .progress import HostProgress
from .tensors import in_range_to_signed, to_image, without_time

_STAND_IN = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1],
        "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip
"""The smallest VAE that the host's constructor builds; replaced at once."""


class Tiling(str, Enum):
    """Whether a decode is split into tiles."""

    AUTO = "auto"
    """When memory runs out."""
    ON = "on"
    OFF = "off"


class AsymmetricVAE(host.VAE):
    """Works wherever the host takes a VAE, and decodes with a condition besides.

    Args:
        checkpoint: what `asymvq.checkpoint.read` returns.
        dtype: what to compute in; None leaves it to the host, but for a small VAE, which computes in float32.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None):
        dtype = dtype or suggested_dtype(checkpoint.state_dict)
        super().__init__(sd=host.AutoencoderKL(**_STAND_IN).state_dict(), config={"params": _STAND_IN}, dtype=dtype)
        config = checkpoint.config
        self.latent_channels = config.latent_channels
        self.output_channels = config.image_channels
        self.downscale_ratio = self.upscale_ratio = config.factor
        self.process_input = in_range_to_signed
        self.memory_used_decode = DecodeMemory(config, self.device)
        self.memory_used_encode = EncodeMemory(config, self.device)

        # Weights are cast to their input's precision, layer by layer. So the module rescues what overflows in float32
        # by itself, whichever of the host's methods runs it.
        model = build(checkpoint, dtype=self.vae_dtype, ops=host.manual_cast)
        self.vae_dtype = model.decoder.conv_in.weight.dtype
        host.archive_model_dtypes(model)
        self.first_stage_model = model
        self.patcher = host.CoreModelPatcher(model, load_device=self.device, offload_device=host.vae_offload_device())
        self.size = None
        self.model_size()

    @property
    def config(self) -> Config:
        return self._model.config

    @property
    def _model(self) -> AsymmetricAutoencoder:
        return self.first_stage_model

    def get_sd(self) -> dict[str, Tensor]:
        """Weights under our own keys, so that the host's stock loader refuses the file instead of misreading it."""
        return to_native(super().get_sd(), self.config)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """The stock entry point: (B, H, W, 3) in [0, 1] to the latent as this VAE's models have it."""
        return self._with_time(super().encode(pixel_samples))

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._with_time(super().encode_tiled(pixel_samples, *args, **kwargs))

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """The stock entry point: (B, C, h, w), or one frame (B, C, 1, h, w), to (B, H, W, 3) in [0, 1], without a
        condition."""
        return self.decode_source(without_time(samples_in), None)

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().decode_tiled(without_time(samples), *args, **kwargs)

    def _with_time(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) as one frame (B, C, 1, h, w), where the models of this VAE have videos too."""
        return latent.unsqueeze(2) if self.config.frames and latent.ndim == 4 else latent

    def decode_source(
        self,
        latent: Tensor,
        source: Source | None,
        *,
        keep: Keep = Keep.EXACT,
        region: Region = Region.AUTO,
        tiling: Tiling = Tiling.AUTO,
        tile: int = 512,
        overlap: int = 64,
        harmonise: float = 0.0,
        noise_mask: bool = False,
        frames: int = 1,
    ) -> Tensor:
        """Decodes with the kept pixels of `source`, or plainly where there is none.

        Args:
            latent: (B, C, h, w).
            source: from `asymvq.source.fit_source`, its image in [0, 1].
            keep: what becomes of the kept pixels.
            region: whether only what the mask touches is decoded.
            tiling: AUTO goes over to tiles when memory runs out; AUTO and ON halve them while it still does.
            tile: side of a tile, pixels.
            overlap: what neighbouring tiles share, pixels; half a tile at most.
            harmonise: 0 to 1, see `asymvq.decode`; so are `noise_mask` and `frames`.

        Returns:
            (B, H, W, 3) in [0, 1], of the source's full size and of `result_dtype`.
        """
        runtime = Runtime(
            device=self.device, dtype=self.vae_dtype, output_device=self.output_device, room_for=self._room_for,
            is_out_of_memory=lambda error: is_out_of_memory(error) or host.is_oom(error),
            free=host.soft_empty_cache, progress=HostProgress(),
        )  # fmt: skip
        with host.device_context(self.device):
            result = decode_source(
                self._model, latent, source,
                keep=keep, region=region, tile=tile if tiling is Tiling.ON else None, overlap=min(overlap, tile // 2),
                retry_tile=None if tiling is Tiling.OFF else tile, batch=None,
                harmonise=harmonise, noise_mask=noise_mask, frames=frames,
                image_range=(0.0, 1.0), dtype=result_dtype(None if source is None else source.image), runtime=runtime,
            )  # fmt: skip
        give_back_memory(self.device)
        return to_image(result)

    def _room_for(self, needed: int) -> int:
        memory = on_this_machine(needed)
        host.load_models_gpu([self.patcher], memory_required=memory)
        return int(self.patcher.get_free_memory(self.device) / memory)


def result_dtype(image: Tensor | None) -> torch.dtype:
    """Of an IMAGE: the host's, or float32 where the source is of another: kept pixels are its own bit for bit."""
    dtype = host.intermediate_dtype()
    return dtype if image is None or image.dtype == dtype else torch.float32
