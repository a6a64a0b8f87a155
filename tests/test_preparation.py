import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_cli.data.store import open_corpus
from ser_cli.errors import CorpusError
from ser_cli.preparation import whole_corpus as preparation
from ser_cli.preparation.whole_corpus import _path_of
from tests.conftest import write_tone, write_tone_corpus


def test_a_manifest_is_prepared_and_its_path_printed(ser, tones, home):
    result = ser("prepare", "--manifest", tones)
    assert result.exit_code == 0
    manifest = Path(result.stdout.strip())
    assert manifest == home / "corpora" / "tones" / "manifest.csv"
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54
    assert list(rows[0])[:8] == [
        "id",
        "path",
        "emotion",
        "speaker",
        "session",
        "gender",
        "text",
        "duration_s",
    ]
    assert "clips      54" in result.stderr
    assert "angry 18, happy 18, sad 18" in result.stderr


def test_stored_waveforms_are_the_decoded_ones(ser, tones, home):
    ser("prepare", "--manifest", tones)
    corpus = open_corpus(home / "corpora" / "tones")
    for utterance in corpus.utterances[::7]:
        samples, _ = soundfile.read(utterance.path, dtype="float32")
        np.testing.assert_array_equal(corpus.waveform(utterance.id), samples)
        assert utterance.duration_s == pytest.approx(len(samples) / 16_000)


def test_running_twice_does_nothing_the_second_time(ser, tones, monkeypatch):
    first = ser("prepare", "--manifest", tones)
    monkeypatch.setattr(preparation, "_build", lambda *args: pytest.fail("decoded again"))
    second = ser("prepare", "--manifest", tones)
    assert second.exit_code == 0
    assert second.stdout == first.stdout
    assert "already prepared, nothing changed" in second.stderr


def test_json_holds_the_counts(ser, tones):
    values = json.loads(ser("prepare", "--manifest", tones, "--json", "-q").stdout)
    assert values["utterances"] == 54
    assert values["speakers"] == 6
    assert values["labels"] == {"angry": 18, "happy": 18, "sad": 18}
    assert values["already_prepared"] is False


def test_quiet_says_nothing_on_stderr(ser, tones):
    result = ser("prepare", "--manifest", tones, "--quiet")
    assert result.stderr == ""
    assert result.stdout


def test_a_changed_source_is_not_replaced_without_force(ser, tones):
    ser("prepare", "--manifest", tones)
    write_tone(tones.parent / "p1" / "sad-0.wav", 300, 0.7)
    refused = ser("prepare", "--manifest", tones)
    assert refused.exit_code == 1
    assert f"is already prepared, from {tones}, with other files, rows or labels" in refused.stderr
    assert f"ser prepare --manifest {tones} --force" in refused.stderr
    assert ser("prepare", "--manifest", tones, "--force").exit_code == 0


def test_unusable_recordings_are_all_listed_at_once(ser, tones, home):
    folder = tones.parent
    (folder / "p1/sad-0.wav").write_bytes(b"nothing")
    write_tone(folder / "p2/sad-0.wav", 300, 0.02)
    soundfile.write(folder / "p3/sad-0.wav", np.zeros(8000), 16_000)
    (folder / "p4/sad-0.wav").unlink()
    result = ser("prepare", "--manifest", tones)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "4 problems" in result.stderr
    for name in ("p1", "p2", "p3", "p4"):
        assert f"{name}/sad-0.wav" in result.stderr
    assert "--skip-unreadable" in result.stderr
    assert sorted(path.name for path in (home / "corpora").iterdir()) == [".tones.lock", ".tones.part"]


def test_a_long_list_of_unusable_recordings_is_kept_whole_in_a_file(ser, tones, home):
    for clip in tones.parent.rglob("sad-0.wav"):
        clip.write_bytes(b"nothing")
    result = ser("prepare", "--manifest", tones)
    assert "6 problems" in result.stderr
    listed = home / "problems" / "tones.txt"
    assert f"and 1 more; all of them: {listed}" in result.stderr
    assert len(listed.read_text().splitlines()) == 6


def test_a_changed_gender_is_a_changed_corpus(ser, tones):
    ser("prepare", "--manifest", tones)
    tones.write_text(tones.read_text().replace(",female,", ",male,"))
    assert ser("prepare", "--manifest", tones).exit_code == 1


def test_the_advice_to_replace_a_corpus_keeps_its_name_folder_and_labels(ser, tones, tmp_path):
    manifest = tmp_path / "list of calls.csv"
    shutil.copy(tones, manifest)
    options = ("--source", tones.parent, "--name", "foo", "--labels", "sad,happy,angry")
    assert ser("prepare", "--manifest", manifest, *options).exit_code == 0
    os.utime(tones.parent / "p1/sad-0.wav", (1, 1))
    for dry in ((), ("--dry-run",)):
        refused = ser("prepare", "--manifest", manifest, *options, *dry)
        assert refused.exit_code == 1
        assert "or files that changed since" in refused.stderr
    (command,) = re.findall(r"replace it: ser (.*)", refused.stderr)
    replaced = ser(*shlex.split(command), "--json")
    assert replaced.exit_code == 0, replaced.stderr
    assert list(json.loads(replaced.stdout)["labels"]) == ["sad", "happy", "angry"]
    assert json.loads(replaced.stdout)["dataset"] == "foo"


def test_a_corpus_that_the_program_makes_is_not_downloaded(ser, home):
    result = ser("prepare", "--dataset", "demo", "--download")
    assert result.exit_code == 2
    assert "demo is not downloaded: the program makes its recordings itself" in result.stderr
    result = ser("train", "--dataset", "demo", "--dry-run")
    assert "dataset 'demo' is not prepared, and --dry-run writes nothing" in result.stderr


def test_a_manifest_that_is_not_there_is_named_whatever_its_folder(ser, home):
    for path, told in (("none/x.csv", "none/x.csv: no such manifest"), (".", ".: is a folder; give the CSV file")):
        assert told in ser("prepare", "--manifest", path).stderr


def test_emotions_that_differ_in_capitals_alone_are_told(ser, tones):
    lines = tones.read_text().splitlines()
    tones.write_text("\n".join([*lines[:-1], lines[-1].replace(",sad,", ",Sad,").replace(",angry,", ",Angry,")
                                .replace(",happy,", ",Happy,")]) + "\n")  # fmt: skip
    result = ser("prepare", "--manifest", tones)
    assert re.search(r"(Sad and sad|Angry and angry|Happy and happy) are taken for 2 emotions", result.stderr)


def test_one_session_for_all_tells_no_folds_apart(ser, tones):
    header, *lines = tones.read_text().splitlines()
    tones.write_text("\n".join([header + ",session", *(line + ",s1" for line in lines)]) + "\n")
    result = ser("train", "--manifest", tones, "--encoder", "conformer", "--dry-run")
    assert ser("prepare", "--manifest", tones).exit_code == 0
    result = ser("train", "--manifest", tones, "--encoder", "conformer", "--dry-run")
    assert "has one session, s1, and every fold tests a session that was not trained on" in result.stderr
    assert "leave the column session of the manifest empty" in result.stderr


def test_a_manifest_is_never_taken_for_another_of_the_same_name(ser, tmp_path):
    ser("prepare", "--manifest", write_tone_corpus(tmp_path / "one"))
    other = write_tone_corpus(tmp_path / "two")
    result = ser("train", "--manifest", other, "--encoder", "conformer", "--dry-run")
    assert result.exit_code == 1
    assert f"already prepared, from {tmp_path / 'one' / 'tones.csv'}" in result.stderr
    assert f"ser prepare --manifest {other} --name OTHER, then --dataset OTHER" in result.stderr


def test_two_processes_prepare_the_demo_corpus_at_once(home):
    command = [sys.executable, "-m", "ser_cli", "prepare", "--dataset", "demo"]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert told[0][0] == told[1][0]


def test_skip_unreadable_goes_on_and_records_which(ser, tones, home):
    (tones.parent / "p1/sad-0.wav").write_bytes(b"nothing")
    result = ser("prepare", "--manifest", tones, "--skip-unreadable", "--json")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert (values["utterances"], values["skipped"]) == (53, 1)
    skipped = (home / "corpora/tones/skipped.csv").read_text()
    assert "p1/sad-0.wav" in skipped
    assert "cannot be decoded" in skipped
    assert ser("prepare", "--manifest", tones, "--skip-unreadable", "--json").exit_code == 0
    without = ser("prepare", "--manifest", tones)
    assert without.exit_code == 1
    assert "was prepared without 1 recording, listed in" in without.stderr


def test_a_corpus_of_nothing_usable_is_refused(ser, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("path,emotion,speaker\na.wav,sad,p1\nb.wav,happy,p1\n")
    result = ser("prepare", "--manifest", tmp_path / "m.csv", "--skip-unreadable")
    assert result.exit_code == 1
    assert "not one of 2 recordings can be used: 2 problems" in result.stderr
    assert "cannot be decoded" in result.stderr


def test_recordings_that_all_contradict_each_other_are_named_with_what_to_do(ser, tmp_path):
    for name in ("a", "b"):
        write_tone(tmp_path / f"{name}.wav", 300, 0.3, seed=1)
    (tmp_path / "m.csv").write_text("path,emotion,speaker\na.wav,sad,p1\nb.wav,happy,p1\n")
    result = ser("prepare", "--manifest", tmp_path / "m.csv")
    assert result.exit_code == 1
    assert "not one of 2 recordings can be used: 2 problems" in result.stderr
    assert "a.wav: the same recording stands there as a, b, with" in result.stderr
    assert "mend these recordings or their labels, and prepare again" in result.stderr


def test_the_path_of_a_problem_may_hold_a_colon(tmp_path):
    folder = tmp_path / "take: 2"
    folder.mkdir()
    assert _path_of(f"{folder}: cannot be read (Permission denied)") == str(folder)
    assert _path_of(f"{folder}: line 3: cannot be read (x: y)") == str(folder)
    assert _path_of(f"{tmp_path}/gone: differs from {folder}, which has the same name") == f"{tmp_path}/gone"


def test_a_corpus_that_is_prepared_anew_while_it_is_read_is_never_read_with_the_old_index(ser, tones, home):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    early, late = (open_corpus(home / "corpora" / "tones") for _ in range(2))
    name = early.utterances[-1].id
    before = early.waveform(name)[100:200].copy()
    np.testing.assert_array_equal(early.stretch(name, 100, 100), before)
    lines = tones.read_text().splitlines(keepends=True)
    tones.write_text("".join([lines[0], *lines[2:]]))
    again = ser("prepare", "--manifest", tones, "--force")
    assert again.exit_code == 0, again.stderr
    np.testing.assert_array_equal(early.waveform(name)[100:200], before)  # mapped before
    for read in (lambda: early.stretch(name, 100, 100), lambda: late.waveform(name)):
        with pytest.raises(CorpusError, match="was prepared anew while this command read it"):
            read()
    again = open_corpus(home / "corpora" / "tones")
    np.testing.assert_array_equal(again.stretch(name, 100, 100), before)


def test_declared_labels_keep_their_order(ser, tones, home):
    ser("prepare", "--manifest", tones, "--labels", "sad,angry,happy")
    assert open_corpus(home / "corpora" / "tones").labels == ("sad", "angry", "happy")


def test_a_label_outside_the_declared_set_is_refused(ser, tones):
    result = ser("prepare", "--manifest", tones, "--labels", "sad,happy")
    assert result.exit_code == 2
    assert "18 problems" in result.stderr
    assert "emotion 'angry' is not among the declared sad, happy" in result.stderr


def test_dry_run_decodes_nothing(ser, tones, home):
    result = ser("prepare", "--manifest", tones, "--dry-run")
    assert result.exit_code == 0
    assert "54 recordings would be decoded" in result.stderr
    assert not home.exists()
    as_json = json.loads(ser("prepare", "--manifest", tones, "--dry-run", "--json", "-q").stdout)
    assert as_json["utterances"] == 54


def test_a_dry_run_of_training_prepares_nothing(ser, tones, home):
    for corpus in (["--manifest", tones], ["--dataset", "demo"]):
        result = ser("train", *corpus, "--encoder", "conformer", "--dry-run")
        assert result.exit_code == 1
        assert "prepare it first: ser prepare" in result.stderr
    assert not home.exists()


@pytest.mark.parametrize("labels", ["sad", "sad,sad,angry,happy"])
def test_labels_that_cannot_be_a_task_are_refused(ser, tones, labels):
    lines = tones.read_text().splitlines()
    tones.write_text("\n".join(line for line in lines if labels != "sad" or ",sad," in line or "path" in line))
    result = ser("prepare", "--manifest", tones, "--labels", labels)
    assert result.exit_code == 2
    assert "at least two different emotions are needed, each named once" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "give either --dataset NAME or --manifest FILE"),
        (["--dataset", "ravdess"], 2, "needs its recordings: give their folder with --source"),
        (["--dataset", "ravdes", "--source", "."], 2, "unknown dataset 'ravdes'; did you mean ravdess?"),
        (["--dataset", "ravdess", "--source", "nowhere"], 2, "the source folder nowhere does not exist"),
        (["--dataset", "ravdess", "--source", "."], 1, "no recording of ravdess found under ."),
        (
            ["--dataset", "ravdess", "--source", ".", "--name", "x"],
            2,
            "--name goes with --manifest",
        ),
        (["--manifest", "none.csv"], 2, "none.csv: no such manifest"),
    ],
)
def test_what_cannot_be_prepared_is_told_with_what_to_do(ser, arguments, code, told):
    result = ser("prepare", *arguments)
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert told in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("name", "told"), [("ravdess", "name of a known corpus"), ("../x", "cannot name a dataset")])
def test_a_name_that_is_taken_or_no_folder_is_refused(ser, tones, name, told):
    result = ser("prepare", "--manifest", tones, "--name", name)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_data_home_that_cannot_be_written_is_told(ser, tones, home):
    home.write_text("a file in the place of the folder")
    result = ser("prepare", "--manifest", tones)
    assert result.exit_code == 1
    assert "cannot write to the data home" in result.stderr


def test_an_incomplete_corpus_is_said_to_be_so(ser, tmp_path):
    write_tone(tmp_path / "Actor_01/03-01-01-01-01-01-01.wav", 440)
    result = ser("prepare", "--dataset", "ravdess", "--source", tmp_path)
    assert result.exit_code == 0
    assert "a complete ravdess has 1,440 clips; 1,439 were not found" in result.stderr


def test_demo_prepares_itself(ser, home):
    result = ser("prepare", "--dataset", "demo", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["labels"] == dict.fromkeys(("neutral", "happy", "sad", "angry"), 64)


def test_damaged_files_of_a_prepared_corpus_are_noticed(ser, tones, home):
    ser("prepare", "--manifest", tones)
    audio = home / "corpora/tones/audio.f32"
    audio.write_bytes(audio.read_bytes()[:-8])
    result = ser("train", "--dataset", "tones", "--encoder", "conformer")
    assert result.exit_code == 1
    assert "manifest and audio do not fit together" in result.stderr
    assert "--force" in result.stderr


def test_the_command_that_prepares_a_damaged_corpus_again_can_be_run(ser, tones, home):
    folder = tones.parent.rename(tones.parent.with_name("with a space"))
    manifest = folder / tones.name
    chosen = ("--name", "foo", "--labels", "sad,happy,angry", "--skip-unreadable")
    (folder / "p1/sad-0.wav").write_bytes(b"RIFF")
    assert ser("prepare", "--manifest", manifest, *chosen).exit_code == 0
    before = json.loads((home / "corpora/foo/prepared.json").read_text())
    audio = home / "corpora/foo/audio.f32"
    audio.write_bytes(audio.read_bytes()[:-8])
    told = ser("train", "--dataset", "foo", "--encoder", "conformer").stderr
    (command,) = re.findall(r"prepare it again: ser (.*)", told)
    result = ser(*shlex.split(command))
    assert result.exit_code == 0, result.stderr
    after = json.loads((home / "corpora/foo/prepared.json").read_text())
    assert {key: after[key] for key in ("labels", "fingerprint")} == {
        key: before[key] for key in ("labels", "fingerprint")
    }


def test_labels_that_nobody_chose_follow_the_manifest(ser, tones):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    tones.write_text(tones.read_text().replace(",sad,", ",gloomy,"))
    told = ser("train", "--manifest", tones, "--folds", 2, "--encoder", "conformer").stderr
    assert "declared" not in told
    (command,) = re.findall(r"replace it: ser (.*)", told)
    assert ser(*shlex.split(command)).exit_code == 0
    assert ser("train", "--manifest", tones, "--folds", 2, "--encoder", "conformer", "--dry-run").exit_code == 0


@pytest.mark.parametrize("name", ["my calls.csv", "emodb.csv", "-.csv"])
def test_a_manifest_whose_name_cannot_be_a_datasets_is_told_what_to_do(ser, tones, name):
    manifest = tones.rename(tones.with_name(name))
    for dry in ((), ("--dry-run",)):
        refused = ser("train", "--manifest", manifest, "--encoder", "conformer", "--folds", 2, *dry)
        assert refused.exit_code == 2, refused.stderr
        command, dataset = re.findall(r"name it otherwise: ser (.*), then (--dataset .*)", refused.stderr)[0]
    assert ser(*shlex.split(command)).exit_code == 0
    result = ser("train", *shlex.split(dataset), "--encoder", "conformer", "--folds", 2, "--dry-run")
    assert result.exit_code == 0, result.stderr


def test_two_manifests_of_one_name_do_not_mix(ser, tmp_path):
    ser("prepare", "--manifest", write_tone_corpus(tmp_path / "one", speakers=2))
    result = ser("prepare", "--manifest", write_tone_corpus(tmp_path / "two", speakers=3))
    assert result.exit_code == 1
    assert "--name OTHER, then --dataset OTHER" in result.stderr
