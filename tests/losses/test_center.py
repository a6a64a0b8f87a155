import numpy as np
import pytest
import torch

from ser_cli.losses import CenterLoss, center_loss

SOFT = np.array([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.3, 0.7, 0.0], [0.1, 0.2, 0.7]])
DOMINANT = [0, 2, 1, 2]


def typed_out(projections: np.ndarray, dominant: list[int], centers: np.ndarray) -> float:
    """Eq. 8, one number at a time."""
    total = 0.0
    for z, label in zip(projections, dominant, strict=True):
        for a, b in zip(z, centers[label], strict=True):
            total += (a - b) ** 2
    return total / len(projections)


def test_center_is_the_mean_squared_distance_to_the_center_of_the_dominant_class():
    rng = np.random.default_rng(0)
    projections, centers = rng.normal(size=(4, 5)), rng.normal(size=(3, 5))
    result = center_loss(torch.tensor(projections), torch.tensor(SOFT), torch.tensor(centers))
    assert result.item() == pytest.approx(typed_out(projections, DOMINANT, centers), rel=1e-12)


def test_center_of_a_soft_label_is_that_of_its_dominant_class_alone():
    rng = np.random.default_rng(1)
    projections, centers = torch.tensor(rng.normal(size=(4, 5))), torch.tensor(rng.normal(size=(3, 5)))
    one_hot = torch.tensor(np.eye(3)[DOMINANT])
    assert center_loss(projections, torch.tensor(SOFT), centers) == center_loss(projections, one_hot, centers)


def test_centers_start_at_the_origin_and_are_learnt():
    module = CenterLoss(num_classes=3, dim=5)
    projections = torch.tensor(np.random.default_rng(2).normal(size=(4, 5)), dtype=torch.float32)
    loss = module(projections, torch.tensor(SOFT, dtype=torch.float32))
    assert loss.item() == pytest.approx((projections**2).sum().item() / 4, rel=1e-6)
    loss.backward()
    # d/dc of 1/B sum ||z - c||^2 at c = 0 is -2/B sum of the class's z.
    expected = np.zeros((3, 5))
    for z, label in zip(projections.numpy(), DOMINANT, strict=True):
        expected[label] -= 2 / 4 * z
    np.testing.assert_allclose(module.centers.grad.numpy(), expected, rtol=1e-5)


def test_the_center_of_an_absent_class_stays_where_it_is():
    module = CenterLoss(num_classes=4, dim=2)
    module(torch.ones(2, 2), torch.eye(4)[[0, 1]]).backward()
    assert module.centers.grad[2:].tolist() == [[0, 0], [0, 0]]
    assert (module.centers.grad[:2] != 0).all()


def test_the_gradient_of_center_is_right():
    rng = np.random.default_rng(3)
    projections = torch.tensor(rng.normal(size=(4, 5)), requires_grad=True)
    centers = torch.tensor(rng.normal(size=(3, 5)), requires_grad=True)
    targets = torch.tensor(SOFT)
    assert torch.autograd.gradcheck(lambda z, c: center_loss(z, targets, c), (projections, centers))
