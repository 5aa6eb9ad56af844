"""Where among a file's names the autoencoder stands.

An anchor, a tensor that every autoencoder has, is looked for anywhere; what stands before it is a wrapper's prefix
(`first_stage_model.`, `vae.`, `model.`, any). So no list of prefixes is needed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..autoencoders import FAMILIES
from .errors import CheckpointError, shown
from .foreign import what_else
from .native import PREFIX

log = logging.getLogger(__name__)

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""What torch's own wrappers (parallel, compiled) put between names, anywhere."""
_NATIVE_ANCHORS = (f"{PREFIX}config", f"{PREFIX}decoder.conv_in.weight")
_ANCHORS = tuple(dict.fromkeys((*_NATIVE_ANCHORS, *(anchor for family in FAMILIES for anchor in family.ANCHORS))))
_AVERAGED = re.compile(r"(?<!non)(?:^|[._])(?:ema|ewma|averaged?|avg|swa)(?=[._\d]|$)")
_OTHER_ROOTS = r"quantize|latents?_(?:mean|std)"
"""Of autoencoders that are not supported: what may tell one of them."""
_ENCODER = re.compile(r"(\w+_)?encoder\.")
_MAX_COPIES, _LONGEST_PREFIX = 16, 500


@dataclass(frozen=True)
class Found:
    """An autoencoder among other things."""

    prefix: str
    """What stands before its names, with the last dot; ends in "asymvq." for our own format."""
    tensors: dict[str, Tensor]
    """Under its prefix, without it; bare names of one half as its family reads them."""
    anchor: str
    """The tensor that told."""
    outside: tuple[str, ...]
    """The names of everything else."""

    @property
    def is_native(self) -> bool:
        return self.prefix == PREFIX or self.prefix.endswith(f".{PREFIX}")


def find_autoencoder(tensors: Mapping[str, Tensor]) -> Found:
    """The one autoencoder of a file. Of several copies, a complete one goes before a decoder alone, then averaged
    weights (`ema`) before the raw ones that they are the average of.

    Raises:
        CheckpointError: there is none, or there are several and nothing says which is meant.
    """
    tensors = _without_wrappers(tensors)
    anchors = {
        name.removesuffix(anchor): anchor
        for anchor in reversed(_ANCHORS)
        for name in tensors
        if _ends_with(name, anchor)
    }
    for prefix in [prefix for prefix in anchors if f"{prefix}{_NATIVE_ANCHORS[0]}" in tensors]:
        del anchors[prefix]
        anchors[f"{prefix}{PREFIX}"] = _NATIVE_ANCHORS[0]
    if not anchors:
        return _one_half(tensors)
    _refuse_long(anchors)
    if len(anchors) > _MAX_COPIES:
        raise CheckpointError(f"Expected one autoencoder, but got {len(anchors)}. Save the one that you mean alone.")
    copies: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in anchors}
    outside: list[str] = []
    longest_first = sorted(anchors, key=len, reverse=True)
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in longest_first if name.startswith(prefix)), None)
        if prefix is None:
            outside.append(name)
        else:
            copies[prefix][name.removeprefix(prefix)] = tensor
    prefix = _choose(copies)
    return Found(prefix, copies[prefix], anchors[prefix], tuple(outside))


def _refuse_long(prefixes: Collection[str]) -> None:
    """Before what takes time with every part of a prefix."""
    if long := next((prefix for prefix in prefixes if len(prefix) > _LONGEST_PREFIX), None):
        raise CheckpointError(
            f"Expected names of up to {_LONGEST_PREFIX} characters before the autoencoder's, but got {shown(long)}."
        )


def _without_wrappers(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not any(wrapper in name for name in tensors for wrapper in _WRAPPERS):
        return tensors
    renamed = {".".join(p for p in name.split(".") if p not in _WRAPPERS): t for name, t in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def _ends_with(name: str, anchor: str) -> bool:
    return name.endswith(anchor) and (len(name) == len(anchor) or name[-len(anchor) - 1] == ".")


def _one_half(tensors: Mapping[str, Tensor]) -> Found:
    """A decoder alone, or an encoder, whose names lack their root."""
    for family in FAMILIES:
        for anchor in family.BARE_ANCHORS:
            prefixes = [name.removesuffix(anchor) for name in tensors if _ends_with(name, anchor)]
            _refuse_long(prefixes)
            for prefix in prefixes[:_MAX_COPIES]:
                inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                if (named := family.whole_names(inside)) is not None:
                    outside = tuple(name for name in tensors if not name.startswith(prefix))
                    return Found(prefix, named, anchor, outside)
    raise CheckpointError(
        f"Expected an autoencoder with a decoder (decoder.conv_in.weight), but got {what_else(tensors)}. Choose a VAE "
        "file: asymmetric (paper, diffusers, ASUKA, or saved by asymvq) or stock "
        f"({', '.join(family.USED_BY for family in reversed(FAMILIES))})."
    )


def _choose(copies: Mapping[str, Mapping[str, Tensor]]) -> str:
    def rank(prefix: str) -> tuple[bool, bool]:
        return any(map(_ENCODER.match, copies[prefix])), bool(_AVERAGED.search(prefix))

    best, *others = sorted(copies, key=rank, reverse=True)
    if others and rank(others[0]) == rank(best):
        raise CheckpointError(
            f"Expected one autoencoder, but got {len(copies)}: under {shown(repr(best), 40)} and "
            f"{shown(repr(others[0]), 40)}. Save the one that you mean to a file of its own."
        )
    if others:
        log.info("Read the autoencoder under %r; left out those under %s.", best, sorted(others))
    return best


def refuse_torn(prefix: str, outside: Collection[str], roots: Collection[str]) -> None:
    """Half of an autoencoder beside the prefix would be dropped without a word.

    Raises:
        CheckpointError: names outside that start with one of `roots`.
    """
    parts = prefix.split(".")[:-1]
    ancestors = [".".join([*parts[:depth], ""]) for depth in range(len(parts) - 1, -1, -1)]
    torn = re.compile(rf"(?:{'|'.join(map(re.escape, roots))}|{_OTHER_ROOTS})(?:\.|$)")
    for name in outside:
        ancestor = next(ancestor for ancestor in ancestors if name.startswith(ancestor))
        if torn.match(name, len(ancestor)):
            raise CheckpointError(
                f"Expected all of the autoencoder under {shown(repr(prefix), 40)}, where its decoder is, but got "
                f"{shown(name)} beside it. Save all its tensors under one prefix."
            )
