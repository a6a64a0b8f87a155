"""Which clips teach the tasks beside emotion, through the real command line; and what is said of the others."""

import json
from pathlib import Path

from tests.conftest import TINY, write_tone_corpus
from tests.running import read_csv
from tests.test_multi_task import BUILT_IN, SWITCHES, edit, mtl


def test_texts_without_room_are_counted(ser, tones):
    text = "the quick brown fox jumps over the lazy dog and never looks back again"
    long = edit(tones, lambda row: {"text": "ok" if "angry-0" in row["path"] else text})
    result = ser("train", "--manifest", long, "--folds", 2, "--fold", 1, *BUILT_IN, "--epochs", 1, "--output", "run")
    assert result.exit_code == 0, result.stderr
    assert "task characters: 24 training clips with more characters than frames do not count for it" in result.stderr
    assert float(read_csv(Path("run/fold-1/history.csv"))[0]["characters"]) > 0
    assert json.loads(Path("run/fold-1/done.json").read_text())["tasks"]["texts_too_long"] == 24


def test_where_no_text_has_room_the_task_is_left_out(ser, few):
    long = edit(few, lambda row: {"text": "the quick brown fox jumps over the lazy dog and never looks back again"})
    command = ["train", "--manifest", long, "--folds", 2, "--fold", 1, *BUILT_IN, "--epochs", 1]
    result = ser(*command, "--output", "run")
    assert result.exit_code == 0, result.stderr
    assert "characters is left out: every training clip with a text has more characters than frames" in result.stderr
    assert set(json.loads(Path("run/fold-1/done.json").read_text())["tasks"]["learnt"]) == {"gender", "speaker"}
    assert ser(*command, "--set", "tasks.characters=false", "--output", "without").exit_code == 0
    one, two = (read_csv(Path(f"{name}/fold-1/history.csv"))[0]["total"] for name in ("run", "without"))
    assert one == two  # as if the task had not been asked for, to the last digit


def test_of_cut_clips_the_texts_alone_do_not_count(ser, few, wavlm):
    result = ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1, "--set", "training.max_clip_s=0.25"))
    assert result.exit_code == 0, result.stderr
    assert "task characters is left out: training.max_clip_s cuts every training clip that has a text" in result.stderr
    row = read_csv(Path("run/fold-1/history.csv"))[0]
    assert float(row["gender"]) > 0
    assert float(row["speaker"]) > 0
    assert "cross_entropy 0.8, swfc 0.1, gender 0.1, speaker 0.1" in result.stderr


def test_clips_that_are_cut_are_counted_apart_from_texts_without_room(ser, few, wavlm, home):
    ser(*mtl(few, wavlm, "--output", "run", "--epochs", 1))
    rows = read_csv(next(home.glob("corpora/*/manifest.csv")))
    trained = {r["id"] for r in read_csv(Path("run/folds.csv")) if (r["fold"], r["side"]) == ("1", "train")}
    durations = [float(row["duration_s"]) for row in rows if row["id"] in trained]
    limit = (min(durations) + max(durations)) / 2
    result = ser(*mtl(few, wavlm, "--output", "cut", "--epochs", 1, "--set", f"training.max_clip_s={limit}"))
    cut = sum(duration > limit for duration in durations)
    assert f"task characters: {cut} training clips that training.max_clip_s cuts do not count for it" in result.stderr
    facts = json.loads(Path("cut/fold-1/done.json").read_text())["tasks"]
    assert (facts["texts_cut"], facts["texts_too_long"], set(facts["learnt"])) == (cut, 0, set(SWITCHES))


def test_a_gender_that_no_model_can_say_is_learnt_and_scored_by_nobody(ser, tmp_path, wavlm):
    eight = write_tone_corpus(tmp_path / "eight", speakers=8, takes=1)
    third = edit(eight, lambda row: {"gender": "nonbinary"} if row["speaker"] == "p1" else {})
    assert ser(*mtl(third, wavlm, "--output", "run", "--epochs", 1, "--fold", 2)).exit_code == 0
    for elsewhere in ((), ("--manifest", third, "--output", "there")):
        evaluated = ser("evaluate", "run", "--json", "--no-figures", *elsewhere)
        assert evaluated.exit_code == 0, evaluated.stderr
    assert [fold["gender_clips"] for fold in json.loads(evaluated.stdout)["tasks"]] == [21, 21]
    rows = [row for fold in (1, 2) for row in read_csv(Path(f"run/fold-{fold}/tasks.csv"))]
    assert {row["gender"] for row in rows if row["id"].startswith("p1")} == {""}


def test_mixtures_of_a_corpus_teach_emotion_alone(ser, few, wavlm):
    assert ser("prepare", "--manifest", few, "--name", "few").exit_code == 0
    options = ("--count", 30, "--with-originals", "--no-page", "--output", "mixed")
    assert ser("mix", "--dataset", "few", *options).exit_code == 0
    assert ser("prepare", "--manifest", "mixed/manifest.csv", "--name", "more").exit_code == 0
    command = mtl(few, wavlm, "--output", "run", "--epochs", 1)
    command[1:3] = ["--dataset", "more"]
    result = ser(*command)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(Path("run/fold-1/done.json").read_text())
    assert facts["tasks"]["mixtures"] == facts["clips"]["train"] - 6 > 0
    assert f"characters: {facts['tasks']['mixtures']} mixtures of two clips do not count for them" in result.stderr
    refused = ser("train", "--dataset", "more", "--set", "text.encoder=bert", *TINY, "--set", "mixup.method=none")
    assert refused.exit_code == 1
    assert "more: 30 of 42 clips are mixtures" in refused.stderr
    alone = ser("train", "--dataset", "more", "--where", "source_b=", "--dry-run", *TINY, "--folds", 2)
    assert alone.exit_code == 0, alone.stderr
