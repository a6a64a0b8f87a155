"""`ser evaluate RUN_A RUN_B`: two runs held against each other."""

import json
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest

from ser_cli.data.protocols import choose_protocol
from ser_cli.errors import FoldError, UsageError
from ser_cli.evaluation.comparison import mcnemar_exact
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
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
    assert (
        "WA: the interval does not hold 0, but 4 speakers are too few to tell whether second is ahead." in result.stderr
    )
    assert "warning: Only 4 speakers are tested: the intervals are rough, and rather too narrow." in result.stderr
    table = ser("evaluate", first, second).stdout.splitlines()
    assert table[0].split("\t")[:4] == ["score", "first %", "second %", "difference"]
    assert table[1].split("\t")[3] == "+12.5"
    back = [line.split("\t") for line in ser("evaluate", second, first).stdout.splitlines()[1:]]
    assert [float(row[3]) for row in back] == [-float(line.split("\t")[3]) for line in table[1:]]


@pytest.mark.parametrize("speakers", ["abcdefghi", "abcdefghij"])
def test_ten_speakers_are_enough_to_say_who_is_ahead_and_nine_are_not(ser, speakers):
    folds = list(speakers[:5]), list(speakers[5:])
    first = write_run(Path("first"), [some_rows(s, wrong=[f"{name}-sad-0" for name in s]) for s in folds])
    second = write_run(Path("second"), [some_rows(s) for s in folds])
    told = ser("evaluate", first, second, "--output", "compared").stderr
    enough = len(speakers) == 10
    assert ("WA: second is ahead, and the interval does not hold 0." in told) == enough
    assert ("WA: the interval does not hold 0, but 9 speakers are too few" in told) != enough
    assert ("Only 9 speakers are tested" in Path("compared/report.md").read_text()) != enough


def test_one_speaker_says_nothing_of_others(ser):
    # 90 clips of one voice: however clear the difference, it is that voice's.
    clips = some_rows(["a"], takes=30)
    first = write_run(Path("first"), [clips])
    second = write_run(Path("second"), [some_rows(["a"], wrong=[row[0] for row in clips[::2]], takes=30)])
    told = ser("evaluate", first, second, "--output", "compared").stderr
    assert "WA: the interval does not hold 0, but one speaker is too few to tell whether first is ahead." in told
    warning = "Only one speaker is tested, so the intervals tell nothing of other speakers and are much too narrow."
    assert f"warning: {warning}" in told
    assert f"resamples of {len(clips)} clips of one speaker." in told
    assert warning in Path("compared/report.md").read_text()
    assert "only 1 speaker, so take them as rough" in ser("evaluate", first).stderr


def test_folds_that_both_runs_lack_are_told(ser):
    runs = [write_run(Path(name), [some_rows(s) for s in SPEAKERS]) for name in ("first", "second")]
    for run in runs:
        (run / "fold-2/done.json").unlink()
    result = ser("evaluate", *runs, "--json", "--quiet", "--output", "compared")
    assert json.loads(result.stdout)["missing_folds"] == [2]
    for told in (result.stderr, Path("compared/report.md").read_text(), ser("evaluate", runs[0], "--quiet").stderr):
        assert "Not done yet: fold 2; these figures cover the others." in told


@pytest.mark.parametrize("options", [(), ("--ensemble",)], ids=["compared", "averaged"])
@pytest.mark.parametrize("order", [1, -1])
def test_what_each_run_learnt_from_is_told_of_each(ser, order, options):
    soft = write_run(Path("soft"), [some_rows(s) for s in SPEAKERS], targets="soft")
    hard = write_run(Path("hard"), [some_rows(s, wrong=["a-sad-0"]) for s in SPEAKERS], where=["source_b="])
    result = ser("evaluate", *(soft, hard)[::order], *options, "--json", "--output", "told")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    each = {run["run"]: (run["where"], run["targets"], run["label_set"]) for run in values["runs"]}
    assert each == {"soft": ([], "soft", "all"), "hard": (["source_b="], "hard", "all")}
    assert not {"where", "targets", "label_set"} & set(values)  # what the first has is not everybody's
    report = Path("told/report.md").read_text().replace("\\", "")
    assert "soft: Labels all: angry, happy, sad; learnt from the raters' votes, scored against their verdict" in report
    assert "hard: Labels all: angry, happy, sad; only utterances with source_b=." in report


def test_what_changed_and_how_the_epochs_were_chosen_is_told_of_each_run(ser):
    first, second = two_runs(first_wrong=["a-sad-0"])
    for fold in (1, 2):
        path = second / f"fold-{fold}/done.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "selected_by": "test"}))
    (second / "changes.json").write_text(json.dumps(["torch: 2.13 there, 2.14 now", "seed: 0 there, 1 now"]))
    caveat = "3 training clips are of unknown speakers"
    (first / "protocol.json").write_text(json.dumps({"rule": "each fold tests unheard speakers", "caveats": [caveat]}))
    result = ser("evaluate", first, second, "--output", "compared", "--json")
    report = Path("compared/report.md").read_text()
    warned = (
        "second: Each fold's epoch was chosen ON ITS TEST SIDE, as some papers do: these figures are too high and no"
        " estimate of what new speakers would see.",
        "second changed while it went on: torch: 2.13 there, 2.14 now; seed: 0 there, 1 now.",
    )
    for warning in warned:
        assert f"warning: {warning}\n" in result.stderr
        assert warning in report
    for sentence in (
        "first: Each fold's epoch was chosen on speakers held out of its training side.",
        f"Protocol p: first: each fold tests unheard speakers; {caveat}.",
        "Protocol p: second: each fold tests unheard speakers.",
    ):
        assert f"\n{sentence}\n" in result.stderr
        assert sentence in report
    assert [run["changes"] for run in json.loads(result.stdout)["runs"]] == [
        [],
        warned[1].split(": ", 1)[1][:-1].split("; "),
    ]


def test_what_holds_for_both_runs_is_told_once(ser):
    told = ser("evaluate", *two_runs()).stderr
    assert told.count("Protocol p: each fold tests unheard speakers.") == 1
    assert told.count("\nEach fold's epoch was chosen on speakers held out of its training side.\n") == 1


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


def test_runs_on_different_corpora_are_refused_as_such(ser):
    result = ser("evaluate", *two_runs(protocol_hash="b" * 64, protocol="q", dataset="ravdess"))
    assert "they are of different corpora, tones and ravdess" in result.stderr
    assert "--protocol" not in result.stderr


@pytest.mark.parametrize("unit", ["speaker", "session"])
def test_the_protocol_that_is_advised_is_one_that_training_knows(ser, tones, unit):
    # Two runs whose folds two seeds dealt, as `ser train --seed` leaves them.
    corpus = prepare(list_manifest(tones)).corpus
    if unit == "session":
        corpus = replace(corpus, utterances=tuple(replace(u, session=u.speaker) for u in corpus.utterances))
    asked = "seeded" if unit == "speaker" else "seeded-sessions"
    dealt = [choose_protocol(corpus, asked, 3, seed) for seed in (4, 5)]
    one, other = (
        write_run(Path(f"run-{n}"), [some_rows(s) for s in SPEAKERS], protocol=p.name, protocol_hash=p.hash)
        for n, p in enumerate(dealt)
    )
    advice = ser("evaluate", one, other).stderr.splitlines()[-1]
    option, name = advice.rpartition("train again with ")[2].removesuffix(", with any --seed").split()
    assert option == "--protocol"
    for seed in (0, 4, 5):  # whatever else the training draws
        assert choose_protocol(corpus, name, None, seed) == dealt[0]
    with pytest.raises(UsageError, match="has 3 folds; leave --folds out"):
        choose_protocol(corpus, name, 2, 0)
    first, *others = sorted({u.speaker for u in corpus.utterances})
    fewer = replace(corpus, utterances=tuple(u for u in corpus.utterances if u.speaker != first))
    with pytest.raises(FoldError, match=rf"deals {len(others) + 1} {unit}s, and {corpus.name} has {len(others)}\n"):
        choose_protocol(fewer, name, None, 0)


def test_one_name_for_other_speakers_is_told(ser):
    name = "seeded-5-of-10-speakers-seed-0"
    first = write_run(Path("first"), [some_rows(s) for s in SPEAKERS], protocol=name)
    second = write_run(Path("second"), [some_rows(s) for s in SPEAKERS], protocol=name, protocol_hash="b" * 64)
    assert ser("evaluate", first, second).stderr.endswith(
        f"  both are called {name} and divide other speakers: train both with one corpus and one --where\n"
    )


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
