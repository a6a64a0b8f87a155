"""What `ser prepare` says of whole, partial and dirty corpora: on the terminal, as JSON, and beside the manifest."""

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.corpora.test_ravdess import published_names


def clip(
    folder: Path, name: str, *, rate: int = 16_000, channels: int = 1, duration_s: float = 0.1, suffix: str = "wav"
):
    """A recording whose samples are its own, under a name of RAVDESS."""
    path = folder / f"Actor_{name[-2:]}" / f"{name}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(name.replace("-", "")) % 2**32
    shape = (int(rate * duration_s), channels)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, shape), rate)
    return path


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    """A tree of RAVDESS, whole by names, with short noises for speech."""
    for name in published_names():
        clip(tmp_path / "ravdess", name, duration_s=0.03)
    return tmp_path / "ravdess"


def prepared(ser, source: Path, *options: str):
    result = ser("prepare", "--dataset", "ravdess", "--source", source, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_a_whole_corpus_is_told_to_be_whole(ser, ravdess, home):
    report, told = prepared(ser, ravdess)
    assert (report["utterances"], report["expected"], report["missing"], report["extra"]) == (1440, 1440, 0, 0)
    assert report["emotion"]["neutral"] == {"found": 96, "expected": 96}
    assert all(cell == {"found": 192, "expected": 192} for name, cell in report["emotion"].items() if name != "neutral")
    assert set(report["speaker"]) == {f"{actor:02d}" for actor in range(1, 25)}
    assert all(cell == {"found": 60, "expected": 60} for cell in report["speaker"].values())
    assert report["gender"] == {"female": 720, "male": 720}
    assert report["missing_ids"] == []
    assert "clips         1,440 of 1,440" in told
    assert "24 with 60 clips each" in told
    assert "warning" not in told
    kept = json.loads((home / "corpora/ravdess/report.json").read_text())
    assert {key: report[key] for key in kept} == kept


def test_what_is_missing_is_counted_and_the_first_ten_ids_are_named(ser, ravdess, home):
    gone = [name for name in published_names() if name.endswith("-07")][:12]
    for name in gone:
        (ravdess / "Actor_07" / f"{name}.wav").unlink()
    report, told = prepared(ser, ravdess)
    assert (report["utterances"], report["missing"], report["missing_ids_known"]) == (1428, 12, 12)
    assert report["missing_ids"] == sorted(gone)[:10]
    assert report["speaker"]["07"] == {"found": 48, "expected": 60}
    assert "a complete ravdess has 1,440 clips; 12 were not found" in told
    assert sorted(gone)[9] in told
    assert sorted(gone)[10] not in told
    listed = home / "corpora/ravdess/missing.txt"
    assert str(listed) in told
    assert listed.read_text().split() == sorted(gone)


def test_speakers_are_counted_who_were_found(ser, ravdess):
    found = {path.name for path in ravdess.glob("Actor_*") if any(path.iterdir())}
    result = ser("prepare", "--dataset", "ravdess", "--source", ravdess, "--json")
    assert json.loads(result.stdout)["speakers"] == len(found)
    shutil.rmtree(ravdess / min(found))
    again = ser("prepare", "--dataset", "ravdess", "--source", ravdess, "--json", "--force")
    assert json.loads(again.stdout)["speakers"] == len(found) - 1


def test_durations_rates_and_channels_are_told(ser, tmp_path):
    for position, (rate, channels, duration_s) in enumerate(
        [(48_000, 1, 0.5), (48_000, 2, 0.5), (44_100, 1, 1.5), (16_000, 1, 12.0), (16_000, 1, 305.0), (16_000, 6, 1.5)]
    ):
        clip(tmp_path, f"03-01-0{position + 1}-01-01-01-01", rate=rate, channels=channels, duration_s=duration_s)
    report, told = prepared(ser, tmp_path)
    assert report["sample_rates"] == {"16000": 3, "44100": 1, "48000": 2}
    assert report["channels"] == {"1": 4, "2": 1, "6": 1}
    bins = {(one["from_s"], one["to_s"]): one["clips"] for one in report["duration"]["histogram"] if one["clips"]}
    assert bins == {(0, 1): 2, (1, 2): 2, (10, 15): 1, (60, None): 1}
    assert report["duration"]["max_s"] == 305.0
    assert report["duration"]["hours"] == pytest.approx((0.5 + 0.5 + 1.5 + 12 + 305 + 1.5) / 3600, abs=1e-4)
    assert "3 at 16000 Hz, 1 at 44100 Hz, 2 at 48000 Hz; 4 with 1 channel, 1 with 2 channels, 1 with 6 channels" in told
    assert "60 up" in told
    assert "very long: 03-01-05-01-01-01-01 lasts 305.0 s" in told


def test_doubtful_files_are_listed_left_out_and_counted(ser, tmp_path, home):
    clip(tmp_path, "03-01-01-01-01-01-01")
    clip(tmp_path, "03-01-02-01-01-01-01")
    stray = clip(tmp_path, "03-01-03-01-01-01-02")
    (tmp_path / "Actor_05").mkdir()
    wrong = stray.rename(tmp_path / "Actor_05" / stray.name)
    unknown = clip(tmp_path, "03-01-09-01-01-01-01")
    report, told = prepared(ser, tmp_path)
    assert (report["utterances"], report["doubtful"]) == (2, 2)
    reasons = {entry["path"]: entry["reason"] for entry in report["doubtful_files"]}
    assert reasons[str(wrong)].endswith("its name says actor 02, its folder Actor_05")
    assert "emotion code 09 is not among 01 to 08" in reasons[str(unknown)]
    assert "2 files left out because their identity is in doubt" in told
    with (home / "corpora/ravdess/skipped.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {str(wrong), str(unknown)}


def test_one_recording_under_two_names_of_one_speaker_and_emotion_is_told_and_kept(ser, tmp_path):
    first = clip(tmp_path, "03-01-03-01-02-01-07")
    clip(tmp_path, "03-01-02-01-02-01-07")
    (first.parent / "03-01-03-01-02-02-07.wav").write_bytes(first.read_bytes())
    report, told = prepared(ser, tmp_path)
    assert report["utterances"] == 3
    assert report["identical"] == [["03-01-03-01-02-01-07", "03-01-03-01-02-02-07"]]
    assert "the same recording under several names, of one speaker and emotion: 03-01-03-01-02-01-07" in told


@pytest.mark.parametrize(("twin", "what"), [("03-01-04-01-02-01-07", "emotion"), ("03-01-03-01-02-01-08", "speaker")])
def test_one_recording_under_names_that_contradict_each_other_is_in_doubt(ser, tmp_path, twin, what):
    first = clip(tmp_path, "03-01-03-01-02-01-07")
    for other in ("03-01-01-01-01-01-01", "03-01-02-01-01-01-01"):
        clip(tmp_path, other)
    # The same samples in another container: bytes differ, the decoded audio does not.
    samples, rate = soundfile.read(first, dtype="int16")
    path = tmp_path / f"Actor_{twin[-2:]}" / f"{twin}.flac"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    report, told = prepared(ser, tmp_path)
    assert (report["utterances"], report["doubtful"]) == (2, 2)
    assert "the same recording stands there as" in told
    assert f"with {what} " in told


def test_undecodable_recordings_stop_until_they_are_to_be_left_out(ser, tmp_path):
    clip(tmp_path, "03-01-01-01-01-01-01")
    clip(tmp_path, "03-01-02-01-01-01-01")
    folder = tmp_path / "Actor_01"
    (folder / "03-01-03-01-01-01-01.wav").write_bytes(b"")
    (folder / "03-01-04-01-01-01-01.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    whole = clip(tmp_path, "03-01-05-01-01-01-01", duration_s=1)
    whole.write_bytes(whole.read_bytes()[:9000])
    refused = ser("prepare", "--dataset", "ravdess", "--source", tmp_path)
    assert refused.exit_code == 1
    for told in ("the file is empty", "it is a Git LFS pointer", "is truncated, its header promises 1.00 s"):
        assert told in refused.stderr
    report, told = prepared(ser, tmp_path, "--skip-unreadable")
    assert (report["utterances"], report["skipped"]) == (2, 3)
    assert len(report["skipped_files"]) == 3
    assert "03-01-03-01-01-01-01" in (Path(os.environ["SER_HOME"]) / "corpora/ravdess/missing.txt").read_text()


def test_the_second_time_the_same_report_is_told(ser, ravdess):
    first, _ = prepared(ser, ravdess)
    second, told = prepared(ser, ravdess)
    assert "already prepared, nothing changed" in told
    assert second.pop("already_prepared") is True
    assert first.pop("already_prepared") is False
    assert first == second


def test_a_label_set_is_chosen_without_decoding_again(ser, ravdess, monkeypatch):
    prepared(ser, ravdess)
    monkeypatch.setattr("ser_cli.preparation.whole_corpus.decode_into", lambda *args: pytest.fail("decoded again"))
    report, told = prepared(ser, ravdess, "--labels", "4")
    assert report["label_set"] == "4"
    assert report["labels"] == {"neutral": 288, "happy": 192, "sad": 192, "angry": 192}
    assert "labels 4" in told
    assert "8 (1,440 clips)" in told
    dry = ser("train", "--dataset", "ravdess", "--encoder", "conformer", "--dry-run")
    assert "# labels: 4: neutral, happy, sad, angry" in dry.stdout
    dry = ser("train", "--dataset", "ravdess", "--encoder", "conformer", "--dry-run", "--labels", "7")
    assert "# labels: 7: neutral, happy" in dry.stdout


def test_a_corpus_with_an_unknown_label_set_is_refused_before_decoding(ser, ravdess, home):
    result = ser("prepare", "--dataset", "ravdess", "--source", ravdess, "--labels", "5")
    assert result.exit_code == 2
    assert "unknown label set '5'" in result.stderr
    assert "known: 4, 7, 8, emobox" in result.stderr
    assert not (home / "corpora" / "ravdess").exists()


def test_a_corpus_that_cannot_be_downloaded_says_how_to_get_it(ser):
    result = ser("prepare", "--dataset", "savee", "--download")
    assert result.exit_code == 2
    assert "savee cannot be downloaded by a program" in result.stderr
    assert "openly licensed at a stable address: " in result.stderr
    assert "ravdess" in result.stderr


def test_download_and_source_exclude_each_other(ser, tones):
    for options in (["--dataset", "ravdess", "--source", "."], ["--manifest", tones]):
        result = ser("prepare", *options, "--download")
        assert result.exit_code == 2
        assert "--download" in result.stderr


def test_a_manifest_tells_its_numbers_too(ser, tones):
    result = ser("prepare", "--manifest", tones)
    assert "emotions   angry 18, happy 18, sad 18" in result.stderr
    assert "speakers   6 with 9 clips each" in result.stderr


def test_too_small_a_disk_is_told_before_anything_is_decoded(ser, ravdess, monkeypatch, home):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    result = ser("prepare", "--dataset", "ravdess", "--source", ravdess)
    assert result.exit_code == 1
    # 1,440 clips of 30 ms at 16 kHz, four bytes a sample.
    assert "about 3 MB are needed, 1 MB are free" in result.stderr
    assert "choose another place with SER_HOME" in result.stderr
    assert not (home / "corpora/ravdess").exists()


def test_a_manifest_is_found_by_the_name_that_it_was_prepared_under(ser, tones):
    spaced = tones.rename(tones.with_name("my tones.csv"))
    refused = ser("prepare", "--manifest", spaced)
    assert refused.exit_code == 2
    assert "'my tones' cannot name a dataset" in refused.stderr
    assert ser("prepare", "--manifest", spaced, "--name", "tones").exit_code == 0
    result = ser("train", "--manifest", spaced, "--folds", "3", "--encoder", "conformer", "--dry-run")
    assert result.exit_code == 0, result.stderr


def test_a_chosen_label_set_stays_until_another_is_chosen(ser, ravdess):
    prepared(ser, ravdess, "--labels", "4")
    again, _ = prepared(ser, ravdess)
    assert again["label_set"] == "4"


def test_emotions_that_a_filter_leaves_out_are_named(ser, ravdess):
    prepared(ser, ravdess)
    train = ("train", "--dataset", "ravdess", "--encoder", "conformer", "--dry-run", "--where")
    result = ser(*train, "intensity=strong")
    assert result.exit_code == 1
    assert "ravdess: no clip of neutral is left by --where 'intensity=strong'" in result.stderr
    assert "choose other emotions with --labels, or loosen --where" in result.stderr


def test_a_broken_link_is_named_by_its_own_name(ser, ravdess):
    link = ravdess / "Actor_01/03-01-01-01-01-01-01.wav"
    link.unlink()
    link.symlink_to("/nonexistent/annex")
    result = ser("prepare", "--dataset", "ravdess", "--source", ravdess)
    assert result.exit_code == 1
    assert f"{link}: cannot be decoded" in result.stderr
