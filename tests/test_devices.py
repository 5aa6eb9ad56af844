"""What devices other than this machine's refuse: operands of several types, and tensors that were left on the CPU."""

import dataclasses
from functools import partial

import pytest
import torch
from test_align import texture
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import asymvq
from asymvq import lean
from asymvq import stripes as stripes_module
from asymvq.autoencoders import AutoencoderConfig
from asymvq.config import ConditionConfig, MaskReduction

TINY = AutoencoderConfig(
    decoder_channels=(32, 64, 64), decoder_blocks=1, encoder_channels=(32, 32, 64), encoder_blocks=1, norm_groups=16
)
CONFIGS = {
    "paper": TINY,
    "stock": dataclasses.replace(TINY, condition=None, post_quant_conv=False),
    "ASUKA": dataclasses.replace(TINY, condition=ConditionConfig(True, MaskReduction.ANY)),
}
CONVERSIONS = ("aten::copy_", "aten::_to_copy", "aten::fill_")


class OneType(TorchDispatchMode):
    """Refuses what computes with operands of several floating types, as Apple's GPUs do (pytorch#154887)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        dtypes = {t.dtype for t in tensors if t.dtype.is_floating_point and t.ndim}
        if len(dtypes) > 1 and not func.name().startswith(CONVERSIONS):
            raise AssertionError(f"{func.name()} with operands of {sorted(map(str, dtypes))}")
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Refuses every tensor of the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
        if "cpu" in found:
            raise AssertionError(f"{func.name()} with a tensor on the CPU")
        return result


@pytest.fixture(params=[1, 2**12, None], ids="stripes of {} values".format)
def stripes(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(stripes_module, "OTHER_DEVICES", request.param)
        monkeypatch.setitem(stripes_module.VALUES, "cpu", request.param)


def arguments(config, dtype, device):
    torch.manual_seed(0)
    height, width = 9 * config.factor, 7 * config.factor
    latent = torch.randn(2, config.latent_channels, 9, 7).to(device, dtype)
    image = (torch.rand(2, 3, height, width) * 2 - 1).to(device, dtype)
    mask = torch.zeros(2, 1, height, width)
    mask[..., 5:20, 3:17] = 1
    return latent, image, mask.to(device, dtype)


def run_networks(vae, latent, image, mask):
    given = {} if vae.config.condition is None else {"image": image, "mask": mask}
    mean, deviation = vae.posterior(image)
    results = [mean, deviation]
    for decode in (partial(vae.decode, striped=False), partial(vae.decode, striped=True)):
        results += [decode(latent), decode(latent, **given)]
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_networks_run_on_any_device_in_one_type(name, dtype, stripes, make_vae):
    vae = make_vae(CONFIGS[name]).to("meta", dtype)
    tensors = arguments(vae.config, dtype, "meta")
    with OneDevice(), OneType():
        results = run_networks(vae, *tensors)
    assert {(t.dtype, t.device.type) for t in results} == {(dtype, "meta")}


@pytest.mark.parametrize("rescued", [False, True], ids=["", "in float32"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_whole_decodes_and_encodes_are_of_one_type(name, rescued, stripes, make_vae, monkeypatch):
    """With values, where the meta device has none: all of `asymvq.decode`, as on a device that does not mix."""
    monkeypatch.setattr(lean, "MIXED_NORMALISATION", set())
    vae = make_vae(CONFIGS[name])
    half = make_vae(CONFIGS[name]).to(torch.bfloat16)
    latent, image, mask = arguments(vae.config, torch.float32, "cpu")
    given = {} if vae.config.condition is None else {"image": image, "mask": mask}
    computed = torch.float32 if rescued else torch.bfloat16
    with OneType():
        assert torch.isfinite(half.encode(image.to(computed))).all()
        for options in ({}, {"tile": 32, "region": "full"}, {"keep": "network", "batch": 2}):
            output = asymvq.decode(half, latent, **given, **options)
            expected = asymvq.decode(vae, latent, **given, **options)
            assert (output - expected).square().mean() < 1e-3
    assert half.encode(image.to(computed)).dtype == computed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_striped_normalisation_in_one_type_is_as_good(dtype, make_vae, monkeypatch):
    monkeypatch.setitem(stripes_module.VALUES, "cpu", 2**12)
    vae, half = make_vae(TINY), make_vae(TINY).to(dtype)
    latent, image, mask = arguments(TINY, torch.float32, "cpu")
    exact = vae.decode(latent, image=image, mask=mask, striped=False)
    errors = []
    for devices in ({"cpu", "cuda"}, set()):
        monkeypatch.setattr(lean, "MIXED_NORMALISATION", devices)
        decoded = lean.decode(half, latent.to(dtype), image=image.to(dtype), mask=mask.to(dtype))
        errors.append((decoded.float() - exact).square().mean())
    assert errors[1] <= 1.1 * errors[0]


def test_alignment_and_change_compute_in_float64_on_the_cpu_alone(monkeypatch):
    """Apple's GPUs have no float64: what is converted to it must have been brought to the CPU just before."""
    to_cpu, to_double = torch.Tensor.cpu, torch.Tensor.double
    brought = []

    def cpu(self):
        brought.append(to_cpu(self))
        return brought[-1]

    def double(self):
        assert any(self is tensor for tensor in brought), "converted to float64 where it was"
        return to_double(self)

    source, other = texture(96, 128, 0), texture(96, 128, 1)
    edited = source * 0.9 + 0.05
    edited[..., 20:60, 30:80] = other[..., 20:60, 30:80]
    edited = edited.roll(2, dims=-1)
    expected = asymvq.align(edited, source).picture
    mask = asymvq.change_mask(expected, source)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
    assert torch.equal(asymvq.align(edited, source).picture, expected)
    assert torch.equal(asymvq.change_mask(expected, source), mask)
    assert mask.any()
