"""The LDM's KL autoencoder, with GroupNorm: of Stable Diffusion, SDXL, FLUX.1 and .2, and all that share theirs."""

from __future__ import annotations

from functools import partial

from ..config import AutoencoderConfig as Config
from ..decoder import Decoder
from ..encoder import Encoder
from ..layers import Attention, Blocks, Downsample, Ops, ResidualBlock, Upsample, group_norm
from ..widening import Widening
from .codec import LatentCodec, NormalisedLatent
from .parts import Parts, quantisation

NAME = Config.family
WIDENING = Widening()


def build(config: Config, ops: Ops) -> Parts:
    norm = partial(group_norm, groups=config.norm_groups, ops=ops)
    blocks = Blocks(
        residual=partial(ResidualBlock, norm=norm, ops=ops),
        upsample=partial(Upsample, ops=ops),
        downsample=partial(Downsample, ops=ops),
        norm=norm,
        attention=partial(Attention, norm=norm, ops=ops),
    )
    channels, packing = config.network_latent_channels, config.latent_packing
    encoder = None
    if config.encoder_channels is not None:
        encoder = Encoder(config, blocks, ops, out_channels=2 * channels)
    decoder = Decoder(config, blocks, ops)
    codec = LatentCodec() if packing == 1 else NormalisedLatent(config.latent_channels, packing)
    return Parts(encoder, decoder, *quantisation(config, ops), codec)
