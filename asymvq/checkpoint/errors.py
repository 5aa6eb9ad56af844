"""The one exception of this package, and how text from files is put into messages."""

from __future__ import annotations

LONGEST_MESSAGE = 480
LONGEST_NAME = 80
_GAP = " … "


class CheckpointError(ValueError):
    """A file cannot be used: the message says which, what was expected, what came, and what to do.

    Whatever the file holds, the message is one printable line below 500 characters: a longer one is cut in its middle,
    so that the file's name and what to do stay.
    """

    def __init__(self, message: object = ""):
        super().__init__(shown(message, LONGEST_MESSAGE))


def shown(text: object, longest: int = LONGEST_NAME) -> str:
    """`text` as a message can hold it: unprintable characters escaped, the middle cut out if it is too long."""
    text = str(text)
    if len(text) > longest:  # first, so that the cost does not follow what a file says
        text = text[:longest] + text[-longest:]
        cut = True
    else:
        cut = False
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= longest and not cut:
        return text
    tail = (longest - len(_GAP)) * 2 // 5
    return text[: longest - len(_GAP) - tail] + _GAP + text[-tail:]
