"""The one exception of this package."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file cannot be used: the message says which, what was expected, what came, and what to do."""
