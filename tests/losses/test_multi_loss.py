from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch

from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss, weights_from_measured
from tests.losses import (
    test_center,
    test_contrastive_center,
    test_cross_entropy,
    test_focal,
    test_kl,
    test_supcon,
    test_swfc,
)


@dataclass(frozen=True)
class SomeOutput:
    logits: torch.Tensor
    embedding: torch.Tensor
    projection: torch.Tensor
    projected_frames: torch.Tensor
    frame_mask: torch.Tensor
    classifier_input: torch.Tensor
    relative_logits: torch.Tensor | None


DOMINANT = [1, 0, 1, 2]
CLASS_WEIGHTS = [0.5, 1.0, 2.0]
ALL = dict.fromkeys(LOSS_NAMES, 1.0)


def some_output(seed: int = 0) -> tuple[SomeOutput, torch.Tensor]:
    rng = np.random.default_rng(seed)
    targets = 0.7 * np.eye(3)[DOMINANT] + 0.3 * np.eye(3)[[0, 2, 2, 1]]
    output = SomeOutput(
        torch.tensor(rng.normal(size=(4, 3))),
        torch.tensor(np.random.default_rng([seed, 1]).normal(size=(4, 9))),
        torch.tensor(rng.normal(size=(4, 6))),
        torch.tensor(rng.normal(size=(4, 5, 6))),
        torch.tensor(test_supcon.MASK),
        torch.tensor(np.random.default_rng([seed, 2]).normal(size=(4, 7))),
        torch.tensor(np.random.default_rng([seed, 3]).normal(size=(4, 3))),
    )
    return output, torch.tensor(targets)


def typed_out(output: SomeOutput, targets: torch.Tensor, gamma: float, temperature: float) -> dict[str, float]:
    mask = output.frame_mask.numpy()
    broadcast = output.projected_frames.numpy().copy()
    for row, real in zip(broadcast, mask, strict=True):
        row[:] = (row + row[real].mean(axis=0)) / 2
    return {
        "kl": test_kl.typed_out(output.logits.numpy(), targets.numpy()),
        "focal": test_focal.typed_out(output.logits.numpy(), targets.numpy(), gamma),
        "center": test_center.typed_out(output.projection.numpy(), DOMINANT, np.zeros((3, 6))),
        "supcon": test_supcon.typed_out(broadcast, DOMINANT, mask, temperature),
        "cross_entropy": test_cross_entropy.typed_out(output.logits.numpy(), targets.numpy()),
        "contrastive_center": test_contrastive_center.typed_out(
            output.projection.numpy(), DOMINANT, np.zeros((3, 6)), 2.5
        )
        / len(DOMINANT),
        "swfc": test_swfc.positives_typed_out(
            output.embedding.numpy(), DOMINANT, [CLASS_WEIGHTS[c] for c in DOMINANT], 0.6, 3.0
        ),
        "speaker_relative": test_cross_entropy.typed_out(output.relative_logits.numpy(), targets.numpy()),
    }


def some_losses(weights: dict[str, float]) -> MultiLoss:
    """With no setting at its default, so that one that is not passed on would show."""
    return MultiLoss(
        3,
        LossWeights(**weights),
        focal_gamma=1.5,
        temperature=0.3,
        center_dim=6,
        contrastive_center_theta=2.5,
        swfc_gamma=3.0,
        swfc_temperature=0.6,
        class_weights=torch.tensor(CLASS_WEIGHTS, dtype=torch.float64),
    )


def test_the_total_is_the_weighted_sum_of_the_equations():
    output, targets = some_output()
    weights = dict(zip(LOSS_NAMES, (0.5, 1.5, 0.01, 0.2, 0.3, 0.4, 0.7, 0.6), strict=True))
    losses = some_losses(weights)
    each = losses.each(output, targets)
    expected = typed_out(output, targets, 1.5, 0.3)
    assert {name: value.item() for name, value in each.items()} == pytest.approx(expected, rel=1e-9)
    total = sum(weights[name] * expected[name] for name in LOSS_NAMES)
    assert losses.total(each).item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("names", [c for size in range(1, 9) for c in combinations(LOSS_NAMES, size)], ids="+".join)
def test_any_losses_can_be_added_up(names):
    output, targets = some_output()
    expected = typed_out(output, targets, 1.5, 0.3)
    losses = some_losses(dict.fromkeys(names, 1.0))
    each = losses.each(output, targets)
    assert tuple(each) == names
    assert losses.total(each).item() == pytest.approx(sum(expected[name] for name in names), rel=1e-9)


def test_swfc_is_read_as_printed_where_that_is_asked_for():
    output, targets = some_output()
    losses = MultiLoss(3, LossWeights(swfc=1.0), swfc_form="printed", swfc_temperature=0.6, swfc_gamma=3.0)
    expected = test_swfc.printed_typed_out(output.embedding.numpy(), [1.0] * 4, 0.6, 3.0)
    assert losses.each(output, targets)["swfc"].item() == pytest.approx(expected, rel=1e-9)


def test_the_speaker_relative_loss_needs_the_speakers():
    output, targets = some_output()
    with pytest.raises(ValueError, match="speakers of the batch"):
        MultiLoss(3, LossWeights(speaker_relative=1.0)).each(replace(output, relative_logits=None), targets)


def test_only_centers_that_a_loss_moves_are_parameters():
    def parameters_of(**weights: float) -> set[str]:
        return {name for name, _ in MultiLoss(3, LossWeights(**weights)).named_parameters()}

    assert parameters_of(kl=1) == set()
    assert parameters_of(kl=1, center=1) == {"center.centers"}
    assert parameters_of(kl=1, contrastive_center=1) == {"contrastive_center.centers"}
    assert parameters_of(**ALL) == {"center.centers", "contrastive_center.centers"}


def test_centers_lie_near_what_the_classifier_reads_where_that_is_asked_for():
    output, targets = some_output()
    weights = LossWeights(center=1.0, contrastive_center=1.0)
    losses = MultiLoss(3, weights, center_reads="classifier_input", center_dim=7, contrastive_center_theta=2.5)
    read, centers = output.classifier_input.numpy(), np.zeros((3, 7))
    found = losses.each(output, targets)
    assert found["center"].item() == pytest.approx(test_center.typed_out(read, DOMINANT, centers))
    expected = test_contrastive_center.typed_out(read, DOMINANT, centers, 2.5) / len(DOMINANT)
    assert found["contrastive_center"].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_with_weight_0_is_not_computed(name):
    output, targets = some_output()
    weights = LossWeights(**{**dict.fromkeys(LOSS_NAMES, 1.0), name: 0.0})
    losses = MultiLoss(3, weights, center_dim=6)
    each = losses.each(output, targets)
    assert set(each) == set(LOSS_NAMES) - {name}
    assert losses.total(each).item() == pytest.approx(sum(value.item() for value in each.values()))


def test_the_total_carries_gradients_to_everything_that_the_losses_read():
    output, targets = some_output()
    for tensor in (output.logits, output.embedding, output.projection, output.projected_frames):
        tensor.requires_grad_()
    losses = MultiLoss(3, LossWeights(**ALL), center_dim=6)
    losses.total(losses.each(output, targets)).backward()
    read = (output.logits, output.embedding, output.projection, output.projected_frames)
    for tensor in (*read, *losses.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_measured_weights_bring_each_loss_into_0_to_1_on_the_measured_batches():
    measured = [
        {"kl": 1.4, "focal": 0.6, "center": 80.0, "supcon": 5.0},
        {"kl": 2.1, "focal": 0.9, "center": 45.0, "supcon": 5.6},
        {"kl": 0.3, "focal": 0.7, "center": 90.0, "supcon": 5.2},
    ]
    weights = weights_from_measured(LossWeights(1, 1, 1, 1), measured).as_dict()
    assert list(weights) == ["kl", "focal", "center", "supcon"]
    for values in measured:
        for name, value in values.items():
            assert 0 <= weights[name] * value <= 1 + 1e-12
    assert weights == pytest.approx({"kl": 1 / 2.1, "focal": 1.0, "center": 1 / 90, "supcon": 1 / 5.6})


def test_measured_weights_keep_the_factors_of_the_recipe():
    weights = weights_from_measured(LossWeights(0.5, 2.0, 1.0, 1.0), [{"kl": 4.0, "focal": 4.0}])
    assert weights == LossWeights(kl=0.125, focal=0.5, center=1.0, supcon=1.0)
    measured = [{"cross_entropy": 2.0, "contrastive_center": 0.2, "swfc": -0.3}, {"cross_entropy": 1.5, "swfc": -0.1}]
    weights = weights_from_measured(LossWeights(cross_entropy=1, contrastive_center=3, swfc=0.4), measured)
    assert weights == LossWeights(cross_entropy=0.5, contrastive_center=3.0, swfc=0.4)


def test_a_loss_that_is_left_out_stays_left_out_whatever_was_measured():
    weights = weights_from_measured(LossWeights(1, 0, 1, 0), [{"kl": 2.0, "center": 3.0, "supcon": 9.0}])
    assert (weights.focal, weights.supcon) == (0, 0)
