"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io


def video_input(more: str = "", *, advanced: bool = False) -> io.Boolean.Input:
    """Whether the pictures are frames of one video. `more` is said besides."""
    return io.Boolean.Input(
        "video",
        default=False,
        optional=True,
        advanced=advanced,
        tooltip=(
            "The pictures are frames of one video, in their order: colours and light are kept steady from frame to "
            f"frame.{more}"
        ),
    )
