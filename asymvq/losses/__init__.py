"""What a decoder is trained to minimise: one file a loss, with its settings, and a row in `LOSSES`.

Recipe, command line and training node take the settings from the table, and the training sums what its rows compute.
Every loss is a mean over the batch of what each picture gives alone, so that a batch split over several devices has the
gradient of the whole, and returns `(loss, log)`: a scalar and the figures to report.
"""

from . import adversarial, amplified, gradient_variance, perceptual, pixel, structure
from .adversarial import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from .amplified import amplified_loss
from .gradient_variance import gradient_variance_loss
from .perceptual import perceptual_loss
from .pixel import border_weights, pixel_loss
from .structure import structure_loss
from .table import Loss, Setting, Term, Widget, setting, settings_of

LOSSES: tuple[Loss, ...] = (
    Loss(pixel.Settings, pixel.term),
    Loss(perceptual.Settings, perceptual.term),
    Loss(structure.Settings, structure.term),
    Loss(amplified.Settings, amplified.term),
    Loss(gradient_variance.Settings, gradient_variance.term, gradient_variance.check),
    Loss(adversarial.Settings, check=adversarial.check),
)
"""In the order in which they are summed. The adversarial one is weighed against that sum, in the training's step."""

__all__ = [
    "LOSSES",
    "Loss",
    "PatchDiscriminator",
    "Setting",
    "Term",
    "Widget",
    "adaptive_weight",
    "amplified_loss",
    "border_weights",
    "discriminator_loss",
    "generator_loss",
    "gradient_variance_loss",
    "perceptual_loss",
    "pixel_loss",
    "setting",
    "settings_of",
    "structure_loss",
]
