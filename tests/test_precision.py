"""Half precision that overflows: there are no black pictures, wherever a network runs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.cli import main
from asymvq.evaluation import Way, contestants, evaluate
from asymvq.precision import why_slow
from asymvq.training.data import Batch
from asymvq.training.step import sample_latent

TINY = AutoencoderConfig(
    decoder_channels=(8, 8, 16, 16), decoder_blocks=1, encoder_channels=(8, 8, 16, 16), encoder_blocks=1, norm_groups=4
)


@pytest.fixture
def vae(make_vae) -> AsymmetricAutoencoder:
    """Encoder and decoder whose features are beyond float16's 65 504; the next GroupNorm takes the scale out again."""
    vae = make_vae(TINY)
    vae.encoder.conv_in.weight.mul_(1e5)
    vae.decoder.conv_in.weight.mul_(1e5)
    return vae


@pytest.fixture
def half(vae, make_vae) -> AsymmetricAutoencoder:
    half = make_vae(TINY)
    half.load_state_dict(vae.state_dict())
    return half.half()


@pytest.fixture
def case(vae, blob_mask) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 64, 48, generator=generator) * 2 - 1
    return 8 * vae.encode(image), image, blob_mask(64, 48)


def assert_close(output: Tensor, expected: Tensor) -> None:
    assert torch.isfinite(output).all()
    assert (output.float() - expected).abs().mean() < 0.02 * expected.std()


@torch.no_grad()
def test_the_case_overflows(half, case):
    latent, image, _ = (t.half() for t in case)
    assert not torch.isfinite(half.encoder(image)).all()
    assert not torch.isfinite(half.decoder(half.post_quant_conv(latent))).all()


RUNS = {
    "encode": lambda vae, latent, image, mask: vae.encode(image),
    "posterior": lambda vae, latent, image, mask: torch.cat(vae.posterior(image)),
    "decode": lambda vae, latent, image, mask: vae.decode(latent),
    "striped": lambda vae, latent, image, mask: vae.decode(latent, image=image, mask=mask, striped=True),
    "whole": lambda vae, latent, image, mask: asymvq.decode(vae, latent, image=image, mask=mask),
    "tiled": lambda vae, latent, image, mask: asymvq.decode(vae, latent, tile=32),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_rescued_with_a_warning(name, vae, half, case, caplog):
    expected = RUNS[name](vae, *case)
    assert not caplog.records
    output = RUNS[name](half, *(t.half() for t in case))
    assert_close(output, expected)
    doing = "encoding" if name in ("encode", "posterior") else "decoding"
    assert f"NaN or infinity while {doing} in torch.float16: {doing} again in float32" in caplog.text


@torch.no_grad()
def test_training_sees_finite_latents(vae, case, caplog):
    """The loop runs the frozen encoder under autocast: float32 weights and pictures, half precision in between."""
    _, image, _ = case
    noise, inside = torch.zeros(1, 4, 8, 6), torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    batch = Batch(image, image, image[:, :1], noise, noise, inside, image, inside, crops=None)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not torch.isfinite(vae.encoder(image)).all()
        latent = sample_latent(*vae.posterior(image), batch)
    assert_close(latent, vae.encode(image))
    assert "encoding again" in caplog.text


def test_evaluation_is_rescued(vae, half, case):
    _, image, mask = case
    pictures = {}
    for name, each in (("full", vae), ("half", half)):
        for result in evaluate(contestants({name: each}), image, mask):
            pictures[name, result.contestant.way] = result.picture
    for way in Way:
        if ("full", way) in pictures:
            assert_close(pictures["half", way], pictures["full", way])


@pytest.fixture
def files(vae, tmp_path):
    asymvq.save(vae, tmp_path / "vae.safetensors")
    return tmp_path


def encode_on_the_command_line(files, dtype: str, capsys) -> Tensor:
    out = files / f"{dtype}.latent"
    picture = str(asymvq.__path__[0] + "/assets/picture.png")
    arguments = ["--vae", str(files / "vae.safetensors"), "--image", picture, "--out", str(out), "--dtype", dtype]
    assert main(["encode", *arguments]) == 0, capsys.readouterr().err
    return load_file(out)["latent_tensor"]


def test_the_command_line_encodes_in_half_precision(files, capsys, caplog):
    expected = encode_on_the_command_line(files, "fp32", capsys)
    assert_close(encode_on_the_command_line(files, "fp16", capsys), expected)
    assert "encoding again in float32" in caplog.text


class TestWeightsTooLarge:
    """Beyond float16 before anything is computed."""

    @pytest.fixture
    def vae(self, vae) -> AsymmetricAutoencoder:
        vae.encoder.conv_in.weight.mul_(2e5 / vae.encoder.conv_in.weight.abs().max())
        return vae

    def test_they_make_the_vae_float32(self, vae, files, capsys, caplog):
        loaded = asymvq.load(files / "vae.safetensors", dtype=torch.float16)
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert "encoder.conv_in.weight are too large for torch.float16" in caplog.text
        expected = encode_on_the_command_line(files, "fp32", capsys)
        assert torch.equal(encode_on_the_command_line(files, "fp16", capsys), expected)
        assert (
            asymvq.load(files / "vae.safetensors", dtype=torch.bfloat16).decoder.conv_in.weight.dtype == torch.bfloat16
        )

    @pytest.mark.parametrize("layout", ["native", "diffusers"])
    def test_they_are_not_saved_as_infinity(self, vae, tmp_path, layout):
        with pytest.raises(ValueError, match=r"fit torch\.float16, but encoder\.conv_in\.weight"):
            asymvq.save(vae, tmp_path / "half.safetensors", layout=layout, latents="sd", dtype=torch.float16)
        assert not list(tmp_path.glob("half*"))


class TestRefusals:
    """What float32 does not rescue says where it comes from."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    def test_the_picture(self, make_vae, case, dtype):
        image = case[1].clone()
        image[0, 0, 3, 3] = float("nan")
        with pytest.raises(ValueError, match="Expected a finite image"):
            make_vae(TINY).to(dtype).encode(image.to(dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    def test_the_latent(self, make_vae, case, dtype, caplog):
        latent = case[0].clone()
        latent[0, 0, 3, 3] = float("inf")
        with pytest.raises(ValueError, match="Expected a finite latent"):
            make_vae(TINY).to(dtype).decode(latent.to(dtype))
        assert not caplog.records  # nothing was run twice

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    @pytest.mark.parametrize("part", ["encoder", "decoder"])
    def test_the_weights(self, make_vae, case, dtype, part):
        vae = make_vae(TINY).to(dtype)
        getattr(vae, part).conv_out.bias[0] = float("nan")
        latent, image, _ = (t.to(dtype) for t in case)
        with pytest.raises(ValueError, match=f"{part}.conv_out.bias holds NaN"):
            vae.encode(image) if part == "encoder" else vae.decode(latent)

    def test_the_network(self, make_vae, case):
        vae = make_vae(TINY)
        vae.decoder.conv_in.weight.mul_(1e30)
        vae.decoder.mid.block_1.norm1.weight.mul_(1e30)
        vae.decoder.mid.block_1.conv1.weight.mul_(1e30)
        with pytest.raises(ValueError, match="in float32 too, of a finite latent and with finite weights"):
            vae.decode(case[0])


def test_gradients_are_left_to_the_trainer(half, case, caplog):
    half.requires_grad_(True)
    assert not torch.isfinite(half.encode(case[1].half())).all()
    assert not torch.isfinite(half.decode(case[0].half())).all()
    assert not caplog.records


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_precision_that_this_cpu_emulates_is_said_to_be_slow(monkeypatch, name, dtype):
    check = f"_is_mkldnn_{name}_supported"
    monkeypatch.setattr(torch.ops.mkldnn, check, lambda: True)
    assert why_slow(dtype, "cpu") is None
    monkeypatch.setattr(torch.ops.mkldnn, check, lambda: False)
    assert f"emulates {name}" in (why_slow(dtype, "cpu") or "")
    assert why_slow(dtype, "cuda:0") is None
    assert why_slow(torch.float32, "cpu") is None
    assert why_slow(None, "cpu") is None
