"""What a decoder is trained to minimise.

Every loss is a mean over the batch of what each picture gives alone, so that a batch split over several devices has the
gradient of the whole, and returns `(loss, log)`: a scalar and the figures to report.
"""

from .adversarial import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from .amplified import amplified_loss
from .perceptual import perceptual_loss
from .pixel import border_weights, pixel_loss
from .structure import structure_loss

__all__ = [
    "PatchDiscriminator",
    "adaptive_weight",
    "amplified_loss",
    "border_weights",
    "discriminator_loss",
    "generator_loss",
    "perceptual_loss",
    "pixel_loss",
    "structure_loss",
]
