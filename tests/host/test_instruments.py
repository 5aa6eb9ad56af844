"""Compare Decodes and Random Inpainting Mask, in a real ComfyUI in this process."""

from __future__ import annotations

import math
import threading

import numpy as np
import psutil
import pytest
import torch
from clock import measured

import asymvq
from asymvq.colour import fit_colours
from asymvq.evaluation import measure
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, masked_error, psnr

from .conftest import PACK


@pytest.fixture
def compare(host):
    return host.nodes.NODE_CLASS_MAPPINGS["AsymVQCompare"]


@pytest.fixture
def case():
    """A picture (1, 48, 64, 3), a mask (1, 48, 64) with a border inside it, and an edit of what it covers."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 48, 64, 3, generator=generator)
    mask = torch.zeros(1, 48, 64)
    mask[:, 10:30, 20:50] = 1
    return image, mask, torch.where(mask[..., None] > 0, 1 - image, image)


def execute(node, **inputs):
    with torch.inference_mode():
        return node.execute(**inputs)


def peak_of(run) -> int:
    """Bytes by which this process grows at most while `run` runs."""
    process, seen, ended = psutil.Process(), [], threading.Event()

    def watch():
        while not ended.wait(0.002):
            seen.append(process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        ended.set()
        watcher.join()
    return max(seen) - before


class TestCompare:
    def test_gives_the_librarys_numbers_for_every_result(self, compare, case):
        image, mask, edit = case
        output = execute(compare, reference=image, results={"result_1": image * 0.9, "result_2": edit}, mask=mask)
        names = [output.id for output in compare.define_schema().outputs]
        values = dict(zip(names, output.args, strict=True))
        a, b, m = image.movedim(-1, 1) * 2 - 1, edit.movedim(-1, 1) * 2 - 1, mask[:, None]
        assert values["kept_error"][1] == 0
        assert values["kept_error"][0] > 0
        assert values["border_error"][1] == pytest.approx(border_error(b, a, m))
        assert values["masked_psnr"][1] == pytest.approx(psnr(b, a, m))
        assert all(len(values[name]) == 2 for name in names if name != "panel")

    def test_adds_the_first_result_put_into_the_reference(self, compare, case):
        image, mask, edit = case
        drifted = (edit * 0.9 + 0.05).clamp(0, 1)
        given = {"reference": image, "results": {"result_1": drifted, "result_2": edit}, "mask": mask}
        output = execute(compare, **given, labels="decode", compare="all pixels", add_pasted=True)
        names = [output.id for output in compare.define_schema().outputs]
        values = dict(zip(names, output.args, strict=True))
        assert all(len(values[name]) == 5 for name in names if name != "panel")
        assert values["kept_error"][0] > 0
        assert values["kept_error"][2:] == [0, 0, 0]
        assert values["masked_error"][2] == pytest.approx(values["masked_error"][0])
        assert values["gradient_error"][2] == pytest.approx(values["gradient_error"][0])
        source, picture, m = image.movedim(-1, 1) * 2 - 1, drifted.movedim(-1, 1) * 2 - 1, mask[:, None]
        fitted = fit_colours(picture, image=source, mask=m)
        harmonised = asymvq.harmonise(picture, image=source, mask=m)
        assert values["masked_error"][3] == pytest.approx(masked_error(fitted, source, m), rel=1e-5)
        assert values["masked_error"][4] == pytest.approx(masked_error(harmonised, source, m), rel=1e-5)
        blocks = [block.split("  \n")[0] for block in output.ui["text"][0].split("\n\n")]
        assert blocks[2:] == [
            f"decode, {way}" for way in ("pasted", "pasted + global colour fit", "pasted + harmonise")
        ]
        with pytest.raises(ValueError, match="mask to paste with"):
            execute(compare, reference=image, results={"result_1": edit}, add_pasted=True)

    def test_shows_a_panel_and_the_numbers(self, host, compare, case):
        image, mask, edit = case
        results = {"result_1": edit, "result_2": edit}
        output = execute(compare, reference=image, results=results, mask=mask, labels="first\n\n third")
        panel = output.args[0]
        assert panel.ndim == 4
        assert panel.shape[0] == 1
        assert panel.shape[2] > 3 * 400
        assert 0 <= panel.min() < panel.max() <= 1
        (text,) = output.ui["text"]
        assert text.startswith("first  \n")
        assert "\n\nResult 2  \n" in text
        assert "kept: squared error: 0.00e+00" in text
        (shown,) = output.ui["images"]
        assert (host.base / "temp" / shown["filename"]).is_file()

    @pytest.mark.parametrize(
        ("compared", "change", "expected"),
        [
            ("kept pixels", 0.0, ["kept pixels: identical", "edge step: none"]),
            ("kept pixels", 0.05, ["kept pixels: changed (32.0 dB)", "edge step: none"]),
            ("all pixels", 0.0, ["kept pixels: identical", "edit: identical", "edge step: none"]),
            ("all pixels", 0.002, ["kept pixels: as good as identical (60.0 dB)", "edit: 60.0 dB", "edge step: none"]),
        ],
    )
    def test_the_panel_says_it_in_words(self, host, case, compared, change, expected):
        image, mask, _ = case
        module, source = host.pack("nodes.compare"), image.movedim(-1, 1) * 2 - 1
        picture, values = source + change, measure(source + change, source, mask[:, None])
        column = module._column("any", picture[0], source[0], mask, values, module.Compared(compared))
        assert list(column.findings) == expected

    def test_one_reference_and_mask_serve_a_batch(self, compare, case):
        image, mask, edit = case
        batch = torch.cat([edit, image, image])
        output = execute(compare, reference=image, results={"result_1": batch}, mask=mask)
        single = execute(compare, reference=image, results={"result_1": edit}, mask=mask)
        assert output.args[0].shape[0] == 3
        assert torch.equal(output.args[0][:1], single.args[0])
        assert output.args[3] == pytest.approx([single.args[3][0] / 3])

    def test_without_a_mask_everything_is_kept(self, compare, case):
        image, _, edit = case
        output = execute(compare, reference=image, results={"result_1": edit}, compare="all pixels")
        assert output.args[1][0] == pytest.approx((2 * edit - 2 * image).square().mean().item(), rel=1e-5)
        assert math.isnan(output.args[2][0])
        assert "border, 4 px of the mask: squared error: —" in output.ui["text"][0]

    def test_edits_are_compared_where_the_reference_is_the_truth(self, compare, case):
        image, mask, edit = case
        kept, every = (
            execute(compare, reference=image, results={"result_1": edit}, mask=mask, compare=what)
            for what in ("kept pixels", "all pixels")
        )
        assert not torch.equal(kept.args[0], every.args[0])
        assert "in the mask" in every.ui["text"][0]
        assert "in the mask" not in kept.ui["text"][0]

    def test_alpha_and_half_precision(self, compare, case):
        image, mask, edit = case
        alpha = torch.cat([edit, torch.rand(1, 48, 64, 1)], dim=-1)
        with_alpha = execute(compare, reference=image, results={"result_1": alpha}, mask=mask[0])
        assert torch.equal(
            with_alpha.args[0], execute(compare, reference=image, results={"a": edit}, mask=mask).args[0]
        )
        assert execute(compare, reference=image.half(), results={"result_1": edit.half()}, mask=mask).args[1] == [0]

    def test_counts_that_divide_the_largest_are_taken_in_turn(self, compare, case):
        image, mask, edit = case
        edits = torch.cat([edit, image, edit, edit])
        references, masks = torch.cat([image, edit]), torch.cat([mask, torch.zeros_like(mask)])
        output = execute(compare, reference=references, results={"a": edits}, mask=masks)
        whole = execute(
            compare, reference=references.repeat(2, 1, 1, 1), results={"a": edits}, mask=masks.repeat(2, 1, 1)
        )
        assert len(output.args[0]) == 4
        assert torch.equal(output.args[0], whole.args[0])
        assert output.args[1] == whole.args[1]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"results": {"result_1": torch.zeros(1, 40, 64, 3)}}, "Result 1 to be .* 64×48, but got 64×40"),
            ({"mask": torch.ones(1, 48, 32)}, "mask to be .* 64×48, but got 32×48"),
            ({"mask": torch.zeros(1, 64, 64)}, "open the mask editor"),
            (
                {"mask": torch.ones(3, 48, 64), "results": {"a": torch.zeros(2, 48, 64, 3)}},
                "3 pictures in Result 1, .* but got 2",
            ),
            ({"reference": torch.zeros(1, 48, 64, 1)}, "an image of shape"),
            ({"reference": torch.zeros(0, 48, 64, 3)}, "an empty tensor"),
            ({"results": {"a": torch.zeros(0, 48, 64, 3)}}, "an empty tensor"),
            ({"results": {"a": None}}, "at least one result"),
        ],
    )
    def test_bad_input(self, compare, case, change, message):
        image, mask, edit = case
        with pytest.raises(ValueError, match=message):
            execute(compare, **{"reference": image, "results": {"result_1": edit}, "mask": mask, **change})

    @pytest.mark.parametrize("size", [(1, 1), (10, 64), (64, 10), (16, 8000), (8000, 16), (11, 11)])
    @pytest.mark.parametrize("compared", ["kept pixels", "all pixels"])
    def test_pictures_of_any_size(self, compare, size, compared):
        image = torch.rand(1, *size, 3)
        mask = (torch.rand(1, *size) > 0.5).float()
        output = execute(compare, reference=image, results={"a": 1 - image}, mask=mask, compare=compared)
        ssim = output.args[[o.id for o in compare.define_schema().outputs].index("masked_ssim")][0]
        assert math.isnan(ssim) == (min(size) < 11)
        assert ("SSIM: —" in output.ui["text"][0]) == (min(size) < 11)
        assert min(output.args[0].shape[1:3]) > 3 * 24

    @pytest.mark.parametrize(
        "labels", ["x" * 10**7, "\n".join(["label " * 2000] * 5000), "\ud800\x1b[31m"],
        ids=["long", "lines", "unprintable"],
    )  # fmt: skip
    def test_labels_are_cut_to_what_can_be_shown(self, compare, case, labels):
        image, mask, edit = case
        with measured() as cost:
            output = execute(compare, reference=image, results={"a": edit, "b": edit}, mask=mask, labels=labels)
        assert cost.seconds < 10
        (text,) = output.ui["text"]
        assert len(text) < 1000
        text.encode()
        wrong = {"a": torch.zeros(1, 40, 64, 3)}
        with pytest.raises(ValueError, match="got 64×40") as error:
            execute(compare, reference=image, results=wrong, labels=labels)
        assert len(str(error.value)) < 500

    def test_it_can_be_interrupted(self, compare, case):
        import comfy.model_management

        image, mask, edit = case
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            execute(compare, reference=image, results={"a": edit}, mask=mask)


class TestRandomMask:
    @pytest.mark.parametrize(("size", "count"), [(16384, 4096), (16384, 3), (512, 2049)])
    def test_more_than_fits_is_refused(self, host, size, count):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQRandomMask"]
        with pytest.raises(ValueError, match=f"at most 2 GiB together, but got {count} of {size}×{size}"):
            execute(node, seed=0, width=size, height=size, batch_size=count)

    def test_it_can_be_interrupted(self, host, monkeypatch):
        import comfy.model_management
        import comfy.utils

        node, done = host.nodes.NODE_CLASS_MAPPINGS["AsymVQRandomMask"], []

        def after_three(bar, value):
            done.append(value)
            if len(done) == 3:
                comfy.model_management.interrupt_current_processing()

        monkeypatch.setattr(comfy.utils.ProgressBar, "update", after_three)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            execute(node, seed=0, width=64, height=64, batch_size=4096)
        assert len(done) == 3

    def test_a_large_mask_takes_little_beside_its_own_memory(self, host):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQRandomMask"]
        side = 4096
        # what else a process does in the meantime is seen too: the least of three
        with_peak = min(peak_of(lambda: execute(node, seed=0, width=side, height=side)) for _ in range(3))
        assert with_peak < 1.75 * side * side * torch.float32.itemsize

    def test_gives_the_librarys_masks(self, host):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQRandomMask"]
        (masks,) = execute(node, seed=7, width=96, height=64, batch_size=3).args
        rng = np.random.default_rng(7)
        assert torch.equal(masks, torch.cat([random_thick_mask(64, 96, rng) for _ in range(3)]))
        assert not torch.equal(masks[0], masks[1])
        (thin,) = execute(node, seed=7, width=96, height=64, batch_size=3, thickness=0.1).args
        assert 0 < thin.mean() < masks.mean()

    def test_its_largest_seed_is_taken(self, host):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQRandomMask"]
        seed = node.define_schema().inputs[0].max
        assert execute(node, seed=seed, width=64, height=64).args[0].shape == (1, 64, 64)


@pytest.mark.parametrize("node_id", ["AsymVQCompare", "AsymVQRandomMask"])
def test_the_help_page_names_every_input(host, node_id: str):
    module = next(name for name in host.nodes.EXTENSION_WEB_DIRS if "pack" in name)
    page = (PACK / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
    assert host.nodes.EXTENSION_WEB_DIRS[module].endswith("/web")
    schema = host.nodes.NODE_CLASS_MAPPINGS[node_id].define_schema()
    assert page.startswith(f"# {schema.display_name}\n")
    for each in (*schema.inputs, *schema.outputs):
        assert f"`{each.id or each.display_name or each.io_type}`" in page, each.id
