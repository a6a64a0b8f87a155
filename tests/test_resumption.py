"""Checkpoints on disk: whole or recognised as damaged."""

import random
import shutil
from pathlib import Path

import pytest
import torch

from ser_cli.metrics import Scores
from ser_cli.training.history import EpochRecord
from ser_cli.training.learner import LearnerState
from ser_cli.training.resumption import Checkpoint, CheckpointFolder, Progress

FLIPS = 600


def checkpoint(steps: int, chosen: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(steps)
    record = EpochRecord(1, 1 / 3, 0.1 + 0.2, {"kl": 1e-17}, Scores(9, 1 / 3, 2 / 3, 0.5), True, 1.5, 0.001, 88.8)
    progress = Progress(2, 3, steps, 1e-3, {"total": 0.1 + 0.2}, 2.5, 0.1, 9.0, (record,), (2 / 3, 1 / 3), chosen, 1)
    tensors = {
        "model.w": torch.randn(8, 5, generator=draw),
        "optimizer.0.step": torch.tensor(steps),
        "random.0.torch": torch.arange(40, dtype=torch.uint8),
    }
    weights = {"w": torch.randn(4, 4, generator=torch.Generator().manual_seed(chosen))}
    return Checkpoint(
        progress, LearnerState(tensors, {"groups": [{"lr": 0.1 + 0.2}]}), weights, {"ser": "1"}, ("x: 1 then, 2 now",)
    )


def test_what_is_read_is_what_was_written(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.newest(pytest.fail) is None
    written = checkpoint(40, chosen=1)
    folder.save(written)
    found = CheckpointFolder(tmp_path / "checkpoints").newest(pytest.fail)
    assert found.progress == written.progress
    assert (found.made_with, found.changes) == (written.made_with, written.changes)
    assert found.learner.facts == written.learner.facts
    for name, tensor in written.learner.tensors.items():
        assert torch.equal(found.learner.tensors[name], tensor)
        assert found.learner.tensors[name].dtype == tensor.dtype
    assert torch.equal(found.chosen_weights["w"], written.chosen_weights["w"])


def test_the_last_is_the_one_with_most_steps(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for steps in (999_998, 999_999, 1_000_000):
        folder.save(checkpoint(steps, chosen=1))
    assert folder.newest(pytest.fail).progress.steps_done == 1_000_000
    assert len(list(folder.folder.glob("step-*"))) == 2


def test_a_checkpoint_behind_the_present_one_is_forgotten(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for steps in (10, 20):
        folder.save(checkpoint(steps, chosen=1))
    (folder.folder / "step-000020" / "state.json").write_text("damaged")
    folder.save(checkpoint(15, chosen=2))
    assert sorted(path.name for path in folder.folder.glob("step-*")) == ["step-000010", "step-000015"]
    (folder.folder / "step-000015" / "state.json").write_text("damaged")
    assert folder.newest(lambda sentence: None).progress.steps_done == 10


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Single bits anywhere in a checkpoint's three files, and cuts; the one before is used each time."""
    original = tmp_path / "original"
    folder = CheckpointFolder(original)
    folder.save(checkpoint(10, chosen=1))
    folder.save(checkpoint(20, chosen=2))
    files = [original / "step-000020" / name for name in ("state.safetensors", "state.json")]
    files += list(original.glob("chosen-2-*.safetensors"))
    assert len(files) == 3
    draw = random.Random(3)
    work = tmp_path / "flipped"
    shutil.copytree(original, work)
    for number in range(FLIPS):
        path = files[number % 3]
        content = bytearray(path.read_bytes())
        if number % 10 == 9:
            del content[draw.randrange(len(content)) :]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (work / path.relative_to(original)).write_bytes(content)
        told: list[str] = []
        found = CheckpointFolder(work).newest(told.append)
        assert found.progress.steps_done == 10, (number, path)
        assert len(told) == 1
        assert "step-000020 is damaged (" in told[0]
        shutil.copy(path, work / path.relative_to(original))
    assert CheckpointFolder(work).newest(pytest.fail).progress.steps_done == 20


def test_files_that_a_killed_process_was_writing_are_removed(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    (folder.folder / ".step-000010.4711").mkdir(parents=True)
    (folder.folder / ".step-000010.4711" / "state.safetensors").write_bytes(b"half")
    (folder.folder / ".chosen.4711").write_bytes(b"half")
    folder.save(checkpoint(10, chosen=1))
    assert not list(Path(folder.folder).glob(".*"))


def test_a_pickle_in_the_place_of_weights_is_never_opened(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.save(checkpoint(10, chosen=1))
    (folder.folder / "step-000010" / "state.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert folder.newest(lambda sentence: None) is None
    assert not (tmp_path / "exploded").exists()
