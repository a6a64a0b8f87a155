import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from ser_cli.losses import SWFCLoss, balanced_class_weights, swfc_loss
from tests.losses import test_supcon

CLASSES = [1, 0, 1, 2, 0, 1]
"""Class 2 has a single clip, which has no positive."""
WEIGHTS = [0.5, 0.7, 3.0]


def shares_typed_out(embeddings: np.ndarray, temperature: float) -> list[dict[int, float]]:
    """p_ij of every clip, of unit-length embeddings."""
    unit = [e / math.sqrt(sum(v * v for v in e)) for e in embeddings]
    shares = []
    for i, anchor in enumerate(unit):
        exponentials = {k: math.exp(anchor @ other / temperature) for k, other in enumerate(unit) if k != i}
        shares.append({k: value / sum(exponentials.values()) for k, value in exponentials.items()})
    return shares


def printed_typed_out(embeddings: np.ndarray, weights: list[float], temperature: float, gamma: float) -> float:
    """Eq. 2 of the multi-task paper as it is printed; `weights` are those of the clips."""
    total = 0.0
    for w, p in zip(weights, shares_typed_out(embeddings, temperature), strict=True):
        total += w * sum(p_ij * (1 - p_ij) ** gamma for p_ij in p.values())
    return -total / len(embeddings)


def positives_typed_out(
    embeddings: np.ndarray, classes: list[int], weights: list[float], temperature: float, gamma: float
) -> float:
    """The loss of Shi and Huang 2023, with P(i) as a list."""
    total = 0.0
    for i, p in enumerate(shares_typed_out(embeddings, temperature)):
        positives = [j for j in p if classes[j] == classes[i]]
        if positives:
            total += weights[i] * sum((1 - p[j]) ** gamma * math.log(p[j]) for j in positives) / len(positives)
    return -total / len(embeddings)


def some_embeddings(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 4))


def loss_of(embeddings: np.ndarray, **settings) -> float:
    return swfc_loss(
        torch.tensor(embeddings), torch.tensor(CLASSES), torch.tensor(WEIGHTS, dtype=torch.float64), **settings
    ).item()


@pytest.mark.parametrize("temperature", [0.1, 0.8])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_swfc_is_the_equation_in_either_form(gamma, temperature):
    embeddings, weights = some_embeddings(), [WEIGHTS[c] for c in CLASSES]
    settings = {"temperature": temperature, "gamma": gamma}
    positives = positives_typed_out(embeddings, CLASSES, weights, temperature, gamma)
    assert loss_of(embeddings, **settings) == pytest.approx(positives, rel=1e-10)
    printed = printed_typed_out(embeddings, weights, temperature, gamma)
    assert loss_of(embeddings, form="printed", **settings) == pytest.approx(printed, rel=1e-10)
    assert printed < 0 < positives


def test_swfc_as_printed_never_asks_who_shares_a_class():
    embeddings, ones = torch.tensor(some_embeddings()), torch.ones(3)
    losses = {
        form: [swfc_loss(embeddings, torch.tensor(c), ones, form=form) for c in (CLASSES, [0, 0, 0, 1, 1, 2])]
        for form in ("printed", "positives")
    }
    assert losses["printed"][0] == losses["printed"][1]
    assert losses["positives"][0] != losses["positives"][1]


def test_swfc_with_gamma_0_and_equal_weights_is_the_supervised_contrastive_loss():
    embeddings = some_embeddings(1)
    result = swfc_loss(torch.tensor(embeddings), torch.tensor(CLASSES), torch.ones(3), temperature=0.3, gamma=0)
    # Each clip as a clip of one frame.
    expected = test_supcon.typed_out(embeddings[:, None], CLASSES, np.ones((6, 1), dtype=bool), 0.3)
    assert result.item() == pytest.approx(expected, rel=1e-10)


def test_swfc_does_not_depend_on_the_scale_of_an_embedding():
    scaled = some_embeddings() * np.random.default_rng(1).uniform(0.01, 100, size=(6, 1))
    assert loss_of(scaled) == pytest.approx(loss_of(some_embeddings()), rel=1e-10)


@pytest.mark.parametrize("form", ["positives", "printed"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("clips", [1, 2, 6])
def test_swfc_of_embeddings_that_are_alike_or_empty_is_finite(clips, gamma, form):
    for value in (0.0, 1.0):
        embeddings = torch.full((clips, 4), value, requires_grad=True)
        loss = swfc_loss(
            embeddings, torch.zeros(clips, dtype=torch.long), torch.ones(1), temperature=0.01, gamma=gamma, form=form
        )
        loss.backward()
        assert loss.isfinite()
        assert embeddings.grad.isfinite().all()


def test_swfc_is_zero_where_no_clip_has_a_positive():
    embeddings = torch.tensor(some_embeddings()[:3], requires_grad=True)
    loss = swfc_loss(embeddings, torch.tensor([0, 1, 2]), torch.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_contrasted_in_float32(dtype):
    embeddings = torch.tensor(some_embeddings()).to(dtype)
    result = swfc_loss(embeddings, torch.tensor(CLASSES), torch.tensor(WEIGHTS))
    assert result.dtype == torch.float32
    expected = positives_typed_out(embeddings.double().numpy(), CLASSES, [WEIGHTS[c] for c in CLASSES], 0.8, 2.0)
    assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["positives", "printed"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gradient_of_swfc_is_right(gamma, form):
    embeddings = torch.tensor(some_embeddings(2), requires_grad=True)
    classes, weights = torch.tensor(CLASSES), torch.tensor(WEIGHTS, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: swfc_loss(x, classes, weights, temperature=0.5, gamma=gamma, form=form), embeddings
    )


def test_the_swfc_module_takes_the_dominant_class_and_its_weight():
    targets = np.full((6, 3), 0.25)
    targets[range(6), CLASSES] = 0.5
    embeddings = some_embeddings(3)
    module = SWFCLoss(torch.tensor(WEIGHTS), temperature=0.4, gamma=1.5)
    expected = positives_typed_out(embeddings, CLASSES, [WEIGHTS[c] for c in CLASSES], 0.4, 1.5)
    assert module(torch.tensor(embeddings), torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-7)
    assert not list(module.parameters())


def test_balanced_weights_are_scikit_learns_and_those_of_an_absent_class_are_0():
    present = [0] * 5 + [1] * 20 + [3] * 2
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=present)
    weights = balanced_class_weights([5, 20, 0, 2])
    assert weights.tolist() == pytest.approx([expected[0], expected[1], 0, expected[2]], rel=1e-6)
    assert weights[present].mean().item() == pytest.approx(1, rel=1e-6)
