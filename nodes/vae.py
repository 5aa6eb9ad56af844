"""The VAE that our loader hands to the graph: the host's own class around our module."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from enum import Enum
from typing import Any

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor

from ..asymvq.autoencoder import AsymmetricAutoencoder
from ..asymvq.checkpoint import Checkpoint, build, to_native
from ..asymvq.config import AutoencoderConfig
from ..asymvq.decode import Keep, Region, Source, compose, decode_network, make_plan
from .memory import DecodeMemory, EncodeMemory, give_back_memory
from .tensors import in_range_to_signed, to_image, to_signed, to_unit

logger = logging.getLogger(__name__)

SMALLEST_TILE = 128
"""Pixels. What does not fit in memory in tiles of this size does not fit at all."""

SMALL_VAE = 20_000_000
"""Parameters. Below, half precision saves nothing worth the colours that it costs."""

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


class AsymmetricVAE(comfy.sd.VAE):
    """Works wherever the host takes a VAE, and decodes with a condition besides.

    Args:
        checkpoint: what `asymvq.checkpoint.read` returns.
        dtype: what to compute in; None leaves it to the host, but for a small VAE, which computes in float32.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None):
        if dtype is None and sum(tensor.numel() for tensor in checkpoint.state_dict.values()) < SMALL_VAE:
            dtype = torch.float32
        super().__init__(sd=AutoencoderKL(**_STAND_IN).state_dict(), config={"params": _STAND_IN}, dtype=dtype)
        config = checkpoint.config
        self.latent_channels = config.latent_channels
        self.output_channels = config.image_channels
        self.downscale_ratio = self.upscale_ratio = config.factor
        self.process_input = in_range_to_signed
        self.memory_used_decode = DecodeMemory(config, self.device)
        self.memory_used_encode = EncodeMemory(config, self.device)

        # Weights are cast to their input's precision, layer by layer. So the module rescues what overflows in float32
        # by itself, whichever of the host's methods runs it.
        model = build(checkpoint, dtype=self.vae_dtype, ops=comfy.ops.manual_cast)
        self.vae_dtype = model.decoder.conv_in.weight.dtype
        model_management.archive_model_dtypes(model)
        self.first_stage_model = model
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=self.device, offload_device=model_management.vae_offload_device()
        )
        self.size = None
        self.model_size()

    @property
    def config(self) -> AutoencoderConfig:
        return self._model.config

    @property
    def _model(self) -> AsymmetricAutoencoder:
        return self.first_stage_model

    def get_sd(self) -> dict[str, Tensor]:
        """Weights under our own keys, so that the host's stock loader refuses the file instead of misreading it."""
        return to_native(super().get_sd(), self.config)

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """The stock entry point: (B, C, h, w) to (B, H, W, 3) in [0, 1], without a condition."""
        if samples_in.ndim == 5:  # as the host does for 2-D VAEs
            samples_in = samples_in[:, :, 0]
        return self.decode_source(samples_in, None)

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
    ) -> Tensor:
        """Decodes with the kept pixels of `source`, or plainly where there is none.

        Args:
            latent: (B, C, h, w).
            source: from `asymvq.source.fit_source`, its image in [0, 1].
            keep: what becomes of the kept pixels.
            region: whether only what the mask touches is decoded.
            tiling: AUTO goes over to tiles when memory runs out; AUTO and ON halve them while it still does.
            tile: side of a tile, pixels.
            overlap: what neighbouring tiles share, pixels.

        Returns:
            (B, H, W, 3) in [0, 1], of the source's full size; in the host's type for pictures, or in float32 where
            the source is of another: kept pixels are its own bit for bit.
        """
        if source is not None:
            latent = source.cycled(latent)
            if keep is Keep.EXACT and source.unedited():
                whole = source.slice(0, latent.shape[0]).image
                return to_image(whole.expand(latent.shape[0], -1, -1, -1).to(self.output_device).contiguous())
        size = tile if tiling is Tiling.ON else None
        while True:
            try:
                result = self._decode_once(latent, source, keep, region, size, min(overlap, (size or tile) // 2))
                give_back_memory(self.device)
                return result
            except Exception as error:
                model_management.raise_non_oom(error)
                if tiling is Tiling.OFF or (size is not None and size // 2 < SMALLEST_TILE):
                    raise
            # Out of the except block, so that nothing holds on to the failed try's tensors.
            size = tile if size is None else size // 2
            logger.warning("Out of memory while decoding: trying again in tiles of %d pixels.", size)
            model_management.soft_empty_cache()

    def _decode_once(
        self, latent: Tensor, source: Source | None, keep: Keep, region: Region, tile: int | None, overlap: int
    ) -> Tensor:
        count = latent.shape[0]
        plan = make_plan(self.config, latent, source, keep=keep, region=region, tile=tile, overlap=overlap)
        shape = (1, latent.shape[1], *plan.largest)
        memory = self.memory_used_decode(shape, self.vae_dtype, conditioned=source is not None)
        model_management.load_models_gpu([self.patcher], memory_required=memory)
        batch = max(1, min(count, int(self.patcher.get_free_memory(self.device) / memory)))

        report = _Progress()
        result: Tensor | None = None
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            part = signed = None
            if source is not None:
                part = source.slice(start, stop)
                signed = dataclasses.replace(part, image=to_signed(part.image))
            with _device_context(self.device):
                decoded = decode_network(
                    self._model, latent[start:stop], signed, plan.slice(start, stop), batch=batch,
                    device=self.device, dtype=self.vae_dtype, progress=report.of(start, stop, count),
                )  # fmt: skip
            picture = to_unit(decoded.to(self.output_device))
            if part is not None:
                picture = compose(picture, part, keep)
            if result is None:
                size, dtype = (count, *picture.shape[1:]), model_management.intermediate_dtype()
                if source is not None and source.image.dtype != dtype:
                    dtype = torch.float32  # kept pixels are the source's bit for bit, under --fp16-intermediates too
                result = torch.empty(size, device=self.output_device, dtype=dtype)
            result[start:stop] = picture
        assert result is not None
        return to_image(result)


class _Progress:
    """The host's progress bar over batches of tiles, and its interrupt between them."""

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(1)

    def of(self, start: int, stop: int, count: int):
        """The callback for pictures `start` to `stop` of `count`."""

        def report(done: int, total: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            pictures = start + (stop - start) * done / total
            self.bar.update_absolute(round(1000 * pictures / count), 1000)

        return report


def _device_context(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The host's, where it has one (0.21 and later)."""
    context = getattr(model_management, "cuda_device_context", None)
    return contextlib.nullcontext() if context is None else context(device)
