"""What a family's network consists of."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..config import Config
from ..decoder import Decoder
from ..encoder import Encoder
from ..layers import Ops
from .codec import LatentCodec


class Parts(NamedTuple):
    encoder: Encoder | None
    decoder: Decoder
    quant_conv: nn.Module | None
    post_quant_conv: nn.Module | None
    codec: LatentCodec


def quantisation(config: Config, ops: Ops) -> tuple[nn.Module | None, nn.Module | None]:
    """The 1×1 convolutions between the encoder's moments, z, and the decoder's input; None where there are none."""
    channels = config.network_latent_channels
    quant_conv = ops.Conv2d(2 * channels, 2 * channels, kernel_size=1) if config.quant_conv else None
    return quant_conv, ops.Conv2d(channels, channels, kernel_size=1) if config.post_quant_conv else None
