import numpy as np
import pytest
import torch

from ser_cli.losses import ContrastiveCenterLoss, contrastive_center_loss
from tests.losses.test_center import DOMINANT, SOFT


def typed_out(projections: np.ndarray, dominant: list[int], centers: np.ndarray, theta: float) -> float:
    """Eq. 2 of the multi-modal loss paper as it is printed, a sum over the mini-batch."""
    total = 0.0
    for x, label in zip(projections, dominant, strict=True):
        squares = [sum((a - b) ** 2 for a, b in zip(x, center, strict=True)) for center in centers]
        others = sum(square for j, square in enumerate(squares) if j != label)
        total += squares[label] / (others + theta)
    return total / 2


def some_points(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 5)), rng.normal(size=(3, 5))


@pytest.mark.parametrize("theta", [1.0, 0.1, 7.0])
def test_contrastive_center_times_the_batch_size_is_the_printed_equation(theta):
    projections, centers = some_points()
    result = contrastive_center_loss(torch.tensor(projections), torch.tensor(SOFT), torch.tensor(centers), theta)
    assert 4 * result.item() == pytest.approx(typed_out(projections, DOMINANT, centers, theta), rel=1e-12)


def test_contrastive_center_of_a_soft_label_is_that_of_its_dominant_class_alone():
    projections, centers = (torch.tensor(x) for x in some_points(1))
    one_hot = torch.tensor(np.eye(3)[DOMINANT])
    soft = contrastive_center_loss(projections, torch.tensor(SOFT), centers)
    assert soft == contrastive_center_loss(projections, one_hot, centers)


def test_contrastive_center_of_a_single_class_is_finite_and_its_gradient_too():
    # Nothing stands in the denominator but theta.
    projections = torch.full((2, 3), 2.0, requires_grad=True)
    loss = contrastive_center_loss(projections, torch.ones(2, 1), torch.zeros(1, 3), theta=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(12 / 0.5 / 2)
    assert projections.grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
def test_contrastive_center_is_finite_where_all_centers_fall_together(scale):
    projections = torch.full((2, 3), scale, requires_grad=True)
    centers = torch.zeros(3, 3, requires_grad=True)
    contrastive_center_loss(projections, torch.eye(3)[:2], centers).backward()
    assert projections.grad.isfinite().all()
    assert centers.grad.isfinite().all()


def test_a_far_point_weighs_its_own_center_against_the_others_and_not_its_distance():
    # Far from three centers in one place: d / (2 d + theta) / 2 goes to a quarter, whatever the distance.
    loss = contrastive_center_loss(torch.full((1, 4), 1e6), torch.eye(3)[:1], torch.zeros(3, 4))
    assert loss.item() == pytest.approx(0.25, rel=1e-6)


def test_a_step_draws_the_own_center_near_and_pushes_the_others_away():
    module = ContrastiveCenterLoss(num_classes=3, dim=2)
    assert module.centers.tolist() == [[0, 0]] * 3
    with torch.no_grad():
        module.centers.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, -3.0]]))
    point = torch.tensor([[1.0, 1.0]])
    before = (point - module.centers).detach().norm(dim=-1)
    module(point, torch.eye(3)[:1]).backward()
    after = (point - module.centers + 0.01 * module.centers.grad).detach().norm(dim=-1)
    assert after[0] < before[0]
    assert (after[1:] > before[1:]).all()


def test_the_gradient_of_contrastive_center_is_right():
    projections, centers = (torch.tensor(x, requires_grad=True) for x in some_points(3))
    targets = torch.tensor(SOFT)
    assert torch.autograd.gradcheck(lambda z, c: contrastive_center_loss(z, targets, c, 0.5), (projections, centers))
