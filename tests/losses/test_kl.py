import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from ser_cli.losses import KLLoss, kl_loss


def typed_out(logits: np.ndarray, targets: np.ndarray) -> float:
    """Eq. 6, one number at a time."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        denominator = sum(math.exp(v) for v in row)
        for value, y in zip(row, target, strict=True):
            if y > 0:
                total += y * math.log(y / (math.exp(value) / denominator))
    return total / len(logits)


def soft_labels(rng: np.random.Generator, batch: int, classes: int) -> np.ndarray:
    labels = np.eye(classes)[rng.integers(classes, size=batch)]
    other = np.eye(classes)[rng.integers(classes, size=batch)]
    weight = rng.uniform(0, 0.38, size=(batch, 1))
    return (1 - weight) * labels + weight * other


def test_kl_is_the_equation_for_soft_labels():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 3, (7, 5)), soft_labels(rng, 7, 5)
    assert (targets == 0).any()  # 0 log 0
    result = kl_loss(torch.tensor(logits), torch.tensor(targets))
    assert result.item() == pytest.approx(typed_out(logits, targets), rel=1e-12)
    assert result.item() > 0


def test_kl_of_one_hot_labels_is_scikit_learns_log_loss():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(0, 2, (20, 4)), rng.integers(4, size=20)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = kl_loss(torch.tensor(logits), torch.tensor(np.eye(4)[classes]))
    assert result.item() == pytest.approx(log_loss(classes, probabilities, labels=range(4)), rel=1e-9)


def test_kl_is_zero_where_the_prediction_is_the_label():
    target = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]], dtype=torch.float64)
    assert kl_loss(target.log() + 3.0, target).item() == pytest.approx(0, abs=1e-12)


def test_kl_stays_finite_where_a_probability_underflows():
    logits = torch.tensor([[500.0, -500.0]], requires_grad=True)
    loss = kl_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert logits.grad.tolist() == [[1.0, -1.0]]


def test_the_gradient_of_kl_is_right():
    rng = np.random.default_rng(2)
    logits = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    targets = torch.tensor(soft_labels(rng, 3, 4))
    assert torch.autograd.gradcheck(lambda x: kl_loss(x, targets), logits)


def test_the_kl_module_is_the_kl_function():
    rng = np.random.default_rng(3)
    logits, targets = torch.tensor(rng.normal(size=(3, 4))), torch.tensor(soft_labels(rng, 3, 4))
    assert KLLoss()(logits, targets) == kl_loss(logits, targets)
