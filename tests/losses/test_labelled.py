"""Cross-entropy of the clips that have a label."""

import math

import numpy as np
import pytest
import torch

from ser_cli.losses.labelled import labelled_cross_entropy


def typed_out(logits: np.ndarray, classes: list[int]) -> float:
    values = [-math.log(math.exp(x[y]) / sum(map(math.exp, x))) for x, y in zip(logits, classes, strict=True) if y >= 0]
    return sum(values) / len(values)


def test_the_mean_is_over_labelled_clips_alone():
    logits = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)), requires_grad=True)
    classes = [2, -1, 0, -1, 0]
    loss = labelled_cross_entropy(logits, torch.tensor(classes))
    assert loss.item() == pytest.approx(typed_out(logits.detach().numpy(), classes), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: labelled_cross_entropy(x, torch.tensor(classes)), logits)
    loss.backward()
    assert not logits.grad[[1, 3]].any()


def test_without_a_label_it_is_nothing():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
