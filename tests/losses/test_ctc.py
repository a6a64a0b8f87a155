"""CTC against a sum over every alignment, typed out, and against PyTorch's own mean."""

import itertools
import math

import numpy as np
import pytest
import torch

from ser_cli.losses.ctc import ctc_loss

FRAMES = [4, 3, 4, 2]
TEXTS = [[1, 2], [1, 1], [], [2, 2]]
"""The third has no text, and the fourth would need three frames."""
PADDED = torch.tensor([[1, 2], [1, 1], [0, 0], [2, 2]])
COUNTS = torch.tensor([2, 2, 0, 2])


def collapsed(alignment: tuple[int, ...]) -> list[int]:
    return [output for output, _ in itertools.groupby(alignment) if output != 0]


def typed_out(logits: np.ndarray, frames: list[int], texts: list[list[int]]) -> float:
    """-log of the sum over all alignments of the product of the frames' probabilities, per character."""
    values = []
    for x, length, text in zip(logits, frames, texts, strict=True):
        p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        ways = [
            math.prod(p[t, output] for t, output in enumerate(alignment))
            for alignment in itertools.product(range(x.shape[1]), repeat=length)
            if collapsed(alignment) == text
        ]
        if text and ways:
            values.append(-math.log(sum(ways)) / len(text))
    return float(np.mean(values))


def some_logits(seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(4, 4, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_sum_over_every_alignment(seed):
    logits = some_logits(seed)
    found = ctc_loss(logits, torch.tensor(FRAMES), PADDED, COUNTS)
    assert found.item() == pytest.approx(typed_out(logits.numpy(), FRAMES, TEXTS), rel=1e-12)


def test_where_each_clip_has_a_text_that_fits_it_is_the_mean_of_pytorch():
    logits, frames = some_logits(), torch.tensor([4, 3])
    found = ctc_loss(logits[:2], frames, PADDED[:2], COUNTS[:2])
    expected = torch.nn.functional.ctc_loss(logits[:2].log_softmax(-1).transpose(0, 1), PADDED[:2], frames, COUNTS[:2])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_gradients_are_those_of_the_value():
    logits = some_logits().requires_grad_()
    frames = torch.tensor(FRAMES)
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x, frames, PADDED, COUNTS), logits)
    ctc_loss(logits, frames, PADDED, COUNTS).backward()
    assert logits.grad[:2].abs().sum() > 0
    assert not logits.grad[2:].any()  # what does not count moves nothing
    assert not logits.grad[1, 3:].any()  # nor does padding


def test_a_batch_without_a_text_that_fits_gives_nothing():
    logits = some_logits().requires_grad_()
    for rows in (slice(2, 4), slice(2, 3), slice(0, 0)):
        loss = ctc_loss(logits[rows], torch.tensor(FRAMES)[rows], PADDED[rows], COUNTS[rows])
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient.any()
