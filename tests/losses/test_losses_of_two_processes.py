"""Losses of two processes with a part of the batch each."""

from pathlib import Path

import pytest
import torch

from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss
from tests.losses.test_multi_loss import SomeOutput, some_output
from tests.losses.two_processes import found_by_two

READ = ("logits", "embedding", "projection", "projected_frames", "relative_logits")
PARTS = (slice(0, 1), slice(1, 4))


def part_of(output: SomeOutput, rows: slice) -> SomeOutput:
    return SomeOutput(*(getattr(output, name)[rows] for name in SomeOutput.__dataclass_fields__))


def learn(name: str, rows: slice) -> dict[str, torch.Tensor]:
    """Value and gradients of one loss over some rows of the batch."""
    output, targets = some_output()
    output = part_of(output, rows)
    read = {key: getattr(output, key).requires_grad_() for key in READ}
    losses = MultiLoss(3, LossWeights(**{name: 1.0}), center_dim=6)
    loss = losses.each(output, targets[rows])[name]
    loss.backward()
    learnt = {f"{name}/{key}": value.grad for key, value in [*read.items(), *losses.named_parameters()]}
    return {f"{name}/value": loss.detach(), **{key: value for key, value in learnt.items() if value is not None}}


def work(rank: int) -> dict[str, torch.Tensor]:
    return {key: value for name in LOSS_NAMES for key, value in learn(name, PARTS[rank]).items()}


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path: Path):
    found = found_by_two(work, tmp_path)
    whole = {key: value for name in LOSS_NAMES for key, value in learn(name, slice(0, 4)).items()}
    assert {key.partition("/")[0] for key in whole if key.endswith(READ)} == set(LOSS_NAMES)
    for key, expected in whole.items():
        first, second = found[0][key], found[1][key]
        if key.endswith(("/value", ".centers")):
            torch.testing.assert_close((first, second), (expected, expected), rtol=1e-12, atol=1e-15)
        else:
            # DistributedDataParallel takes the mean over processes where the sum is meant: hence twice.
            torch.testing.assert_close(torch.cat([first, second]) / 2, expected, rtol=1e-12, atol=1e-15)
