import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from ser_cli.losses import CrossEntropyLoss, cross_entropy_loss, kl_loss
from tests.losses.test_kl import soft_labels


def typed_out(logits: np.ndarray, targets: np.ndarray) -> float:
    """Eq. 3 of the multi-modal loss paper, one number at a time."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        denominator = sum(math.exp(v) for v in row)
        for value, y in zip(row, target, strict=True):
            total -= y * math.log(math.exp(value) / denominator)
    return total / len(logits)


def some_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (7, 5)), soft_labels(rng, 7, 5)


def test_cross_entropy_is_the_equation_for_soft_labels():
    logits, targets = some_batch()
    result = CrossEntropyLoss()(torch.tensor(logits), torch.tensor(targets))
    assert result.item() == pytest.approx(typed_out(logits, targets), rel=1e-12)


def test_cross_entropy_of_one_hot_labels_is_scikit_learns_log_loss():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(0, 2, (20, 4)), rng.integers(4, size=20)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = cross_entropy_loss(torch.tensor(logits), torch.tensor(np.eye(4)[classes]))
    assert result.item() == pytest.approx(log_loss(classes, probabilities, labels=range(4)), rel=1e-9)


def test_cross_entropy_exceeds_kl_by_the_entropy_of_the_label_and_has_its_gradient():
    logits, targets = some_batch(2)
    gradients = []
    for loss in (cross_entropy_loss, kl_loss):
        x = torch.tensor(logits, requires_grad=True)
        loss(x, torch.tensor(targets)).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    entropy = -sum(y * math.log(y) for row in targets for y in row if y) / len(targets)
    difference = cross_entropy_loss(x, torch.tensor(targets)) - kl_loss(x, torch.tensor(targets))
    assert difference.item() == pytest.approx(entropy, rel=1e-9)


def test_cross_entropy_of_far_apart_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = cross_entropy_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad.tolist() == [[1, -1]]


def test_the_gradient_of_cross_entropy_is_right():
    logits, targets = some_batch(3)
    x = torch.tensor(logits, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: cross_entropy_loss(v, torch.tensor(targets)), x)
