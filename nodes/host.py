"""What the pack asks of its host: all of it that is no published interface stands here.

`comfy_api` alone is one. Every other symbol of the host that a node uses is a row of `SYMBOLS`, and is used as
`host.NAME`, looked up when it is used; `tests/host/test_symbols.py` says of each what breaks without it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

OLDEST_HOST = (0, 20, 0)
CATEGORY = "Asymmetric VQGAN"
"""The one folder of the pack's nodes, in menus and the node library."""

_IN = {
    "comfy.sd": {
        "VAE": "what our loaders give is one, for every stock node",
        "load_state_dict_guess_config": "Load Paint by Example: model and VAE of a checkpoint",
        "load_checkpoint_guess_config_model_only": "Load Paint by Example: the model is loaded anew in other processes",
    },
    "comfy.ldm.models.autoencoder": {"AutoencoderKL": "the stand-in that a VAE is made with"},
    "comfy.model_patcher": {"CoreModelPatcher": "our networks are moved to the device and back with the host's"},
    "comfy.ops": {"manual_cast": "layers whose weights are cast to their input's precision"},
    "comfy.clip_vision": {
        "ClipVisionModel": "Load Paint by Example: what it gives for CLIP vision",
        "load_clipvision_from_sd": "Load Paint by Example: CLIP vision of a checkpoint",
    },
    "comfy.utils": {
        "ProgressBar": "progress of every node",
        "repeat_to_batch_size": "batches of fewer pictures than latents",
        "load_torch_file": "Load Paint by Example: a checkpoint's tensors",
    },
    "comfy.model_management": {
        "InterruptProcessingException": "an interrupted training says where it is",
        "archive_model_dtypes": "weights come back in their own precision after a partial load",
        "get_torch_device": "training's device",
        "intermediate_device": "where conditionings are kept",
        "intermediate_dtype": "precision of pictures between nodes",
        "is_amd": "memory that is asked for, by the host's factor",
        "is_oom": "what counts as out of memory",
        "load_models_gpu": "weights go to the device, and room is made",
        "should_use_bf16": "training's precision",
        "soft_empty_cache": "memory between two tries of a decode",
        "text_encoder_device": "Paint by Example's head",
        "text_encoder_offload_device": "Paint by Example's head",
        "throw_exception_if_processing_interrupted": "the interrupt button, in every longer node",
        "unload_all_models": "all memory for the training",
        "vae_offload_device": "where a VAE waits",
    },
    "folder_paths": {
        "get_filename_list": "choices of the loaders",
        "get_full_path": "files of the loaders",
        "get_full_path_or_raise": "files of the loaders",
        "get_input_directory": "pictures to train on",
        "get_input_subfolders": "pictures to train on",
        "get_output_directory": "where nodes save",
        "get_temp_directory": "the workflows' example pictures",
        "get_save_image_path": "numbers and variables in names that are saved",
    },
    "nodes": {
        "VAEDecode": "VAEs of stock loaders in Asymmetric VQGAN Decode",
        "VAEDecodeTiled": "the same in tiles",
    },
}  # fmt: skip
SYMBOLS = {name: (module, purpose) for module, names in _IN.items() for name, purpose in names.items()}
"""By name: the host's module, and what breaks where it is gone."""


@functools.cache
def _modules() -> dict[str, ModuleType]:
    """The host's modules by name. Imported when first asked for: `require_host` comes before."""
    import comfy.clip_vision
    import comfy.ldm.models.autoencoder
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.sd
    import comfy.utils
    import folder_paths

    import nodes

    found = (
        comfy.clip_vision, comfy.ldm.models.autoencoder, comfy.model_management, comfy.model_patcher, comfy.ops,
        comfy.sd, comfy.utils, folder_paths, nodes,
    )  # fmt: skip
    return {module.__name__: module for module in found}


def __getattr__(name: str) -> Any:
    if name not in SYMBOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, purpose = SYMBOLS[name]
    try:
        return getattr(_modules()[module], name)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"Expected {module}.{name} in ComfyUI, but this version lacks it ({purpose}). Update Asymmetric VQGAN, or "
            "report it."
        ) from error


def device_context(device: Any) -> contextlib.AbstractContextManager[Any]:
    """The host's, where it has one (0.21 and later)."""
    context = getattr(_modules()["comfy.model_management"], "cuda_device_context", None)
    return contextlib.nullcontext() if context is None else context(device)


@contextlib.contextmanager
def told_of_training() -> Iterator[None]:
    """The host's sign that a training runs, with which it keeps gradients; put back however it ends."""
    management = _modules()["comfy.model_management"]
    before = management.in_training
    management.in_training = True
    try:
        yield
    finally:
        management.in_training = before


def running_server() -> Any:
    """The host's PromptServer, or None where it does not run as a server: its module is not to be imported then."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


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
    server = running_server()
    if server is not None:
        server.send_progress_text(text, node_id)


def say(node: Any, text: str) -> dict[str, tuple[str]]:
    """Puts a text on `node`, a node class as the host runs it, and returns what belongs into the output's `ui`.

    The host hands that out again where a node is not run again, so that the text is there on a page that was reloaded.
    """
    if node.hidden is not None:
        show_on_node(text, node.hidden.unique_id)
    return {"text": (text,)}
