"""Writes locales/en/nodeDefs.json from what the nodes say of themselves, and names what other languages lack.

    python tools/build_locales.py http://127.0.0.1:8188

Takes the address of a running ComfyUI with this pack. Other languages are written by hand.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).parents[1] / "locales"


def english(kinds: dict[str, Any]) -> dict[str, Any]:
    """`/object_info` to the frontend's nodeDefs, for our nodes."""
    return {kind: _node(node) for kind, node in sorted(kinds.items()) if kind.startswith("AsymVQ")}


def paths(strings: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted paths of all strings."""
    found: set[str] = set()
    for key, value in strings.items():
        path = f"{prefix}{key}"
        found |= paths(value, f"{path}.") if isinstance(value, dict) else {path}
    return found


def _node(node: dict[str, Any]) -> dict[str, Any]:
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            # the frontend looks for dots as underscores
            name.replace(".", "_"): {"name": name.split(".")[-1], **_tooltip(options)}
            for name, options in _inputs(node["input"])
        },
        "outputs": {
            str(i): {"name": name, **_tooltip({"tooltip": tooltip})} for i, (name, tooltip) in enumerate(outputs)
        },
    }


def _inputs(groups: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """With those that a dynamic combo's choices bring."""
    for group in ("required", "optional"):
        for name, spec in groups.get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            yield prefix + name, options
            for choice in options.get("options", []):
                if isinstance(choice, dict) and "inputs" in choice:
                    yield from _inputs(choice["inputs"], f"{prefix}{name}.")


def _tooltip(options: dict[str, Any]) -> dict[str, str]:
    return {"tooltip": options["tooltip"]} if options.get("tooltip") else {}


def main() -> None:
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info", timeout=60) as response:
        strings = english(json.load(response))
    file = LOCALES / "en" / "nodeDefs.json"
    file.write_text(json.dumps(strings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"Wrote {file}")
    for other in sorted(LOCALES.glob("*/nodeDefs.json")):
        translated = json.loads(other.read_text("utf-8"))
        for path in sorted(paths(strings) ^ paths(translated)):
            print(f"{other.parent.name}: {'lacks' if path in paths(strings) else 'should not have'} {path}")


if __name__ == "__main__":
    main()
