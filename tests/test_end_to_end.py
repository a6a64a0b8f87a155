"""The main job through the real command line, on tones and on the demo corpus."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from ser_cli.checkpoints import load_model
from ser_cli.data.store import open_corpus
from ser_cli.inference import predict_stored
from tests.conftest import TINY, training_process
from tests.running import read_csv


@pytest.fixture
def trained(ser, tones):
    """A run of two folds on tones."""
    result = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    assert result.exit_code == 0, result.stderr
    return result


def test_train_prints_the_run_folder_alone_on_stdout(trained):
    assert trained.stdout == "run\n"


def test_one_plain_line_per_epoch_off_a_terminal(trained):
    lines = [line for line in trained.stderr.splitlines() if " epoch " in line and "loss" in line]
    assert [line.split("  ")[0] for line in lines] == [
        f"fold {fold}/2 epoch {epoch}/2" for fold in (1, 2) for epoch in (1, 2)
    ]
    for line in lines:
        assert all(f"  {name} " in line for name in ("kl", "focal", "center", "supcon"))
        assert "clips/s" in line
        assert line.endswith(" left")
    assert "\r" not in trained.stderr


def test_a_run_directory_holds_everything(trained):
    run = Path("run")
    names = {str(path.relative_to(run)) for path in run.rglob("[!.]*") if path.is_file()}
    expected = {"run.json", "recipe.toml", "environment.json", "protocol.json", "folds.csv", "scores.json", "report.md"}
    for fold in (1, 2):
        expected |= {
            f"fold-{fold}/{name}"
            for name in (
                *("history.csv", "model.safetensors", "model.json", "predictions.csv"),
                *("environment.json", "done.json"),
            )
        }
    assert names == expected
    environment = json.loads((run / "environment.json").read_text())
    assert torch.__version__.startswith(environment["packages"]["torch"].split("+")[0])
    assert environment["device"] == "cpu"


def test_history_has_each_loss_apart(trained):
    rows = read_csv(Path("run/fold-1/history.csv"))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    weights = json.loads(Path("run/fold-1/done.json").read_text())["loss_weights"]
    for row in rows:
        total = sum(weights[name] * float(row[name]) for name in ("kl", "focal", "center", "supcon"))
        assert float(row["total"]) == pytest.approx(total, rel=1e-4)


def test_predictions_cover_each_clip_once_with_probabilities(trained):
    rows = [row for fold in (1, 2) for row in read_csv(Path(f"run/fold-{fold}/predictions.csv"))]
    assert len({row["id"] for row in rows}) == len(rows) == 54
    assert list(rows[0])[:4] == ["id", "fold", "truth", "predicted"]
    labels = ["angry", "happy", "sad"]
    for row in rows:
        probabilities = [float(row[f"probability_{label}"]) for label in labels]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == labels[int(np.argmax(probabilities))]
        assert row["truth"] == row["id"].split("/")[1].split("-")[0]


def test_folds_on_disk_share_no_speaker(trained):
    rows = read_csv(Path("run/folds.csv"))
    for fold in ("1", "2"):
        sides = {
            side: {r["speaker"] for r in rows if (r["fold"], r["side"]) == (fold, side)}
            for side in ("train", "validation", "test")
        }
        assert all(sides.values())
        assert sum(len(side) for side in sides.values()) == 6
        assert len(set.union(*sides.values())) == 6
        tested = {r["id"] for r in read_csv(Path(f"run/fold-{fold}/predictions.csv"))}
        assert tested == {r["id"] for r in rows if (r["fold"], r["side"]) == (fold, "test")}


def test_scores_equal_those_of_scikit_learn(ser, trained):
    values = json.loads(ser("evaluate", "run", "--json").stdout)
    labels = ["angry", "happy", "sad"]
    assert values["labels"] == labels
    folds = {}
    for fold in (1, 2):
        rows = read_csv(Path(f"run/fold-{fold}/predictions.csv"))
        folds[fold] = [row["truth"] for row in rows], [row["predicted"] for row in rows]

    def figures(truth, predicted):
        return [
            accuracy_score(truth, predicted),
            recall_score(truth, predicted, labels=labels, average="macro"),
            f1_score(truth, predicted, labels=labels, average="macro"),
        ]

    each = [figures(*folds[fold]) for fold in (1, 2)]
    for told, expected in zip(values["folds"], each, strict=True):
        assert [told["wa"], told["ua"], told["macro_f1"]] == pytest.approx(expected)
    assert [told["n"] for told in values["folds"]] == [27, 27]
    rates = ("wa", "ua", "macro_f1")
    assert [values["mean"][r] for r in rates] == pytest.approx(np.mean(each, axis=0))
    assert [values["std"][r] for r in rates] == pytest.approx(np.std(each, axis=0, ddof=1))
    truth, predicted = (folds[1][k] + folds[2][k] for k in (0, 1))
    assert [values["pooled"][r] for r in rates] == pytest.approx(figures(truth, predicted))
    assert values["confusion"] == confusion_matrix(truth, predicted, labels=labels).tolist()
    assert values == json.loads(Path("run/scores.json").read_text())


def test_evaluate_prints_tab_separated_rows(ser, trained):
    result = ser("evaluate", "run")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["fold", "1", "2", "mean", "std", "pooled"]
    assert {len(row) for row in rows} == {5}
    assert "chosen on speakers held out of its training side" in result.stderr


def test_the_same_command_again_trains_nothing(ser, tones, trained):
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*.safetensors")}
    result = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    assert result.exit_code == 0
    assert result.stdout == "run\n"
    assert "done already: fold 1, 2" in result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*.safetensors")}


def test_a_saved_model_repeats_its_predictions(trained, home):
    trained_model = load_model(Path("run/fold-2"))
    rows = read_csv(Path("run/fold-2/predictions.csv"))
    corpus = open_corpus(home / "corpora" / "tones")
    again = predict_stored(trained_model.model, corpus, [row["id"] for row in rows], 2, 5)
    for row, prediction in zip(rows, again, strict=True):
        assert prediction.predicted == row["predicted"]
        stored = [float(row[f"probability_{label}"]) for label in trained_model.labels]
        np.testing.assert_allclose(prediction.probabilities, stored, atol=1e-5)


def test_two_runs_with_one_seed_are_identical(ser, tones, trained):
    ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "again")
    for fold in (1, 2):
        one, other = (safetensors.torch.load_file(f"{run}/fold-{fold}/model.safetensors") for run in ("run", "again"))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert (
            Path(f"run/fold-{fold}/predictions.csv").read_text()
            == Path(f"again/fold-{fold}/predictions.csv").read_text()
        )


def test_what_a_stopped_process_left_out_is_written_by_the_next(ser, tones, trained):
    Path("run/folds.csv").unlink()
    Path("run/environment.json").unlink()
    ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    assert Path("run/folds.csv").exists()
    assert Path("run/environment.json").exists()


def test_another_seed_gives_other_weights(ser, tones, trained):
    ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--seed", 1, "--output", "other")
    one, other = (safetensors.torch.load_file(f"{run}/fold-1/model.safetensors") for run in ("run", "other"))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_folds_in_two_processes_end_as_one_run(ser, tones, trained, home):
    command = training_process(tones, "jobs")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: the order of sums decides the last digits
    jobs = [
        subprocess.Popen([*command, "--fold", str(fold)], stderr=subprocess.PIPE, text=True, env=one_thread)
        for fold in (1, 2)
    ]
    told = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert Path("jobs/scores.json").read_text() == Path("run/scores.json").read_text()


def test_a_fold_alone_is_told_to_be_a_part(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 3, "--fold", 2, *TINY, "--output", "part")
    assert result.exit_code == 0
    assert "not done yet: fold 1, 3" in result.stderr
    assert not Path("part/scores.json").exists()
    values = json.loads(ser("evaluate", "part", "--json").stdout)
    assert not Path("part/scores.json").exists()
    assert values["missing_folds"] == [1, 3]
    assert values["std"] is None


def test_tones_are_told_apart_by_the_built_in_encoder(ser, tones):
    ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--epochs", 25, "--output", "run",
        "--set", "optimizer.learning_rate=1e-2", "--set", "training.weight_average=0.5")  # fmt: skip
    values = json.loads(ser("evaluate", "run", "--json").stdout)
    assert values["folds"][0]["ua"] > 0.9


def test_the_papers_recipe_trains_a_local_wavlm_with_measured_loss_weights(ser, tones, wavlm):
    result = ser("train", "--manifest", tones, "--folds", 2, "--encoder", wavlm, "--epochs", 2, "--output", "run")
    assert result.exit_code == 0, result.stderr
    assert "recipe mll" in result.stderr
    assert "loss weights, measured on the first batches" in result.stderr
    assert "Loading weights" not in result.stderr
    facts = json.loads(Path("run/fold-1/done.json").read_text())
    assert facts["loss_weighting"] == "auto"
    first = read_csv(Path("run/fold-1/history.csv"))[0]
    for name, weight in facts["loss_weights"].items():
        assert 0 < weight <= 1
        assert 0 <= weight * float(first[name]) <= 1.2
    (wavlm / "model.safetensors").unlink()  # the saved model must not need it
    assert load_model(Path("run/fold-1")).labels == ("angry", "happy", "sad")


def test_half_precision_trains_and_keeps_its_weights_whole(tones):
    # A process of its own: accelerate keeps one precision per process.
    command = [sys.executable, "-m", "ser_cli", "train", "--manifest", tones, "--folds", "2", "--fold", "1", *TINY]
    command += ["--set", "training.precision=bfloat16", "--output", "run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    weights = safetensors.torch.load_file("run/fold-1/model.safetensors")
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values() if w.is_floating_point())


def test_selecting_on_test_is_said_in_every_report(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--select", "test", "--output", "run")
    assert "warning: each fold's epoch will be chosen on its test side" in result.stderr
    assert "ON ITS TEST SIDE" in Path("run/report.md").read_text()
    evaluated = ser("evaluate", "run", "--json")
    assert json.loads(evaluated.stdout)["selected_by"] == "test"
    assert "ON ITS TEST SIDE" in evaluated.stderr


def test_the_last_epoch_may_be_taken_with_nothing_held_out(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--select", "last", "--output", "run")
    assert result.exit_code == 0
    assert "validation" not in result.stderr.split("fold 1/2:")[1].splitlines()[0]
    facts = json.loads(Path("run/fold-1/done.json").read_text())
    assert (facts["epoch"], facts["clips"]["validation"], facts["clips"]["train"]) == (2, 0, 27)


def test_dry_run_prints_the_folds_and_a_recipe_that_reads_back(ser, tones):
    ser("prepare", "--manifest", tones)
    result = ser("train", "--manifest", tones, "--folds", 3, *TINY, "--dry-run")
    assert result.exit_code == 0
    assert sum(line.startswith("# fold ") for line in result.stdout.splitlines()) == 3
    Path("recipe.toml").write_text(result.stdout)
    again = ser("train", "--manifest", tones, "--folds", 3, "--recipe", "recipe.toml", "--dry-run", "--device", "cpu")
    assert again.stdout.splitlines()[-20:] == result.stdout.splitlines()[-20:]
    assert not Path("runs").exists()


def test_a_run_is_named_by_what_decides_its_result(ser, tones):
    ser("prepare", "--manifest", tones)
    shown = [
        ser("train", "--manifest", tones, "--folds", 2, *TINY, *more, "--dry-run").stdout.splitlines()[0]
        for more in ([], [], ["--seed", 3], ["--folds", 3])
    ]
    assert shown[0].startswith("# run folder: runs/tones-conformer-")
    assert shown[0] == shown[1]
    assert len(set(shown)) == 3


def test_the_demo_corpus_counts_are_balanced(ser, home):
    ser("prepare", "--dataset", "demo", "-q")
    corpus = open_corpus(home / "corpora" / "demo")
    assert set(Counter((u.speaker, u.emotion) for u in corpus.utterances).values()) == {8}


@pytest.mark.slow
def test_demo_end_to_end_reaches_ua_080(home):
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "ser_cli"]
    trained = subprocess.run([*command, "train", "--dataset", "demo"], capture_output=True, text=True, env=environment)
    assert trained.returncode == 0, trained.stderr
    evaluated = subprocess.run(
        [*command, "evaluate", trained.stdout.strip(), "--json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert json.loads(evaluated.stdout)["mean"]["ua"] > 0.8
