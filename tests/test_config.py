"""Configs from files: types and bounds are checked before anything is made of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from clock import measured
from safetensors.torch import save_file

from asymvq.autoencoders import PRESETS, AutoencoderConfig
from asymvq.checkpoint import CheckpointError, read, save, to_native

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

TINY = AutoencoderConfig(
    decoder_channels=(32, 64), decoder_blocks=2, encoder_channels=(32, 64), encoder_blocks=1, condition=None
)
FIELDS = [field.name for field in dataclasses.fields(AutoencoderConfig) if field.name != "latents"]
ODD = ["4", 4.0, True, -1, 0, 2**40, 10**30, float("nan"), float("inf"), [], [3], [-32], ["32"], [2**40], {}, {"a": 1}]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in FIELDS for v in ODD if v is not True or "conv" not in n])
def test_other_types_and_sizes_are_refused(name, value):
    with pytest.raises(ValueError, match="Expected"):
        AutoencoderConfig.from_dict(TINY.to_dict() | {name: value})


@pytest.mark.parametrize(
    "condition",
    [
        {"sees_mask": 1, "mask_reduction": "any"}, {"sees_mask": True, "mask_reduction": "x"},
        {"sees_mask": True, "mask_reduction": []}, {"sees_mask": True}, "any", [],
        {"sees_mask": True, "mask_reduction": "any", "coarsest": False},
        {"sees_mask": True, "mask_reduction": "any", "more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_other_conditions_are_refused(condition):
    with pytest.raises(ValueError, match="Expected"):
        AutoencoderConfig.from_dict(TINY.to_dict() | {"condition": condition})


def test_early_files_name_a_field_that_is_no_longer():
    condition = {"sees_mask": False, "mask_reduction": "nearest", "coarsest": True}
    config = AutoencoderConfig.from_dict(PRESETS["base"].to_dict() | {"condition": condition})
    assert config == PRESETS["base"]


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name):
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_json_makes_a_config_or_words(changes):
    try:
        config = AutoencoderConfig.from_dict(TINY.to_dict() | changes)
    except ValueError as error:
        assert str(error).startswith("Expected")  # noqa: PT017
    else:
        assert AutoencoderConfig.from_dict(config.to_dict()) == config


# In files


@pytest.fixture
def vae(make_vae):
    return make_vae(TINY)


def with_config(vae, text: str, path):
    tensors = to_native(vae, vae.config)
    tensors["asymvq.config"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_blocks": 10_000}, {"decoder_blocks": 64}, {"encoder_blocks": 64}, {"decoder_channels": [32] * 300},
        {"decoder_channels": [32] * 10, "encoder_channels": [32] * 10}, {"latent_channels": 2**40},
        {"decoder_channels": [2**62, 64]}, {"norm_groups": 0}, {"norm_groups": 2**62},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_the_tensors_cannot_be_is_refused_at_once(changes, vae, tmp_path):
    text = json.dumps({"format": 1, "config": TINY.to_dict() | changes})
    path = with_config(vae, text, tmp_path / "a.safetensors")
    with measured() as cost, pytest.raises(CheckpointError, match="Expected"):
        read(path)
    assert cost.seconds < 0.3


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "[1]", "3", '{"format": 1}', '{"format": 1, "config": []}', '{"format": {"a": 1}}',
             '{"format": 1, "config": {}, "latents": 3}', " " * 100_000, '{"format": ' + "9" * 5000 + "}"],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_config_of_other_json(text, vae, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read(with_config(vae, text, tmp_path / "a.safetensors"))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, " " * 2_000_000, '{"norm_num_groups": 4611686018427387904}',
     '{"norm_num_groups": 2.0}', '{"act_fn": ["silu"]}', "\udcff", '{"norm_num_groups": ' + "9" * 5000 + "}"],
    ids=lambda text: ascii(text[:30]),
)  # fmt: skip
def test_a_hostile_config_json(text, vae, tmp_path):
    save(vae, tmp_path, layout="diffusers", latents="sd")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with measured() as cost, pytest.raises(CheckpointError) as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 500
    assert cost.seconds < 0.5


def test_a_sparse_config_json(vae, tmp_path):
    save(vae, tmp_path, layout="diffusers", latents="sd")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read(tmp_path)
