"""Pictures, and a video, that the workflows begin with, where *Load Image* and *Load Video* find them.

They lie in the host's temporary folder, which it empties at each start, and not among the artist's own in *input*. A
workflow names them as the host names such files, "asymvq/portrait.png [temp]".
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from ..asymvq.outputs import replacing
from ..asymvq.pictures import open_picture
from . import host
from .demo import ASSETS

logger = logging.getLogger(__name__)


def add_examples() -> None:
    """Writes them; where that fails, the log says so, and an artist chooses a picture as everywhere else."""
    folder = Path(host.get_temp_directory()) / "asymvq"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_picture(ASSETS / "picture.png") as opened, open_picture(ASSETS / "mask.png") as mask:
            picture = opened.convert("RGB")
            masked = picture.copy()
            # Load Image's mask is what is transparent
            masked.putalpha(mask.convert("L").point(lambda value: 255 - value))
        with open_picture(ASSETS / "example.png") as opened:
            other = opened.convert("RGB")
        for name, image in (("portrait", picture), ("portrait_masked", masked), ("seascape", other)):
            with replacing(folder / f"{name}.png") as path:
                image.save(path, "PNG")
        with replacing(folder / "portrait.mp4") as path:
            shutil.copyfile(ASSETS / "example.mp4", path)
    except OSError as error:
        logger.warning("The workflows' example pictures could not be written to %s: %s", folder, error)
