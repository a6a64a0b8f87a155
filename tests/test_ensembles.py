"""Several models as one: `ser evaluate RUN RUN --ensemble`, and `ser predict` with several `--model`."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from tests.conftest import TINY, write_tone, write_tone_corpus
from tests.runs_on_disk import LABELS, some_rows, write_run

SPEAKERS = (["a", "b"], ["c", "d"])


def drawn_run(folder: str, seed: int, **identity) -> Path:
    """A run whose probabilities are drawn, so that runs of other seeds disagree."""
    run = write_run(Path(folder), [some_rows(s, takes=5) for s in SPEAKERS], seed=seed, **identity)
    rng = np.random.default_rng(seed)
    for path in sorted(run.glob("fold-*/predictions.csv")):
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        for row in rows:
            drawn = rng.dirichlet(np.ones(len(LABELS))) + 0.3 * (np.array(LABELS) == row[2])
            row[3:] = [LABELS[int(drawn.argmax())], *(f"{value:.6f}" for value in drawn / drawn.sum())]
        # The order of the rows is no part of what a run says.
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rng.permutation(rows).tolist()])
    return run


def said_by(run: Path, fold: int) -> dict[str, tuple[str, np.ndarray]]:
    """Truth and probabilities of each clip of a fold, read without any of our code."""
    with (run / f"fold-{fold}/predictions.csv").open(newline="") as file:
        return {r["id"]: (r["truth"], np.array([float(r[f"probability_{label}"]) for label in LABELS]))
                for r in csv.DictReader(file)}  # fmt: skip


def truths_and_means(runs: list[Path], fold: int) -> tuple[list[str], list[str]]:
    """Truths, and the likeliest label of the mean of the probabilities."""
    each = [said_by(run, fold) for run in runs]
    means = {i: np.mean([said[i][1] for said in each], axis=0) for i in each[0]}
    return [each[0][i][0] for i in means], [LABELS[int(mean.argmax())] for mean in means.values()]


def test_the_average_is_scored_as_sklearn_scores_it(ser):
    runs = [drawn_run(f"seed-{seed}", seed) for seed in range(3)]
    result = ser("evaluate", *runs, "--ensemble", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    everything: tuple[list[str], list[str]] = ([], [])
    for told in values["folds"]:
        truth, predicted = truths_and_means(runs, told["fold"])
        assert told["wa"] == pytest.approx(accuracy_score(truth, predicted))
        assert told["ua"] == pytest.approx(recall_score(truth, predicted, average="macro"))
        assert told["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
        everything[0].extend(truth)
        everything[1].extend(predicted)
    assert values["pooled"]["n"] == 60
    assert values["pooled"]["ua"] == pytest.approx(recall_score(*everything, average="macro"))
    assert values["mean"]["ua"] == pytest.approx(np.mean([told["ua"] for told in values["folds"]]))
    assert values["std"]["ua"] == pytest.approx(np.std([told["ua"] for told in values["folds"]], ddof=1))
    alone = [json.loads(ser("evaluate", run, "--json").stdout) for run in runs]
    assert [run["pooled"] for run in values["runs"]] == [one["pooled"] for one in alone]
    assert [run["seed"] for run in values["runs"]] == [0, 1, 2]
    own = np.mean([one["pooled"]["ua"] for one in alone])
    assert values["gain"]["ua"]["value"] == pytest.approx(values["pooled"]["ua"] - own)
    assert values["gain"]["ua"]["low"] <= values["gain"]["ua"]["value"] <= values["gain"]["ua"]["high"]
    assert values["gain"]["ua"]["value"] > 0  # of drawn errors that are independent the average has fewer


def test_what_is_gained_is_of_all_clips_pooled_and_the_table_beside_it_too(ser):
    # Folds of unlike size: the mean over them is not the rate of all clips.
    folds = [["a"], ["b", "c", "d", "e"]]
    runs = [
        write_run(Path("one"), [some_rows(s, wrong=["a-sad-0", "b-sad-0"]) for s in folds]),
        write_run(Path("other"), [some_rows(s, wrong=["c-happy-1"]) for s in folds]),
    ]
    result = ser("evaluate", *runs, "--ensemble", "--json", "--output", "averaged")
    values = json.loads(result.stdout)
    with Path("averaged/tables/runs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    own = [float(row["ua"]) for row in table]
    assert own[:2] == pytest.approx([28 / 30, 29 / 30])
    assert values["gain"]["ua"]["value"] == pytest.approx(own[2] - np.mean(own[:2]))
    assert float(table[0]["mean_ua"]) == pytest.approx((5 / 6 + 23 / 24) / 2)
    assert "UA of all clips pooled: " in result.stderr
    assert values["missing_folds"] == []
    assert [(run["label_set"], run["where"], run["targets"]) for run in values["runs"]] == 2 * [("all", [], "hard")]


def test_table_and_report_tell_the_runs_and_their_average(ser):
    runs = [drawn_run(f"seed-{seed}", seed) for seed in range(2)]
    result = ser("evaluate", *runs, "--ensemble", "--output", "averaged")
    assert result.exit_code == 0, result.stderr
    shown = [line.split("\t") for line in result.stdout.splitlines()]
    assert shown[0] == ["fold", "clips", "WA %", "UA %", "macro F1 %"]
    assert [row[0] for row in shown[1:]] == ["1", "2", "mean", "std", "pooled"]
    report = Path("averaged/report.md").read_text()
    with Path("averaged/tables/runs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["seed-0", "seed-1", "average"]
    assert f"{100 * float(table[2]['ua']):.1f}" == shown[5][3]
    assert f"{100 * float(table[2]['mean_ua']):.1f}" == shown[3][3]
    assert [row["normalized_by"] for row in table] == ["clip", "clip", ""]
    for sentence in ("Average of 2 runs: the mean of the probabilities", "It costs what all of them cost"):
        assert sentence in report
        assert sentence in result.stderr
    assert Path("averaged/report.html").exists()
    assert Path("averaged/figures/confusion-counts.png").exists()
    assert not (runs[0] / "report.html").exists()


def test_seeds_can_be_averaged_where_a_seed_dealt_the_folds(ser, tones):
    train = ("train", "--manifest", tones, "--folds", 2, *TINY, "--epochs", 1, "--output")
    assert ser(*train, "one").exit_code == 0
    assert ser(*train, "other", "--seed", 1).exit_code == 0
    refused = ser("evaluate", "one", "other", "--ensemble")
    option, name = re.findall(r"train again with (--protocol) (\S+), with any --seed", refused.stderr)[0]
    assert ser(*train, "third", option, name, "--seed", 1).exit_code == 0
    result = ser("evaluate", "one", "third", "--ensemble", "--json")
    assert result.exit_code == 0, result.stderr
    assert [run["seed"] for run in json.loads(result.stdout)["runs"]] == [0, 1]


def test_what_an_average_rests_on_is_told(ser):
    first, second = drawn_run("first", 0), drawn_run("second", 1)
    for fold in (1, 2):
        path = second / f"fold-{fold}/done.json"
        told = json.loads(path.read_text()) | {"selected_by": "test", "normalized_by": "speaker"}
        path.write_text(json.dumps(told))
    (first / "changes.json").write_text(json.dumps(["torch: 2.13 there, 2.14 now"]))
    result = ser("evaluate", first, second, "--ensemble", "--output", "averaged")
    report = Path("averaged/report.md").read_text()
    for warning in (
        "second: Each fold's epoch was chosen ON ITS TEST SIDE",
        "first changed while it went on: torch: 2.13 there, 2.14 now.",
        "second: normalised by speaker; so the average too hears tested clips against other unlabelled clips",
        "Only 4 speakers are tested",
    ):
        assert f"warning: {warning}" in result.stderr
        assert warning in report
    assert "pooled; normalised by speaker" not in report  # of the runs, since one of them is not
    assert "over folds; normalised by speaker" in report
    assert "second: Normalised by speaker: from each clip's embedding the mean" in report
    assert "but 4 speakers are too few to tell." in report


def test_what_cannot_be_averaged_is_refused(ser):
    first, second = drawn_run("first", 0), drawn_run("second", 1)
    other = drawn_run("other", 2, protocol="q", protocol_hash="b" * 64)
    shutil.copytree(first, "copy")
    cases = [
        ((first, "--ensemble"), 2, "--ensemble averages runs, and one is given; name another on the same folds"),
        ((first, first, "--ensemble"), 2, "first is named twice: an average over a run and itself is that run"),
        (
            (first, "copy", "--ensemble"),
            2,
            "copy says of every clip what first says, so that it would be counted twice",
        ),
        ((first, second, other, "--ensemble"), 1, "first and other cannot be averaged: their protocols differ"),
        ((first, second, "--ensemble", "--dataset", "demo"), 2, "asks no model about another corpus"),
        ((first, second, other), 2, "3 folders given; give one run, two to compare, or --ensemble"),
        ((first, second, "--ensemble", "--clip", "a-sad-0"), 2, "--clip draws what one run stored"),
    ]
    for arguments, status, sentence in cases:
        result = ser("evaluate", *arguments)
        assert (result.exit_code, result.stdout) == (status, "")
        assert sentence in result.stderr
    (second / "fold-2/done.json").unlink()
    result = ser("evaluate", first, second, "--ensemble")
    assert "first and second cannot be averaged: fold 2 is done in one of them only" in result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Path]:
    """The same training with two seeds, two folds each, and one of fewer emotions."""
    from typer.testing import CliRunner

    from ser_cli.cli import app

    folder = tmp_path_factory.mktemp("trained")
    manifest = write_tone_corpus(folder / "tones")
    runs = [folder / name for name in ("seed-0", "seed-1", "fewer")]
    asked = (["--seed", 0], ["--seed", 1], ["--labels", "angry,sad"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        for run, options in zip(runs, asked, strict=True):
            command = ["train", "--manifest", manifest, "--folds", 2, *TINY, *options, "--output", run]
            result = CliRunner().invoke(app, list(map(str, command)), prog_name="ser")
            assert result.exit_code == 0, result.stderr
    return runs


def test_several_models_label_recordings_with_the_mean_of_their_probabilities(ser, trained):
    for number in range(3):
        write_tone(Path(f"{number}.wav"), 300 + 200 * number, 0.5, seed=number)

    def told(*models: Path) -> np.ndarray:
        options = [part for model in models for part in ("--model", model)]
        result = ser("predict", *options, "0.wav", "1.wav", "2.wav")
        assert (result.exit_code, result.stderr) == (0, "")
        return np.array([line.split("\t")[2:] for line in result.stdout.splitlines()], dtype=float)

    one, other, _ = trained
    assert abs(told(one) - told(other)).max() > 1e-3
    np.testing.assert_allclose(told(one, other), (told(one) + told(other)) / 2, atol=1e-4)
    parts = [told(one / "fold-1"), told(one / "fold-2"), told(other / "fold-2")]
    np.testing.assert_allclose(told(one, other / "fold-2"), np.mean(parts, axis=0), atol=1e-4)


def test_models_that_cannot_be_averaged_are_refused(ser, trained):
    write_tone(Path("a.wav"), 400, 0.5)
    one, other, fewer = trained
    for models, sentence in (
        ((one, one / "fold-2"), f"--model {one / 'fold-2'}: a model of it is that of --model {one}; leave one of them"),
        ((one, fewer), f"--model {fewer}: labels angry, sad; those of {one} are angry, happy, sad"),
    ):
        result = ser("predict", *(part for model in models for part in ("--model", model)), "a.wav")
        assert (result.exit_code, result.stdout) == (2, ""), result.stderr
        assert sentence in result.stderr
    several = ("predict", "--model", one, "--model", other)
    for options, sentence in (
        (("--export", "onnx", "--output", "m.onnx", "--fold", 1), "several are named; give one --model, with --fold"),
        (("--texts", "t.csv", "a.wav"), f"--texts t.csv: the models {one}, {other} hear alone and read no text"),
        (("--speakers", "all", "a.wav"), f"--speakers all: the models {one}, {other} hear each recording on its own"),
    ):
        result = ser(*several, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert sentence in result.stderr


def test_the_order_of_models_is_no_part_of_what_an_output_was_made_with(ser, trained):
    write_tone(Path("a.wav"), 400, 0.5)
    write_tone(Path("b.wav"), 500, 0.5)
    one, other, _ = trained
    assert ser("predict", "--model", one, "--model", other, "--output", "all.tsv", "a.wav").exit_code == 0
    assert ser("predict", "--model", other, "--model", one, "--output", "all.tsv", "a.wav", "b.wav").exit_code == 0
    assert Path("all.tsv").read_text().count("\n") == 2


def test_a_model_that_is_averaged_names_folds_that_are_not_done(ser, trained):
    write_tone(Path("a.wav"), 400, 0.5)
    shutil.copytree(trained[1], "half")
    Path("half/fold-2/done.json").unlink()
    result = ser("predict", "--model", trained[0], "--model", "half", "a.wav")
    assert result.exit_code == 0
    assert "warning: fold 2 of half is not done; predicting with the others" in result.stderr
