"""The one exception of this package."""

from __future__ import annotations

from ..text import shown

__all__ = ["CheckpointError", "shown"]

LONGEST_MESSAGE = 480


class CheckpointError(ValueError):
    """A file cannot be used: the message says which, what was expected, what came, and what to do.

    Whatever the file holds, the message is one printable line below 500 characters: a longer one is cut in its middle,
    so that the file's name and what to do stay.
    """

    def __init__(self, message: object = ""):
        super().__init__(shown(message, LONGEST_MESSAGE))
