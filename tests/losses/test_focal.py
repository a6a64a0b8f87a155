import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from ser_cli.losses import FocalLoss, focal_loss
from tests.losses.test_kl import soft_labels


def typed_out(logits: np.ndarray, targets: np.ndarray, gamma: float) -> float:
    """Eq. 7, one number at a time."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        denominator = sum(math.exp(v) for v in row)
        for value, y in zip(row, target, strict=True):
            p = math.exp(value) / denominator
            total -= y * (1 - p) ** gamma * math.log(p)
    return total / len(logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_focal_is_the_equation_for_soft_labels(gamma):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 2, (7, 5)), soft_labels(rng, 7, 5)
    result = focal_loss(torch.tensor(logits), torch.tensor(targets), gamma)
    assert result.item() == pytest.approx(typed_out(logits, targets, gamma), rel=1e-9)


def test_focal_with_gamma_0_and_one_hot_labels_is_scikit_learns_log_loss():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(0, 2, (20, 4)), rng.integers(4, size=20)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = focal_loss(torch.tensor(logits), torch.tensor(np.eye(4)[classes]), gamma=0)
    assert result.item() == pytest.approx(log_loss(classes, probabilities, labels=range(4)), rel=1e-9)


def test_focal_turns_away_from_what_is_classified_well():
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    label = torch.tensor([[1.0, 0.0]])
    assert focal_loss(easy, label, 2) / focal_loss(easy, label, 0) == pytest.approx(
        (1 - 1 / (1 + math.exp(-4))) ** 2, rel=1e-4
    )
    assert focal_loss(hard, label, 2) / focal_loss(hard, label, 0) == pytest.approx(
        (1 - 1 / (1 + math.e)) ** 2, rel=1e-4
    )


def test_focal_vanishes_where_a_probability_rounds_to_1():
    # p = 1 - exp(-20) is 1 in float32; -(1 - p)^2 log p would be exp(-60), which is 9e-27.
    assert torch.tensor([[20.0, 0.0]]).softmax(dim=-1)[0, 0] == 1
    loss = focal_loss(torch.tensor([[20.0, 0.0]]), torch.tensor([[1.0, 0.0]]), gamma=2)
    assert 0 <= loss.item() < 1e-20


def test_focal_of_float64_logits_keeps_its_digits_where_a_float32_probability_rounds_to_1():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.float64)
    loss = focal_loss(logits, torch.tensor([[1.0, 0.0]], dtype=torch.float64), gamma=2)
    assert loss.item() == pytest.approx(math.exp(-60), rel=1e-6, abs=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("certainty", [20.0, 200.0])
def test_focal_has_a_finite_value_and_gradient_where_a_probability_rounds_to_1(gamma, certainty):
    logits = torch.tensor([[certainty, 0.0], [-certainty, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(certainty / 2, rel=1e-4)  # the second clip: -log p = certainty
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0].item() == pytest.approx(-0.5, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_of_focal_is_right(gamma):
    rng = np.random.default_rng(2)
    logits = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    targets = torch.tensor(soft_labels(rng, 3, 4))
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, targets, gamma), logits)


def test_the_focal_module_keeps_its_gamma():
    rng = np.random.default_rng(3)
    logits, targets = rng.normal(size=(3, 4)), soft_labels(rng, 3, 4)
    result = FocalLoss(gamma=1.5)(torch.tensor(logits), torch.tensor(targets))
    assert result.item() == pytest.approx(typed_out(logits, targets, 1.5), rel=1e-9)
