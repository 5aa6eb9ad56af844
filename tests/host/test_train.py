"""Training inside a real ComfyUI, in this process."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from toy_loss import DEFAULT, NAME, TEXT, library_with_toy

from asymvq.autoencoders import AutoencoderConfig

from .conftest import PACK
from .test_nodes import run, stock, write_vae

STOCK = AutoencoderConfig(
    decoder_channels=(8, 16, 16),
    decoder_blocks=1,
    encoder_channels=(8, 16, 16),
    encoder_blocks=1,
    condition=None,
    norm_groups=4,
)
SETTINGS = {"recipe": ["fidelity"], "batch": [2], "crop": [32], "learning_rate": [1e-3]}


@pytest.fixture(scope="module")
def vae(host):
    write_vae(host, "untrained.safetensors", STOCK)
    return run(host, "AsymVQLoader", vae_name="untrained.safetensors", dtype="fp32")


@pytest.fixture(scope="module")
def folder(host) -> str:
    path = host.base / "input" / "photos" / "more"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(rng.uniform(0, 255, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(path.parent / f"{number}.png")
    return "photos"


@pytest.fixture
def train(host, vae, folder):
    def call(*, steps: int, name: str, resume: bool = True, **more):
        cls = host.nodes.NODE_CLASS_MAPPINGS["AsymVQTrain"]
        cls = cls.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        inputs = {
            "vae": [vae], "folder": [folder], "preset": {"preset": ["base"]}, "steps": [steps], "seed": [0],
            "save_name": [name], "resume": [resume], "recipe": SETTINGS, **more,
        }  # fmt: skip
        with torch.inference_mode():
            return cls.execute(**inputs).args

    return call


def interrupt_at(host, monkeypatch, step: int) -> None:
    """The artist presses Interrupt while that step is trained."""
    management = importlib.import_module("comfy.model_management")
    check, calls = management.throw_exception_if_processing_interrupted, []

    def counted() -> None:
        calls.append(1)
        if len(calls) == step:
            management.interrupt_current_processing(True)
        check()

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", counted)


@pytest.fixture
def said(host, monkeypatch):
    """What a browser would be told to show on the node, in order."""
    texts: list[str] = []
    for module in ("nodes.train", "nodes.host"):
        monkeypatch.setattr(host.pack(module), "show_on_node", lambda text, node: texts.append(text))
    return texts


def test_trains_is_interrupted_goes_on_and_is_found_by_the_loader(host, train, monkeypatch, said):
    whole, losses, path = train(steps=20, name="whole")
    assert len(losses["loss"]) == 20
    management = importlib.import_module("comfy.model_management")
    with monkeypatch.context() as patch:
        interrupt_at(host, patch, 10)
        with pytest.raises(management.InterruptProcessingException):
            train(steps=20, name="parts")
    assert said[-1] == "Stopped after step 10 of 20: saved. Run again to go on."
    assert management.in_training is False
    part, resumed, _ = train(steps=20, name="parts")
    assert resumed["loss"] == losses["loss"]
    for name, tensor in whole.get_sd().items():
        assert torch.equal(tensor, part.get_sd()[name])

    assert path.endswith("whole.safetensors")
    options = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"].GET_NODE_INFO_V1()["input"]["required"]["vae_name"][1]
    found = [name for name in options["options"] if "step-" in name or name.startswith("whole.safe")]
    assert found == ["whole.safetensors"]
    loaded = run(host, "AsymVQLoader", vae_name="whole.safetensors", dtype="fp32")
    image = torch.rand(1, 32, 48, 3)
    mask = torch.zeros(1, 32, 48)
    mask[:, 8:24, 12:30] = 1
    latent = {"samples": stock(host, "VAEEncode", vae=loaded, pixels=image)[0]["samples"]}
    picture = run(host, "AsymVQDecode", samples=latent, vae=loaded, image=image, mask=mask)
    assert torch.equal(picture[mask == 0], image[mask == 0])


def test_pictures_from_dataset_nodes_a_larger_preset_and_a_second_run(host, train):
    images = [torch.rand(1, 40, 48, 3), torch.rand(2, 33, 40, 4)]
    options = {
        "images": images, "folder": ["none"], "preset": {"preset": ["custom"], "width": [2.0], "depth": [1]},
        "resume": False,
    }  # fmt: skip
    first = train(steps=2, name="again", **options)
    second = train(steps=2, name="again", **options)
    assert first[0].config.decoder_channels == (16, 32, 32)
    assert first[0].config.decoder_blocks == 2
    assert first[2] != second[2]
    assert first[1] == second[1]


def test_the_host_is_as_before_also_after_an_error(host, train, vae):
    management = importlib.import_module("comfy.model_management")
    before = {name: tensor.clone() for name, tensor in vae.get_sd().items()}
    with pytest.raises(ValueError, match=r"got none\. Choose a folder"):
        train(steps=1, name="nothing", folder=["none"])
    assert management.in_training is False
    train(steps=1, name="one")
    assert management.in_training is False
    for name, tensor in vae.get_sd().items():
        assert torch.equal(tensor, before[name])
    stock(host, "VAEEncode", vae=vae, pixels=torch.rand(1, 32, 32, 3))


def test_a_finished_run_says_what_differs_and_is_written_again_where_it_was_moved(host, train, said):
    trained, _, path = train(steps=3, name="finished")
    for change, message in (({"seed": [1]}, "seed 0 → 1"), ({"recipe": {**SETTINGS, "ssim": [0.5]}}, "ssim")):
        with pytest.raises(ValueError, match=f"these differ: {message}.*Ask for more steps"):
            train(steps=3, name="finished", **change)
    Path(path).unlink()
    again, losses, _ = train(steps=3, name="finished")
    assert "nothing was left to train" in said[-1]
    assert len(losses["loss"]) == 3
    for name, tensor in trained.get_sd().items():
        assert torch.equal(tensor, again.get_sd()[name])
    train(steps=4, name="finished", seed=[1])
    assert "step 4 of 4" in said[-2]
    assert re.match(r"Finished: 4 steps, loss [\d.e-]+\.\nSaved as output/vae/finished\.safetensors\.", said[-1])
    assert "seed 0 → 1" in said[-1]


def test_a_file_of_somebody_else_is_not_overwritten(host, train):
    path = host.base / "output" / "vae" / "theirs.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"theirs")
    with pytest.raises(ValueError, match="Choose another name"):
        train(steps=1, name="theirs")
    *_, written = train(steps=1, name="theirs", resume=False)
    assert written != str(path)
    assert path.read_bytes() == b"theirs"
    path.unlink()


def test_train_and_load_compute_small_vaes_in_the_same_precision(host, train, monkeypatch):
    import comfy.model_management

    # as on a GPU, where the host computes VAEs in bfloat16
    monkeypatch.setattr(comfy.model_management, "vae_dtype", lambda *_: torch.bfloat16)
    trained, _, _ = train(steps=1, name="small")
    assert trained.vae_dtype == run(host, "AsymVQLoader", vae_name="small.safetensors").vae_dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": [".."]}, "Expected a folder inside"),
        ({"name": "../../elsewhere"}, "outside the output folder"),
        ({"name": ""}, "Expected a file name"),
        ({"name": "sub/"}, "Expected a file name"),
        ({"name": "x" * 250}, "at most 249 bytes"),
        ({"name": "a\ud800"}, "half of one"),
        ({"name": "con"}, "Windows reserves"),
        ({"vae": [object()]}, "Expected a picture VAE"),
        ({"recipe": {**SETTINGS, "crop": [64]}}, "at least 64 pixels"),
        ({"recipe": {**SETTINGS, "crop": [34]}}, "multiple of 4"),
    ],
    ids=[
        "folder",
        "name",
        "empty name",
        "folder for a name",
        "long name",
        "half a character",
        "reserved name",
        "vae",
        "small pictures",
        "crop",
    ],
)
def test_mistakes_are_explained(train, change, message):
    with pytest.raises(Exception, match=message):
        train(**{"steps": 1, "name": "mistake", **change})


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.3] * 50, [math.nan] * 3, [], [0.5, math.nan, math.inf, 0.0, 0.2], list(np.geomspace(5, 0.01, 300))],
    ids=["one", "constant", "nothing finite", "none", "gaps", "a run"],
)
def test_every_loss_map_can_be_drawn(host, values):
    picture = run(host, "AsymVQLossPlot", loss_map={"loss": values}, title="Loss")
    assert picture.shape == (1, 480, 960, 3)
    assert picture.std() > 0.01


def test_the_node_takes_its_losses_from_the_table(host, tmp_path):
    """A toy loss comes last on the node, so that saved workflows keep their places, and is trained with."""
    package = ModuleType("host_pack_with_toy")
    package.__path__ = [str(PACK)]
    with library_with_toy(package) as module:
        train = module("nodes.train")
        ours = [spec.id for spec in host.nodes.NODE_CLASS_MAPPINGS["AsymVQTrain"].define_schema().inputs]
        inputs = train.AsymVQTrain.define_schema().inputs
        assert [spec.id for spec in inputs] == [*ours, NAME]
        toy = inputs[-1]
        assert (toy.default, toy.min, toy.max, toy.step, toy.optional) == (DEFAULT, 0, 8.0, 0.5, True)
        assert toy.tooltip == TEXT
        recipe = train._recipe({"recipe": "fidelity", "ssim": 0.5, NAME: 4.0}, 9, torch.device("cpu"))
        assert (recipe.steps, recipe.ssim, recipe.darkness) == (9, 0.5, 4.0)


def test_losses_beside_the_recipe_have_one_value_in_all_recipes(host):
    """Their widget, which does not change with the recipe, shows the default."""
    train, recipes = host.pack("nodes.train"), host.pack("asymvq.training.recipe")
    for name, setting in train._loss_settings().items():
        if name not in train.LOSSES_IN_RECIPE:
            assert {getattr(recipe, name) for recipe in recipes.RECIPES.values()} == {setting.default}
