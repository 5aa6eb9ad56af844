"""The extension: every node of the pack, by name."""

from __future__ import annotations

from .host import require_host

require_host()

from comfy_api.latest import ComfyExtension, io  # noqa: E402

from .align import AsymVQAlign  # noqa: E402
from .change import AsymVQChangeMask  # noqa: E402
from .compare import AsymVQCompare  # noqa: E402
from .crop import AsymVQCropAroundMask  # noqa: E402
from .decode import AsymVQDecode  # noqa: E402
from .demo import AsymVQDemoPictures  # noqa: E402
from .examples import add_examples  # noqa: E402
from .harmonise import AsymVQHarmonise  # noqa: E402
from .load import AsymVQLoader  # noqa: E402
from .mask import AsymVQRandomMask  # noqa: E402
from .paint_by_example import (  # noqa: E402
    AsymVQPaintByExampleConditioning,
    AsymVQPaintByExampleHeadLoader,
    AsymVQPaintByExampleLoader,
)
from .plot import AsymVQLossPlot  # noqa: E402
from .save import AsymVQSave  # noqa: E402
from .stitch import AsymVQInpaintCrop, AsymVQStitch  # noqa: E402
from .train import AsymVQTrain  # noqa: E402


class AsymVQExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_examples()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            AsymVQLoader,
            AsymVQDecode,
            AsymVQHarmonise,
            AsymVQSave,
            AsymVQCompare,
            AsymVQRandomMask,
            AsymVQCropAroundMask,
            AsymVQInpaintCrop,
            AsymVQStitch,
            AsymVQAlign,
            AsymVQChangeMask,
            AsymVQTrain,
            AsymVQLossPlot,
            AsymVQPaintByExampleLoader,
            AsymVQPaintByExampleHeadLoader,
            AsymVQPaintByExampleConditioning,
            AsymVQDemoPictures,
        ]
