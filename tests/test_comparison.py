"""`ser evaluate RUN_A RUN_B`: two runs held against each other."""

import json
from math import comb
from pathlib import Path

import pytest

from ser_cli.evaluation.comparison import mcnemar_exact
from tests.runs_on_disk import some_rows, write_run

SPEAKERS = (["a", "b"], ["c", "d"])


def two_runs(first_wrong=(), second_wrong=(), **changes):
    first = write_run(Path("first"), [some_rows(s, wrong=first_wrong) for s in SPEAKERS])
    second = write_run(Path("second"), [some_rows(s, wrong=second_wrong) for s in SPEAKERS], **changes)
    return first, second


def test_mcnemar_is_the_binomial_typed_out():
    # 2 of 10 disagreements for the first: p = 2 sum_{k<=2} C(10, k) / 2^10.
    assert mcnemar_exact(2, 8) == pytest.approx(2 * (comb(10, 0) + comb(10, 1) + comb(10, 2)) / 2**10)
    assert mcnemar_exact(8, 2) == mcnemar_exact(2, 8)
    assert mcnemar_exact(0, 0) == 1


def test_differences_are_told_with_interval_test_and_folds(ser):
    first, second = two_runs(first_wrong=["a-sad-0", "b-sad-0", "c-sad-0", "d-sad-0"], second_wrong=["a-happy-0"])
    result = ser("evaluate", first, second, "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    difference = values["difference"]["wa"]
    assert difference["value"] == pytest.approx(3 / 24)
    # Each speaker has 6 clips. Speaker a gains nothing (one each), b, c and d gain 1/6.
    assert difference["low"] == pytest.approx(1 / 24)
    assert difference["high"] == pytest.approx(1 / 6)
    assert difference["folds_won"] == {"first": 0, "second": 2, "tied": 0}
    assert values["mcnemar"] == {"only_first": 1, "only_second": 4, "p": pytest.approx(mcnemar_exact(1, 4))}
    assert values["bootstrap"]["resampled"] == "speaker"
    assert "WA: second is ahead, and the interval does not hold 0." in result.stderr
    table = ser("evaluate", first, second).stdout.splitlines()
    assert table[0].split("\t")[:4] == ["score", "first %", "second %", "difference"]
    assert table[1].split("\t")[3] == "+12.5"


def test_a_run_against_itself_differs_in_nothing(ser):
    first, _ = two_runs(first_wrong=["a-sad-0"])
    values = json.loads(ser("evaluate", first, first, "--json").stdout)
    assert (values["difference"]["ua"]["low"], values["difference"]["ua"]["high"]) == (0, 0)
    assert values["mcnemar"]["p"] == 1
    assert "may well be chance" in ser("evaluate", first, first).stderr


def test_a_comparison_is_written_where_it_is_asked_for(ser):
    first, second = two_runs(first_wrong=["a-sad-0"])
    ser("evaluate", first, second)
    assert not (first / "report.html").exists()
    assert ser("evaluate", first, second, "--output", "compared").exit_code == 0
    assert json.loads(Path("compared/scores.json").read_text())["protocol_hash"] == "a" * 64
    assert "second against first" in Path("compared/report.html").read_text()
    assert Path("compared/figures/differences.png").exists()
    assert "\\toprule" in Path("compared/tables/differences.tex").read_text()


def test_runs_of_other_protocols_are_refused(ser):
    result = ser("evaluate", *two_runs(protocol_hash="b" * 64, protocol="q"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        "first and second cannot be compared: their protocols differ, p (hash aaaaaaaaaaaa) and q (hash bbbbbbbbbbbb)"
        in result.stderr
    )
    assert "--protocol p" in result.stderr


def test_runs_of_other_labels_are_refused(ser):
    first = write_run(Path("first"), [some_rows(s) for s in SPEAKERS])
    labels = ("angry", "happy", "bored")
    second = write_run(Path("second"), [some_rows(s, labels=labels) for s in SPEAKERS], labels)
    result = ser("evaluate", first, second)
    assert result.exit_code == 1
    assert "their labels differ, angry, happy, sad and angry, happy, bored" in result.stderr


def test_runs_that_tested_other_clips_are_refused(ser):
    first = write_run(Path("first"), [some_rows(s) for s in SPEAKERS])
    second = write_run(Path("second"), [some_rows(s, takes=1) for s in SPEAKERS])
    result = ser("evaluate", first, second)
    assert result.exit_code == 1
    assert "12 clips of 24 are tested in one of them only, or in another fold, such as a-angry-1" in result.stderr


def test_runs_with_other_emotions_of_the_same_clips_are_refused(ser):
    first, second = two_runs()
    path = second / "fold-1/predictions.csv"
    path.write_text(path.read_text().replace("a-sad-0,1,sad,", "a-sad-0,1,happy,"))
    result = ser("evaluate", first, second)
    assert result.exit_code == 1
    assert "1 clip changed emotion, such as a-sad-0 of fold 1, sad and happy" in result.stderr


def test_runs_with_other_folds_done_are_refused(ser):
    first, second = two_runs()
    (second / "fold-2/done.json").unlink()
    result = ser("evaluate", first, second)
    assert result.exit_code == 1
    assert "fold 2 is done in one of them only" in result.stderr
