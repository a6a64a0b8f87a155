"""Scores taken apart, their intervals, and `ser evaluate RUN` through the command line."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from ser_cli.evaluation.breakdown import Person, break_down
from ser_cli.evaluation.intervals import Resampled, bootstrap_intervals, count_units, percentile_interval, resample
from ser_cli.metrics import calibrate, stacked_rates
from ser_cli.runs.predictions import Prediction
from tests.runs_on_disk import LABELS, some_rows, write_run


def predictions(rows):
    return [Prediction(i, 1, t, p, tuple(0.7 if label == p else 0.15 for label in LABELS)) for i, _, t, p in rows]


def random_rows(clips=300, speakers=6, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (f"c{n}", f"p{n % speakers}", truth := LABELS[rng.integers(3)], truth if rng.random() < 0.6 else LABELS[0])
        for n in range(clips)
    ]


def test_calibration_error_is_guos_formula():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.uniform(0, 1, 500), [1.0, 0.2, 1 / 15]])
    correct = rng.random(len(confidence)) < confidence**2
    # ECE = sum_m |B_m| / n |acc(B_m) - conf(B_m)|, B_m the clips with confidence in ((m - 1)/15, m/15].
    expected = 0.0
    for m in range(1, 16):
        inside = [(m - 1) / 15 < c <= m / 15 + 1e-12 for c in confidence]
        if any(inside):
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += sum(inside) / len(confidence) * gap
    found = calibrate(confidence, correct)
    assert found.ece == pytest.approx(expected)
    assert [b.n for b in found.bins][2] == sum(2 / 15 < c <= 0.2 + 1e-12 for c in confidence)
    assert sum(b.n for b in found.bins) == len(confidence)


def test_a_model_that_is_as_sure_as_right_has_no_calibration_error():
    assert calibrate(np.full(10, 0.7), np.arange(10) < 7).ece == pytest.approx(0)


def test_rates_of_many_matrices_are_those_of_scikit_learn():
    rows = random_rows()
    truth, predicted = [r[2] for r in rows], [r[3] for r in rows]
    units = count_units([predictions(rows)], LABELS, None)
    whole = (units.contributions[:, 0] * units.multiplicity[:, None, None]).sum(axis=0)
    rates = stacked_rates(np.stack([whole, whole * 2]))
    assert rates["ua"] == pytest.approx([balanced_accuracy_score(truth, predicted)] * 2)
    assert rates["macro_f1"] == pytest.approx([f1_score(truth, predicted, average="macro")] * 2)
    assert rates["recall"][0] == pytest.approx(recall_score(truth, predicted, labels=LABELS, average=None))


def test_two_speakers_have_the_interval_of_their_own_scores():
    # Draws of two speakers are aa, ab, ba, bb: each end stands for a quarter, so the middle 95 % reaches both ends.
    rows = some_rows(["a", "b"], wrong=["b-angry-0", "b-happy-0", "b-sad-0"])
    found = bootstrap_intervals(predictions(rows), LABELS, {i: s for i, s, _, _ in rows}, seed=0)
    assert found.drawn == Resampled("speaker", 2)
    assert (found.wa.low, found.wa.high) == (0.5, 1.0)
    assert (found.ua.low, found.ua.high) == (0.5, 1.0)
    assert "only 2 speakers" in found.sentence


def test_intervals_of_clips_are_those_of_scipy():
    rows = random_rows()
    right = np.array([t == p for _, _, t, p in rows], dtype=float)
    expected = scipy.stats.bootstrap((right,), np.mean, method="percentile", n_resamples=9999, random_state=1)
    found = bootstrap_intervals(predictions(rows), LABELS, None, seed=0)
    assert found.drawn == Resampled("clip", 300)
    assert found.wa.low == pytest.approx(expected.confidence_interval.low, abs=0.007)
    assert found.wa.high == pytest.approx(expected.confidence_interval.high, abs=0.007)


def test_intervals_of_speakers_are_those_of_scipy_over_speakers():
    rows = random_rows(speakers=12)
    right = np.array([[t == p for _, s, t, p in rows if s == f"p{k}"] for k in range(12)]).mean(axis=1)
    expected = scipy.stats.bootstrap((right,), np.mean, method="percentile", n_resamples=9999, random_state=1)
    found = bootstrap_intervals(predictions(rows), LABELS, {i: s for i, s, _, _ in rows}, seed=0)
    assert found.wa.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.wa.high == pytest.approx(expected.confidence_interval.high, abs=0.01)


def test_a_draw_has_as_many_clips_as_there_are_and_repeats_with_its_seed():
    units = count_units([predictions(random_rows())], LABELS, None)
    drawn = resample(units, 3, resamples=20)
    assert set(drawn.sum(axis=(1, 2, 3)).tolist()) == {300}
    assert (drawn == resample(units, 3, resamples=20)).all()
    assert (drawn != resample(units, 4, resamples=20)).any()


def test_an_interval_of_nothing_is_none():
    assert percentile_interval(np.array([np.nan, np.nan])) is None


def test_speakers_and_genders_are_scored_apart():
    rows = some_rows(["a", "b", "c"], wrong=["b-angry-0", "c-sad-0", "c-sad-1"])
    people = {i: Person(s, "female" if s == "a" else "male") for i, s, _, _ in rows}
    found = break_down(predictions(rows), LABELS, people)
    assert [(g.name, g.ua, g.gender) for g in found.speakers] == [
        ("a", 1.0, "female"),
        ("b", pytest.approx((0.5 + 1 + 1) / 3), "male"),
        ("c", pytest.approx(2 / 3), "male"),
    ]
    assert [(g.name, g.speakers, g.n) for g in found.genders] == [("female", 1, 6), ("male", 2, 12)]
    assert [r.recall for r in found.recall] == pytest.approx([5 / 6, 1, 4 / 6])


def test_without_speakers_clips_are_drawn_and_nobody_is_listed():
    found = break_down(predictions(some_rows(["a", "b"])), LABELS, {})
    assert (found.speakers, found.genders, found.intervals.drawn.kind) == ((), (), "clip")


@pytest.fixture
def run():
    rows = [some_rows(["a", "b"], wrong=["a-sad-0"]), some_rows(["c", "d"], wrong=["d-happy-1"])]
    return write_run(Path("run"), rows, gender={"a": "female", "b": "male", "c": "female", "d": "male"})


def test_evaluate_writes_page_pictures_and_tables(ser, run):
    result = ser("evaluate", run)
    assert result.exit_code == 0, result.stderr
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["fold", "1", "2", "mean", "std", "pooled"]
    assert "report: run/report.html" in result.stderr
    assert "95 % intervals: WA " in result.stderr
    assert "5,000 resamples of 4 speakers" in result.stderr
    names = ("confusion-normalized", "confusion-counts", "recall", "speakers", "genders", "reliability",
             "learning-curves")  # fmt: skip
    for name in names:
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (run / "figures" / f"{name}.svg").read_bytes()
    assert {path.stem for path in (run / "figures").iterdir()} == set(names)
    for name in ("scores", "intervals", "recall", "confusion", "speakers", "genders", "calibration"):
        assert {p.suffix for p in (run / "tables").glob(f"{name}.*")} == {".md", ".tex", ".csv"}
    page = (run / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(names)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_json_names_what_was_added(ser, run):
    values = json.loads(ser("evaluate", run, "--json", "--no-figures").stdout)
    assert {"speakers", "genders", "recall", "ece", "intervals", "wa"} - set(values) == {"wa"}
    assert [s["name"] for s in values["speakers"]] == ["a", "b", "c", "d"]
    assert values["speakers"][0]["ua"] == pytest.approx(5 / 6)
    assert [g["name"] for g in values["genders"]] == ["female", "male"]
    assert values["ece"] == pytest.approx(abs(22 / 24 - 0.7))
    assert values["intervals"]["resampled"] == "speaker"
    assert values["intervals"]["wa"]["low"] <= values["pooled"]["wa"] <= values["intervals"]["wa"]["high"]
    assert values == json.loads((run / "scores.json").read_text())


def test_no_figures_leaves_those_of_an_earlier_time(ser, run):
    ser("evaluate", run)
    before = (run / "report.html").read_text()
    result = ser("evaluate", run, "--no-figures")
    assert "report: run/report.md" in result.stderr
    assert (run / "report.html").read_text() == before
    assert (run / "figures/recall.svg").exists()


def test_files_of_ones_own_in_figures_and_tables_stay(ser, run):
    mine = [run / name for name in ("figures/mine.pdf", "figures/setup.png", "tables/mine.csv", "tables/notes.md")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for options in ((), ("--no-figures",), ("--output", run, "--force")):
        assert ser("evaluate", run, *options).exit_code == 0
    assert [path.read_text() for path in mine] == ["mine"] * 4


def test_what_shows_another_result_does_not_stay_beside_the_new_one(ser, run):
    other = write_run(Path("other"), [some_rows(["a", "b"]), some_rows(["c", "d"], wrong=["c-sad-0", "c-sad-1"])])
    assert ser("evaluate", run, "--output", "out").exit_code == 0
    assert Path("out/figures/genders.svg").exists()
    assert ser("evaluate", other, "--output", "out", "--force").exit_code == 0
    assert Path("out/figures/recall.svg").exists()
    assert not Path("out/figures/genders.svg").exists(), "nobody's gender is known there"
    assert ser("evaluate", run, "--output", "out", "--force", "--no-figures").exit_code == 0
    assert not Path("out/report.html").exists()
    assert not Path("out/figures").exists()
    assert {path.stem for path in Path("out/tables").iterdir()} >= {"scores", "genders"}


def test_an_index_of_files_from_elsewhere_deletes_nothing_outside_of_the_report(ser, run):
    outside = [Path("recall.svg"), run / "fold-1/predictions.csv", run / "figures/notes.txt"]
    (run / "figures").mkdir()
    Path("recall.svg").write_text("mine")
    (run / "figures/notes.txt").write_text("mine")
    names = [
        "figures/../../recall.svg",
        "../recall.svg",
        "fold-1/predictions.csv",
        "figures/notes.txt",
        "figures/a\0.svg",
    ]
    names += ["figures\\..\\..\\recall.svg", f"figures/{'a' * 300}.svg", "figures/folder.svg"]
    (run / "figures/folder.svg").mkdir()
    told = {"files": [*names, str(Path("recall.svg").resolve()), 3, None], "shows": 5}
    for index in (told, {}, [], {"files": 3}):
        (run / ".report-files.json").write_text(json.dumps(index))
        assert ser("evaluate", run).exit_code == 0
        assert all(path.exists() for path in outside)


def test_a_report_that_was_stopped_while_it_was_written_is_never_taken_for_a_whole_one(ser, run, monkeypatch):
    from ser_cli.evaluation import report_folder

    other = write_run(Path("other"), [some_rows(["a", "b"]), some_rows(["c", "d"])])
    assert ser("evaluate", run, "--output", "out").exit_code == 0

    def stopped(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report_folder, "write_atomically", stopped)  # behind scores.json
        assert ser("evaluate", other, "--output", "out", "--force", "--no-figures").exit_code == 130
    assert ser("evaluate", other, "--output", "out", "--force", "--no-figures").exit_code == 0
    assert not Path("out/report.html").exists()


def test_predictions_that_lost_lines_are_not_scored(ser, run):
    told = json.loads(Path(run, "fold-1/done.json").read_text())
    lines = Path(run, "fold-1/predictions.csv").read_text().splitlines(keepends=True)
    whole = told | {"scores": {"n": len(lines) - 1}}
    Path(run, "fold-1/done.json").write_text(json.dumps(whole))
    assert ser("evaluate", run).exit_code == 0
    before = Path(run, "scores.json").read_bytes()
    Path(run, "fold-1/predictions.csv").write_text("".join(lines[:-1]))
    result = ser("evaluate", run)
    assert result.exit_code == 1
    assert f"holds {len(lines) - 2} clips, and done.json says that {len(lines) - 1} were tested" in result.stderr
    assert Path(run, "scores.json").read_bytes() == before
    Path(run, "fold-1/done.json").write_text(json.dumps(told | {"scores": 5}))
    assert "is damaged (scores tell no number of clips)" in ser("evaluate", run).stderr


def test_the_page_of_a_report_without_an_index_does_not_stay_beside_new_scores(ser, run):
    Path("out").mkdir()
    Path("out/report.html").write_text("of an earlier version")
    assert ser("evaluate", run, "--output", "out", "--force", "--no-figures").exit_code == 0
    assert not Path("out/report.html").exists()


def test_clips_of_unknown_speakers_are_drawn_each_for_itself_and_make_no_speaker(ser):
    rows = [*some_rows(["a", "b"]), *[(f"u{n}", "unknown", t, t) for n, t in enumerate(LABELS * 4)]]
    run = write_run(Path("run"), [rows], gender={"a": "female", "unknown": "female"})
    values = json.loads(ser("evaluate", run, "--json", "--no-figures").stdout)
    intervals = values["intervals"]
    assert (intervals["resampled"], intervals["units"], intervals["clips_of_unknown_speakers"]) == ("speaker", 14, 12)
    report = (run / "report.md").read_text()
    assert "resamples of 2 speakers and 12 clips of unknown speakers; only 2 speakers, so take them as rough" in report
    assert "Only 2 speakers are tested" in report
    assert "## Speakers and genders" in report
    assert [speaker["name"] for speaker in values["speakers"]] == ["a", "b"]
    nobody = write_run(Path("nobody"), [[(i, "unknown", t, p) for i, _, t, p in rows]])
    values = json.loads(ser("evaluate", nobody, "--json", "--no-figures").stdout)
    assert (values["intervals"]["resampled"], values["speakers"]) == ("clip", [])
    women = write_run(Path("women"), [[(i, "unknown", t, p) for i, _, t, p in rows]], gender={"unknown": "female"})
    assert ser("evaluate", women, "--no-figures").exit_code == 0
    assert "## Genders" in (women / "report.md").read_text()


def test_the_same_run_gives_the_same_bytes(ser, run):
    ser("evaluate", run, "--output", "one")
    ser("evaluate", run, "--output", "two")
    for path in Path("one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (Path("two") / path.relative_to("one")).read_bytes(), path


def test_tables_as_csv_hold_full_precision(ser, run):
    ser("evaluate", run, "--no-figures")
    with (run / "tables/speakers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["ua"]) == pytest.approx(5 / 6, abs=1e-12)
    assert rows[0]["gender"] == "female"


def test_a_run_without_folds_csv_or_gender_is_scored_all_the_same(ser, run):
    (run / "folds.csv").unlink()
    values = json.loads(ser("evaluate", run, "--json").stdout)
    assert (values["speakers"], values["genders"], values["intervals"]["resampled"]) == ([], [], "clip")
    (run / "folds.csv").write_text("fold,side,id,speaker,session,emotion\n1,test,a-sad-0,a,,sad\n")
    assert json.loads(ser("evaluate", run, "--json").stdout)["genders"] == []


def test_damaged_files_of_a_run_are_named(ser, run):
    (run / "folds.csv").write_text("a,b\n1,2\n")
    result = ser("evaluate", run)
    assert result.exit_code == 1
    assert "run/folds.csv cannot be read as the folds of a run" in result.stderr
    (run / "folds.csv").unlink()
    (run / "fold-2/history.csv").write_text("epoch,total\n1,much\n")
    result = ser("evaluate", run)
    assert result.exit_code == 1
    assert "run/fold-2/history.csv: cannot be read as a history" in result.stderr
    path = run / "fold-1/predictions.csv"
    path.write_text(re.sub(r",[^,]*$", "", path.read_text(), flags=re.M))
    result = ser("evaluate", run)
    assert result.exit_code == 1
    assert "not one probability for each of the 3 labels" in result.stderr


def test_an_unfinished_run_is_reported_only_where_it_is_asked_for(ser, run):
    (run / "fold-2/done.json").unlink()
    assert ser("evaluate", run).exit_code == 0
    assert not (run / "report.html").exists()
    ser("evaluate", run, "--output", "part")
    assert "Not done yet: fold 2" in Path("part/report.html").read_text()
    result = ser("evaluate", run, "--clip", "a-sad-0")
    assert "its report is written when all folds are done" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--clip", "a-sad-9"], 2, "--clip a-sad-9: not tested in run; did you mean a-sad-"),
        (["--clip", "a-sad-0"], 1, "run the same `ser train` again with --embeddings; what is trained stays"),
        (["--clip", "a-sad-0", "--no-figures"], 2, "leave one of them out"),
        (["--where", "speaker=a"], 2, "give it with --dataset or --manifest"),
        (["--device", "cpu"], 2, "--device and --batch-size are for the models that --dataset or --manifest asks"),
        (["run", "--no-figures"], 2, "--no-figures is of a report, and none is written without --output DIR"),
        (["run", "--clip", "a-sad-0"], 2, "give one run and no corpus"),
        (["run", "run"], 2, "3 folders given; give one run, two to compare, or --ensemble"),
        (["--output", "run"], 1, "--output run: it holds files already"),
        (["--output", "file"], 2, "--output file: it is a file; give a folder"),
    ],
)
def test_what_evaluate_cannot_do_is_told(ser, run, arguments, code, told):
    Path("file").touch()
    before = sorted(run.rglob("*"))
    result = ser("evaluate", run, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr
    assert sorted(run.rglob("*")) == before


def test_scoring_a_run_loads_no_model(run):
    code = (
        "import sys; from ser_cli.cli import app; "
        "app(['evaluate', 'run'], standalone_mode=False); "
        "print([n for n in ('torch', 'transformers', 'sklearn') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
