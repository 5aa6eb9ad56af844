"""Single losses, and that a batch's gradient is the mean of its pictures'."""

from __future__ import annotations

import math

import pytest
import torch

from asymvq.losses import (
    PatchDiscriminator,
    adaptive_weight,
    amplified_loss,
    border_weights,
    discriminator_loss,
    generator_loss,
    gradient_variance_loss,
    perceptual_loss,
    pixel_loss,
    structure_loss,
)
from asymvq.training.recipe import Recipe


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(-1, 1), target


def test_pixel_loss_splits_into_kept_and_generated(pair, blob_mask):
    output, target = pair
    mask = blob_mask(32, 32).expand(2, -1, -1, -1)
    loss, log = pixel_loss(output, target, mask=mask)
    share = mask.mean()
    assert loss == pytest.approx((output - target).abs().mean().item())
    assert (share * log["generated"] + (1 - share) * log["kept"]).item() == pytest.approx(loss.item(), rel=1e-5)
    squared, _ = pixel_loss(output, target, mask=mask, l1=0.0, l2=2.0)
    assert squared.item() == pytest.approx(2 * (output - target).square().mean().item(), rel=1e-5)


def test_border_weights_lie_on_generated_pixels_next_to_kept_ones():
    mask = torch.zeros(1, 1, 9, 20)
    mask[..., 8:] = 1
    weights = border_weights(mask, weight=5.0, width=4)
    assert weights[0, 0, 4].tolist() == [1.0] * 8 + [6.0] * 4 + [1.0] * 8
    assert torch.equal(border_weights(torch.ones(1, 1, 8, 8), weight=5.0, width=4), torch.ones(1, 1, 8, 8))


class TestAmplifiedLoss:
    def test_equal_pictures_and_kept_pixels_cost_nothing(self, pair, blob_mask):
        output, target = pair
        mask = blob_mask(32, 32).expand(2, -1, -1, -1)
        assert amplified_loss(target, target, mask=mask)[0].item() == 0
        kept_only = torch.where(mask > 0, target, output)
        assert amplified_loss(kept_only, target, mask=mask)[0].item() == 0

    def test_a_cast_counts_where_a_curve_shows_it(self):
        generator = torch.Generator().manual_seed(1)
        colours = torch.rand(2, 3, 48, 48, generator=generator) - 0.5
        grey = colours[:, :1].expand(-1, 3, -1, -1)
        cast = 0.05 * torch.tensor([1.0, 0.0, -1.0])[:, None, None]
        mask = torch.zeros(2, 1, 48, 48)
        mask[..., 16:] = 1
        size = (cast.abs() * mask).mean()
        seen, hidden = (amplified_loss(p + cast, p, mask=mask)[0] for p in (grey, colours))
        assert 0.5 * size < seen < 1.5 * size
        assert hidden < 0.2 * seen

    def test_a_batchs_loss_is_the_mean_of_its_pictures(self, pair, blob_mask):
        output, target = (part.clone().requires_grad_(i == 0) for i, part in enumerate(pair))
        mask = blob_mask(32, 32).expand(2, -1, -1, -1)
        whole, log = amplified_loss(output, target, mask=mask)
        single = [amplified_loss(output[i, None], target[i, None], mask=mask[i, None])[0] for i in range(2)]
        torch.testing.assert_close(whole, sum(single) / 2)
        assert log["amplified"].item() == whole.item()
        whole.backward()
        assert output.grad.isfinite().all()
        assert not (output.grad * (1 - mask)).any()
        assert output.grad.abs().sum() > 0

    def test_pictures_of_one_tone(self, blob_mask):
        flat = torch.full((1, 3, 16, 16), 0.2)
        loss, _ = amplified_loss(flat + 0.05, flat, mask=blob_mask(16, 16))
        assert loss.isfinite()
        assert loss > 0


class TestGradientVarianceLoss:
    def test_equal_pictures_and_kept_pixels_cost_nothing(self, pair, blob_mask):
        output, target = pair
        mask = blob_mask(32, 32).expand(2, -1, -1, -1)
        assert gradient_variance_loss(target, target, mask=mask)[0].item() == 0
        kept_only = torch.where(mask > 0, target, output)
        assert gradient_variance_loss(kept_only, target, mask=mask)[0].item() == 0

    def test_it_is_the_formula(self, pair):
        output, target = (part[:1] for part in pair)
        deviations = []
        for picture in (output, target):
            grey = picture.mean(dim=1)[0].double()
            for g in (grey, grey.T):  # Sobel: a slope across, smoothed along
                slope = (g[:, 2:] - g[:, :-2]) / 2
                gradient = (slope[:-2] + 2 * slope[1:-1] + slope[2:]) / 4
                patches = [gradient[y : y + 8, x : x + 8].std() for y in (0, 8, 16) for x in (0, 8, 16)]
                deviations.append(torch.stack(patches))
        expected = sum((deviations[i] - deviations[i + 2]).square().mean() for i in range(2)) / 2
        loss, log = gradient_variance_loss(output, target, mask=torch.ones(1, 1, 32, 32))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
        assert log["gradient_variance"].item() == loss.item()

    def test_texture_elsewhere_costs_less_than_none(self):
        texture = 0.3 * torch.randn(1, 3, 66, 66, generator=torch.Generator().manual_seed(3))
        mask = torch.ones(1, 1, 66, 66)
        moved, without = texture.roll(8, dims=-1), torch.zeros_like(texture)
        assert (moved - texture).square().mean() > (without - texture).square().mean()
        loss, lost = (gradient_variance_loss(p, texture, mask=mask)[0] for p in (moved, without))
        assert loss < 0.1 * lost

    def test_flat_pictures_have_a_gradient_that_is_finite(self, pair):
        flat = torch.zeros(2, 3, 32, 32, requires_grad=True)
        gradient_variance_loss(flat, pair[1], mask=torch.ones(2, 1, 32, 32))[0].backward()
        assert flat.grad is not None
        assert flat.grad.isfinite().all()

    def test_crops_without_a_whole_patch_are_refused(self):
        with pytest.raises(ValueError, match="crop of at least 10 pixels for gradient_variance, but got 8"):
            Recipe(crop=8, gradient_variance=1.0)


def test_structure_loss_is_zero_for_equal_pictures_and_falls_with_likeness(pair):
    output, target = pair
    assert structure_loss(target, target)[0].item() == pytest.approx(0, abs=1e-5)
    near, far = structure_loss(output, target)[0], structure_loss(output.flip(0), target)[0]
    assert 0 < near < far


def test_perceptual_loss_is_the_mean_distance(pair):
    output, target = pair

    def distance(a, b):
        return (a - b).square().mean(dim=(1, 2, 3))

    loss, log = perceptual_loss(output, target, distance=distance)
    assert loss.item() == pytest.approx((output - target).square().mean().item(), rel=1e-5)
    assert log["lpips"] == loss


class TestAdversarial:
    def test_hinge_losses_are_those_of_the_formula(self, pair):
        output, target = pair
        torch.manual_seed(0)
        judge = PatchDiscriminator(channels=8)
        on_real, on_generated = judge(target), judge(output)
        assert on_real.shape == (2, 1, 2, 2)
        expected = 0.5 * ((1 - on_real).clamp(min=0).mean() + (1 + on_generated).clamp(min=0).mean())
        loss, _ = discriminator_loss(judge, real=target, generated=output)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(generator_loss(judge, generated=output)[0], -on_generated.mean())

    def test_no_gradient_reaches_the_decoder_from_the_discriminators_loss(self, pair):
        output = pair[0].requires_grad_()
        loss, _ = discriminator_loss(PatchDiscriminator(channels=8), real=pair[1], generated=output)
        loss.backward()
        assert output.grad is None

    def test_it_learns_to_tell_blurred_from_sharp(self, pair):
        torch.manual_seed(0)
        judge = PatchDiscriminator(channels=8)
        optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
        sharp = pair[1]
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
        for _ in range(30):
            loss, _ = discriminator_loss(judge, real=sharp, generated=blurred)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert judge(sharp).mean() > judge(blurred).mean() + 0.5

    def test_the_adaptive_weight_evens_out_gradients(self):
        layer = torch.nn.Conv2d(3, 3, 1)
        x = torch.rand(1, 3, 4, 4)
        output = layer(x)
        strong, weak = 10 * output.square().mean(), 0.1 * output.square().mean()
        assert adaptive_weight(strong, weak, last_layer=layer.weight).item() == pytest.approx(100, rel=1e-2)
        assert adaptive_weight(strong, 0 * weak, last_layer=layer.weight).item() == 1e4


def test_two_halves_of_a_batch_have_the_gradient_of_the_whole(pair, blob_mask):
    output, target = pair
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=8)
    masks = torch.cat([blob_mask(32, 32), torch.ones(1, 1, 32, 32)])

    def gradient(rows: slice) -> torch.Tensor:
        leaf = output[rows].clone().requires_grad_()
        mask = masks[rows]
        weights = border_weights(mask, weight=3.0, width=4)
        loss = pixel_loss(leaf, target[rows], mask=mask, weights=weights)[0] + structure_loss(leaf, target[rows])[0]
        (loss + generator_loss(judge, generated=leaf)[0]).backward()
        assert leaf.grad is not None
        return leaf.grad

    whole = gradient(slice(0, 2))
    halves = torch.cat([gradient(slice(0, 1)), gradient(slice(1, 2))]) / 2
    torch.testing.assert_close(halves, whole, atol=1e-7, rtol=1e-4)
    assert math.isfinite(whole.norm().item())
