"""A saved graph as what is posted to `/prompt`: the frontend's `graphToPrompt`, for the nodes of our workflows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from packaging.version import Version

SOCKETS_ONLY = ("MarkdownNote",)
MUTED = 2
WIDGETS = ("BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "FLOAT", "INT", "STRING")
UPLOADS = ("image_upload", "video_upload")


def prompt_of(graph: dict[str, Any], kinds: dict[str, Any], host: str) -> dict[str, Any]:
    """`graph` in the format of `workflows/`, `kinds` as the host of this version gives them in `/object_info`."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": {
                **values_of(kinds[node["type"]], node["widgets_values"], made_by_newer(node, host)),
                **{slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None},
            },
        }
        for node in graph["nodes"]
        if node["type"] not in SOCKETS_ONLY and node["mode"] != MUTED
    }


def made_by_newer(node: dict[str, Any], host: str) -> bool:
    """Whether it is a host's own node, saved with a later version than this."""
    properties = node["properties"]
    return properties["cnr_id"] == "comfy-core" and Version(properties["ver"]) > Version(host)


def values_of(kind: dict[str, Any], saved: list[Any], newer: bool = False) -> dict[str, Any]:
    """What each widget holds. Of a `newer` node, values of widgets that the host does not have yet are dropped."""
    left = iter(saved)
    values = dict(_widgets(kind["input"], left, ""))
    assert newer or not list(left), (kind["name"], saved)
    return values


def _widgets(groups: dict[str, Any], left: Iterator[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Names and values, in the order in which the frontend saves them; some widgets save one more.

    Those that came after the graph was saved have their defaults.
    """
    for group in ("required", "optional"):
        for name, (kind, *more) in groups.get(group, {}).items():
            options = more[0] if more else {}
            if not isinstance(kind, list) and (kind not in WIDGETS or options.get("forceInput")):
                continue
            choices = {choice["key"]: choice for choice in options.get("options", []) if isinstance(choice, dict)}
            value = next(left, options.get("default", next(iter(choices), None)))
            yield f"{prefix}{name}", value
            if choices:
                yield from _widgets(choices[value]["inputs"], left, f"{prefix}{name}.")
            if options.get("control_after_generate") or any(options.get(name) for name in UPLOADS):
                next(left, None)
