"""LPIPS and FID, loaded by the real code from random weights, against the reference implementations."""

from __future__ import annotations

import functools
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asymvq.perceptual import UnavailableError, fetch_lpips, load_fid, load_lpips

VGG16_Weights = pytest.importorskip("torchvision.models").VGG16_Weights


@pytest.fixture(scope="module")
def lpips(torch_home: Path):
    return load_lpips()


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches, the first of values beyond [-1, 1], as decoders give them."""
    generator = torch.Generator().manual_seed(0)
    output, source = (torch.rand(2, 3, 32, 40, generator=generator) * 2 - 1 for _ in range(2))
    return output * 1.2, source


@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:.*weight enum.*:UserWarning")
def test_lpips_is_the_authors(lpips, pictures):
    reference = pytest.importorskip("lpips").LPIPS(net="vgg", verbose=False)
    output, source = pictures
    distances = lpips(output, source)
    assert distances.shape == (2,)
    torch.testing.assert_close(distances, reference(output, source).flatten(), atol=1e-6, rtol=1e-5)
    assert lpips(output[:1], source[:1]).shape == (1,)


def test_lpips_is_zero_for_equal_pictures_and_grows_with_the_difference(lpips, pictures):
    output, source = pictures
    assert lpips(source, source).abs().max() == 0
    near, far = (lpips(torch.lerp(source, output, share), source) for share in (0.1, 0.5))
    assert (near > 0).all()
    assert (near < far).all()


def test_lpips_passes_gradients_through_a_frozen_network(lpips, pictures):
    output, source = pictures
    output.requires_grad_()
    lpips(output, source).sum().backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert not lpips(source, source).requires_grad


@pytest.mark.parametrize("shape", [(1, 3, 15, 40), (1, 1, 40, 40), (3, 40, 40)])
def test_lpips_says_what_it_takes(lpips, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="16×16"):
        lpips(torch.zeros(shape), torch.zeros(shape))


def test_fid_is_torch_fidelitys(torch_home: Path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (5, 3, 40, 48), generator=generator)
    output = (source * 1.2 - 40).long()  # beyond what 8 bits hold
    metric = load_fid(features=64)
    for start, stop in ((0, 2), (2, 5)):
        metric.add(*(batch[start:stop] / 127.5 - 1 for batch in (output, source)))

    file = torch_home / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    reference = FeatureExtractorInceptionV3("reference", ["64"], feature_extractor_weights_path=str(file))
    statistics = [fid_features_to_statistics(reference(batch.clamp(0, 255).byte())[0]) for batch in (output, source)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert expected > 1e-3
    assert metric.value() == pytest.approx(expected, rel=1e-4)


def test_fid_of_a_set_with_itself_and_of_a_single_picture(torch_home: Path):
    metric = load_fid(features=64)
    picture = torch.rand(1, 3, 40, 48) * 2 - 1
    metric.add(picture, picture)
    with pytest.raises(ValueError, match="at least two pictures"):
        metric.value()
    metric.add(-picture, -picture)
    assert metric.value() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("load", "file"), [(load_lpips, "vgg16-397923af.pth"), (load_fid, "weights-inception-2015-12-05-6726825d.pth")]
)
class TestUnavailable:
    def test_weights_that_cannot_be_had(self, load, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UnavailableError, match=f"{file}.*Download https://.*{file} to that place") as caught:
            load()
        assert str(tmp_path / "hub" / "checkpoints" / file) in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
    def test_a_broken_file(self, load, file: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        (tmp_path / "hub" / "checkpoints" / file).write_bytes(content)
        with pytest.raises(UnavailableError, match=file):
            load()

    def test_a_missing_library(self, load, file: str, monkeypatch: pytest.MonkeyPatch):
        for name in ("lpip", "fid"):
            monkeypatch.setitem(sys.modules, f"torchmetrics.image.{name}", None)
        with pytest.raises(UnavailableError, match="pip install torchmetrics"):
            load()


class TestFetching:
    CONTENT = bytes(range(256)) * 10_000

    @pytest.fixture
    def url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Of a server on this machine, in torchvision's place."""
        name = f"vgg16-{hashlib.sha256(self.CONTENT).hexdigest()[:8]}.pth"
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / name).write_bytes(self.CONTENT)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            monkeypatch.setattr(VGG16_Weights.IMAGENET1K_V1.value, "url", url)
            yield url
            server.shutdown()

    def test_it_is_shown_and_happens_once(self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        seen: list[tuple[int, int]] = []
        fetch_lpips(lambda *step: seen.append(step))
        file = tmp_path / "home" / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
        assert file.read_bytes() == self.CONTENT
        assert seen == [(size, len(self.CONTENT)) for size in (2**20, 2**21, len(self.CONTENT))]
        assert "100%" in capsys.readouterr().err
        fetch_lpips(lambda *step: seen.append(step))
        assert len(seen) == 3

    def test_an_interrupt_leaves_nothing(self, url: str, tmp_path: Path):
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch_lpips(interrupt)
        assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]

    def test_another_file_is_refused(self, url: str, tmp_path: Path):
        (tmp_path / "served" / url.rsplit("/", 1)[1]).write_bytes(b"something else")
        with pytest.raises(UnavailableError, match="checksum"):
            fetch_lpips(lambda *step: None)
        assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
