"""Picture files in folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .opening import SUFFIXES

logger = logging.getLogger(__name__)

MAX_ENTRIES = 1_000_000
"""Files and folders that are looked at below one folder."""


def is_picture_name(path: Path) -> bool:
    """Whether a file is called like a picture, and is not hidden: macOS leaves ._NAME.png beside NAME.png."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def pictures_in(folder: Path, *, skip: Callable[[str], bool] = lambda name: False) -> list[Path]:
    """Picture files in a folder and below, sorted. Hidden files and folders are left out.

    Links to folders are followed, each real folder is visited once. A link to a folder that holds this one is a circle
    and not followed; it is named in the log, like folders that cannot be read.

    Args:
        skip: of folders' names, those not to look into.

    Raises:
        ValueError: there is no such folder, or more in it than MAX_ENTRIES.
    """
    if not folder.is_dir():
        raise ValueError(f"Expected a folder of pictures, but got {folder}, which is none.")
    return sorted(path for path in _walk(folder, skip) if is_picture_name(path))


def _walk(top: Path, skip: Callable[[str], bool]) -> Iterator[Path]:
    above = {_identity(path) for path in top.resolve().parents}
    seen = {_identity(top)}
    entries, waiting = 0, [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    entries += 1
                    if entries > MAX_ENTRIES:
                        raise ValueError(
                            f"Expected a folder of pictures, but {top} holds more than {MAX_ENTRIES} files, with what "
                            "links in it lead to. Choose a folder that holds the pictures alone."
                        )
                    path = Path(entry.path)
                    if not _is_folder(entry):
                        yield path
                    elif not (entry.name.startswith(".") or skip(entry.name)):
                        identity = _identity(path)
                        if identity in above:
                            logger.warning("Skipped %s: a link to a folder that holds %s.", path, top)
                        elif identity not in seen:
                            seen.add(identity)
                            waiting.append(path)
        except OSError as error:
            logger.warning("Skipped a folder that cannot be read: %s.", error)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
