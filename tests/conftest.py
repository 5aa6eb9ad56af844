"""What several test files share: models with random weights, and masks that look like an artist's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig

TOGETHER = ("tests/browser/", "tests/host/")
LONG = (
    *TOGETHER, "tests/training/", "tests/test_faults.py", "tests/test_memory_model.py", "tests/test_parity.py",
    "tests/test_cli.py", "tests/test_harmonise.py", "tests/test_decode.py", "tests/test_evaluate.py",
)  # fmt: skip
"""What takes longest, in order: started first, so that the processes end together."""
os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile("any machine", deadline=None)  # a busy one takes its time
settings.load_profile("any machine")


def _shake_norms(module: nn.Module) -> None:
    """Away from ones and zeros, so that a swapped pair of norms is noticed."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            nn.init.normal_(part.weight, 1.0, 0.1)
            nn.init.normal_(part.bias, 0.0, 0.1)


@pytest.fixture(scope="session")
def shake_norms() -> Callable[[nn.Module], None]:
    return _shake_norms


@pytest.fixture(scope="session")
def make_vae() -> Callable[..., AsymmetricAutoencoder]:
    def make(config: AutoencoderConfig, seed: int = 0) -> AsymmetricAutoencoder:
        torch.manual_seed(seed)
        vae = AsymmetricAutoencoder(config)
        _shake_norms(vae)
        return vae.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def blob_mask() -> Callable[[int, int], Tensor]:
    def make(height: int, width: int) -> Tensor:
        """(1, 1, H, W): an ellipse and a thin diagonal, 1 = edited."""
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        ellipse = (x - 0.2) ** 2 / 0.3 + (y + 0.1) ** 2 / 0.15 < 1
        return (ellipse | ((x + y).abs() < 0.05)).float()[None, None]

    return make


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Torch's cache with random weights in it, under the names and in the layout of LPIPS' and FID's networks."""
    torch_fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torchvision_models = pytest.importorskip("torchvision.models")
    folder = tmp_path_factory.mktemp("torch_home")
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in torchvision_models.vgg16().state_dict().items()}
    vgg = {
        # the classifier is loaded but not used: one number, expanded, so that the file stays small
        name: torch.randn(shape) * (2 / max(1, shape[1:].numel())) ** 0.5 if "features" in name
        else torch.zeros(1).expand(shape)
        for name, shape in shapes.items()
    }  # fmt: skip
    torch.save(vgg, checkpoints / "vgg16-397923af.pth")

    class Untrained(torch_fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: object) -> None:
            """Keeps the random weights that it was made with."""

    torch.save({}, folder / "nothing.pth")
    inception = Untrained("untrained", ["64"], feature_extractor_weights_path=str(folder / "nothing.pth"))
    torch.save(inception.state_dict(), checkpoints / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield folder


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # one of several processes, each of which would take all cores
        cores = max(1, (os.cpu_count() or 1) // config.workerinput["workercount"])
        torch.set_num_threads(cores)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))  # for what they start


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file runs in one process; host and browser tests each in one, as they share a host and a browser."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # the longest come first
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; the rest in the order of their names."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """Whoever started the tests in the background may have had signals ignored, which processes inherit."""
    usual = {signal.SIGINT: signal.default_int_handler}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    previous = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)
