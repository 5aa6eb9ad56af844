"""Decoders side by side: the library's part, and the command on real files with tiny random VAEs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.cli import main
from asymvq.cli.evaluate import list_pictures
from asymvq.cli.latents import write_latent
from asymvq.cli.report import Measured, Report
from asymvq.colour import fit_colours, noise_masked
from asymvq.evaluation import MEASURES, Way, contestants, evaluate, measure
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, kept_error
from asymvq.pictures import read_picture

TINY = AutoencoderConfig(
    decoder_channels=(4, 8, 16), decoder_blocks=1, encoder_channels=(4, 8, 16), encoder_blocks=1, norm_groups=2
)
STOCK = dataclasses.replace(TINY, condition=None)
DECODER_ALONE = dataclasses.replace(TINY, encoder_channels=None, quant_conv=False)


@pytest.fixture(scope="module")
def vaes(make_vae) -> dict[str, AsymmetricAutoencoder]:
    return {name: make_vae(config, seed) for seed, (name, config) in enumerate({"stock": STOCK, "asym": TINY}.items())}


@pytest.fixture
def case(blob_mask) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1, blob_mask(24, 32)


class TestContestants:
    def test_the_baseline_is_the_first_stock_vae_pasted_back(self, vaes):
        asym_first = {"asym": vaes["asym"], "stock": vaes["stock"]}
        assert [(c.name, c.way) for c in contestants(asym_first)] == [
            ("stock", Way.PASTE), ("stock", Way.PLAIN), ("stock", Way.FITTED), ("stock", Way.HARMONISED),
            ("asym", Way.NETWORK), ("asym", Way.EXACT), ("asym", Way.BOTH),
        ]  # fmt: skip

    def test_without_a_stock_vae_the_first_is_its_own_baseline(self, vaes):
        both = {"asym": vaes["asym"], "again": vaes["asym"]}
        assert [(c.name, c.way) for c in contestants(both)] == [
            ("asym", Way.PASTE), ("asym", Way.PLAIN), ("asym", Way.FITTED), ("asym", Way.HARMONISED),
            ("asym", Way.NETWORK), ("asym", Way.EXACT), ("asym", Way.BOTH),
            ("again", Way.NETWORK), ("again", Way.EXACT), ("again", Way.BOTH),
        ]  # fmt: skip

    def test_a_stock_vae_alone_has_no_conditional_columns(self, vaes):
        ways = [c.way for c in contestants({"stock": vaes["stock"]})]
        assert ways == [Way.PASTE, Way.PLAIN, Way.FITTED, Way.HARMONISED]

    def test_a_decoder_alone_borrows_an_encoder_of_its_kind(self, vaes, make_vae):
        alone = make_vae(DECODER_ALONE)
        found = contestants({"alone": alone, "stock": vaes["stock"]})
        assert all(c.encoder is vaes["stock"] for c in found)
        with pytest.raises(ValueError, match=r"encode for alone, .* 4 latent channels"):
            contestants({"alone": alone})
        other = make_vae(dataclasses.replace(STOCK, latent_channels=8))
        with pytest.raises(ValueError, match="encode for alone"):
            contestants({"alone": alone, "other": other})

    def test_none(self):
        with pytest.raises(ValueError, match="at least one VAE"):
            contestants({})


class TestEvaluate:
    def test_every_way_gives_its_picture(self, vaes, case):
        image, mask = case
        pictures = {r.contestant.way: r.picture for r in evaluate(contestants(vaes), image, mask)}
        latents = {name: vae.encode(image) for name, vae in vaes.items()}
        plain = pictures[Way.PLAIN]
        torch.testing.assert_close(plain, asymvq.decode(vaes["stock"], latents["stock"]))
        inside = {
            Way.PASTE: plain,
            Way.FITTED: fit_colours(plain, image=image, mask=mask),
            Way.HARMONISED: asymvq.harmonise(plain, image=image, mask=mask, factor=4),
        }
        for way, edit in inside.items():
            assert torch.equal(pictures[way], torch.where(mask > 0, edit, image))
        assert len({picture.sum().item() for picture in pictures.values()}) == len(Way)
        for way, options in {
            Way.NETWORK: {"keep": "network"}, Way.EXACT: {}, Way.BOTH: {"harmonise": 1.0},
        }.items():  # fmt: skip
            expected = asymvq.decode(vaes["asym"], latents["asym"], image=image, mask=mask, **options)
            torch.testing.assert_close(pictures[way], expected)

    def test_a_noise_mask_leaves_cells_that_the_mask_does_not_touch(self, vaes, case):
        image, mask = case
        entrants = contestants({"asym": vaes["asym"]})
        shifted = (image + 0.3).clamp(-1, 1)
        latent = noise_masked(vaes["asym"].encode, image, shifted, mask, 4)
        masked, given, whole = (
            [r.measures for r in evaluate(entrants, image, mask, **options)]
            for options in (
                {"encoded": shifted, "noise_mask": True},
                {"latent": latent, "noise_mask": True},
                {"encoded": shifted},
            )
        )
        assert masked == given != whole

    def test_measures_are_the_metrics(self, vaes, case):
        image, mask = case
        for result in evaluate(contestants(vaes), image, mask):
            assert result.measures == measure(result.picture, image, mask)
            assert result.measures["kept_error"] == kept_error(result.picture, image, mask)
            assert result.measures["border_error"] == border_error(result.picture, image, mask)
            assert set(result.measures) == {each.key for each in MEASURES}
            assert result.seconds > 0

    def test_other_colours_or_another_latent_are_decoded_against_the_true_picture(self, vaes, case):
        image, mask = case
        entrants = contestants({"asym": vaes["asym"]})
        shifted = (image + 0.3).clamp(-1, 1)
        latent = vaes["asym"].encode(shifted)
        by_colour, by_latent, own = (
            [r.measures for r in evaluate(entrants, image, mask, **options)]
            for options in ({"encoded": shifted}, {"latent": latent}, {})
        )
        assert by_colour == by_latent != own
        assert by_colour[-1]["kept_error"] == 0

    def test_round_trips_start_from_what_the_last_one_left(self, vaes, case):
        image, mask = case
        vae = vaes["asym"]
        plain = contestants({"asym": vae})[1]
        assert plain.way is Way.PLAIN
        (result,) = evaluate([plain], image, mask, round_trips=2)
        once = asymvq.decode(vae, vae.encode(image)).clamp(-1, 1)
        twice = asymvq.decode(vae, vae.encode(once)).clamp(-1, 1)
        assert result.measures["drift"] == pytest.approx((twice - image).square().mean().item(), rel=1e-5)

    def test_what_a_mask_leaves_nothing_for_is_not_a_number(self, case):
        image, mask = case
        full = measure(image, image, torch.ones_like(mask))
        assert {key for key, value in full.items() if math.isnan(value)} == {
            "kept_error", "kept_psnr", "kept_ssim", "border_error", "seam_error", "gradient_error",
        }  # fmt: skip


def test_a_report_takes_means_over_what_was_measured(vaes):
    entrants = contestants({"asym": vaes["asym"]})[:2]
    measured = [
        Measured("a", 0, [{"border_error": 0.1, "seconds": 1}, {"border_error": 0.2, "seconds": 1}]),
        Measured("b", 0, [{"border_error": 0.3, "seconds": 9}, {"border_error": 0.6, "seconds": 2}]),
        Measured("c", 0, [{"border_error": math.nan, "seconds": 2}, {"border_error": math.nan, "seconds": 3}]),
    ]
    report = json.loads(Report({}, entrants, measured, []).json())
    baseline, other = report["contestants"]
    assert (baseline["border_error"], baseline["border_ratio"], baseline["seconds"]) == (pytest.approx(0.2), 1, 2)
    assert (other["border_error"], other["border_ratio"]) == (pytest.approx(0.4), pytest.approx(2))
    assert report["pictures"][2]["results"][0]["border_error"] is None
    assert "fid" not in baseline
    assert other["intervals"]["border_error"] == [pytest.approx(0.2), pytest.approx(0.6)]
    assert "border_ratio" not in other["intervals"]  # 2 in both pictures
    assert "seconds" not in other["intervals"]


def test_a_single_picture_has_no_intervals(vaes):
    entrants = contestants({"asym": vaes["asym"]})[:2]
    report = Report({}, entrants, [Measured("a", 0, [{"border_error": 0.1}, {"border_error": 0.2}])] * 2, [])
    assert all(c["intervals"] == {} for c in json.loads(report.json())["contestants"])
    assert "95 %" not in report.text() + report.markdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vaes) -> Path:
    """Two VAEs, and two pictures of 61×45 and 40×44 with masks and latents of their names."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name in ("pictures", "masks", "latents"):
        (folder / name).mkdir()
    for name, vae in vaes.items():
        asymvq.save(vae, folder / f"{name}.safetensors")
    rng = np.random.default_rng(0)
    for name, (height, width) in {"one": (45, 61), "two": (44, 40)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"pictures/{name}.png")
        mask = random_thick_mask(height, width, rng)[0].mul(255).byte().numpy()
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
        write_latent(folder / f"latents/{name}.latent", torch.zeros(1, 4, height // 4, width // 4))
    (folder / "pictures" / "notes.txt").write_text("no picture\n")
    return folder


def by_way(report: dict) -> dict:
    return {c["way"]: c for c in report["contestants"]}


def run(folder: Path, out: Path, *options: object, images: str = "pictures/one.png") -> dict:
    vaes = [part for name in ("stock", "asym") for part in ("--vae", folder / f"{name}.safetensors")]
    argv = ["evaluate", *vaes, "--images", folder / images, "--out", out, "--overwrite", *options]
    assert main([str(argument) for argument in argv]) == 0
    return json.loads((out / "report.json").read_text("utf-8"))


def test_writes_tables_and_a_picture_a_photo(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "folder"
    report = run(folder, out, "--random-masks", 3, "--masks-per-picture", 2, images="pictures")
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "report.json", "report.md", "two.png"]
    assert [(p["picture"], p["mask"]) for p in report["pictures"]] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    exact = by_way(report)["conditional, exact"]
    assert exact["vae"] == "asym"
    assert (exact["kept_error"], exact["kept_psnr"]) == (0, None)
    ratio = exact["border_error"] / report["contestants"][0]["border_error"]
    assert exact["border_ratio"] == pytest.approx(ratio)
    low, high = exact["intervals"]["border_ratio"]
    assert low <= ratio <= high
    headline = (
        f"Border error of asym: conditional, exact: {ratio:.3g} ({low:.3g} to {high:.3g}) × that of stock's plain"
    )
    printed, markdown = capsys.readouterr().out, (out / "report.md").read_text("utf-8")
    assert headline in printed
    assert headline in markdown
    assert "| kept: PSNR, dB | ∞ |" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}
    assert "95 % intervals over the 2 pictures" in printed
    assert "95 % intervals over the 2 pictures" in markdown
    assert Image.open(out / "one.png").width > 5 * 400


def test_random_masks_depend_on_the_seed_alone(folder: Path, tmp_path: Path):
    def measures(seed: int) -> list:
        report = run(folder, tmp_path / str(seed), "--random-masks", seed)
        return [{**r, "seconds": 0} for p in report["pictures"] for r in p["results"]]

    assert measures(1) == measures(1) != measures(2)


def test_masks_and_latents_are_found_by_name(folder: Path, tmp_path: Path, vaes):
    given = ["--masks", folder / "masks", "--latents", folder / "latents"]
    report = run(folder, tmp_path, *given)
    image = read_picture(folder / "pictures" / "one.png")[..., :44, :60]  # cropped centrally to multiples of 4
    mask = torch.from_numpy(np.asarray(Image.open(folder / "masks" / "one.png"))[None, None, :44, :60] / 255)
    picture = asymvq.decode(vaes["asym"], torch.zeros(1, 4, 11, 15), image=image, mask=mask.float(), keep="network")
    network = by_way(report)["conditional"]
    assert network["kept_error"] == pytest.approx(kept_error(picture, image, mask), rel=1e-4)


def test_colour_shift_and_round_trips(folder: Path, tmp_path: Path):
    own, shifted = (
        run(folder, tmp_path, "--random-masks", 0, *options)["contestants"]
        for options in ([], ["--colour-shift", 0.4, "--round-trips", 1])
    )
    assert "drift" not in own[0]
    assert all(c["drift"] > 0 for c in shifted)
    assert shifted[1]["kept_error"] != own[1]["kept_error"]


def test_kinds_of_shift(folder: Path, tmp_path: Path):
    found = {}
    for kind in ("global", "varying", "noise-mask", "noise-mask-varying"):
        report = run(folder, tmp_path, "--random-masks", 0, "--colour-shift", 0.4, "--shift-kind", kind)
        assert report["settings"]["kind of the shift"] == kind
        found[kind] = by_way(report)["plain"]["kept_error"], by_way(report)["plain"]["masked_error"]
    assert len(set(found.values())) == 4


def test_the_papers_table_says_what_it_leaves_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    report = run(folder, tmp_path, "--random-masks", 0, "--masks-per-picture", 2, "--paper", "--size", 32)
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "report.md").read_text("utf-8")):
        assert "| **2x**, the paper's | 7.49 | 0.1340 | 2.10e-05 |" in text
        assert f"| asym | — | — | {by_way(report)['conditional']['kept_error']:.2e} |" in text
        assert "Left out: Expected the weights of LPIPS" in text
        assert "Left out: Expected the weights of FID" in text
    assert report["settings"]["size"] == 32


def test_lpips(folder: Path, tmp_path: Path, torch_home: Path):
    report = run(folder, tmp_path, "--random-masks", 0, "--lpips")
    pasted, plain, *_ = (c["lpips"] for c in report["contestants"])
    assert 0 < pasted < plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "{}/latents", "--random-masks", "0"], "Expected pictures .* none in"),
        (["--images", "{}/pictures", "{}/pictures/one.png", "--random-masks", "0"], "some name twice"),
        (["--images", "{}/missing", "--random-masks", "0"], "missing"),
        (["--images", "{}/pictures", "--masks", "{}/latents"], "a file for one.png in"),
        (["--images", "{}/pictures", "--random-masks", "0", "--vae", "{}/asym.safetensors"], "VAEs of different names"),
        (["--images", "{}/pictures/one.png", "--random-masks", "0", "--fid"], "at least two pictures"),
        (["--images", "{}/pictures", "--random-masks", "0", "--size", "3"], "at least 4×4"),
        (
            ["--images", "{}/pictures", "--masks", "{}/masks", "--latents", "{}/latents", "--colour-shift", "0.1"],
            "--latents or --colour-shift",
        ),
    ],
)
def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str):
    argv = ["evaluate", "--vae", f"{folder}/asym.safetensors", "--out", str(tmp_path / "out")]
    assert main([*argv, *(option.format(folder) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_hidden_files_are_left_out(folder: Path, tmp_path: Path):
    """macOS leaves ._NAME.png beside NAME.png on disks of other systems: they hold no picture."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes((folder / "pictures" / f"{name}.png").read_bytes())
        (tmp_path / f"._{name}.png").write_bytes(b"\0\x05\x16\x07\0\2\0\0Mac OS X")
    assert [path.name for path in list_pictures([tmp_path])] == ["one.png", "two.png"]


def test_a_mask_of_another_size(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Image.new("L", (10, 12), 255).save(tmp_path / "one.png")
    argv = ["evaluate", "--vae", folder / "asym.safetensors", "--images", folder / "pictures" / "one.png"]
    assert main([str(a) for a in [*argv, "--masks", tmp_path, "--out", tmp_path / "out"]]) == 2
    assert "a mask of 61×45, the size of" in capsys.readouterr().err
