"""The multi-task objective, eq. 1 of that paper, and the losses of tasks among the others."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss, weights_from_measured
from ser_cli.tasks.labels import TaskTargets
from ser_cli.tasks.outputs import TASKS
from tests.losses import test_ctc, test_labelled
from tests.losses.test_multi_loss import CLASS_WEIGHTS, SomeOutput, some_output, typed_out
from tests.losses.two_processes import found_by_two

TARGETS = TaskTargets(
    gender=torch.tensor([0, -1, 1, 1]),
    speaker=torch.tensor([2, 2, -1, 0]),
    characters=test_ctc.PADDED,
    character_counts=test_ctc.COUNTS,
)
TEXTS = test_ctc.TEXTS


@dataclass(frozen=True)
class OutputWithTasks(SomeOutput):
    tasks: dict[str, torch.Tensor]


def some_tasks(seed: int = 0) -> tuple[OutputWithTasks, torch.Tensor]:
    output, targets = some_output(seed)
    rng = np.random.default_rng([seed, 3])
    shapes = {"gender": (4, 2), "speaker": (4, 3), "characters": (4, 5, 3)}
    tasks = {task: torch.tensor(rng.normal(size=shape)) for task, shape in shapes.items()}
    return OutputWithTasks(**{f.name: getattr(output, f.name) for f in fields(output)}, tasks=tasks), targets


def tasks_typed_out(output: OutputWithTasks) -> dict[str, float]:
    tasks = {name: value.detach().numpy() for name, value in output.tasks.items()}
    return {
        "gender": test_labelled.typed_out(tasks["gender"], TARGETS.gender.tolist()),
        "speaker": test_labelled.typed_out(tasks["speaker"], TARGETS.speaker.tolist()),
        "characters": test_ctc.typed_out(tasks["characters"], output.frame_mask.sum(dim=1).tolist(), TEXTS),
    }


@pytest.mark.parametrize("tasks", [TASKS, ("speaker",), ()], ids="+".join)
def test_the_total_is_the_objective_of_the_paper(tasks):
    output, targets = some_tasks()
    alpha, beta = 0.2, 0.3
    weights = LossWeights(cross_entropy=1.0, focal=0.5, swfc=beta).with_tasks(tasks, alpha)
    losses = MultiLoss(
        3, weights, focal_gamma=1.5, swfc_temperature=0.6, swfc_gamma=3.0,
        class_weights=torch.tensor(CLASS_WEIGHTS, dtype=torch.float64),
    )  # fmt: skip
    each = losses.each(output, targets, TARGETS)
    emotion, of_tasks = typed_out(output, targets, 1.5, 0.3), tasks_typed_out(output)
    assert {task: each[task].item() for task in tasks} == pytest.approx({task: of_tasks[task] for task in tasks})
    expected = (1 - len(tasks) * alpha) * (emotion["cross_entropy"] + 0.5 * emotion["focal"])
    expected += alpha * sum(of_tasks[task] for task in tasks) + beta * emotion["swfc"]
    assert losses.total(each).item() == pytest.approx(expected, rel=1e-9)
    assert set(each) == {"cross_entropy", "focal", "swfc", *tasks}


def test_automatic_weights_bring_each_loss_into_0_to_1_before_alpha():
    weights = LossWeights(kl=1.0, swfc=0.5).with_tasks(TASKS, 0.1)
    measured = [{"kl": 2.0, "swfc": 4.0, "gender": 0.7, "speaker": 5.0, "characters": 20.0}]
    assert weights_from_measured(weights, measured).as_dict() == pytest.approx(
        {"kl": 0.7 / 2, "swfc": 0.5 / 4, "gender": 0.1, "speaker": 0.1 / 5, "characters": 0.1 / 20}
    )


@pytest.mark.parametrize(
    ("weights", "reads", "unread"),
    [
        ({"kl": 1, "center": 1, "supcon": 1}, "projection", ()),
        ({"kl": 1, "center": 1}, "classifier_input", ("projection", "projected_frames")),
        ({"kl": 1, "contrastive_center": 1}, "projection", ("projected_frames",)),
        ({"kl": 1, "supcon": 1, "swfc": 1}, "projection", ("projection",)),
    ],
)
def test_outputs_that_no_loss_reads_are_told(weights, reads, unread):
    output, targets = some_tasks()
    losses = MultiLoss(3, LossWeights(**weights), center_reads=reads, center_dim=7 if reads[0] == "c" else 6)
    names = ("projection", "projected_frames")
    for name in names:
        getattr(output, name).requires_grad_()
    output.logits.requires_grad_()
    losses.total(losses.each(output, targets)).backward()
    assert losses.unread == unread == tuple(name for name in names if getattr(output, name).grad is None)


def test_losses_of_emotion_and_of_tasks_have_names_of_their_own():
    assert not set(LOSS_NAMES) & set(TASKS)
    assert {f.name for f in fields(LossWeights)} == {*LOSS_NAMES, *TASKS}


def rows_of(output: OutputWithTasks, rows: slice, frames: int) -> tuple[OutputWithTasks, TaskTargets]:
    tasks = {name: value[rows].detach().clone() for name, value in output.tasks.items()}
    tasks["characters"] = tasks["characters"][:, :frames].clone()
    tasks = {name: value.requires_grad_() for name, value in tasks.items()}
    parts = {f.name: getattr(output, f.name)[rows] for f in fields(SomeOutput)}
    targets = TaskTargets(**{f.name: getattr(TARGETS, f.name)[rows] for f in fields(TARGETS)})
    return replace(output, **{**parts, "frame_mask": parts["frame_mask"][:, :frames], "tasks": tasks}), targets


def learn(rows: slice, frames: int) -> dict[str, torch.Tensor]:
    """Value and gradient of each task's loss over some rows of the batch."""
    output, targets = some_tasks()
    part, labels = rows_of(output, rows, frames)
    losses = MultiLoss(3, LossWeights(cross_entropy=1).with_tasks(TASKS, 0.1)).each(part, targets[rows], labels)
    found = {}
    for task in TASKS:
        losses[task].backward()
        found |= {f"{task}/value": losses[task].detach(), f"{task}/gradient": part.tasks[task].grad}
    return found


def frames_of(rows: slice) -> int:
    return int(some_tasks()[0].frame_mask[rows].sum(dim=1).max())


def work(rank: int) -> dict[str, torch.Tensor]:
    rows = (slice(0, 1), slice(1, 4))[rank]
    return learn(rows, frames_of(rows))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_of_the_tasks(tmp_path):
    found = found_by_two(work, tmp_path)
    whole = learn(slice(0, 4), frames_of(slice(0, 4)))
    for task in TASKS:
        value, gradient = whole[f"{task}/value"], whole[f"{task}/gradient"]
        assert gradient.any()
        for process, rows in zip(found, (slice(0, 1), slice(1, 4)), strict=True):
            torch.testing.assert_close(process[f"{task}/value"], value, rtol=1e-12, atol=0)
            # DistributedDataParallel takes the mean over processes where the sum is meant: hence twice.
            own = process[f"{task}/gradient"]
            expected = gradient[rows][:, : own.shape[1]] if task == "characters" else gradient[rows]
            torch.testing.assert_close(own / 2, expected, rtol=1e-12, atol=1e-15)
