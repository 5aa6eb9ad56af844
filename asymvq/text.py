"""Text that comes from files, cut and cleaned so that a message can hold it."""

from __future__ import annotations

LONGEST_NAME = 80
_GAP = " … "


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
