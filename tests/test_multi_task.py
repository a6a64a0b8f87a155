"""The multi-task paper's recipe through the real command line: tones with gender and text."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ser_cli.ablation.grids import load_grid
from ser_cli.checkpoints import load_model
from ser_cli.data.manifest import Utterance
from ser_cli.data.store import open_corpus
from ser_cli.inference import predict_tasks
from ser_cli.recipe import load_recipe
from ser_cli.tasks.outputs import TASKS, TaskOutputs
from tests.conftest import TINY
from tests.running import read_csv, results, run_process, stop_after, torchrun

SWITCHES = ("gender", "speaker", "characters")
BRANCHES = ("--set", "head.name=branches", "--set", "tasks.hidden_dim=8", "--set", "tasks.lstm_dim=8")
ALL_TASKS = tuple(option for task in SWITCHES for option in ("--set", f"tasks.{task}=true"))
BUILT_IN = (
    *TINY,
    "--select",
    "last",
    *BRANCHES,
    *ALL_TASKS,
    "--set",
    "conformer.crop_s=20",
    "--set",
    "tasks.fusion=co_attention",
)


def mtl(manifest: Path, encoder: Path, *options: object) -> list[object]:
    return [
        *("train", "--manifest", manifest, "--recipe", "mtl", "--encoder", encoder, "--folds", 2, "--fold", 1),
        *("--epochs", 2, "--batch-size", 6, "--device", "cpu", "--select", "last", *options),
    ]


def edit(manifest: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    """Overwrite what a function of a row gives."""
    rows = read_csv(manifest)
    with manifest.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, **change(row)} for row in rows)
    return manifest


def test_the_recipe_is_the_papers():
    recipe = load_recipe("mtl")
    assert recipe.tasks.wanted == SWITCHES
    assert (recipe.encoder.name, recipe.encoder.fusion) == ("microsoft/wavlm-large", "weighted_sum")
    assert (recipe.pooling.name, recipe.tasks.fusion) == ("attentive_statistics", "co_attention")
    assert {name: weight for name, weight in recipe.losses.weights.items() if weight} == {
        "cross_entropy": 1.0,
        "swfc": 0.1,
    }
    settings = recipe.optimizer, recipe.training
    assert (settings[0].learning_rate, settings[1].batch_size, settings[1].epochs) == (1e-5, 16, 60)
    assert recipe.mixup.method == "none"


def test_the_recipe_trains_evaluates_and_loads_without_the_encoder(ser, few, wavlm):
    trained = ser(*mtl(few, wavlm, "--output", "run"))
    assert trained.exit_code == 0, trained.stderr
    assert "cross_entropy 0.7, swfc 0.1, gender 0.1, speaker 0.1, characters 0.1" in trained.stderr
    line = next(line for line in trained.stderr.splitlines() if " epoch 1/2" in line)
    assert all(f"  {name} " in line for name in ("cross_entropy", "swfc", *SWITCHES))
    row = read_csv(Path("run/fold-1/history.csv"))[0]
    weights = {"cross_entropy": 0.7, "swfc": 0.1, **dict.fromkeys(SWITCHES, 0.1)}
    assert float(row["total"]) == pytest.approx(sum(w * float(row[name]) for name, w in weights.items()), abs=1e-5)
    assert all(float(row[name]) > 0 for name in weights)
    said = read_csv(Path("run/fold-1/tasks.csv"))
    tested = [row["id"] for row in read_csv(Path("run/fold-1/predictions.csv"))]
    assert [row["id"] for row in said] == tested
    evaluated = ser("evaluate", "run", "--json", "--no-figures", "--output", "report")
    assert evaluated.exit_code == 0, evaluated.stderr
    found = json.loads(evaluated.stdout)
    right = np.mean([row["gender"] == row["predicted_gender"] for row in said])
    assert found["tasks"]["pooled"]["gender_accuracy"] == pytest.approx(right)
    assert found["tasks"]["pooled"]["words"] == 2 * len(said)  # take 0
    assert found["tasks"]["micro_f1"] == found["pooled"]["wa"]
    assert found["tasks"]["learnt"] == list(SWITCHES)
    assert "tasks beside emotion: emotion micro F1" in evaluated.stderr
    report = Path("report/report.md").read_text()
    assert "Tasks beside emotion" in report
    assert "Micro F1 is WA" in report
    shutil.rmtree(wavlm)
    loaded = load_model(Path("run/fold-1"))
    assert loaded.model.head.outputs.learnt == SWITCHES
    assert loaded.model.head.outputs.characters == (" ", "0", "a", "e", "k", "t")
    clip = next((few.parent / "p1").iterdir())
    predicted = ser("predict", "--model", "run/fold-1", clip)
    assert predicted.exit_code == 0, predicted.stderr
    assert predicted.stdout.split("\t")[1].strip() in {"angry", "happy", "sad"}


def test_models_say_what_is_in_the_table(ser, few, wavlm, home):
    ser(*mtl(few, wavlm, "--output", "run", "--batch-size", 3))
    loaded = load_model(Path("run/fold-1"))
    outputs = loaded.model.head.outputs
    corpus = open_corpus(next(iter((home / "corpora").iterdir())))
    for row in read_csv(Path("run/fold-1/tasks.csv")):
        waveform = torch.tensor(np.array(corpus.waveform(row["id"])))[None]
        with torch.no_grad():
            output = loaded.model(waveform, torch.tensor([waveform.shape[1]]))
        assert row["predicted_gender"] == ("female", "male")[int(output.tasks["gender"].argmax())]
        best, said = output.tasks["characters"][0].argmax(dim=-1).tolist(), []
        for before, now in zip([0, *best], best, strict=False):
            said += [outputs.characters[now - 1]] if now not in (0, before) else []
        assert row["predicted_text"] == " ".join("".join(said).split())


def test_the_tasks_are_scored_on_another_corpus_too(ser, few, wavlm):
    ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1))
    elsewhere = ser("evaluate", "run", "--manifest", few, "--json", "--output", "there", "--no-figures")
    assert elsewhere.exit_code == 0, elsewhere.stderr
    (found,) = json.loads(elsewhere.stdout)["tasks"]
    assert (found["fold"], found["gender_clips"], found["words"]) == (1, 12, 24)
    assert 0 <= found["gender_accuracy"] <= 1
    assert "fold 1, tasks beside emotion: gender accuracy" in elsewhere.stderr
    assert "Tasks beside emotion" in Path("there/report.md").read_text()


def test_what_the_corpus_lacks_is_left_out_with_a_word(ser, few, wavlm):
    result = ser(*mtl(edit(few, lambda row: {"gender": "", "text": "..."}), wavlm, "--output", "run"))
    assert result.exit_code == 0, result.stderr
    assert "task gender is left out: the training clips are not of both genders" in result.stderr
    assert "task characters is left out: no training clip has a text" in result.stderr
    assert "cross_entropy 0.9, swfc 0.1, speaker 0.1" in result.stderr
    facts = json.loads(Path("run/fold-1/done.json").read_text())["tasks"]
    assert set(facts["learnt"]) == {"speaker"}
    assert set(facts["left_out"]) == {"gender", "characters"}
    evaluated = ser("evaluate", "run", "--json", "--no-figures")
    found = json.loads(evaluated.stdout)["tasks"]
    assert (found["pooled"]["gender_accuracy"], found["pooled"]["word_error_rate"]) == (None, None)
    assert "left out: fold 1: task gender: the training clips are not of both genders" in evaluated.stderr


def test_with_no_labels_at_all_emotion_is_learnt_alone(ser, few, wavlm):
    bare = edit(few, lambda row: {"gender": "", "text": ""})
    result = ser(*mtl(bare, wavlm, "--output", "run", "--epochs", 1, "--set", "tasks.speaker=false"))
    assert result.exit_code == 0, result.stderr
    assert "loss weights, from the recipe: cross_entropy 1, swfc 0.1\n" in result.stderr
    assert not Path("run/fold-1/tasks.csv").exists()
    found = json.loads(ser("evaluate", "run", "--json", "--no-figures").stdout)["tasks"]
    assert (found["learnt"], found["pooled"]["words"], found["pooled"]["gender_accuracy"]) == ([], 0, None)


def test_the_built_in_encoder_learns_the_tasks_too(ser, tones):
    def audible(row: dict[str, str]) -> dict[str, str]:
        gender = "female" if row["emotion"] == "angry" else "male"
        return {"gender": gender, "text": row["emotion"]}

    options = ("--epochs", 20, "--set", "tasks.alpha=0.3", "--set", "mixup.method=none")
    options += ("--set", "conformer.max_frequency_warp=0", "--set", "training.weight_average=0")
    options += ("--set", "optimizer.schedule=exponential", "--set", "optimizer.learning_rate=1e-2")
    command = ["train", "--manifest", edit(tones, audible), "--folds", 2, "--fold", 1, *BUILT_IN, *options]
    trained = ser(*command, "--output", "run")
    assert trained.exit_code == 0
    assert "training clips are given other voices, of which these labels say less" in trained.stderr
    assert "(conformer.mixstyle_share = 0.5); set to 0, they are heard as they are" in trained.stderr
    still = ser(*command, "--set", "conformer.mixstyle_share=0", "--epochs", 1, "--output", "still")
    assert "other voices" not in still.stderr
    rows = read_csv(Path("run/fold-1/history.csv"))
    assert float(rows[-1]["characters"]) < 0.9 * float(rows[0]["characters"])
    found = json.loads(ser("evaluate", "run", "--json", "--no-figures").stdout)["tasks"]["pooled"]
    assert found["gender_accuracy"] > 0.9  # two thirds are male


class Listening(torch.nn.Module):
    """Says of a stretch what its samples are: the mean is the log-odds of male, and each sample is a frame."""

    encoder = torch.nn.Identity()
    speakers = None

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, waveforms, lengths, texts=(), offsets=None):
        mask = torch.arange(waveforms.shape[1]) < lengths.unsqueeze(1)
        mean = (waveforms * mask).sum(dim=1) / lengths
        characters = torch.nn.functional.one_hot((waveforms * 10).round().long(), 4)
        tasks = {"gender": torch.stack([0 * mean, mean], dim=1), "characters": characters}
        return SimpleNamespace(tasks=tasks, frame_mask=mask)


def test_long_clips_are_heard_in_windows():
    clips = {"long": [0.1, 0.1, 0.0, 0.2, 0.3, 0.2, 0.2, 0.1], "short": [0.2, 0.0, 0.2]}
    corpus = SimpleNamespace(
        length=lambda identity: len(clips[identity]),
        waveform=lambda identity: np.array(clips[identity], dtype=np.float32),
        stretch=lambda identity, start, n: np.array(clips[identity][start : start + n], dtype=np.float32),
        target=lambda identity: np.eye(2, dtype=np.float32)[0],
        by_id={identity: Utterance(identity, "", "sad", "p1", text="b") for identity in clips},
        speaker_numbers={("p1", ""): 0},
    )
    outputs = TaskOutputs(gender=("female", "male"), characters=("a", "b", " "))
    half = {"max_clip_s": 4 / 16_000}
    short, long = predict_tasks(Listening(), corpus, ["short", "long"], outputs, 2, **half)
    assert (short.id, short.predicted_text, short.predicted_gender) == ("short", "bb", "male")
    assert (long.id, long.predicted_text) == ("long", "ab ba")  # "ab" and " ba", the space at the edge counted once
    whole = predict_tasks(Listening(), corpus, ["long"], outputs, 2)[0]
    assert whole.predicted_text == "ab ba"


@pytest.mark.parametrize(
    "options",
    [
        ("encoder.frozen=everything", "encoder.fusion=last"),
        ("pooling.name=flam", "pooling.heads=4", "losses.supcon=1", "losses.center=1", "losses.focal=1"),
        ("pooling.name=first", "losses.contrastive_center=1", "losses.center_reads=classifier_input"),
        ("pooling.name=max", "training.accumulate=2", "mixup.method=lam", "tasks.fusion=none"),
        ("tasks.gender=false", "tasks.speaker=false", "training.retry_smaller=true"),
    ],
    ids=" ".join,
)
def test_tasks_go_with_other_settings(ser, few, wavlm, options):
    settings = [part for option in options for part in ("--set", option)]
    result = ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1, *settings))
    assert result.exit_code == 0, result.stderr
    row = read_csv(Path("run/fold-1/history.csv"))[0]
    learnt = load_model(Path("run/fold-1")).model.head.outputs.learnt
    assert all(float(row[task]) > 0 for task in learnt)
    assert len(learnt) == (1 if "tasks.gender=false" in options else 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["tasks.alpha=0.4"], "alpha 0.4 for each of 3 tasks leaves emotion the weight -0.2; it must be below 1/3"),
        (
            ["mixup.method=eam", "mixup.share=1"],
            "tasks gender, speaker, characters learn from clips that are not mixed",
        ),
        (["head.name=linear"], "tasks gender, speaker, characters need a branch each, and head.name is linear"),
        (["head.hidden_dim=9"], "the width of branches is tasks.hidden_dim"),
        (
            ["encoder.name=conformer", "encoder.fusion=last"],
            "the built-in encoder keeps 3 s of training clips of up to",
        ),
        (["text.encoder=bert", "text.fusion=attention"], "tasks.characters is to hear what is said"),
        ([f"tasks.{task}=false" for task in TASKS], "fusion co_attention fuses the tasks' features"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(ser, few, options, reason):
    settings = [part for option in options for part in ("--set", option)]
    result = ser("train", "--manifest", few, "--recipe", "mtl", *settings)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_a_stopped_training_ends_as_if_it_had_not_been(ser, few, wavlm, monkeypatch):
    command = mtl(few, wavlm, "--set", "losses.weighting=auto", "--checkpoint-every", "1steps")
    assert ser(*command, "--output", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert ser(*command, "--output", "run").exit_code == 143
    resumed = ser(*command, "--output", "run")
    assert "goes on from its checkpoint" in resumed.stderr
    assert results("run") == results("whole")
    assert "fold-1/tasks.csv" in results("run")


@pytest.mark.slow
def test_a_killed_training_ends_as_if_it_had_not_been(tones, wavlm):
    command = [sys.executable, "-m", "ser_cli", *map(str, mtl(tones, wavlm, "--checkpoint-every", "2steps"))]
    command += ["--epochs", "6", "--output"]
    run_process([*command, "whole"])
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as `run` has it: more would change the last digits
    killed = subprocess.Popen([*command, "run"], stderr=subprocess.PIPE, text=True, env=one_thread)
    for line in killed.stderr:
        if "epoch 2/6" in line:
            killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert "goes on from its checkpoint" in run_process([*command, "run"]).stderr
    assert results("run") == results("whole")


def test_damaged_facts_of_tasks_are_named(ser, few, wavlm):
    ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1))
    Path("run/fold-1/tasks.csv").unlink()
    missing = ser("evaluate", "run", "--no-figures")
    assert missing.exit_code == 1
    assert "tasks.csv: cannot be read as predictions of tasks" in missing.stderr
    path = Path("run/fold-1/done.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": []}))
    damaged = ser("evaluate", "run", "--no-figures")
    assert damaged.exit_code == 1
    assert "done.json is damaged (tasks:" in damaged.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["none", "co_attention"])
def test_onnxruntime_gives_the_probabilities_of_a_multi_task_model(ser, few, wavlm, fusion):
    onnxruntime = pytest.importorskip("onnxruntime")
    ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1, "--set", f"tasks.fusion={fusion}"))
    result = ser("predict", "--model", "run/fold-1", "--export", "onnx", "--output", "model.onnx")
    assert result.exit_code == 0, result.stderr
    model = load_model(Path("run/fold-1")).model
    waveforms = 0.1 * torch.randn(3, 9_000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([9_000, 5_000, 7_001])
    for row, length in enumerate(lengths):
        waveforms[row, length:] = 0
    with torch.no_grad():
        expected = model(waveforms, lengths).logits.softmax(dim=-1)
    session = onnxruntime.InferenceSession("model.onnx")
    (found,) = session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.slow
def test_two_processes_learn_the_tasks_that_one_does(tones, still_wavlm):
    options = ("--set", "tasks.dropout=0", "--output")
    command = list(map(str, mtl(tones, still_wavlm, *options)))
    run_process([sys.executable, "-m", "ser_cli", *command, "alone"])
    run_process(torchrun(*command, "shared"))
    one, two = (read_csv(Path(f"{name}/fold-1/history.csv")) for name in ("alone", "shared"))
    for row, other in zip(one, two, strict=True):
        for loss in ("total", "cross_entropy", "swfc", *SWITCHES):
            assert float(other[loss]) == pytest.approx(float(row[loss]), rel=1e-5, abs=2e-6), loss
    one, two = (read_csv(Path(f"{name}/fold-1/tasks.csv")) for name in ("alone", "shared"))
    assert [row["id"] for row in one] == [row["id"] for row in two]


def test_the_grids_have_the_rows_of_the_papers_tables():
    def marks(name: str) -> dict[str, list[str]]:
        grid = load_grid(name)
        return {cell.name: [c.title for c in grid.components if cell.has(c)] for cell in grid.cells}

    assert marks("mtl-components") == {
        "baseline": [],
        "no-tasks": ["SWFC"],
        "no-co-attention": ["tasks", "SWFC"],
        "no-swfc": ["tasks", "co-attention"],
        "all": ["tasks", "co-attention", "SWFC"],
    }
    assert marks("mtl-tasks") == {
        "emotion": [],
        "characters": ["characters"],
        "gender": ["gender"],
        "speaker": ["speaker"],
        "all": ["characters", "gender", "speaker"],
    }
    assert marks("mtl-layers") == {"last": [], "sum": ["sum of layers"]}
    figures = {cell.name: (cell.paper["macro_f1"], cell.paper["wa"]) for cell in load_grid("mtl-layers").cells}
    assert figures == {"last": ("33.82", "36.00"), "sum": ("35.49", "36.75")}
