"""`asymvq.decode` with any network: out of memory, stock decoders, harmonising; and edits that come as pictures."""

from __future__ import annotations

import dataclasses
import logging
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.compose import paste
from asymvq.decode import HARMONISE_COST, Keep, Region, decode_source, fit_source
from asymvq.masks import alpha, edited
from asymvq.runtime import Runtime, is_out_of_memory

CONFIG = AutoencoderConfig(
    decoder_channels=(8, 8, 16), decoder_blocks=1, encoder_channels=(8, 8, 8), encoder_blocks=1, norm_groups=4
)


SEES_ERRORS = "sees errors"


class Enlarger:
    """No autoencoder: each cell of a latent of three channels becomes a square of its colour, drifted by `drift`.

    Raises out of memory above `limit` values of a latent, as torch does on the CPU. With a condition it gives kept
    pixels back, and where it sees errors, what harmonising made of the others.
    """

    latent_channels = image_channels = 3
    factor = 8

    def __init__(self, *, limit: float = float("inf"), conditional: bool | str = False, drift: float = 0.0) -> None:
        self.limit, self.takes_condition, self.drift = limit, bool(conditional), drift
        self.sees_errors = conditional == SEES_ERRORS
        self.seen: list[tuple[int, ...]] = []
        self.held: weakref.ref[Tensor] | None = None

    def decode(
        self,
        latent: Tensor,
        *,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        plain: Tensor | None = None,
        harmonised: Tensor | None = None,
    ) -> Tensor:
        assert self.held is None or self.held() is None, "the failed try's tensors are still there"
        self.seen.append((len(latent), *latent.shape[-2:]))
        if latent.numel() > self.limit:
            features = torch.zeros(10)
            self.held = weakref.ref(features)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        decoded = latent.repeat_interleave(8, -1).repeat_interleave(8, -2) + self.drift
        if image is None or mask is None:
            return decoded
        assert self.takes_condition
        assert self.sees_errors == (plain is not None)
        if plain is not None:
            known = (plain != image).any(dim=1, keepdim=True)  # beside a tile's edge it is the image
            torch.testing.assert_close(torch.where(known, plain, decoded), decoded)
        return torch.where(mask > 0, decoded if harmonised is None else harmonised, image)

    def place(self) -> tuple[torch.device, torch.dtype]:
        return torch.device("cpu"), torch.float32

    def decode_bytes(self, latent_size, *, dtype, device, conditioned) -> int:
        return latent_size[0] * latent_size[1]


def case(cells: int = 12, count: int = 1, seed: int = 0):
    """Latents, the pictures that they are of, and a mask in the middle."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.rand(count, 3, cells, cells, generator=generator) - 0.5
    image = Enlarger().decode(latent)
    mask = torch.zeros(count, 1, *image.shape[-2:])
    side = image.shape[-1]
    mask[..., side // 4 : side // 2, side // 4 : 3 * side // 4] = 1
    return latent, image, mask


class TestMemory:
    def test_whole_then_tiles_then_halves(self, caplog):
        latent, image, mask = case(80)
        network = Enlarger(limit=3 * 20 * 20)
        with caplog.at_level(logging.WARNING):
            output = asymvq.decode(network, latent, image=image, mask=mask, region="full")
        largest = list(dict.fromkeys(max(shape) for shape in network.seen))
        assert largest == [80, 64, 32, 16]
        assert [record.args for record in caplog.records if "trying again in tiles" in record.message] == [
            (512,), (256,), (128,)
        ]  # fmt: skip
        torch.testing.assert_close(output, image)

    def test_tiles_that_would_change_nothing_are_left_out(self):
        latent, _, _ = case(32)  # of 256 pixels: no use in tiles of 512
        network = Enlarger(limit=3 * 16 * 16)
        asymvq.decode(network, latent)
        assert network.seen[:2] == [(1, 32, 32), (1, 16, 16)]

    def test_fewer_at_once_before_tiles_which_change_the_picture(self):
        latent, image, mask = case(count=3)
        network = Enlarger(limit=latent[0].numel())
        output = asymvq.decode(network, latent, image=image, mask=mask, region="full", batch=3)
        assert network.seen == [(3, 12, 12), *[(1, 12, 12)] * 3]
        torch.testing.assert_close(output, image)

    @pytest.mark.parametrize("smaller", [True, False])
    def test_where_nothing_helps_the_error_is_torchs_own(self, smaller):
        latent, _, _ = case(80)
        network = Enlarger(limit=1)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            asymvq.decode(network, latent, smaller_tiles=smaller)
        assert len(network.seen) == (4 if smaller else 1)

    def test_tiles_that_were_asked_for_are_halved_too_and_their_overlap_follows(self):
        latent, _, _ = case(64)
        network = Enlarger(limit=3 * 16 * 16)
        asymvq.decode(network, latent, tile=256, overlap=192)
        assert {max(shape) for shape in network.seen} == {32, 16}

    def test_other_errors_are_no_reason_to_try_again(self):
        latent, _, _ = case()

        class Broken(Enlarger):
            def decode(self, latent, **condition):
                self.seen.append(tuple(latent.shape))
                raise RuntimeError("shapes do not fit")

        network = Broken()
        with pytest.raises(RuntimeError, match="do not fit"):
            asymvq.decode(network, latent)
        assert len(network.seen) == 1

    def test_a_host_says_what_is_free_and_what_it_calls_out_of_memory(self):
        latent, _, _ = case(64, count=5)
        asked, freed = [], []

        class HostError(Exception):
            pass

        def room_for(needed: int) -> int:
            asked.append(needed)
            if needed > 32 * 32:  # while it makes room
                raise HostError
            return 2

        runtime = Runtime(
            room_for=room_for, free=lambda: freed.append(1), is_out_of_memory=lambda e: isinstance(e, HostError)
        )
        network = Enlarger()
        output = decode_source(network, latent, None, batch=None, retry_tile=256, runtime=runtime)
        torch.testing.assert_close(output, Enlarger().decode(latent))
        assert asked == [64 * 64, 32 * 32]
        assert freed == [1]
        assert {shape[0] for shape in network.seen} == {1, 2}

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (torch.OutOfMemoryError("CUDA"), True),
            (MemoryError(), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
            (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
            (RuntimeError("size mismatch"), False),
            (ValueError("out of memory"), False),
        ],
    )
    def test_what_is_out_of_memory(self, error, expected):
        assert is_out_of_memory(error) == expected

    @pytest.mark.parametrize("conditional", [True, SEES_ERRORS])
    def test_progress_counts_every_run_and_picture_once(self, conditional):
        latent, image, mask = case(64, count=3)
        network, done = Enlarger(conditional=conditional), []
        asymvq.decode(
            network, latent, image=image, mask=mask, region="full", tile=256, overlap=0, harmonise=1.0,
            progress=lambda *step: done.append(step),
        )  # fmt: skip
        # 3 pictures, 4 tiles, with and without the condition; harmonised before one that sees errors, after any other
        runs, harmonised = [1] * 4, [HARMONISE_COST]
        picture = [*runs, *harmonised, *runs] if conditional == SEES_ERRORS else [*runs, *runs, *harmonised]
        works = torch.tensor(picture * 3).cumsum(0)
        assert {total for _, total in done} == {24}
        torch.testing.assert_close(torch.tensor([part for part, _ in done]), works * 24 / works[-1])
        assert done[-1] == (24, 24)


class TestWithoutCondition:
    @settings(max_examples=20, deadline=None)
    @given(
        counts=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 1)]), soft=st.booleans(),
        region=st.sampled_from(list(Region)), spare=st.tuples(st.integers(0, 7), st.integers(0, 7)),
        keep=st.sampled_from(list(Keep)), seed=st.integers(0, 99),
    )  # fmt: skip
    def test_its_plain_decode_is_put_into_the_source(self, counts, soft, region, spare, keep, seed):
        latent, _, mask = case(count=2, seed=seed)
        mask = torch.nn.functional.pad(mask, (0, spare[1], 0, spare[0]))
        if soft:
            mask = torch.nn.functional.avg_pool2d(mask, 5, stride=1, padding=2)
        latent, mask = latent[: counts[0]], mask[: counts[2]]
        image = torch.rand(counts[1], 3, *mask.shape[-2:])
        output = asymvq.decode(Enlarger(), latent, image=image, mask=mask, region=region, keep=keep)
        top, left = spare[0] // 2, spare[1] // 2
        plain = Enlarger().decode(latent)
        inside = output[..., top : top + 96, left : left + 96]
        shares = alpha(mask)[..., top : top + 96, left : left + 96]
        sources = image[..., top : top + 96, left : left + 96]
        expected = plain if keep is Keep.NETWORK else torch.lerp(sources, plain, shares.expand(len(output), 3, -1, -1))
        torch.testing.assert_close(inside, expected.expand_as(inside), atol=1e-6, rtol=0)
        if keep is Keep.EXACT:
            kept = ~edited(mask).expand_as(output)
            assert torch.equal(output[kept], image.expand_as(output)[kept])

    def test_a_stock_autoencoder_too(self):
        torch.manual_seed(0)
        stock = AsymmetricAutoencoder(dataclasses.replace(CONFIG, condition=None)).eval()
        latent, image, mask = torch.randn(1, 4, 6, 8), torch.rand(1, 3, 24, 32), torch.zeros(1, 1, 24, 32)
        mask[..., 4:16, 8:20] = 1
        output = asymvq.decode(stock, latent, image=image, mask=mask, region="full")
        assert torch.equal(output, torch.where(mask > 0, asymvq.decode(stock, latent), image))
        network = asymvq.decode(stock, latent, image=image, mask=mask, keep="network")
        assert torch.equal(network, asymvq.decode(stock, latent))


class TestHarmonise:
    """A decoder whose colours are off by .3 everywhere, and an edit that fits the source in all else."""

    @pytest.mark.parametrize("conditional", [False, True, SEES_ERRORS])
    @pytest.mark.parametrize("region", ["full", "masked"])
    @pytest.mark.parametrize("tile", [None, 128])
    def test_drift_goes_with_and_without_a_condition(self, conditional, region, tile):
        latent, image, mask = case(32)
        latent, image = latent * 0.1, image * 0.1
        network = Enlarger(conditional=conditional, drift=0.3)
        options = {"image": image, "mask": mask, "region": region, "tile": tile}
        inside = edited(mask).expand_as(image)
        pasted = asymvq.decode(network, latent, **options)
        assert (pasted - image)[inside].abs().mean() > 0.29
        output = asymvq.decode(network, latent, harmonise=1.0, **options)
        assert (output - image)[inside].abs().mean() < 0.02
        assert torch.equal(output[~inside], image[~inside])
        half = asymvq.decode(network, latent, harmonise=0.5, **options)
        torch.testing.assert_close(half, (pasted + output) / 2, atol=1e-5, rtol=0)

    def test_what_was_not_decoded_is_no_witness(self):
        """A mask-local decode has the source elsewhere, from which nothing differs."""
        latent, image, mask = case(48)
        latent, image = latent * 0.1, image * 0.1
        mask.zero_()
        mask[..., 100:130, 100:300] = 1  # half its length is looked at around it, 48 pixels are decoded
        network = Enlarger(drift=0.3)
        outputs = [
            asymvq.decode(network, latent, image=image, mask=mask, region=region, harmonise=1.0)
            for region in ("masked", "full")
        ]
        inside = edited(mask).expand_as(image)
        assert (outputs[0] - image)[inside].abs().max() < 0.05
        torch.testing.assert_close(outputs[0], outputs[1], atol=0.02, rtol=0)

    def test_the_networks_own_picture_is_left_alone(self):
        latent, image, mask = case()
        network = Enlarger(conditional=True, drift=0.3)
        options = {"image": image, "mask": mask, "keep": "network"}
        output = asymvq.decode(network, latent, harmonise=1.0, **options)
        assert torch.equal(output, asymvq.decode(network, latent, **options))
        assert len(network.seen) == 2

    @pytest.mark.parametrize("conditional", [False, True, SEES_ERRORS])
    @pytest.mark.parametrize("region", ["full", "masked"])
    def test_a_batch_gives_what_its_pictures_give(self, conditional, region):
        latent, image, mask = case(32, count=3)
        mask[1] = 0
        mask[2] = mask[0].roll((60, -40), (-2, -1))
        network = Enlarger(conditional=conditional, drift=0.3)
        options = {"region": region, "harmonise": 1.0}
        together = asymvq.decode(network, latent, image=image, mask=mask, batch=2, **options)
        for i in range(3):
            one = slice(i, i + 1)
            alone = asymvq.decode(network, latent[one], image=image[one], mask=mask[one], **options)
            torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)

    def test_in_a_hosts_range_it_is_the_same(self):
        latent, image, mask = case(32)
        latent, image = latent * 0.1, image * 0.1
        network, unit = Enlarger(drift=0.3), image / 2 + 0.5
        source = fit_source(network, latent, image=unit, mask=mask, image_range=(0.0, 1.0))
        output = decode_source(network, latent, source, harmonise=1.0, image_range=(0.0, 1.0))
        signed = asymvq.decode(network, latent, image=image, mask=mask, harmonise=1.0)
        torch.testing.assert_close(output, signed / 2 + 0.5, atol=1e-6, rtol=0)
        kept = ~edited(mask).expand_as(unit)
        assert torch.equal(output[kept], unit[kept])

    @pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
    def test_a_strength_out_of_range(self, strength):
        latent, image, mask = case()
        with pytest.raises(ValueError, match="harmonise to be from 0 to 1"):
            asymvq.decode(Enlarger(), latent, image=image, mask=mask, harmonise=strength)


class TestPaste:
    def drifted(self):
        _, image, mask = case(16, seed=2)
        image = (image * 0.2 + 1) / 2
        return image + 0.1, image, mask

    @pytest.mark.parametrize("harmonise", [0.0, 1.0])
    def test_kept_pixels_are_the_sources_and_the_edit_fits(self, harmonise):
        edit, image, mask = self.drifted()
        output = paste(edit, image=image, mask=mask, harmonise=harmonise, image_range=(0.0, 1.0))
        inside = edited(mask).expand_as(image)
        assert torch.equal(output[~inside], image[~inside])
        error = (output - image)[inside].abs().mean()
        assert error < 0.01 if harmonise else torch.equal(output[inside], edit[inside])

    @pytest.mark.parametrize("counts", [(4, 1, 1), (1, 1, 2), (2, 4, 1), (2, 1, 4)])
    def test_counts_cycle(self, counts):
        edit, image, mask = (torch.cat([t, t.flip(-1), t.flip(-2), t * 0.5]) for t in self.drifted())
        edit, image, mask = edit[: counts[0]], image[: counts[1]], mask[: counts[2]]
        done = []
        options = {"harmonise": 1.0, "image_range": (0.0, 1.0)}
        output = paste(edit, image=image, mask=mask, progress=lambda *step: done.append(step), **options)
        assert done == [(i + 1, max(counts)) for i in range(max(counts))]
        for i, one in enumerate(output):
            parts = [t[i % len(t)][None] for t in (edit, image, mask)]
            assert torch.equal(one[None], paste(parts[0], image=parts[1], mask=parts[2], **options))

    def test_smaller_than_the_source_by_less_than_the_factor_it_lies_in_the_middle(self):
        edit, image, mask = self.drifted()
        mask[..., :3, :3] = 1
        part = edit[..., 2:-3, 3:-4]
        output = paste(part, image=image, mask=mask, factor=8, image_range=(0.0, 1.0))
        assert torch.equal(output[..., 40, 50], edit[..., 40, 50])
        assert torch.equal(output[..., 0, 0], edit[..., 2, 3])
        kept = ~edited(mask).expand_as(image)
        assert torch.equal(output[kept], image[kept])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pictures": lambda t: t[..., 1:]}, "image of 127×128 pixels for the edited picture, but got 128×128"),
            ({"mask": lambda t: t[..., 1:]}, "image of 128×128 and a mask of 127×128"),
            ({"pictures": lambda t: t.repeat(3, 1, 1, 1), "image": lambda t: t.repeat(2, 1, 1, 1)}, "got 3, 2 and 1"),
            ({"pictures": lambda t: t * torch.nan}, "finite edited pictures"),
            ({"pictures": lambda t: t[:, :1]}, r"edited pictures of shape \(B, 3, H, W\)"),
            ({"pictures": lambda t: t * 255}, r"values in \[0, 1\]"),
        ],
    )
    def test_what_does_not_fit_says_so(self, change, message):
        tensors = dict(zip(("pictures", "image", "mask"), self.drifted(), strict=True))
        for name, make in change.items():
            tensors[name] = make(tensors[name])
        with pytest.raises(ValueError, match=message):
            paste(tensors.pop("pictures"), **tensors, image_range=(0.0, 1.0))
