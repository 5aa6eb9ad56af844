"""From groups of nodes to the JSON that the frontend opens: everything's place, numbers and wires are worked out."""

from __future__ import annotations

import math
import uuid
from typing import Any

from graph_nodes import OURS, Group, Node

TITLE, GAP, PADDING, GROUP_TITLE = 30, 25, 20, 50
FOOTER = 20  # Nodes 2.0 draw "Show advanced inputs" below a node
SCALE, OFFSET = 0.9, (92, 125)  # how it opens (web/desk.js): readable, from its upper left corner on
MUTED = 2  # the host's mode of a node that is left out of a run


def text_height(text: str, width: int) -> int:
    """What a note needs, generously: a line is 16 high, a character 5.4 wide, and 32 are above a further heading."""
    further = 32 * text.count("\n## ")
    lines = text.replace("## ", "").split("\n")
    return 50 + further + sum(16 * math.ceil(len(line) * 5.4 / (width - 30)) if line else 12 for line in lines)


Placed = tuple[Node, list[int], list[int]]  # with position and size


def place(groups: list[Group]) -> tuple[list[Placed], list[dict[str, Any]]]:
    """Every node in its place, and the groups around them."""
    placed: list[Placed] = []
    boxes = []
    left = 0
    for number, group in enumerate(groups, 1):
        x, bottom = left + PADDING, 0
        for width, nodes in group.stacks:
            y = GROUP_TITLE + TITLE
            for node in nodes:
                height = node.height or text_height(node.values[0], width)
                placed.append((node, [x, y], [width, height]))
                y += height + GAP + TITLE
            bottom = max(bottom, y - GAP - TITLE + FOOTER + PADDING)
            x += width + PADDING
        box = {"id": number, "title": group.title, "bounding": [left, 0, x - left, bottom], "color": group.color}
        boxes.append({**box, "font_size": 24})
        left = x + GAP
    return placed, boxes


Link = list[Any]  # number, where from: node and slot, where to: node and slot, type


def numbered(placed: list[Placed]) -> dict[str, int]:
    return {node.name: number for number, (node, _, _) in enumerate(placed, 1)}


def wired(placed: list[Placed]) -> list[Link]:
    links: list[Link] = []
    for number, (node, _, _) in enumerate(placed, 1):
        for socket, wire in node.wires.items():
            origin, slot = source_of(wire, placed)
            links.append([len(links) + 1, origin, slot, number, *target_of(socket, node)])
    return links


def source_of(wire: str, placed: list[Placed]) -> tuple[int, int]:
    """Number and slot of "node.output", or of a node's first output."""
    name, _, output = wire.partition(".")
    number = numbered(placed)[name]
    outputs = [socket for socket, _ in placed[number - 1][0].outputs]
    return number, outputs.index(output) if output else 0


def target_of(socket: str, node: Node) -> tuple[int, str]:
    """Slot and type of an input."""
    slot = [name for name, *_ in node.inputs].index(socket)
    return slot, node.inputs[slot][1]


def written(placed: list[Placed], links: list[Link]) -> list[dict[str, Any]]:
    into = {(link[3], link[4]): link[0] for link in links}
    return [
        {
            "id": number, "type": node.type, "pos": position, "size": size, "flags": {}, "order": number - 1,
            "mode": MUTED if node.muted else 0,
            "inputs": [
                {"name": socket, "type": kind, **({"widget": {"name": socket}} if widget else {}),
                 "link": into.get((number, slot))}
                for slot, (socket, kind, *widget) in enumerate(node.inputs)
            ],
            "outputs": [
                {"name": socket, "type": kind, "links": [link[0] for link in links if link[1:3] == [number, slot]]}
                for slot, (socket, kind) in enumerate(node.outputs)
            ],
            "properties": node.properties, "widgets_values": list(node.values), **node.look,
        }
        for number, (node, position, size) in enumerate(placed, 1)
    ]  # fmt: skip


def graph(name: str, groups: list[Group]) -> dict[str, Any]:
    placed, boxes = place(groups)
    links = wired(placed)
    return {
        "id": identity(name), "revision": 0, "last_node_id": len(placed),
        "last_link_id": len(links), "nodes": written(placed, links), "links": links, "groups": boxes, "config": {},
        "extra": {"asymvq_view": {"scale": SCALE, "offset": list(OFFSET)}},
        "version": 0.4,
    }  # fmt: skip


def identity(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"asymvq/{name}"))


INPUTS, OUTPUTS = -10, -20  # the host's numbers of a subgraph's two ends
SLOT_HEIGHT = 20


def subgraph(
    name: str, stacks: list[tuple[int, list[Node]]], *, inputs: dict[str, tuple[str, ...]], outputs: dict[str, str],
    widgets: tuple[str, ...], description: str, aliases: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """A graph of one node, which is a subgraph.

    Args:
        inputs: names, and the inputs "node.socket" that each goes to.
        outputs: names, and the output "node.socket" that each comes from.
        widgets: "node.widget": those that are shown on the node.
    """
    placed, boxes = place([Group("", "", stacks)])
    numbers, links = numbered(placed), wired(placed)
    kinds: dict[str, str] = {}
    for slot, (end, targets) in enumerate(inputs.items()):
        for target in targets:
            node, _, socket = target.partition(".")
            into = target_of(socket, placed[numbers[node] - 1][0])
            links.append([len(links) + 1, INPUTS, slot, numbers[node], *into])
            kinds[end] = into[1]
    given: dict[str, str] = {}
    for slot, (end, wire) in enumerate(outputs.items()):
        origin, origin_slot = source_of(wire, placed)
        given[end] = placed[origin - 1][0].outputs[origin_slot][1]
        links.append([len(links) + 1, origin, origin_slot, OUTPUTS, slot, given[end]])
    left, right = -180, boxes[0]["bounding"][2] + 60
    starts = [_end(name, *end, slot, INPUTS, left + 100, links) for slot, end in enumerate(kinds.items())]
    ends = [_end(name, *end, slot, OUTPUTS, right + 20, links) for slot, end in enumerate(given.items())]
    inner = {
        "id": identity(f"subgraphs/{name}"), "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(placed), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0, "config": {}, "name": name,
        "inputNode": {"id": INPUTS, "bounding": [left, 60, 120, 40 + SLOT_HEIGHT * len(kinds)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, 60, 120, 40 + SLOT_HEIGHT * len(given)]},
        "inputs": starts, "outputs": ends,
        "widgets": [], "nodes": written(placed, links), "groups": [],
        "links": [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in links
        ],
        "extra": {}, "category": "Asymmetric VQGAN", "description": description,
    }  # fmt: skip
    shown = [[str(numbers[node]), widget] for node, _, widget in (wire.partition(".") for wire in widgets)]
    outer = {
        "id": len(placed) + 1,  # no inner node's: frontends would renumber those, and lose which widgets are shown
        "type": inner["id"], "pos": [0, 0], "size": [360, 120 + 26 * len(shown)], "flags": {}, "order": 0, "mode": 0,
        "inputs": [{"name": end, "localized_name": end, "type": kind, "link": None} for end, kind in kinds.items()],
        "outputs": [{"name": end, "localized_name": end, "type": kind, "links": None} for end, kind in given.items()],
        "properties": {"proxyWidgets": shown, **OURS}, "widgets_values": [], "title": name,
    }  # fmt: skip
    return {
        "id": identity(f"blueprints/{name}"), "revision": 0, "last_node_id": outer["id"], "last_link_id": 0,
        "nodes": [outer],
        "links": [], "groups": [], "config": {},
        "extra": {"BlueprintDescription": description, "BlueprintSearchAliases": list(aliases)}, "version": 0.4,
        "definitions": {"subgraphs": [inner]},
    }  # fmt: skip


def _end(name: str, end: str, kind: str, slot: int, side: int, x: int, links: list[Link]) -> dict[str, Any]:
    numbers = [link[0] for link in links if (link[1:3] if side == INPUTS else link[3:5]) == [side, slot]]
    return {
        "id": identity(f"subgraphs/{name}/{side}/{end}"), "name": end, "type": kind, "linkIds": numbers,
        "localized_name": end, "pos": [x, 80 + SLOT_HEIGHT * slot],
    }  # fmt: skip
