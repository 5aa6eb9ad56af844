"""The command line on real files, with tiny random VAEs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.checkpoint import load, save
from asymvq.cli import main
from asymvq.cli.latents import read_latent, write_latent
from asymvq.crop import centre_crop
from asymvq.decode import decode
from asymvq.masks import random_thick_mask
from asymvq.pictures import cover, read_mask, read_picture, read_raster, write_picture

ASSETS = Path(__file__).parents[1] / "asymvq" / "assets"

TINY = AutoencoderConfig(
    decoder_channels=(4, 8, 16, 16), decoder_blocks=2, encoder_channels=(4, 8, 16, 16), encoder_blocks=1, norm_groups=2
)


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae") / "tiny.safetensors"
    save(AsymmetricAutoencoder(TINY), path, metadata={"asymvq.training": "none at all"})
    return path


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """101×75: no multiple of the factor."""
    pixels = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    mask = random_thick_mask(75, 101, np.random.default_rng(1))[0].numpy()
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def latent_file(vae_file: Path, picture_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "picture.latent"
    assert main(["encode", "--vae", str(vae_file), "--image", str(picture_file), "--out", str(path)]) == 0
    return path


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must fail as bad input does; returns its line on stderr."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("asymvq: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "asymvq", "--help"], capture_output=True, text=True, check=True)
    for command in ("demo", "info", "convert", "encode", "decode", "evaluate"):
        assert f"\n    {command} " in done.stdout


def test_info(vae_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["info", str(vae_file)]) == 0
    text = capsys.readouterr().out
    for fact in ("native", "4, 8, 16, 16", "4 channels", "1/8", "nearest", "float32", "none at all"):
        assert fact in text


def test_info_as_json(vae_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["info", str(vae_file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    vae = load(vae_file)
    assert facts["parameters"]["total"] == sum(p.numel() for p in vae.parameters())
    assert facts["parameters"]["total"] == facts["parameters"]["encoder"] + facts["parameters"]["decoder"]
    assert AutoencoderConfig.from_dict(facts["config"]) == TINY
    assert (facts["layout"], facts["preset"], facts["dtype"], facts["factor"]) == ("native", None, "float32", 8)
    assert facts["metadata"]["asymvq.training"] == "none at all"


def test_convert_keeps_weights_and_metadata(vae_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new folder" / "half.safetensors"
    assert main(["convert", str(vae_file), str(out), "--layout", "native", "--dtype", "bf16"]) == 0
    before, after = load(vae_file).state_dict(), load(out).state_dict()
    assert all(torch.equal(before[key].bfloat16(), after[key]) for key in before | after)
    capsys.readouterr()
    main(["info", str(out), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dtype"], facts["metadata"]["asymvq.training"]) == ("bfloat16", "none at all")


def test_convert_to_diffusers_and_back(tmp_path: Path):
    torch.manual_seed(0)
    # 32 groups: what diffusers makes of widths is what its models have
    config = AutoencoderConfig(
        decoder_channels=(32, 64, 128, 128), decoder_blocks=2, encoder_channels=(32, 32, 32, 32), encoder_blocks=1
    )
    vae = AsymmetricAutoencoder(config)
    save(vae, tmp_path / "native.safetensors")
    folder, back = tmp_path / "diffusers", tmp_path / "back.safetensors"
    assert (
        main(["convert", str(tmp_path / "native.safetensors"), str(folder), "--layout", "diffusers", "--latents", "sd"])
        == 0
    )
    assert (folder / "config.json").is_file()
    assert main(["convert", str(folder), str(back), "--layout", "native"]) == 0
    loaded = load(back)
    assert loaded.config == config
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in vae.state_dict().items())


def test_encode_writes_what_comfyui_reads(latent_file: Path, vae_file: Path, picture_file: Path):
    tensors = load_file(latent_file)
    assert set(tensors) == {"latent_tensor", "latent_format_version_0"}
    assert tensors["latent_format_version_0"].numel() == 0
    image = read_picture(picture_file)[..., 1:73, 2:98]  # 75×101 cropped centrally, as the host crops
    with torch.no_grad():
        assert torch.equal(tensors["latent_tensor"], load(vae_file).encode(image))


@pytest.mark.parametrize("name", ["x.latent", "x.safetensors", "X.LATENT"])
def test_latent_round_trip(name: str, tmp_path: Path):
    latent = torch.randn(2, 4, 5, 7)
    write_latent(tmp_path / name, latent)
    assert torch.equal(read_latent(tmp_path / name), latent)


@pytest.mark.parametrize("key", ["latent", "latent_tensor", "samples", "anything"])
def test_latent_keys(key: str, tmp_path: Path):
    latent = torch.randn(1, 4, 5, 7)
    version = {"latent_format_version_0": torch.tensor([])}
    save_file({key: latent.half(), **version}, tmp_path / "x.safetensors")
    read = read_latent(tmp_path / "x.safetensors")
    assert read.dtype == torch.float32
    assert torch.equal(read, latent.half().float())


def test_old_latent_files_are_unscaled(tmp_path: Path):
    latent = torch.randn(1, 4, 5, 7)
    save_file({"latent_tensor": latent * 0.18215}, tmp_path / "old.latent")
    torch.testing.assert_close(read_latent(tmp_path / "old.latent"), latent)


@pytest.mark.parametrize("tile", [[], ["--tile", "64", "--overlap", "16"]])
def test_decode_keeps_the_source_exactly(
    tile: list[str], vae_file: Path, latent_file: Path, picture_file: Path, mask_file: Path, tmp_path: Path
):
    out = tmp_path / "out" / "decoded.png"
    files = ["--vae", vae_file, "--latent", latent_file, "--image", picture_file, "--mask", mask_file, "--out", out]
    assert main(["decode", *map(str, files), *tile]) == 0
    source, decoded = (np.asarray(Image.open(path)) for path in (picture_file, out))
    kept = np.asarray(Image.open(mask_file)) == 0
    assert decoded.shape == (75, 101, 3)
    assert np.array_equal(decoded[kept], source[kept])
    assert not np.array_equal(decoded[~kept], source[~kept])


def test_decode_by_the_network(
    vae_file: Path, latent_file: Path, picture_file: Path, mask_file: Path, tmp_path: Path
):  # fmt: skip
    out = tmp_path / "network.png"
    files = ["--vae", vae_file, "--latent", latent_file, "--image", picture_file, "--mask", mask_file, "--out", out]
    assert main(["decode", *map(str, files), "--keep", "network", "--dtype", "bf16"]) == 0
    source, decoded = (np.asarray(Image.open(path)) for path in (picture_file, out))
    assert decoded.shape == source.shape
    assert not np.array_equal(decoded[1:73, 2:98], source[1:73, 2:98])


def test_a_cpu_computes_in_float32_whatever_the_file_has(
    vae_file: Path, latent_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("asymvq.precision.SMALL_VAE", 1)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
    half = tmp_path / "half.safetensors"
    save(load(vae_file), half, dtype=torch.float16)
    run = ["decode", "--vae", str(half), "--latent", str(latent_file)]
    assert main([*run, "--out", str(tmp_path / "auto.png")]) == 0
    assert "hundreds of times" not in caplog.text
    assert main([*run, "--out", str(tmp_path / "fp32.png"), "--dtype", "fp32"]) == 0
    assert main([*run, "--out", str(tmp_path / "fp16.png"), "--dtype", "fp16"]) == 0
    assert "hundreds of times" in caplog.text
    auto, full, emulated = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("auto", "fp32", "fp16"))
    assert np.array_equal(auto, full)
    assert not np.array_equal(auto, emulated)


def test_decode_harmonises(
    vae_file: Path, latent_file: Path, picture_file: Path, mask_file: Path, tmp_path: Path, capsys
):  # fmt: skip
    files = ["--vae", vae_file, "--latent", latent_file, "--image", picture_file, "--mask", mask_file]
    kept, results = np.asarray(Image.open(mask_file)) == 0, []
    for strength in ("0", "1"):
        out = tmp_path / f"{strength}.png"
        assert main(["decode", *map(str, files), "--out", str(out), "--harmonise", strength]) == 0
        results.append(np.asarray(Image.open(out)))
        assert np.array_equal(results[-1][kept], np.asarray(Image.open(picture_file))[kept])
    assert not np.array_equal(results[0], results[1])
    with pytest.raises(SystemExit, match="2"):
        main(["decode", *map(str, files), "--out", "x.png", "--harmonise", "1.5"])
    assert "expected 0 to 1, but got 1.5" in capsys.readouterr().err


def test_decode_keeps_a_video_steady(
    vae_file: Path, latent_file: Path, picture_file: Path, mask_file: Path, tmp_path: Path
):  # fmt: skip
    latent = read_latent(latent_file)
    frames = latent + 0.3 * torch.randn(3, *latent.shape[1:], generator=torch.Generator().manual_seed(0))
    write_latent(tmp_path / "video.latent", frames)
    image, mask = read_picture(picture_file), read_mask(mask_file)
    files = ["--vae", vae_file, "--latent", tmp_path / "video.latent", "--image", picture_file, "--mask", mask_file]
    with torch.inference_mode():
        expected = decode(load(vae_file), frames, image=image, mask=mask, harmonise=1.0, frames=3)
    results: dict[bool, list[np.ndarray]] = {}
    for video in (False, True):
        more = ["--harmonise", "1", "--out", str(tmp_path / f"{video}.png"), *(["--video"] if video else [])]
        assert main(["decode", *map(str, files), *more]) == 0
        results[video] = [np.asarray(Image.open(tmp_path / f"{video}_0000{n}.png")) for n in (1, 2, 3)]
    steady = np.stack(results[True]) / 127.5 - 1
    assert np.abs(steady - expected.clamp(-1, 1).movedim(1, -1).numpy()).max() < 0.01
    assert not np.array_equal(np.stack(results[False]), np.stack(results[True]))


def test_harmonise_puts_an_edit_into_its_source(mask_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(3)
    values = (30000 + rng.integers(0, 2000, (75, 101))).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "source.png")  # 16 bits
    Image.fromarray((values // 256 + 20).astype(np.uint8)).convert("RGB").save(tmp_path / "edited.png")
    names = {"image": tmp_path / "source.png", "edited": tmp_path / "edited.png", "mask": mask_file}
    files = [part for name, path in names.items() for part in (f"--{name}", str(path))]
    kept = torch.from_numpy(np.asarray(Image.open(mask_file)) == 0)
    source, results = read_raster(tmp_path / "source.png").image(), []
    for strength in ("0", "1"):
        out = tmp_path / f"out_{strength}.png"
        assert main(["harmonise", *files, "--out", str(out), "--strength", strength]) == 0
        result = read_raster(out)
        assert result.bits == 16
        assert torch.equal(result.image()[..., kept], source[..., kept])
        results.append((result.image() - source)[..., ~kept].abs().mean().item())
    assert results[0] > 0.1
    assert results[1] < 0.02
    assert "--overwrite" in fails(capsys, "harmonise", *files, "--out", tmp_path / "out_1.png")
    Image.new("RGB", (100, 75)).save(tmp_path / "edited.png")
    error = fails(capsys, "harmonise", *files, "--out", tmp_path / "x.png")
    assert "got 100×75 for a source of 101×75" in error


def test_change_mask_finds_what_an_edit_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    source = Image.fromarray(rng.integers(60, 200, (12, 16, 3), dtype=np.uint8)).resize((128, 96), Image.BICUBIC)
    source.save(tmp_path / "source.png")
    edited = source.point(lambda level: int(level * 0.9 + 10))
    edited.save(tmp_path / "same.png")
    edited.paste((250, 20, 20), (40, 30, 80, 70))
    edited.save(tmp_path / "edited.png")

    def run(edited: str, *options: str) -> np.ndarray:
        files = ["--image", str(tmp_path / "source.png"), "--edited", str(tmp_path / edited)]
        assert main(["change-mask", *files, "--out", str(tmp_path / "mask.png"), "--overwrite", *options]) == 0
        return np.asarray(Image.open(tmp_path / "mask.png"))

    mask = run("edited.png", "--grow", "0", "--feather", "0")
    assert mask.shape == (96, 128)
    assert (mask[34:66, 44:76] == 255).all()
    assert (mask == 255).sum() < 2 * 40 * 40
    assert not run("same.png").any()
    assert "nothing changed" in capsys.readouterr().out
    edited.resize((96, 72)).save(tmp_path / "small.png")
    files = ["--image", tmp_path / "source.png", "--edited", tmp_path / "small.png", "--out", tmp_path / "x.png"]
    assert "Align them first" in fails(capsys, "change-mask", *files)
    assert run("small.png", "--align")[50, 60] == 255


def test_change_mask_is_told_the_vae(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    vae = load(ASSETS / "demo.safetensors", dtype=torch.float32)
    source = read_picture(ASSETS / "picture.png")[..., 128:384, 128:384]
    edited = source * 0.9 + torch.tensor([0.08, -0.02, -0.05])[:, None, None]
    changed = edited.clone()
    changed[..., 60:160, 80:200] = edited[..., 60:160, 80:200].flip(-1, -2)
    write_picture(tmp_path / "source.png", source[0])
    for name, picture in (("same", edited), ("edited", changed)):
        write_picture(tmp_path / f"{name}.png", decode(vae, vae.encode(picture.clamp(-1, 1)))[0])
        out = ["--out", str(tmp_path / f"{name}_mask.png"), "--vae", str(ASSETS / "demo.safetensors")]
        files = ["--image", str(tmp_path / "source.png"), "--edited", str(tmp_path / f"{name}.png")]
        assert main(["change-mask", *files, *out]) == 0
    assert "nothing changed" in capsys.readouterr().out
    found = np.asarray(Image.open(tmp_path / "edited_mask.png"))
    assert (found[80:140, 100:180] > 127).mean() > 0.9


def test_decode_of_a_batch_without_condition(vae_file: Path, tmp_path: Path):
    write_latent(tmp_path / "two.latent", torch.randn(2, 4, 5, 7))
    out = tmp_path / "plain.png"
    assert main(["decode", "--vae", str(vae_file), "--latent", str(tmp_path / "two.latent"), "--out", str(out)]) == 0
    assert [Image.open(tmp_path / f"plain_0000{n}.png").size for n in (1, 2)] == [(56, 40)] * 2
    assert not out.exists()


def test_bad_files_give_one_line(
    vae_file: Path, picture_file: Path, latent_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = tmp_path / "text.png"
    text.write_text("no picture\n")
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(picture_file.read_bytes()[:1000])
    missing = tmp_path / "missing"
    encode = ["encode", "--vae", vae_file, "--out", tmp_path / "x.latent", "--image"]
    decode = ["decode", "--vae", vae_file, "--out", tmp_path / "x.png", "--latent"]
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    for path, argv in [
        (missing, ["info"]),
        (text, ["info"]),
        (picture_file, ["info"]),
        (latent_file, ["info"]),
        (missing, encode),
        (text, encode),
        (truncated, encode),
        (tmp_path, encode),
        (missing, decode),
        (text, decode),
        (picture_file, decode),
        (tmp_path / "two.safetensors", decode),
    ]:
        assert str(path) in fails(capsys, *argv, path), argv


def test_what_does_not_fit_gives_one_line(
    vae_file: Path, picture_file: Path, mask_file: Path, latent_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    decode = ["decode", "--vae", vae_file, "--out", tmp_path / "x.png", "--latent", latent_file]
    Image.new("L", (64, 64), 255).save(tmp_path / "small.png")
    assert "64×64" in fails(capsys, *decode, "--image", picture_file, "--mask", tmp_path / "small.png")
    assert "mask" in fails(capsys, *decode, "--image", picture_file)
    write_latent(tmp_path / "sixteen.latent", torch.zeros(1, 16, 9, 12))
    assert "16" in fails(capsys, *decode[:-1], tmp_path / "sixteen.latent")
    write_latent(tmp_path / "flat.latent", torch.zeros(4))
    fails(capsys, *decode[:-1], tmp_path / "flat.latent")
    fails(capsys, *decode, "--tile", "3")
    fails(capsys, *decode, "--tile", "64", "--overlap", "64")
    assert "nowhere" in fails(capsys, *decode, "--device", "nowhere")
    assert ".png" in fails(capsys, "decode", "--vae", vae_file, "--latent", latent_file, "--out", tmp_path / "x.jpg")
    assert ".latent" in fails(capsys, "encode", "--vae", vae_file, "--image", picture_file, "--out", tmp_path / "x.pt")
    assert "8×8" in fails(
        capsys, "encode", "--vae", vae_file, "--image", _tiny_picture(tmp_path), "--out", tmp_path / "x.latent"
    )
    assert ".safetensors" in fails(capsys, "convert", vae_file, tmp_path / "x", "--layout", "native")
    assert not (tmp_path / "x.png").exists()


def _tiny_picture(folder: Path) -> Path:
    Image.new("RGB", (5, 20)).save(folder / "tiny.png")
    return folder / "tiny.png"


def test_a_wrong_option_exits_with_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["decode", "--keep", "everything"])
    assert stopped.value.code == 2
    assert "asymvq" in capsys.readouterr().err


def test_ctrl_c(vae_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("asymvq.cli.info.read", interrupt)
    assert main(["info", str(vae_file)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_all_8_bit_values_survive(tmp_path: Path):
    ramp = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image = read_picture(tmp_path / "ramp.png")
    assert (image.min(), image.max()) == (-1, 1)
    write_picture(tmp_path / "again.png", image[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), ramp)


def test_pictures_of_all_kinds(tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.new("L", (4, 3), 255).save(path)
    assert torch.equal(read_picture(path), torch.ones(1, 3, 3, 4))
    Image.new("RGBA", (4, 3), (255, 0, 0, 0)).save(path)
    assert read_picture(path)[0, :, 0, 0].tolist() == [1, -1, -1]
    Image.fromarray(np.full((3, 4), 65535 // 3, dtype=np.uint16)).save(path)
    torch.testing.assert_close(read_picture(path), torch.full((1, 3, 3, 4), -1 / 3), atol=1e-4, rtol=0)
    Image.new("P", (4, 3)).save(path)
    assert read_picture(path).shape == (1, 3, 3, 4)


def test_exif_orientation(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    picture = Image.new("RGB", (20, 10))
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(tmp_path / "turned.png", exif=exif)
    image = read_picture(tmp_path / "turned.png")
    assert image.shape == (1, 3, 20, 10)
    assert image[0, :, 0, 9].tolist() == [1, 1, 1]


def test_masks_of_all_kinds(tmp_path: Path):
    expected = torch.zeros(1, 1, 3, 4)
    expected[..., 2:] = 1
    white = Image.fromarray((expected[0, 0].numpy() * 255).astype(np.uint8))
    # of several colours: one of a single colour would be strokes on a transparent layer
    transparent = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)).convert("RGBA")
    transparent.putalpha(white.point([255 - v for v in range(256)]))
    deep = Image.fromarray(expected[0, 0].numpy().astype(np.uint16) * 65535)
    opaque = white.convert("RGBA")
    for picture in (
        white,
        white.convert("1"),
        white.convert("RGB"),
        transparent,
        transparent.convert("LA"),
        deep,
        opaque,
    ):
        picture.save(tmp_path / "mask.png")
        assert torch.equal(read_mask(tmp_path / "mask.png"), expected), picture.mode


def test_centre_crop_and_cover():
    image = torch.arange(75 * 101.0).reshape(1, 1, 75, 101).expand(1, 3, -1, -1)
    assert torch.equal(centre_crop(image, 8), image[..., 1:73, 2:98])
    assert torch.equal(cover(image, (75, 75)), image[..., 13:88])
    assert cover(image, (30, 64)).shape == (1, 3, 30, 64)


def test_demo_with_the_bundled_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    assert "demo.png" in printed
    assert "demo.json" in printed
    report = json.loads(Path("demo.json").read_text())
    errors = {decoded["name"]: decoded["kept_error"] for decoded in report["decodes"]}
    assert errors["conditional, exact"] == 0
    assert 0 < errors["plain"] < 0.03
    assert 0 < errors["conditional, network"] < 0.03
    assert Image.open("demo.png").width > 1000


def test_demo_with_own_files(vae_file: Path, picture_file: Path, mask_file: Path, tmp_path: Path):
    own = ["demo", "--vae", str(vae_file), "--image", str(picture_file)]
    out = tmp_path / "a" / "b"
    assert main([*own, "--mask", str(mask_file), "--example", str(picture_file), "--out", str(out)]) == 0
    report = json.loads((out / "demo.json").read_text())
    assert (report["width"], report["height"], report["latent_shape"]) == (96, 72, [1, 4, 9, 12])
    shares = []
    for number, seed in ((2, "1"), (3, "1"), (4, "2")):  # a random mask; earlier results stay
        assert main([*own, "--seed", seed, "--out", str(out)]) == 0
        assert (out / f"demo_{number:05}.png").exists()
        shares.append(json.loads((out / f"demo_{number:05}.json").read_text())["edited_share"])
    assert shares[0] == shares[1] != shares[2]
    assert json.loads((out / "demo.json").read_text()) == report
    assert main([*own, "--overwrite", "--out", str(out)]) == 0
    assert json.loads((out / "demo.json").read_text()) != report


def test_demo_refuses_a_mask_of_another_size(
    vae_file: Path, mask_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert "101×75" in fails(capsys, "demo", "--vae", vae_file, "--mask", mask_file, "--out", tmp_path)
    assert not (tmp_path / "demo.png").exists()


def test_decode_keeps_what_the_file_has(vae_file: Path, mask_file: Path, tmp_path: Path):
    """Alpha, colour profile, resolution: through the command itself."""
    values = np.random.default_rng(0).integers(0, 256, (75, 101, 4), dtype=np.uint8)
    source, latent, out = (tmp_path / name for name in ("sprite.png", "z.latent", "out.png"))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(values).save(source, icc_profile=profile, dpi=(300, 300))
    assert main(["encode", "--vae", str(vae_file), "--image", str(source), "--out", str(latent)]) == 0
    files = ["--vae", vae_file, "--latent", latent, "--image", source, "--mask", mask_file, "--out", out]
    assert main(["decode", *map(str, files)]) == 0
    kept = np.asarray(Image.open(mask_file)) == 0
    with Image.open(out) as result:
        assert result.info["icc_profile"] == profile
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        decoded = np.asarray(result)
    assert np.array_equal(decoded[kept], values[kept])
    assert (decoded[~kept][:, 3] == 255).all()


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.zeros(1, 4, 3, 5, 7), "Latents of videos"),
        (torch.zeros(4, 5, 7), "(batch, channels, height, width)"),
        (torch.zeros(0, 4, 5, 7), "(batch, channels, height, width)"),
        (torch.zeros(1, 4, 5, 7, dtype=torch.int64), "int64"),
        (torch.zeros(1, 4, 5, 7).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.full((1, 4, 5, 7), torch.nan), "NaN or infinity"),
    ],
)
def test_latents_that_are_none_of_a_picture(
    latent: torch.Tensor, message: str, vae_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "bad.safetensors"
    save_file({"latent": latent}, path)
    error = fails(capsys, "decode", "--vae", vae_file, "--latent", path, "--out", tmp_path / "x.png")
    assert message in error
    assert str(path) in error


def test_latent_files_of_other_kinds(vae_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "bad.latent"
    for content in (b"", b"\x80\x02}.", b"PK\x03\x04" + b"\0" * 40, b"\xff" * 64, b"GGUF" + b"\0" * 40):
        path.write_bytes(content)
        error = fails(capsys, "decode", "--vae", vae_file, "--latent", path, "--out", tmp_path / "x.png")
        assert "Expected a latent (.latent or .safetensors)" in error
        assert len(error) < 600


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_what_does_not_fit_in_memory_is_encoded_in_tiles(vae_file: Path, tmp_path: Path):
    """In a process that may take a little more than it has, which is enough for the picture itself."""
    Image.new("L", (2000, 2000)).save(tmp_path / "large.png")
    script = """
import resource, sys
from asymvq.cli import encode, main
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (300 << 20),) * 2)
sys.exit(main(sys.argv[1:]))
"""
    argv = ["encode", "--vae", vae_file, "--image", tmp_path / "large.png", "--out", tmp_path / "x.latent"]
    few = {**os.environ, "OMP_NUM_THREADS": "1"}  # each thread takes address space of its own
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, argv)], capture_output=True, text=True, check=False, env=few
    )
    assert done.returncode == 0, done.stderr
    assert "Out of memory while encoding: it is encoded in tiles of 1024 pixels" in done.stderr
    assert "250" in done.stdout
