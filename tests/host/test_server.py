"""Graphs that are posted to a real ComfyUI, as the browser posts them."""

from __future__ import annotations

import copy
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import PACK
from .graphs import made_by_newer, values_of
from .server import Server, error_of

ASSETS = PACK / "asymvq" / "assets"
QUICKSTART: dict[str, Any] = json.loads((Path(__file__).parent / "prompts" / "quickstart.json").read_text("utf-8"))

PART = {"x": 128, "y": 128, "width": 320, "height": 208}


def node_of(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    (node,) = [node for node in prompt.values() if node["class_type"] == kind]
    return node


def changed(change: dict[str, Any], **more_nodes: dict[str, Any]) -> dict[str, Any]:
    """The quickstart with a part of its pictures, for speed, and other inputs of its Asymmetric VQGAN Decode. Only the
    saved picture is asked for."""
    prompt = {
        number: node for number, node in copy.deepcopy(QUICKSTART).items() if node["class_type"] != "AsymVQCompare"
    }
    (pictures,) = [number for number, node in prompt.items() if node["class_type"] == "AsymVQDemoPictures"]
    whole = {"part": [pictures, 0], "part of the mask": [pictures, 1], "part of the other": [pictures, 2]}
    for node in prompt.values():
        parts = {name: part for name, wire in node["inputs"].items() for part in whole if wire == whole[part]}
        node["inputs"].update({name: [part, 0] for name, part in parts.items()})
    for name, wire in whole.items():
        kind, slot = ("CropMask", "mask") if "mask" in name else ("ImageCrop", "image")
        prompt[name] = {"class_type": kind, "inputs": {slot: wire, **PART}}
    node_of(prompt, "AsymVQDecode")["inputs"].update(change)
    return {**prompt, **more_nodes}


def part_of(name: str, mode: str) -> np.ndarray:
    with Image.open(ASSETS / name) as picture:
        whole = np.asarray(picture.convert(mode))
    return whole[PART["y"] : PART["y"] + PART["height"], PART["x"] : PART["x"] + PART["width"]]


def saved_picture(server: Server, history: dict[str, Any]) -> np.ndarray:
    assert history["status"]["status_str"] == "success", history["status"]
    (image,) = [
        image
        for output in history["outputs"].values()
        for image in output.get("images", [])
        if image["type"] == "output"
    ]
    return np.asarray(Image.open(server.base / "output" / image["subfolder"] / image["filename"]).convert("RGB"))


def test_the_prompt_is_the_workflow() -> None:
    """What the browser made of the workflow once is still what the workflow says."""
    workflow = json.loads((PACK / "workflows" / "01_quickstart.json").read_text("utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = {str(node["id"]): node for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    assert nodes.keys() == QUICKSTART.keys()
    for number, node in nodes.items():
        prompt = QUICKSTART[number]
        assert prompt["class_type"] == node["type"]
        wires = {i["name"]: links[i["link"]] for i in node["inputs"]}
        values = {name: value for name, value in prompt["inputs"].items() if name not in wires}
        values.pop("compare_view", None)  # a widget that shows, and holds nothing
        assert {name: prompt["inputs"][name] for name in wires} == wires
        assert list(values.values()) == node["widgets_values"]


def test_the_workflows_are_offered(server: Server) -> None:
    (names,) = server.get("/workflow_templates").values()
    assert sorted(names) == sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def test_the_blueprints_are_offered(server: Server) -> None:
    entries = [entry for entry in server.get("/global_subgraphs").values() if entry["source"] == "custom_node"]
    assert {entry["name"] for entry in entries} == {path.stem for path in (PACK / "subgraphs").glob("*.json")}
    kinds = server.get("/object_info")
    for number, entry in server.get("/global_subgraphs").items():
        if entry in entries:
            saved = json.loads(server.get(f"/global_subgraphs/{number}")["data"])
            for node in saved["definitions"]["subgraphs"][0]["nodes"]:
                shown = saved["nodes"][0]["properties"]["proxyWidgets"]
                names = {widget for owner, widget in shown if owner == str(node["id"])} - {"control_after_generate"}
                newer = made_by_newer(node, server.version)
                assert names <= values_of(kinds[node["type"]], node["widgets_values"], newer).keys()


@pytest.mark.parametrize("page", sorted((PACK / "web" / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_help_is_served_for_a_node(server: Server, page: Path) -> None:
    assert page.stem in server.get(f"/object_info/{page.stem}")
    for file in (page, *page.with_suffix("").glob("*.md")):
        url = f"{server.url}/extensions/pack.under_any-name/docs/{file.relative_to(page.parent)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.read() == file.read_bytes()


def test_quickstart_keeps_what_the_mask_keeps(server: Server) -> None:
    result = saved_picture(server, server.run(QUICKSTART))
    picture = np.asarray(Image.open(ASSETS / "picture.png").convert("RGB"))
    kept = np.asarray(Image.open(ASSETS / "mask.png").convert("L")) == 0
    assert 0.1 < kept.mean() < 0.9
    assert np.array_equal(result[kept], picture[kept])
    assert np.abs(result[~kept].astype(float) - picture[~kept]).mean() > 30


def test_compare_decodes_takes_any_number_of_results_and_shows_numbers(server: Server) -> None:
    prompt = {
        "pictures": {"class_type": "AsymVQDemoPictures", "inputs": {}},
        "inverted": {"class_type": "ImageInvert", "inputs": {"image": ["pictures", 0]}},
        "mask": {
            "class_type": "AsymVQRandomMask",
            "inputs": {"seed": 3, "width": 640, "height": 424, "batch_size": 1, "thickness": 0.5},
        },
        "compare": {
            "class_type": "AsymVQCompare",
            "inputs": {
                "reference": ["pictures", 0], "results.result_1": ["inverted", 0], "results.result_2": ["pictures", 0],
                "mask": ["mask", 0], "labels": "inverted\nthe same", "compare": "all pixels", "amplify": 10,
            },
        },
        "border": {"class_type": "PreviewAny", "inputs": {"source": ["compare", 3]}},
    }  # fmt: skip
    outputs = server.run(prompt)["outputs"]
    (text,) = outputs["compare"]["text"]
    first, second = text.split("\n\n")
    assert first.startswith("inverted  \n")
    assert second.startswith("the same  \nkept: squared error: 0.00e+00  \nkept: PSNR, dB: ∞")
    assert len(outputs["compare"]["images"]) == 1
    # a list output: what follows runs once a result
    borders = [float(value) for value in outputs["border"]["text"]]
    assert borders[0] > 0.1
    assert borders[1] == 0


@pytest.mark.parametrize(
    ("change", "more_nodes", "expected"),
    [
        ({}, {}, "Edited: "),
        (
            {"mask": ["empty", 0]},
            {"empty": {"class_type": "SolidMask", "inputs": {"value": 0.03, "width": 320, "height": 208}}},
            "The mask is empty (nowhere above 8 of 255): nothing is edited there.",
        ),
        (
            {"mask": ["full", 0]},
            {"full": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 320, "height": 208}}},
            "The mask is white all over: no pixel of the source is kept there.",
        ),
        (
            {"mask": ["inverted", 0]},
            {
                "box": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 100, "height": 150}},
                "full": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 320, "height": 208}},
                "inverted": {
                    "class_type": "MaskComposite",
                    "inputs": {
                        "destination": ["full", 0],
                        "source": ["box", 0],
                        "x": 32,
                        "y": 24,
                        "operation": "multiply",
                    },
                },
            },
            "Edited: 77.5% of the image. If that should be kept, invert the mask.",
        ),
    ],
    ids=["some", "empty", "full", "inverted"],
)
def test_what_the_mask_does_stands_on_the_node(server: Server, change, more_nodes, expected) -> None:
    prompt = changed(change, **more_nodes)
    (number,) = [number for number, node in prompt.items() if node["class_type"] == "AsymVQDecode"]
    texts = texts_on_nodes(server, prompt)
    assert texts[number].startswith(expected)


def test_the_loader_says_what_it_recognised(server: Server) -> None:
    prompt = changed({})
    node_of(prompt, "AsymVQLoader")["inputs"]["dtype"] = "fp32"  # not run yet
    (number,) = [number for number, node in prompt.items() if node["class_type"] == "AsymVQLoader"]
    history = server.run(prompt)
    (text,) = history["outputs"][number]["text"]
    assert text.startswith("An asymmetric VAE: Asymmetric VQGAN Decode shows it the kept pixels.")


def test_a_latents_own_mask_serves_where_none_is_wired(server: Server) -> None:
    prompt = changed({})
    decode = node_of(prompt, "AsymVQDecode")["inputs"]
    wired = saved_picture(server, server.run(prompt))
    prompt["own"] = {
        "class_type": "SetLatentNoiseMask", "inputs": {"samples": decode["samples"], "mask": decode.pop("mask")}
    }  # fmt: skip
    decode["samples"], decode["harmonise"] = ["own", 0], 0.0
    own = saved_picture(server, server.run(prompt))
    picture, kept = part_of("picture.png", "RGB"), part_of("mask.png", "L") == 0
    assert 0.1 < kept.mean() < 0.9
    assert np.array_equal(own[kept], picture[kept])
    assert np.array_equal(wired[kept], picture[kept])
    assert np.abs(own[~kept].astype(float) - picture[~kept]).mean() > 30


def texts_on_nodes(server: Server, prompt: dict[str, Any]) -> dict[str, str]:
    """What a browser that queues a graph is told to show, by the nodes' numbers."""
    return dict(server.texts(prompt))


@pytest.mark.parametrize(
    ("change", "more_nodes", "message"),
    [
        (
            {"mask": ["small", 0]},
            {"small": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 160, "height": 208}}},
            "image of 320×208 and a mask of 160×208",
        ),
        (
            {"mask": ["none", 0]},
            {"none": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}},
            "open the mask editor",
        ),
        (
            {"vae": ["stock", 0]},
            {"stock": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}},
            "image of 40×26 pixels for the decoded picture, but got 320×208",
        ),
    ],
    ids=["a mask of another size", "no mask painted", "another model's VAE"],
)
def test_a_mistake_is_explained_and_the_server_goes_on(server: Server, change, more_nodes, message) -> None:
    assert message in error_of(server.run(changed(change, **more_nodes)))
    saved_picture(server, server.run(changed({"grow_mask": 1})))


@pytest.mark.parametrize("kind", ["AsymVQDecode", "VAEDecode"])
def test_one_full_decode_shows_progress_and_is_stopped_within(server: Server, kind: str) -> None:
    wires = {"samples": ["latent", 0], "vae": ["vae", 0]}
    more = {"keep": "exact", "grow_mask": 0, "tiling": "off", "tile_size": 512, "overlap": 64, "region": "auto"}
    prompt = {
        "vae": {"class_type": "AsymVQLoader", "inputs": node_of(QUICKSTART, "AsymVQLoader")["inputs"]},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 1536, "height": 1024, "batch_size": 1}},
        "decode": {"class_type": kind, "inputs": wires | (more if kind == "AsymVQDecode" else {})},
        "preview": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }
    shares, last = [], None
    for last, data in server.events(prompt):
        if last == "progress" and data["node"] == "decode":
            shares.append(data["value"] / data["max"])
            if len(shares) == 2:
                server.post("/interrupt", {})
    assert last == "execution_interrupted"
    assert data["node_id"] == "decode"
    assert 0 < shares[0] < shares[-1] < 0.9
