"""A loss is a file and a row in a table: the rest follows."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import math
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from toy_loss import DEFAULT, NAME, TEXT, library_with_toy

from asymvq.losses import LOSSES, settings_of
from asymvq.training.recipe import Recipe, parse_setting

PACK = Path(__file__).parents[1]
SETTINGS = {setting.name: setting for setting in settings_of(LOSSES)}


@pytest.fixture(scope="module")
def toy():
    package = ModuleType("pack_with_toy")
    package.__path__ = [str(PACK)]
    with library_with_toy(package) as module:
        yield module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_loss_tables", PACK / "tools" / "build_loss_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestAToyLoss:
    def test_the_recipe_has_it(self, toy):
        recipes = toy("asymvq.training.recipe")
        assert recipes.Recipe().darkness == DEFAULT
        assert recipes.Recipe.from_dict(recipes.Recipe(darkness=2.0).to_dict()).darkness == 2
        assert recipes.parse_setting("darkness=3") == {NAME: 3.0}
        assert recipes.Recipe(l1=0.0, lpips=0.0).darkness  # enough to train with
        with pytest.raises(ValueError, match="Expected darkness to be ≥ 0, but got -1"):
            recipes.Recipe(darkness=-1.0)
        with pytest.raises(ValueError, match="amplified and darkness, but got none"):
            recipes.Recipe(l1=0.0, lpips=0.0, darkness=0.0)

    def test_the_command_lines_help_has_it(self, toy, capsys):
        with pytest.raises(SystemExit):
            toy("asymvq.cli").build_parser().parse_args(["train", "--help"])
        assert f"{NAME}={DEFAULT} {TEXT}" in " ".join(capsys.readouterr().out.split())

    def test_it_is_trained_with(self, toy, tmp_path):
        data, recipes, loop = (toy(f"asymvq.training.{name}") for name in ("data", "recipe", "loop"))
        config = toy("asymvq").AutoencoderConfig(
            decoder_channels=(8, 16), decoder_blocks=1, encoder_channels=(8, 16), encoder_blocks=1,
            condition=toy("asymvq").ConditionConfig.affine(8), norm_groups=4,
        )  # fmt: skip
        vae = toy("asymvq").AsymmetricAutoencoder(config)
        pixels = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
        pictures = data.Pictures(list(pixels), crop=16, crop_scale=(1.0, 1.0))
        totals = []
        for weight in (0.0, 2.0):
            recipe = recipes.Recipe(steps=1, batch=2, crop=16, lpips=0.0, held_out=0.0, darkness=weight)
            out = tmp_path / f"{weight}.safetensors"
            (report,) = loop.Training(vae, config, pictures, recipe, out=out)
            totals.append(report.loss)
        assert totals[1] - totals[0] == pytest.approx(2 * report.figures[NAME], rel=1e-4)

    def test_the_library_itself_has_none(self, toy):
        assert NAME not in {field.name for field in dataclasses.fields(Recipe)}


def test_every_setting_is_explained():
    for setting in SETTINGS.values():
        assert re.fullmatch(r"[A-Z].+\.", setting.text), setting.name
        assert parse_setting(f"{setting.name}=7") == {setting.name: type(setting.default)(7)}


def test_names_are_the_recipes_own():
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert len(names) == len(set(names))
    assert len(SETTINGS) == sum(len(dataclasses.fields(loss.settings)) for loss in LOSSES)
    own = set(inspect.get_annotations(Recipe))
    assert not own & set(SETTINGS)
    assert own | set(SETTINGS) == set(names)


def test_places_of_the_other_settings_are_as_before_the_table():
    """Those of losses are by name only."""
    assert Recipe(5, 2).batch == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_impossible_values_are_refused(name):
    for bad in (-1, *([0] if SETTINGS[name].positive else [])):
        with pytest.raises(ValueError, match=f"Expected {name} to be (≥|>) 0, but got {bad}"):
            dataclasses.replace(Recipe(), **{name: bad})
    assert not math.isnan(getattr(Recipe(), name))


def test_the_documentation_lists_them(tables):
    assert len(tables.PAGES) > 2
    for path in tables.PAGES:
        assert tables.page(path) == path.read_text("utf-8"), "run python tools/build_loss_tables.py"
    assert f"| `l2` | {SETTINGS['l2'].text} | 0 | 0 | 0 |" in (PACK / "docs" / "training.md").read_text("utf-8")
