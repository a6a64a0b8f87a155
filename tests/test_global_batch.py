"""Losses of several processes: each has a part of the batch, and all learn what one would from the whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ser_cli.global_batch import own_share, whole_batch
from ser_cli.losses import CenterLoss, FrameSupConLoss, focal_loss, kl_loss, log_denominators
from ser_cli.models.speaker_normalization import SpeakerNormalization
from ser_cli.processes import number_of_processes
from tests.losses.two_processes import found_by_two

CLIPS, FRAMES, CLASSES = 5, 7, 3
PARTS = [slice(0, 1), slice(1, 5)]
"""The clips of each process: unequally many."""
LOSSES = ["kl", "focal", "center", "supcon", "supcon-cold", "total"]


class Model(nn.Module):
    """Inputs to what the losses read; the class centers are not among its parameters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.frames = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
        self.logits = nn.Parameter(torch.randn(4, CLASSES, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames = torch.tanh(inputs @ self.frames)
        pooled = (frames * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return frames, pooled, pooled @ self.logits


def batch(clips: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, mask and targets of some clips, padded to the longest of them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(CLIPS, FRAMES, 6, generator=generator, dtype=torch.float64)
    mask = torch.arange(FRAMES) < torch.tensor([4, 7, 2, 1, 5])[:, None]
    targets = torch.rand(CLIPS, CLASSES, generator=generator, dtype=torch.float64).softmax(dim=1)
    longest = int(mask[clips].sum(dim=1).max())
    return inputs[clips, :longest], mask[clips, :longest], targets[clips]


def learn(name: str, clips: slice) -> dict[str, Tensor]:
    """Value of a loss, gradients of the model, averaged where there are several processes, and of the centers."""
    model, center = Model(), CenterLoss(CLASSES, 4).double()
    with torch.no_grad():
        center.centers.copy_(torch.arange(CLASSES * 4).view(CLASSES, 4) / 10)
    wrapped = DistributedDataParallel(model) if number_of_processes() > 1 else model
    inputs, mask, targets = batch(clips)
    frames, pooled, logits = wrapped(inputs, mask)
    values = {
        "kl": lambda: kl_loss(logits, targets),
        "focal": lambda: focal_loss(logits, targets),
        "center": lambda: center(pooled, targets),
        "supcon": lambda: FrameSupConLoss(0.1)(frames, targets, mask),
        "supcon-cold": lambda: FrameSupConLoss(1e-3)(frames, targets, mask),
    }
    value = sum(loss() for loss in values.values()) if name == "total" else values[name]()
    # What a loss does not read has a gradient of 0, as DistributedDataParallel asks.
    (value + 0 * (frames.sum() + logits.sum())).backward()
    found = {"value": value.detach(), "frames": model.frames.grad, "logits": model.logits.grad}
    return found | ({"centers": center.centers.grad} if name in ("center", "total") else {})


def learn_by_speaker(clips: slice) -> dict[str, Tensor]:
    """Gradients of embeddings that are heard against their speakers', and the running mean over speakers."""
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(CLIPS, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(4, CLASSES, generator=generator, dtype=torch.float64)
    own = embeddings[clips].requires_grad_()
    normalization = SpeakerNormalization(4).double()
    relative = own - normalization.offset_in_batch(own, torch.tensor([7, 3, 7, 3, 5])[clips])
    kl_loss(relative.tanh() @ logits, batch(slice(0, CLIPS))[2][clips]).backward()
    return {"relative": relative.detach(), "gradient": own.grad, "center": normalization.center}


def work(rank: int) -> dict[str, object]:
    """Of one of the two processes."""
    log_denominators.CPU_BLOCK_FRAMES = 4
    found: dict[str, object] = {name: learn(name, PARTS[rank]) for name in LOSSES}
    own = torch.full((2 * rank, 3), float(rank), requires_grad=True)
    numbers = torch.arange(2 * rank)
    rows, theirs = whole_batch(own, numbers)
    (rows * torch.tensor([[1.0], [10.0]])).sum().backward()
    found["rows"] = (rows.detach(), theirs, own.grad)
    found["share"] = list(own_share(range(5)))
    found["by-speaker"] = learn_by_speaker(PARTS[rank])
    return found


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return found_by_two(work, tmp_path_factory.mktemp("processes"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(of_both, name):
    expected = learn(name, slice(0, CLIPS))
    assert expected["frames"].abs().max() > 0
    for found in of_both:
        assert found[name].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[name][key], value, rtol=1e-9, atol=1e-12, msg=lambda m, key=key: key + m)


@pytest.mark.slow
def test_a_speaker_whose_clips_two_processes_have_is_heard_against_all_of_them(of_both):
    expected = learn_by_speaker(slice(0, CLIPS))
    first, second = (found["by-speaker"] for found in of_both)
    torch.testing.assert_close(torch.cat([first["relative"], second["relative"]]), expected["relative"])
    # DistributedDataParallel takes the mean over processes where the sum is meant: hence twice.
    torch.testing.assert_close(torch.cat([first["gradient"], second["gradient"]]) / 2, expected["gradient"])
    assert torch.equal(first["center"], second["center"])
    torch.testing.assert_close(first["center"], expected["center"])


@pytest.mark.slow
def test_both_processes_have_the_same_bits(of_both):
    for name in LOSSES:
        assert all(torch.equal(of_both[0][name][key], value) for key, value in of_both[1][name].items())


@pytest.mark.slow
def test_a_process_without_rows_sees_those_of_the_others(of_both):
    for rank, found in enumerate(of_both):
        rows, numbers, gradient = found["rows"]
        assert rows.tolist() == [[1.0] * 3] * 2
        assert numbers.tolist() == [0, 1]
        # The mean over two processes that stands where a sum is meant.
        assert gradient.tolist() == ([[2.0] * 3, [20.0] * 3] if rank else [])


@pytest.mark.slow
def test_together_the_processes_do_each_part_of_the_work_once(of_both):
    assert [found["share"] for found in of_both] == [[0, 2, 4], [1, 3]]


def test_the_whole_batch_of_one_process_is_its_own():
    first, second = torch.ones(3, 2), torch.zeros(3)
    whole = whole_batch(first, second)
    assert whole[0] is first
    assert whole[1] is second
    assert list(own_share(range(5))) == [0, 1, 2, 3, 4]
