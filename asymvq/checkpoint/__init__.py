"""Weight files: recognised by their tensors' names, sized from their shapes, never executed, written atomically.

`unpickle` reads torch's pickles, `folders` knows which files make a model, `locate` where in them the autoencoder is,
`layouts` which family's it is (how each names its tensors stands in `asymvq.autoencoders`), `foreign` what else a file
may be; `native` is the project's own format, `reading` and `writing` put them together.
"""

from .errors import CheckpointError
from .layouts import Layout
from .native import native_metadata, to_native
from .reading import Checkpoint, build, from_tensors, load, read, read_tensors, read_with_base, with_encoder
from .writing import save, with_latents

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Layout",
    "build",
    "from_tensors",
    "load",
    "native_metadata",
    "read",
    "read_tensors",
    "read_with_base",
    "save",
    "to_native",
    "with_encoder",
    "with_latents",
]
