"""LPIPS and FID through torchmetrics: the networks behind them, loaded from disk or fetched once, and frozen.

Neither is needed to decode: the libraries are the extra `metrics` of this package and are imported when asked for.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import pickle
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .outputs import replacing

logger = logging.getLogger(__name__)

LIBRARIES = "torchmetrics torch-fidelity torchvision"
Fetched = Callable[[int, int], None]
"""Called with the bytes that are here, and all."""
BLOCK = 2**20
MIN_SIZE = 16
"""Pixels: VGG-16 halves a picture four times."""


class UnavailableError(ValueError):
    """A metric's library or its weights are missing; the message says which, and what to do."""


def load_lpips(device: torch.device | str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS (arXiv 1801.03924, version 0.1 on VGG-16), as torchmetrics computes it.

    The heads come with torchmetrics. VGG's weights are torchvision's `vgg16-397923af.pth`: taken from
    `torch.hub.get_dir()/checkpoints` (below `TORCH_HOME`), fetched there if they are missing.

    Returns:
        A function of two pictures (B, 3, H, W) in about [-1, 1], at least 16×16, that gives their distance (B,), one a
        picture, on `device`. Differentiable with respect to both; the network is frozen, and computes in float32.

    Raises:
        UnavailableError: a library is not installed, or the weights are neither on disk nor to be had.
    """
    metric = _with_weights("LPIPS", _vgg_url(), _lpips_class())
    # The bare network: the metric around it refuses values below -1 and keeps every score it gave.
    network = metric.net.to(device)

    def distance(output: Tensor, source: Tensor) -> Tensor:
        if output.shape != source.shape or output.ndim != 4 or output.shape[1] != 3 or min(output.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f"Expected two pictures of one shape (B, 3, H, W), at least {MIN_SIZE}×{MIN_SIZE}, but got "
                f"{tuple(output.shape)} and {tuple(source.shape)}."
            )
        return network(*(picture.to(device, torch.float32) for picture in (output, source))).flatten()

    return distance


def fetch_lpips(progress: Fetched) -> None:
    """Fetches VGG's weights, where they are missing: what `load_lpips` would do first, for hosts that show it.

    Args:
        progress: called with (done, total) bytes. What it raises ends the download, of which nothing stays.

    Raises:
        UnavailableError: as `load_lpips`.
    """
    _lpips_class()
    _fetch("LPIPS", _vgg_url(), progress)


def _lpips_class() -> Callable[[], Any]:
    try:
        import torchvision  # noqa: F401
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise _not_installed("LPIPS", error) from error
    return partial(LearnedPerceptualImagePatchSimilarity, net_type="vgg")


def _vgg_url() -> str:
    from torchvision.models import VGG16_Weights

    return VGG16_Weights.IMAGENET1K_V1.url


class FrechetDistance:
    """FID (arXiv 1706.08500) between two sets of pictures, gathered batch by batch. Made by `load_fid`.

    Args:
        metric: torchmetrics' `FrechetInceptionDistance` for pictures of 8 bits.
    """

    def __init__(self, metric: Any):
        self._metric = metric

    @torch.no_grad()
    def add(self, output: Tensor, source: Tensor) -> None:
        """Takes pictures (B, 3, H, W) in [-1, 1] into either set; they are rounded to 8 bits, as files are."""
        for pictures, real in ((output, False), (source, True)):
            pixels = pictures.float().add(1).mul(127.5).round().clamp(0, 255).byte()
            self._metric.update(pixels.to(self._metric.device), real=real)

    def value(self) -> float:
        """The distance so far.

        Raises:
            ValueError: fewer than two pictures were added.
        """
        try:
            return self._metric.compute().item()
        except RuntimeError as error:
            raise ValueError(f"Expected at least two pictures for an FID, but got fewer: {error}") from error


def load_fid(device: torch.device | str = "cpu", *, features: int = 2048) -> FrechetDistance:
    """FID as torchmetrics computes it on torch-fidelity's port of the original Inception network and its resize.

    The weights are torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`; where from: as in `load_lpips`.

    Args:
        device: where the network runs.
        features: 2048 for the published metric; 64, 192 or 768 for earlier layers, where pictures are few.

    Raises:
        UnavailableError: a library is not installed, or the weights are neither on disk nor to be had.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise _not_installed("FID", error) from error
    metric = _with_weights("FID", URL_INCEPTION_V3, lambda: FrechetInceptionDistance(feature=features, antialias=False))
    return FrechetDistance(metric.to(device))


MetricT = TypeVar("MetricT", bound=nn.Module)


def _with_weights(name: str, url: str, build: Callable[[], MetricT]) -> MetricT:
    """What `build` makes of the file of `url` in torch's cache. Fetched first if it is missing, and checked."""
    # the libraries would build their networks before they look, and not all check what they fetch
    _fetch(name, url)
    try:
        return build()
    # RuntimeError: a broken file, or one of another network
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise _unavailable(name, url, error) from error


def _place(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _fetch(name: str, url: str, progress: Fetched | None = None) -> None:
    """The file of `url` into torch's cache, with a bar on the console, where it is missing."""
    file = _place(url)
    if file.is_file():
        return
    logger.info("%s: %s is missing, fetching it from %s.", name, file, url)
    digest, expected = hashlib.sha256(), file.stem.rsplit("-", 1)[1]
    try:
        with replacing(file) as temporary, urllib.request.urlopen(url, timeout=60) as answer:
            total = int(answer.headers.get("Content-Length", 0))
            with temporary.open("wb") as out, tqdm(total=total, unit="B", unit_scale=True, desc=file.name) as bar:
                while block := answer.read(BLOCK):
                    out.write(block)
                    digest.update(block)
                    bar.update(len(block))
                    if progress is not None:
                        progress(int(bar.n), max(total, int(bar.n)))
            if not digest.hexdigest().startswith(expected):
                raise OSError(f"what came has not the checksum {expected}")
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(name, url, error) from error


def _unavailable(name: str, url: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"Expected the weights of {name} in {_place(url)}, but could not load or fetch them ({error}). Download {url} "
        "to that place, or set TORCH_HOME to the folder above hub/checkpoints."
    )


def _not_installed(name: str, error: ImportError) -> UnavailableError:
    return UnavailableError(f"Expected the libraries of {name}, but got: {error}. Run: pip install {LIBRARIES}")
