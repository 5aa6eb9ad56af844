"""What is announced is what is run: counted tensor by tensor, on a device without memory."""

from __future__ import annotations

import dataclasses
import functools
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asymvq import lean, memory_model
from asymvq import stripes as stripes_module
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import PRESETS, AutoencoderConfig, tiny, wan
from asymvq.config import ConditionConfig, Config, MaskReduction
from asymvq.memory_model import decode_bytes, encode_bytes

TINY = AutoencoderConfig(
    decoder_channels=(24, 48, 96, 96), encoder_channels=(24, 48, 96, 96), encoder_blocks=1, norm_groups=6
)
CONFIGS = {
    **PRESETS,
    "affine": dataclasses.replace(PRESETS["base"], condition=ConditionConfig.affine()),
    "FLUX.2": dataclasses.replace(PRESETS["base"], latent_channels=128, latent_packing=2),
    "Wan": wan.Config(condition=ConditionConfig()),
    "Wan, affine": wan.Config(condition=ConditionConfig.affine()),
    "Wan, grown": wan.Config(condition=ConditionConfig(), decoder_channels=(192, 384, 768, 768), decoder_blocks=6),
    "TAESD": tiny.Config(condition=ConditionConfig()),
    "TAESD, affine": tiny.Config(condition=ConditionConfig.affine()),
    "TAEF2": tiny.Config(latent_channels=128, latent_packing=2, pooled=True),
    "tiny": TINY,
    "stock": dataclasses.replace(TINY, condition=None),
    "ASUKA": dataclasses.replace(PRESETS["base"], condition=ConditionConfig(True, MaskReduction.ANY)),
    "finest level the widest": dataclasses.replace(TINY, decoder_channels=(96, 48, 48, 24)),
}


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are alive; those that were there before do not count.

    Args:
        kept: the allocator keeps what those of up to so many bytes have taken: they are counted by themselves.
    """

    def __init__(self, kept: float = 0) -> None:
        super().__init__()
        self.kept, self.small, self.large = kept, _Count(), _Count()
        self._known: set[int] = set()

    @property
    def peak(self) -> int:
        return self.small.peak + self.large.peak

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in given:
                    self._add(storage)
        return result

    def _add(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        count = self.small if size <= self.kept else self.large
        count.add(size)
        weakref.finalize(storage, self._remove, key, size, count)

    def _remove(self, key: int, size: int, count: _Count) -> None:
        self._known.discard(key)
        count.add(-size)


class _Count:
    def __init__(self) -> None:
        self.now = self.peak = 0

    def add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class FusedAttention(TorchFunctionMode):
    """As on CPUs and CUDA, where the matrix of all positions is never held; the meta device has no such kernel."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def counted(run, kept: float = 0) -> int:
    with torch.no_grad(), FusedAttention(), LiveBytes(kept) as live:
        run()
    return live.peak


@pytest.fixture
def device(monkeypatch) -> str:
    """The meta device, as `device.type` says it, with the sizes of a GPU's stripes."""
    monkeypatch.setitem(stripes_module.VALUES, "meta", 2**24)
    monkeypatch.setattr(lean, "MIXED_NORMALISATION", {"meta"})
    monkeypatch.setattr(memory_model, "FUSED_ATTENTION", {"meta"})
    return "meta"


@functools.cache
def vae_of(config: Config, dtype: torch.dtype) -> AsymmetricAutoencoder:
    with torch.device("meta"):
        return AsymmetricAutoencoder(config).to(dtype).requires_grad_(False)


def decode_peak(config: Config, size: tuple[int, int], dtype: torch.dtype, conditioned: bool, kept: float = 0) -> int:
    vae = vae_of(config, dtype)
    with torch.device("meta"):
        size = tuple(side // config.latent_packing for side in size)
        latent = torch.empty(1, config.latent_channels, *size, dtype=dtype)
        pixels = [side * config.factor for side in size]
        given = {}
        if conditioned:
            given = {"image": torch.empty(1, 3, *pixels, dtype=dtype), "mask": torch.empty(1, 1, *pixels, dtype=dtype)}
        return counted(lambda: vae.decode(latent, **given), kept) + sum(t.nbytes for t in given.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "conditioned"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 256)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_takes_what_is_announced(name, size, conditioned, dtype, device):
    config = CONFIGS[name]
    if conditioned and config.condition is None:
        pytest.skip("a stock VAE takes no condition")
    cells = tuple(side // config.latent_packing for side in size)
    announced = decode_bytes(config, cells, dtype=dtype, device=device, conditioned=conditioned)
    taken = decode_peak(config, size, dtype, conditioned)
    assert 1.1 * taken <= announced <= 1.9 * taken + memory_model.RESIDENT


@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "conditioned"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 160)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_on_a_cpu_takes_what_is_announced(name, size, conditioned, device, monkeypatch):
    """Where small tensors' memory is not given back."""
    kept, dtype = memory_model.KEEPING["cpu"], torch.float32
    monkeypatch.setitem(stripes_module.VALUES, "meta", stripes_module.VALUES["cpu"])
    monkeypatch.setitem(memory_model.KEEPING, "meta", kept)
    config = CONFIGS[name]
    if conditioned and config.condition is None:
        pytest.skip("a stock VAE takes no condition")
    cells = tuple(side // config.latent_packing for side in size)
    announced = decode_bytes(config, cells, dtype=dtype, device=device, conditioned=conditioned)
    taken = decode_peak(config, size, dtype, conditioned, kept)
    assert 1.1 * taken <= announced <= 1.9 * taken + memory_model.RESIDENT


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [(512, 512), (768, 1280), (2048, 2048)], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_encoding_takes_what_is_announced(name, size, dtype, device):
    config = CONFIGS[name]
    vae = vae_of(config, dtype)
    with torch.device("meta"):
        image = torch.empty(1, 3, *size, dtype=dtype)
    taken = counted(lambda: vae.posterior(image)) + image.nbytes
    announced = encode_bytes(config, size, dtype=dtype, device=device)
    assert 1.1 * taken <= announced <= 1.9 * taken + memory_model.RESIDENT
