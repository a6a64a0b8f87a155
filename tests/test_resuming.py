"""A run that is stopped, killed or damaged ends as if nothing had happened."""

import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY, write_tone_corpus
from tests.running import read_csv, results, stop_after


def train(manifest: Path, *options: object) -> list[object]:
    return ["train", "--manifest", manifest, "--folds", 2, *TINY, "--batch-size", 4, *options]


@pytest.fixture(autouse=True)
def hears_of_a_closed_terminal() -> Iterator[None]:
    """As where the tests are not started by `nohup`, which training respects."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def whole(ser, tones) -> dict[str, object]:
    """What the uninterrupted run comes to."""
    assert ser(*train(tones, "--output", "whole")).exit_code == 0
    return results("whole")


@pytest.mark.parametrize(
    ("number", "code", "steps"),
    [(signal.SIGTERM, 143, 3), (signal.SIGUSR1, 138, 5), (signal.SIGINT, 130, 6), (signal.SIGHUP, 129, 13)],
)
def test_a_signal_writes_a_checkpoint_and_the_same_command_ends_as_if_nothing_had_happened(
    ser, tones, whole, monkeypatch, number, code, steps
):
    with monkeypatch.context() as patch:
        stop_after(patch, steps, number)
        stopped = ser(*train(tones, "--output", "run"))
    assert stopped.exit_code == code
    assert "finishing the step that runs" in stopped.stderr
    index = 1 if steps < 13 else 2  # a fold has 2 epochs of 5 or 6 steps
    assert list(Path(f"run/fold-{index}/checkpoints").glob("step-*"))
    resumed = ser(*train(tones, "--output", "run"))
    assert resumed.exit_code == 0
    assert re.search(rf"fold {index}/2 goes on from its checkpoint: epoch \d, after step \d", resumed.stderr)
    assert results("run") == whole
    assert not Path(f"run/fold-{index}/checkpoints").exists()
    assert json.loads(Path(f"run/fold-{index}/done.json").read_text())["stops"] == 1


def test_two_runs_with_one_seed_give_the_same_files_but_for_times(ser, tones, whole):
    assert ser(*train(tones, "--output", "again")).exit_code == 0
    assert results("again") == whole
    assert ser(*train(tones, "--output", "other", "--seed", 1)).exit_code == 0
    assert results("other") != whole


def test_a_signal_writes_a_checkpoint_though_nobody_reads_stderr_any_more(tones, home):
    command = [sys.executable, "-m", "ser_cli", *map(str, train(tones, "--epochs", 200, "--output", "run"))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "epoch 2/200" in line:
            break
    process.stderr.close()  # as of `2>&1 | tee log` when Ctrl-C ends both
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list(Path("run/fold-1/checkpoints").glob("step-*"))


def test_under_nohup_training_outlives_its_terminal(tones, home):
    command = [sys.executable, "-m", "ser_cli", *map(str, train(tones, "--output", "run"))]
    process = subprocess.Popen(["nohup", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "epoch 1/" in line:
            break
    process.send_signal(signal.SIGHUP)
    told = process.stderr.read()
    assert process.wait(60) == 0, told
    assert Path("run/fold-2/done.json").exists()


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_how_many_batches_are_made_ahead_changes_nothing(ser, tones, whole, monkeypatch, ahead):
    from ser_cli.data.batches import BatchLoader

    monkeypatch.setattr(BatchLoader.__init__, "__kwdefaults__", {"ahead": ahead, "pin_memory": False})
    assert ser(*train(tones, "--output", "run")).exit_code == 0
    assert results("run") == whole


def test_a_run_is_gone_on_with_at_every_step(ser, tones, whole, monkeypatch):
    stops = 0
    for _attempt in range(60):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            result = ser(*train(tones, "--output", "run", "--resume"))
        if result.exit_code == 0:
            break
        assert result.exit_code == 143
        stops += 1
    assert stops >= 20
    assert results("run") == whole


def test_a_pretrained_encoder_with_masking_and_dropout_resumes_exactly(ser, tones, wavlm, monkeypatch):
    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, "--encoder", wavlm, "--epochs", 2]
    command += ["--device", "cpu", "--batch-size", 6]
    assert ser(*command, "--output", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert ser(*command, "--output", "run").exit_code == 143
    result = ser(*command, "--output", "run")
    assert "goes on from its checkpoint" in result.stderr
    assert results("run") == results("whole")


def test_what_is_gone_on_with_changed_can_be_stopped_while_it_begins(ser, tones, monkeypatch):
    from ser_cli.runs import opening

    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 0
    write_json = opening.write_json

    def stopped_at_the_identity(path, values):
        if path.name == "run.json":
            raise KeyboardInterrupt
        write_json(path, values)

    other = train(tones, "--output", "run", "--epochs", 3, "--resume-anyway")
    with monkeypatch.context() as patch:
        patch.setattr(opening, "write_json", stopped_at_the_identity)
        assert ser(*other).exit_code == 130
    went_on = ser(*other)
    assert went_on.exit_code == 0, went_on.stderr
    assert json.loads(Path("run/changes.json").read_text()) == ["training.epochs: 2 there, 3 asked for (after fold 1)"]
    assert "epochs = 3" in Path("run/recipe.toml").read_text()


def test_a_change_that_is_taken_back_and_made_again_is_recorded_each_time(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert ser(*train(tones, "--output", "run")).exit_code == 143
    for epochs in (3, 2, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            options = ("--output", "run", "--epochs", epochs, "--resume-anyway")
            assert ser(*train(tones, *options)).exit_code == 143
    told = [sentence.partition(" (")[0] for sentence in json.loads(Path("run/changes.json").read_text())]
    assert told == [f"training.epochs: {a} there, {b} asked for" for a, b in ((2, 3), (3, 2), (2, 3))]


def test_embeddings_are_those_of_the_weights_that_are_kept(ser, tones):
    command = train(tones, "--fold", 1, "--embeddings", "--output", "run")
    assert ser(*command).exit_code == 0
    kept = Path("run/fold-1/embeddings.npz").read_bytes()
    Path("run/fold-1/done.json").unlink()
    assert ser(*command, "--set", "optimizer.learning_rate=2e-2", "--resume-anyway").exit_code == 0
    assert Path("run/fold-1/embeddings.npz").read_bytes() != kept


def test_what_changed_is_shown_and_gone_on_with_only_when_asked(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        ser(*train(tones, "--output", "run"))
    before = sorted(str(path) for path in Path("run").rglob("*"))
    other = train(tones, "--output", "run", "--set", "optimizer.learning_rate=2e-3", "--epochs", 3)
    refused = ser(*other)
    assert refused.exit_code == 1
    assert "  optimizer.learning_rate: 0.001 there, 0.002 asked for\n" in refused.stderr
    assert "  training.epochs: 2 there, 3 asked for\n" in refused.stderr
    assert "--resume-anyway" in refused.stderr
    assert sorted(str(path) for path in Path("run").rglob("*")) == before
    went_on = ser(*other, "--resume-anyway")
    assert went_on.exit_code == 0
    assert "goes on from its checkpoint: epoch 1, after step 3" in went_on.stderr
    report = Path("run/report.md").read_text().replace("\\", "")
    assert "Changed while the run went on: optimizer.learning_rate: 0.001 there, 0.002 asked for" in report
    evaluated = ser("evaluate", "run", "--json", "--no-figures")
    told = json.loads(evaluated.stdout)["changes"]
    assert any(change.startswith("training.epochs: 2 there, 3 asked for (before any fold") for change in told)
    assert any(change.startswith("fold 1: training.epochs: 2 then, 3 now") for change in told)
    rows = read_csv(Path("run/fold-1/history.csv"))
    assert len(rows) == 3
    assert ser(*other).exit_code == 0  # from now on it is that run


def test_changed_settings_are_used_from_there_on(ser, tones, monkeypatch):
    from ser_cli.training.learner import Learner

    used = []
    learn = Learner.learn

    def noted(learner, batches, epochs_done):
        values = learn(learner, batches, epochs_done)
        decay = learner._optimizer.param_groups[0]["weight_decay"]
        used.append((learner.learning_rates[0], decay, learner.criterion.weights.kl, "focal" in values))
        return values

    monkeypatch.setattr(Learner, "learn", noted)
    command = train(tones, "--fold", 1, "--output", "run", "--set", "optimizer.schedule=exponential")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # the end of the first epoch
        ser(*command)
    changed = ["optimizer.learning_rate=2e-2", "optimizer.weight_decay=0.5", "losses.kl=9", "losses.focal=0"]
    options = [argument for change in changed for argument in ("--set", change)]
    assert ser(*command, *options, "--resume-anyway").exit_code == 0
    assert used[4] == (pytest.approx(1e-3), 0.1, 0.5, True)
    assert used[5] == (pytest.approx(2e-2 * 0.875), 0.5, 9.0, False)
    first, second = read_csv(Path("run/fold-1/history.csv"))
    assert float(first["focal"]) > 0
    assert second["focal"] == ""


def test_the_mean_of_a_loss_is_that_of_the_steps_that_had_it(ser, tones, monkeypatch):
    from ser_cli.training.learner import Learner

    command = train(tones, "--fold", 1, "--output", "run")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # within the first epoch
        ser(*command)
    learnt = []
    learn = Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda *given: learnt.append(learn(*given)) or learnt[-1])
    assert ser(*command, "--set", "losses.cross_entropy=1", "--set", "losses.focal=0", "--resume-anyway").exit_code == 0
    first, second = read_csv(Path("run/fold-1/history.csv"))
    assert "focal" not in first
    steps = len(learnt) - 5  # of the first epoch; each has five
    for row, values in ((first, learnt[:steps]), (second, learnt[steps:])):
        for name in ("kl", "cross_entropy"):
            assert float(row[name]) == pytest.approx(sum(each[name] for each in values) / len(values), abs=1e-6)


def test_how_the_epoch_is_chosen_never_changes_within_a_run(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        ser(*train(tones, "--output", "run", "--select", "last"))
    result = ser(*train(tones, "--output", "run", "--select", "test", "--resume-anyway"))
    assert result.exit_code == 1
    assert "selection.by: last there, test asked for" in result.stderr
    assert "--resume-anyway" not in result.stderr


def test_another_number_of_threads_is_told_and_recorded(ser, tones, monkeypatch):
    import torch

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        ser(*train(tones, "--output", "run"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    result = ser(*train(tones, "--output", "run"))
    assert result.exit_code == 0
    assert "the checkpoint's threads: 1 then, 7 now; the last digits of the result may differ" in result.stderr
    assert json.loads(Path("run/fold-1/done.json").read_text())["changes"] == ["threads: 1 then, 7 now"]


def test_a_stop_in_the_test_of_a_fold_keeps_what_was_learnt_last(ser, tones, whole, monkeypatch):
    from ser_cli.training import fold as training

    command = train(tones, "--output", "run", "--set", "training.weight_average=0")
    assert ser(*train(tones, "--output", "straight", "--set", "training.weight_average=0")).exit_code == 0
    predict = training.predict_stored
    calls = 0

    def stopped_in_test(model, corpus, ids, *rest, **named):
        nonlocal calls
        calls += 1
        if calls == 3:  # after two epochs
            signal.raise_signal(signal.SIGTERM)
        return predict(model, corpus, ids, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "predict_stored", stopped_in_test)
        assert ser(*command).exit_code == 143
    # More epochs than before go on from the last one, not from the best.
    assert ser(*command, "--epochs", 3, "--resume-anyway").exit_code == 0
    assert ser(*train(tones, "--output", "three", "--set", "training.weight_average=0", "--epochs", 3)).exit_code == 0
    rows = [read_csv(Path(f"{run}/fold-1/history.csv"))[1]["total"] for run in ("run", "straight")]
    assert rows[0] == rows[1]


def test_other_labels_or_folds_are_never_gone_on_with(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        ser(*train(tones, "--output", "run"))
    result = ser(*train(tones, "--output", "run", "--folds", 3, "--resume-anyway"))
    assert result.exit_code == 1
    assert "folds: 2 there, 3 asked for" in result.stderr
    assert "--resume-anyway" not in result.stderr


def test_another_version_of_the_code_is_refused(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        ser(*train(tones, "--output", "run"))
    monkeypatch.setattr("ser_cli.training.cross_validation.__version__", "99.0")
    refused = ser(*train(tones, "--output", "run"))
    assert refused.exit_code == 1
    assert "was left at epoch 1, step 3, by a process that differs from this one" in refused.stderr
    assert re.search(r"  ser: \S+ then, 99\.0 now\n", refused.stderr)
    assert ser(*train(tones, "--output", "run", "--resume-anyway")).exit_code == 0
    assert any("99.0 now" in change for change in json.loads(Path("run/fold-1/done.json").read_text())["changes"])


def damaged_ways(checkpoint: Path) -> dict[str, object]:
    state, facts = checkpoint / "state.safetensors", checkpoint / "state.json"

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    return {
        "truncated": lambda: state.write_bytes(state.read_bytes()[:-100]),
        "a bit flipped": lambda: flip(state),
        "a bit of the facts flipped": lambda: flip(facts),
        "half deleted": state.unlink,
        "facts deleted": facts.unlink,
        "empty": lambda: facts.write_bytes(b""),
        "nested": lambda: facts.write_text("[" * 100_000),
    }


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(ser, tones, whole, monkeypatch):
    command = train(tones, "--fold", 1, "--checkpoint-every", "2steps")
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        ser(*command, "--output", "stopped")
    ends = {name: value for name, value in whole.items() if name.startswith("fold-1")}
    for number, way in enumerate(damaged_ways(Path())):
        shutil.copytree("stopped", f"run-{number}")
        one, other = sorted(Path(f"run-{number}/fold-1/checkpoints").glob("step-*"))
        assert (one.name, other.name) == ("step-000006", "step-000008")
        damaged_ways(other)[way]()
        result = ser(*command, "--output", f"run-{number}")
        assert result.exit_code == 0, (way, result.stderr)
        assert "step-000008 is damaged (" in result.stderr, way
        assert "goes on from its checkpoint: epoch 2, after step 1" in result.stderr
        found = results(f"run-{number}")
        assert {name: found[name] for name in ends} == ends, way


def test_without_a_whole_checkpoint_the_fold_starts_again(ser, tones, whole, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        ser(*train(tones, "--output", "run", "--checkpoint-every", "2steps"))
    for path in Path("run/fold-1/checkpoints").glob("step-*/state.safetensors"):
        path.write_bytes(b"\x80\x04 a pickle in the place of weights")
    result = ser(*train(tones, "--output", "run"))
    assert result.stderr.count("is damaged (state.safetensors is truncated or was changed)") == 2
    assert "goes on" not in result.stderr
    assert results("run") == whole


def test_only_the_last_two_checkpoints_are_kept_and_no_weights_that_none_needs(ser, tones, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        ser(*train(tones, "--fold", 1, "--epochs", 9, "--output", "run", "--checkpoint-every", "1steps"))
    kept = sorted(path.name for path in Path("run/fold-1/checkpoints").iterdir())
    assert sum(name.startswith("step-") for name in kept) == 2
    assert 1 <= sum(name.startswith("chosen-") for name in kept) <= 2
    assert not [name for name in kept if name.startswith(".")]
    assert not [path for path in Path("run").rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".ckpt")]


@pytest.mark.parametrize(("text", "wanted"), [("2steps", 2), ("1h", 0), ("0.001s", 5)])
def test_checkpoints_are_as_often_as_asked(ser, tones, monkeypatch, text, wanted):
    from ser_cli.training.resumption import CheckpointFolder

    saved = []
    save = CheckpointFolder.save
    monkeypatch.setattr(CheckpointFolder, "save", lambda self, checkpoint: (saved.append(1), save(self, checkpoint)))
    result = ser(*train(tones, "--fold", 1, "--epochs", 1, "--output", "run", "--checkpoint-every", text))
    assert result.exit_code == 0
    assert json.loads(Path("run/fold-1/done.json").read_text())["clips"]["train"] == 18  # 5 steps
    assert len(saved) == wanted


@pytest.mark.parametrize("text", ["", "10", "often", "0steps", "1.5steps", "-3m", "10 minutes"])
def test_an_unknown_interval_is_a_usage_error(ser, tones, text):
    result = ser(*train(tones, "--checkpoint-every", text))
    assert result.exit_code == 2
    assert f"--checkpoint-every {text}: expected auto, or a number above 0 with its unit" in result.stderr


def test_patience_ends_a_fold_and_is_kept_over_a_stop(ser, tones, monkeypatch):
    options = ["--fold", 1, "--epochs", 30, "--set", "selection.patience=2"]
    assert ser(*train(tones, *options, "--output", "whole")).exit_code == 0
    rows = read_csv(Path("whole/fold-1/history.csv"))
    rates = [(float(row["selection_ua"]), float(row["selection_wa"])) for row in rows]
    assert len(rows) == rates.index(max(rates)) + 1 + 2 < 30
    with monkeypatch.context() as patch:
        stop_after(patch, 6 * len(rows) - 8)
        assert ser(*train(tones, *options, "--output", "run")).exit_code == 143
    assert ser(*train(tones, *options, "--output", "run")).exit_code == 0
    assert results("run") == results("whole")


LIVE = """
import sys, time
from pathlib import Path
from ser_cli.runs.locks import hold
with hold(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Starts a process that holds a fold."""
    started = []

    def start(path: Path) -> subprocess.Popen:
        path.parent.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", LIVE, path], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_and_told_who_holds_the_fold(ser, tones, holder):
    command = train(tones, "--fold", 1, "--output", "run")
    process = holder(Path("run/.fold-1.lock"))
    refused = ser(*command)
    assert refused.exit_code == 1
    assert f"fold 1 is held by process {process.pid} on {socket.gethostname()}, since 20" in refused.stderr
    assert not Path("run/fold-1").exists()
    # The other fold is free, and the same command takes it.
    beside = ser(*train(tones, "--output", "run"))
    assert beside.exit_code == 0
    assert "and is left to it" in beside.stderr
    assert Path("run/fold-2/done.json").exists()
    assert not Path("run/fold-1").exists()


def test_a_lock_of_a_dead_process_is_taken_over_with_a_word(ser, tones, holder):
    process = holder(Path("run/.fold-1.lock"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = ser(*train(tones, "--fold", 1, "--output", "run"))
    assert result.exit_code == 0
    assert f"fold 1/2 was held by process {process.pid} on {socket.gethostname()}" in result.stderr
    assert "which is gone; it is taken over" in result.stderr
    assert not list(Path("run").glob(".fold-*.holder"))


@pytest.mark.parametrize(("age_s", "code"), [(5, 1), (600, 0)])
def test_a_holder_on_another_machine_counts_by_its_signs_of_life(ser, tones, age_s, code):
    told = Path("run/.fold-1.lock.holder")
    told.parent.mkdir()
    told.write_text(json.dumps({"process": 4242, "host": "elsewhere", "since": "2026-01-01 00:00:00"}))
    os.utime(told, (time.time() - age_s,) * 2)
    result = ser(*train(tones, "--fold", 1, "--output", "run"))
    assert result.exit_code == code
    assert "process 4242 on elsewhere" in result.stderr


def test_a_run_that_somebody_trains_is_not_deleted_by_force(ser, tones, holder):
    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 0
    holder(Path("run/.fold-2.lock"))
    refused = ser(*train(tones, "--seed", 9, "--output", "run", "--force"))
    assert refused.exit_code == 1
    assert "stop it before this run is deleted or changed" in refused.stderr
    assert Path("run/fold-1/done.json").exists()


def test_another_recipe_is_not_forced_onto_a_run_that_somebody_trains(ser, tones, holder):
    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 0
    process = holder(Path("run/.fold-2.lock"))
    refused = ser(*train(tones, "--epochs", 5, "--output", "run", "--resume-anyway"))
    assert refused.exit_code == 1
    assert f"fold 2 is held by process {process.pid}" in refused.stderr
    assert not Path("run/changes.json").exists()


def test_force_that_was_killed_while_it_deleted_can_be_repeated(ser, tones):
    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 0
    Path("run/run.json").unlink()
    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 1
    assert ser(*train(tones, "--fold", 1, "--output", "run", "--force")).exit_code == 0
    Path("run/run.json").unlink()
    Path("run/my notes.txt").write_text("not of a run")
    refused = ser(*train(tones, "--fold", 1, "--output", "run", "--force"))
    assert refused.exit_code == 1
    assert "run exists and holds no run" in refused.stderr


def test_nothing_is_left_in_a_folder_that_holds_no_run(ser, tones):
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    assert ser(*train(tones, "--output", "mine")).exit_code == 1
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_what_a_killed_process_was_writing_is_deleted(ser, tones):
    assert ser(*train(tones, "--fold", 2, "--output", "run")).exit_code == 0
    Path("run/fold-1").mkdir()
    Path("run/fold-1/.model.safetensors.abc").write_bytes(b"half")
    assert ser(*train(tones, "--fold", 1, "--output", "run")).exit_code == 0
    assert not [path for path in Path("run/fold-1").iterdir() if path.name.startswith(".")]


def test_force_and_resume_contradict_each_other(ser, tones):
    result = ser(*train(tones, "--resume", "--force"))
    assert result.exit_code == 2
    assert "--force deletes the run that --resume would go on with" in result.stderr


def test_a_disk_without_room_is_found_before_training(ser, tones, monkeypatch):
    ser("prepare", "--manifest", tones)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    result = ser(*train(tones, "--output", "run"))
    assert result.exit_code == 1
    assert re.search(
        r"training needs \d+ MB more for checkpoints and the model, and its disk has 1 MB free", result.stderr
    )
    assert not list(Path("run/fold-1").rglob("*.safetensors"))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits on the size of files")
def test_a_limit_on_the_size_of_files_is_found_before_training(tones):
    command = f"ulimit -f 20; exec {sys.executable} -m ser_cli " + shlex.join(map(str, train(tones, "--output", "run")))
    prepared = subprocess.run([sys.executable, "-m", "ser_cli", "prepare", "--manifest", tones], capture_output=True)
    assert prepared.returncode == 0
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "this process may write files of at most 0.020 MB" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_intact(ser, tones, whole, monkeypatch):
    import safetensors.torch

    saved = 0
    save_file = safetensors.torch.save_file

    def fill_up(tensors, path):
        nonlocal saved
        saved += 1
        if saved == 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", fill_up)
        full = ser(*train(tones, "--output", "run", "--checkpoint-every", "2steps"))
    assert full.exit_code == 1
    assert "No space left on device" in full.stderr
    assert "the one before it is whole; free space" in full.stderr
    assert [path.name for path in Path("run/fold-1/checkpoints").iterdir()].count("step-000002") == 1
    assert not list(Path("run/fold-1/checkpoints").glob(".*"))
    assert ser(*train(tones, "--output", "run")).exit_code == 0
    assert results("run") == whole


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where root cannot write either")
def test_a_folder_that_cannot_be_written_to_is_found_before_training(ser, tones):
    result = ser(*train(tones, "--output", "/proc/run"))
    assert result.exit_code == 1
    assert "/proc/run: cannot be written to (No such file or directory)\n  choose another folder" in result.stderr


@pytest.mark.slow
def test_a_run_that_is_killed_25_times_ends_with_the_same_bits(tmp_path, home):
    """Real processes and SIGKILL, at random moments and at those where something is being written."""
    manifest = write_tone_corpus(tmp_path / "tones", speakers=6, takes=4)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "ser_cli",
        *map(str, train(manifest, "--epochs", 100, "--checkpoint-every", "2steps")),
    ]
    subprocess.run([*command, "--output", "whole"], check=True, capture_output=True, env=environment)

    moments = {
        "writing a checkpoint": lambda: list(Path("run").glob("fold-*/checkpoints/.*")),
        "between folds": lambda: Path("run/fold-1/done.json").exists() and not Path("run/fold-2/history.csv").exists(),
        "writing a tested fold": lambda: any(
            (fold / "model.safetensors").exists() and not (fold / "done.json").exists()
            for fold in Path("run").glob("fold-*")
        ),
        "writing scores": lambda: Path("run/fold-2/done.json").exists() and not Path("run/report.md").exists(),
    }
    seen: dict[str, int] = dict.fromkeys([*moments, "inside an epoch"], 0)
    draw = random.Random(7)
    kills = 0
    while kills < 22 or not all(seen.values()):
        running = subprocess.Popen(
            [*command, "--output", "run", "--resume"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
        )
        os.set_blocking(running.stderr.fileno(), False)
        told = b""
        # First at random, every third while a checkpoint is written; then at the moments that come once in a run.
        awaited = "writing a checkpoint" if kills % 3 == 2 else None
        if kills >= 22:
            awaited = next(name for name in seen if not seen[name])
        deadline = None
        while running.poll() is None:
            told += running.stderr.read() or b""
            is_learning = b"loss weights" in told
            if awaited and moments[awaited]() and (is_learning or kills >= 22):
                break
            if deadline is None and is_learning:
                deadline = time.monotonic() + draw.uniform(0.0, 0.4)
            if deadline is not None and time.monotonic() > deadline and not awaited:
                break
            time.sleep(0.0005)
        if running.poll() is not None:
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        kills += 1
        assert b"Traceback" not in told, told.decode()
        hit = [name for name, is_now in moments.items() if is_now()]
        for name in hit or ["inside an epoch"]:
            seen[name] += 1
    final = subprocess.run([*command, "--output", "run", "--resume"], capture_output=True, text=True, env=environment)
    assert final.returncode == 0, final.stderr
    assert results("run") == results("whole")
    print(f"{kills} kills: {seen}")
    assert kills >= 25, f"only {kills} kills before the run was done: {seen}"
    assert all(seen.values()), seen
