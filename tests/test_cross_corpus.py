"""`ser evaluate MODEL --dataset other`: a trained model asked about another corpus."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from ser_cli.checkpoints import load_model
from ser_cli.data.store import open_corpus
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
from tests.conftest import TINY, TONES_HZ, write_tone, write_tone_corpus
from tests.running import read_csv


@pytest.fixture
def trained(ser, tones):
    """A run of two folds on tones: angry, happy, sad."""
    result = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    assert result.exit_code == 0, result.stderr
    return Path("run")


@pytest.fixture
def other(tmp_path):
    """Another corpus: angry and sad as well as bored, which no model here knows; happy is lacking."""
    lines = ["path,emotion,speaker,gender"]
    for seed, speaker in enumerate(("x", "y")):
        for emotion, hz in (("angry", TONES_HZ["angry"]), ("bored", 400.0), ("sad", TONES_HZ["sad"])):
            write_tone(tmp_path / "other" / f"{speaker}-{emotion}.wav", hz, seed=seed)
            lines.append(f"{speaker}-{emotion}.wav,{emotion},{speaker},female")
    manifest = tmp_path / "other" / "other.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def test_a_run_on_another_corpus_is_the_mean_of_its_folds_over_shared_labels(ser, trained, other, home):
    result = ser("evaluate", trained, "--manifest", other, "--output", "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Labels that both know: angry, sad" in result.stderr
    assert "Left out, since the model does not know their emotion: bored 2." in result.stderr
    assert "The model also knows what the chosen labels lack: happy (mean probability" in result.stderr
    assert "warning" not in result.stderr

    corpus = open_corpus(home / "corpora" / "other")
    models = [load_model(trained / f"fold-{fold}").model for fold in (1, 2)]
    rows = read_csv(Path("out/predictions.csv"))
    assert [row["id"] for row in rows] == ["x-angry", "x-sad", "y-angry", "y-sad"]
    happy = []
    for row in rows:
        waveform = torch.from_numpy(np.array(corpus.waveform(row["id"])))[None]
        with torch.inference_mode():
            each = [m(waveform, torch.tensor([waveform.shape[1]])).logits[0].double().softmax(0) for m in models]
        angry, joy, sad = (sum(each) / 2).tolist()
        assert float(row["probability_angry"]) == pytest.approx(angry / (angry + sad), abs=1e-5)
        assert float(row["outside_happy"]) == pytest.approx(joy, abs=1e-5)
        assert row["predicted"] == ("angry" if angry > sad else "sad")
        assert row["fold"] == "0"
        happy.append((joy, joy > max(angry, sad)))
    values = json.loads(result.stdout)
    assert values["labels"] == ["angry", "sad"]
    assert values["left_out"] == {"bored": 2}
    assert values["outside"] == [
        {"label": "happy", "mean_probability": pytest.approx(np.mean([p for p, _ in happy]), abs=1e-5),
         "clips": sum(first for _, first in happy)}
    ]  # fmt: skip
    truth, predicted = ([row[key] for row in rows] for key in ("truth", "predicted"))
    assert values["pooled"]["ua"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert values["trained_on"] == "tones"
    assert values == json.loads(Path("out/scores.json").read_text())
    assert "run on other" in Path("out/report.html").read_text()


def test_one_fold_answers_alone(ser, trained, other):
    result = ser("evaluate", trained / "fold-2", "--manifest", other)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["model", "fold 2"]
    both = ser("evaluate", trained, "--manifest", other)
    assert [line.split("\t")[0] for line in both.stdout.splitlines()] == ["model", "fold 1", "fold 2", "ensemble"]
    assert both.stdout.splitlines()[2] == result.stdout.splitlines()[1]


def test_labels_are_mapped_with_the_option_of_training(ser, trained, other):
    values = json.loads(ser("evaluate", trained, "--manifest", other, "--labels", "sad+bored,angry", "--json").stdout)
    assert values["left_out"] == {}
    assert {r["label"]: r["n"] for r in values["recall"]} == {"angry": 2, "sad": 4}


def test_speakers_who_were_in_training_are_warned_of(ser, trained, tones):
    result = ser("evaluate", trained, "--manifest", tones, "-q")
    assert result.exit_code == 0
    assert "warning: 6 speakers of tones (p1, p2, p3, p4, p5 …), 54 clips in all, were in this model's" in result.stderr
    of_fold = json.loads(ser("evaluate", trained / "fold-1", "--manifest", tones, "--json").stdout)
    tested = {row["speaker"] for row in read_csv(trained / "folds.csv") if (row["fold"], row["side"]) == ("1", "test")}
    assert set(of_fold["heard_speakers"]) == {f"p{n}" for n in range(1, 7)} - tested


def test_a_model_that_names_no_speakers_is_judged_by_its_run(ser, trained, tones):
    for fold in (1, 2):
        path = trained / f"fold-{fold}/model.json"
        told = json.loads(path.read_text())
        for key in ("format", "provenance", "sha256", "weights_sha256"):
            told.pop(key, None)
        path.write_text(json.dumps(told))
    values = json.loads(ser("evaluate", trained, "--manifest", tones, "--json").stdout)
    assert len(values["heard_speakers"]) == 6
    assert values["trained_on"] == "tones"


def test_a_fold_copied_away_still_answers(ser, trained, other):
    shutil.copytree(trained / "fold-1", "model")
    result = ser("evaluate", "model", "--manifest", other)
    assert result.exit_code == 0, result.stderr
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["model", "fold 0"]


def test_a_corpus_whose_labels_the_model_does_not_know_is_refused(ser, trained, tmp_path):
    for emotion in ("calm", "bored"):
        TONES_HZ.setdefault(emotion, 300.0)
    try:
        manifest = write_tone_corpus(tmp_path / "strange", speakers=2, takes=1, emotions=("calm", "bored", "sad"))
    finally:
        for emotion in ("calm", "bored"):
            TONES_HZ.pop(emotion, None)
    manifest = manifest.rename(manifest.with_name("strange.csv"))
    result = ser("evaluate", trained, "--manifest", manifest, "--output", "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "strange and the model share 1 label; at least 2 are needed" in result.stderr
    assert (
        "the model knows angry, happy, sad; the labels chosen of strange are bored, calm, sad\n"
        "  write the model's names into the column emotion of its manifest, and prepare it again: ser prepare"
    ) in result.stderr
    assert not Path("out").exists()
    # What is advised, done.
    manifest.write_text(manifest.read_text().replace(",calm,", ",happy,"))
    advised = result.stderr.splitlines()[-1].partition("prepare it again: ser ")[2]
    assert ser(*shlex.split(advised)).exit_code == 0
    again = ser("evaluate", trained, "--manifest", manifest, "--output", "out")
    assert again.exit_code == 0, again.stderr
    assert "Labels that both know: happy, sad" in again.stderr


def test_of_a_corpus_that_has_the_emotions_and_was_asked_for_others_those_are_advised(ser, trained, other):
    result = ser("evaluate", trained, "--manifest", other, "--labels", "sad,bored")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "  choose what it has of these: --labels angry,sad"
    assert ser("evaluate", trained, "--manifest", other, "--labels", "angry,sad").exit_code == 0


def test_a_condition_that_leaves_nothing_the_model_knows_is_refused(ser, trained, other):
    result = ser("evaluate", trained, "--manifest", other, "--where", "emotion=bored")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(
        "error: other: no chosen clip shows an emotion that the model knows, angry, happy, sad; there are bored\n"
        "  loosen --where emotion=bored\n"
    )


def test_a_corpus_that_came_without_a_manifest_is_renamed_in_a_copy_of_the_prepared_one(ser, trained, home, tmp_path):
    manifest = write_tone_corpus(tmp_path / "loud", speakers=2, takes=1).rename(tmp_path / "loud/loud.csv")
    manifest.write_text(re.sub(",(angry|happy|sad),", r",very \1,", manifest.read_text()))
    prepare(list_manifest(manifest))
    marker = home / "corpora/loud/prepared.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "manifest": ""}))  # as of a corpus with a name
    refused = ser("evaluate", trained, "--dataset", "loud")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "loud and the model share 0 labels" in refused.stderr
    advice = refused.stderr.splitlines()[-1]
    copied = Path(re.search("a copy of (.*manifest.csv), and", advice)[1])
    Path("copy.csv").write_text(copied.read_text().replace(",very ", ","))
    command = advice.partition("prepare that: ser ")[2].partition(", then ")[0]
    prepared = ser(*shlex.split(command.replace("COPY", "copy.csv").replace("OTHER", "renamed")))
    assert prepared.exit_code == 0, prepared.stderr
    told = ser("evaluate", trained, "--dataset", "renamed")
    assert told.exit_code == 0, told.stderr
    assert "Labels that both know: angry, happy, sad;" in told.stderr


def test_what_labels_and_conditions_leave_out_is_counted_in_all_forms_of_the_report(ser, trained, other):
    # Of other's six clips, two each are angry, bored and sad; x and y speak half of them.
    asked = ("--labels", "angry,bored+sad", "--where", "speaker=x", "--output", "out", "--json")
    refused = ser("evaluate", trained, "--manifest", other, *asked)
    assert refused.exit_code == 1  # angry alone is shared
    asked = ("--labels", "sad,angry", "--where", "speaker=x", "--output", "out", "--json")
    result = ser("evaluate", trained, "--manifest", other, *asked)
    assert result.exit_code == 0, result.stderr
    sentences = (
        "Labels sad,angry of other: sad, angry, only utterances with speaker=x; 2 of 6 prepared clips.",
        "Not chosen, by the corpus's own emotions: angry 1, bored 2, sad 1.",
    )
    values = json.loads(result.stdout)
    for sentence in sentences:
        assert sentence in result.stderr
        assert sentence in Path("out/report.md").read_text().replace("\\", "")
    expected = {"label_set": "sad,angry", "corpus_labels": ["sad", "angry"], "where": ["speaker=x"]}
    expected |= {"chosen_clips": 2, "prepared_clips": 6, "not_chosen": {"angry": 1, "bored": 2, "sad": 1}}
    assert {key: values[key] for key in expected} == expected
    assert values["labels"] == ["angry", "sad"]
    page = Path("out/report.html").read_text()
    assert "2 of 6 prepared" in page and "only utterances with" in page


def test_the_predictions_of_one_report_do_not_stay_beside_another(ser, trained, tones):
    assert ser("evaluate", trained, "--manifest", tones, "--output", "out").exit_code == 0
    assert Path("out/predictions.csv").is_file()
    assert ser("evaluate", trained, trained, "--output", "out", "--force").exit_code == 0
    assert not Path("out/predictions.csv").exists()
    Path("out/predictions.csv").write_text("mine")
    assert ser("evaluate", trained, trained, "--output", "out", "--force").exit_code == 0
    assert Path("out/predictions.csv").read_text() == "mine"


def test_nothing_is_tested_on_mixtures(ser, trained, tones):
    assert ser("mix", "--dataset", "tones", "--count", 12, "--with-originals", "--output", "more").exit_code == 0
    asked = ("evaluate", trained, "--manifest", "more/manifest.csv")
    result = ser(*asked, "--output", "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Left out, since nothing is tested on mixtures: 12 clips." in result.stderr
    values = json.loads(result.stdout)
    assert (values["mixtures"], values["pooled"]["n"]) == (12, 54)
    assert not [row for row in read_csv(Path("out/predictions.csv")) if row["id"].startswith("mix-")]
    none = ser(*asked, "--where", "source_b!=")
    assert (none.exit_code, none.stdout) == (1, "")
    assert "all chosen clips are mixtures, and nothing is tested on them" in none.stderr


def test_a_first_choice_is_one_among_what_is_counted(ser, tones):
    # Takes 0 of happy are proud here. What angry and happy together say beats what proud says, though neither does.
    manifest = tones.with_name("four.csv")
    manifest.write_text(re.sub(r"(?m)^(.*/happy-0.*),happy,", r"\1,proud,", tones.read_text()))
    assert ser("train", "--manifest", manifest, "--folds", 2, *TINY, "--output", "four").exit_code == 0
    asked = ("evaluate", "four", "--manifest", manifest, "--labels", "angry+happy,sad", "--json", "--output", "out")
    result = ser(*asked)
    assert result.exit_code == 0, result.stderr
    rows = read_csv(Path("out/predictions.csv"))
    wins = 0
    for row in rows:
        proud = float(row["outside_proud"])
        wins += proud > (1 - proud) * max(float(row["probability_angry"]), float(row["probability_sad"]))
    assert json.loads(result.stdout)["outside"][0]["clips"] == wins


def test_labels_that_were_dropped_are_not_told_as_lacking_in_the_corpus(ser, trained, tones):
    # The model and the corpus both know happy; the choice drops its 18 clips.
    result = ser("evaluate", trained, "--manifest", tones, "--labels", "angry,sad")
    assert "The model also knows what the chosen labels lack: happy (" in result.stderr
    assert "Of these tones has happy, which --labels can choose." in result.stderr
    assert "36 of 54 prepared clips.\nNot chosen, by the corpus's own emotions: happy 18." in result.stderr
    assert "has happy" not in ser("evaluate", trained, "--manifest", tones).stderr


def test_what_the_chosen_labels_merge_and_the_model_tells_apart_is_counted_together(ser, trained, tones, home):
    assert ser("evaluate", trained, "--dataset", "tones", "--output", "all").exit_code == 0
    result = ser("evaluate", trained, "--dataset", "tones", "--labels", "angry+happy,sad", "--output", "two", "--json")
    assert result.exit_code == 0, result.stderr
    told = "What the model tells apart and the chosen labels merge is counted together: happy as angry."
    assert told in result.stderr
    assert "also knows what the chosen labels lack" not in result.stderr
    assert json.loads(result.stdout)["merged"] == {"happy": "angry"}
    apart = {row["id"]: row for row in read_csv(Path("all/predictions.csv"))}
    for row in read_csv(Path("two/predictions.csv")):
        angry, happy = (float(apart[row["id"]][f"probability_{label}"]) for label in ("angry", "happy"))
        assert float(row["probability_angry"]) == pytest.approx(angry + happy, abs=2e-6)
        assert row["predicted"] == ("angry" if angry + happy > 0.5 else "sad")


def test_how_the_run_was_made_is_told_where_it_flatters_or_changed(ser, trained, other):
    done = trained / "fold-2/done.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "selected_by": "test", "changes": ["torch: 1 then 2"]}))
    (trained / "changes.json").write_text(json.dumps(["recipe: losses.kl = 1 there, 2 asked for"]))
    for model, told in (
        (trained, "recipe: losses.kl = 1 there, 2 asked for; fold 2: torch: 1 then 2."),
        (trained / "fold-1", "recipe: losses.kl = 1 there, 2 asked for."),
    ):
        result = ser("evaluate", model, "--manifest", other, "--output", f"out-{model.name}", "-q")
        warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
        changed = f"The run of this model changed while it went on: {told}"
        assert warnings[-1] == f"warning: {changed}"
        by_test = "Each fold's epoch was chosen ON ITS TEST SIDE of tones, as some papers do"
        assert sum(by_test in line for line in warnings) == (model == trained)
        page = Path(f"out-{model.name}/report.html").read_text()
        assert "The run of this model changed while it went on: recipe: losses.kl = 1 there" in page
        assert ("ON ITS TEST SIDE of tones" in page) == (model == trained)


def test_a_report_never_takes_the_place_of_that_of_a_run_or_study(ser, trained, other):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for output, what in ((trained, "a run (run.json)"), (trained / "fold-1", "a model (model.json)")):
        result = ser("evaluate", trained, "--manifest", other, "--output", output, "--force")
        assert ser("evaluate", trained, "--manifest", other, "--output", output).stderr == result.stderr
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            f"error: --output {output}: it holds {what}, whose files may not be mixed with another's report\n"
            "  choose another folder\n"
        )
    Path("study").mkdir()
    Path("study/study.json").write_text("{}")
    assert "it holds a study (study.json)" in ser("evaluate", trained, "--output", "study", "--force").stderr
    assert "it holds a run" in ser("evaluate", trained, trained, "--output", trained, "--force").stderr
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert ser("evaluate", trained, "--output", trained, "--force", "--no-figures").exit_code == 0


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: (run / "fold-1/model.safetensors").unlink(), "fold-1: no usable model"),
        (lambda run: (run / "fold-1/model.json").write_text("{"), "fold-1"),
        (lambda run: (run / "fold-1/model.safetensors").write_bytes(b"\x10"), "fold-1/model.safetensors is truncated"),
        (lambda run: [(run / f"fold-{k}/done.json").unlink() for k in (1, 2)], "no fold is done yet"),
    ],
)
def test_a_damaged_model_is_named(ser, trained, other, damage, told):
    damage(trained)
    result = ser("evaluate", trained, "--manifest", other)
    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr


def test_a_folder_without_a_model_is_told(ser, other):
    Path("empty").mkdir()
    result = ser("evaluate", "empty", "--manifest", other)
    assert result.exit_code == 1
    assert "empty holds no model" in result.stderr


def test_two_models_at_once_are_refused(ser, trained, other):
    result = ser("evaluate", trained, trained, "--manifest", other)
    assert result.exit_code == 2
    assert "give one run or fold folder with --dataset" in result.stderr
