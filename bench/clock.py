"""What work costs, in a measure that does not depend on the machine, nor on what else it has to do."""

from __future__ import annotations

import pickletools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

USUAL_SECONDS = 0.02
"""What the piece of work in `slowness` takes on a free core of the server (AMD EPYC) that limits were chosen on."""
_WORK = b"(]\x94K\x01a0" * 20_000 + b"."


class Cost:
    seconds = 0.0
    """Of computing, as that core would take them. Set at the end."""


def slowness() -> float:
    """How many times as long as usual Python takes here and now, for reading 120 000 opcodes of a pickle."""
    start = time.process_time()
    for _ in pickletools.genops(BytesIO(_WORK)):
        pass
    return (time.process_time() - start) / USUAL_SECONDS


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what is done inside. How slow the machine is is looked at before and after: the slower counts."""
    cost, before, start = Cost(), slowness(), time.process_time()
    try:
        yield cost
    finally:
        taken = time.process_time() - start
        cost.seconds = taken / max(before, slowness())
