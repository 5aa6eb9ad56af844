"""Every private symbol of ComfyUI that the pack uses."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OLDEST_HOST = (0, 20, 0)
CATEGORY = "Asymmetric VQGAN"
"""The one folder of the pack's nodes, in menus and the node library."""


def require_host() -> None:
    """Raises RuntimeError, in one line, where ComfyUI is too old for the nodes."""
    try:
        from comfyui_version import __version__
    except ImportError:
        __version__ = "0"
    found = tuple(int(part) for part in __version__.split(".")[:3] if part.isdigit())
    if found < OLDEST_HOST:
        oldest = ".".join(map(str, OLDEST_HOST))
        raise RuntimeError(
            f"Asymmetric VQGAN needs ComfyUI {oldest} or newer, but this is {__version__}. Update ComfyUI."
        )


def plain_errors(execute: Callable[..., Any]) -> Callable[..., Any]:
    """`execute` of a node, whose named errors of this pack become plain ValueErrors.

    The host shows an error's class before its text, with the whole Python path where the class is not a built-in one.
    """
    package = __name__.rpartition(".nodes.")[0]

    @functools.wraps(execute)
    def plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            if type(error).__module__.startswith(f"{package}."):
                raise ValueError(str(error)) from error
            raise

    return plain


def file_fingerprint(path: str | Path) -> str:
    """Changes whenever a file is written anew, also where its time of change is kept (`cp -p`, `rsync -t`, a rename).

    The time of the last change of its entry cannot be set by hand, where the system knows one.
    """
    path = Path(path)
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_dev}:{stat.st_ino}"


def show_on_node(text: str, node_id: str) -> None:
    """Puts a text on a node, where it stays until the next one; the frontend ignores an empty one.

    Where the host runs as a server: anywhere else its module is not to be imported. Newer frontends take the text away
    when the job ends; `web/desk.js` puts it back.
    """
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None:
        server.send_progress_text(text, node_id)


def say(node: Any, text: str) -> dict[str, tuple[str]]:
    """Puts a text on `node`, a node class as the host runs it, and returns what belongs into the output's `ui`.

    The host hands that out again where a node is not run again, so that the text is there on a page that was reloaded.
    """
    if node.hidden is not None:
        show_on_node(text, node.hidden.unique_id)
    return {"text": (text,)}
