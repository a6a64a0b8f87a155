"""A clip of five minutes and one of three hours beside short ones: no verb takes 2 GB for them."""

import csv
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import TONES_HZ, write_tone
from tests.measured_process import Measured, measure
from tests.running import read_csv
from tests.tiny_run import train_tiny_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

LIMIT_MIB = 2 * 1000**3 / 2**20
"""2 GB of resident memory, torch included."""

RATE = 16_000
LONG_S = {"minutes": 305, "hours": 3 * 3600}


@dataclass(frozen=True)
class LongCorpus:
    """Four speakers with three short clips each; two of them have a long one besides."""

    manifest: Path
    minutes: Path
    hours: Path
    short: tuple[Path, ...]


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory) -> LongCorpus:
    folder = tmp_path_factory.mktemp("long")
    rows = [("path", "emotion", "speaker")]
    for number, (emotion, hz) in enumerate(TONES_HZ.items()):
        for speaker in range(1, 5):
            name = f"p{speaker}-{emotion}.wav"
            write_tone(folder / name, hz * (1 + 0.02 * speaker), 0.5, seed=10 * number + speaker)
            rows.append((name, emotion, f"p{speaker}"))
    for number, (name, duration_s) in enumerate(LONG_S.items(), start=1):
        write_long(folder / f"{name}.flac", duration_s)
        rows.append((f"{name}.flac", "sad", f"p{number}"))
    with (folder / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return LongCorpus(
        folder / "long.csv", folder / "minutes.flac", folder / "hours.flac", tuple(sorted(folder.glob("p*.wav")))
    )


def write_long(path: Path, duration_s: int) -> None:
    """A tone that goes on and on, in whole numbers, so that what was stored can be compared bit by bit."""
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(duration_s // 5):
            file.write(five_seconds())


def five_seconds() -> np.ndarray:
    # 250 Hz: a whole number of periods, so that the parts join without a click.
    return np.round(9000 * np.sin(2 * np.pi * 250 * np.arange(5 * RATE) / RATE)).astype(np.int16)


def run_within_limit(work: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> Measured:
    """Run `ser` in a process of its own and see that its highest resident set stays below the limit."""
    measured = measure(arguments, tmp_path / "journal.jsonl")
    with capsys.disabled():
        print(f"\n{work}: {measured.peak_mib:.0f} MiB at most, {measured.baseline_mib:.0f} of it imports,", end=" ")
        print(f"{measured.wall_s:.1f} s")
    assert "Traceback" not in measured.stderr, measured.stderr[-3000:]
    assert measured.peak_mib < LIMIT_MIB
    return measured


def test_a_corpus_with_a_three_hour_clip_is_prepared_in_little_memory(long_corpus, tmp_path, capsys):
    done = run_within_limit("prepare", capsys, tmp_path, "prepare", "--manifest", long_corpus.manifest)
    assert done.exit_code == 0, done.stderr
    prepared = Path(done.stdout.strip()).parent
    entries = {row["id"]: row for row in csv.DictReader((prepared / "audio.csv").open())}
    expected = (five_seconds() / 32768).astype("<f4").tobytes()
    for name, duration_s in LONG_S.items():
        assert int(entries[name]["samples"]) == duration_s * RATE
        digest = hashlib.sha256()
        with (prepared / "audio.f32").open("rb") as file:
            file.seek(4 * int(entries[name]["offset"]))
            for _ in range(duration_s // 5):
                assert file.read(len(expected)) == expected
                digest.update(expected)
        assert entries[name]["sha256"] == digest.hexdigest()
    again = run_within_limit("prepare again", capsys, tmp_path, "prepare", "--manifest", long_corpus.manifest)
    assert "nothing changed" in again.stderr


def test_a_preparation_that_ended_behind_a_three_hour_clip_goes_on_in_little_memory(long_corpus, tmp_path, capsys):
    broken = long_corpus.manifest.parent / "zz-broken.wav"  # decoded last: nothing is put in place, all is kept
    broken.write_bytes(b"no recording")
    manifest = long_corpus.manifest.with_name("broken.csv")
    manifest.write_text(long_corpus.manifest.read_text() + "zz-broken.wav,sad,p1\n")
    first = run_within_limit("prepare, refused", capsys, tmp_path, "prepare", "--manifest", manifest)
    assert first.exit_code == 1
    assert first.opened[str(long_corpus.hours)] > 1
    write_tone(broken, 300)
    again = run_within_limit("prepare, resumed", capsys, tmp_path, "prepare", "--manifest", manifest)
    assert again.exit_code == 0, again.stderr
    assert again.opened[str(long_corpus.hours)] == 1  # for its header: how much room is needed
    assert again.opened[str(broken)] == 2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return train_tiny_run(tmp_path_factory.mktemp("trained"))


def test_long_clips_are_refused_as_a_whole_and_labelled_in_windows(long_corpus, model, tmp_path, capsys):
    command = ("predict", "--model", model, "--device", "cpu", "--json")
    paths = (long_corpus.hours, long_corpus.minutes, *long_corpus.short)
    done = run_within_limit("predict", capsys, tmp_path, *command, *paths)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == list(map(str, paths))
    assert rows[0]["error"].startswith("lasts 10,800 s, at most 120 s are classified as a whole; cut it into windows")
    assert rows[1]["error"].startswith("lasts 305 s, at most 120 s")
    assert all("label" in row for row in rows[2:])

    done = run_within_limit("predict --window", capsys, tmp_path, *command, "--window", 4, "--hop", 4, *paths)
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(row["path"] == str(long_corpus.hours) for row in rows) == 10_800 // 4
    assert sum(row["path"] == str(long_corpus.minutes) for row in rows) == 77  # the last lasts 1 s
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_of_many_clips_only_some_are_held_decoded(model, tmp_path, capsys):
    write_long(tmp_path / "clip.flac", 60)
    command = ("predict", "--model", model, "--device", "cpu")
    few, many = (
        run_within_limit(
            f"predict, {number} clips of 60 s", capsys, tmp_path, *command, *[tmp_path / "clip.flac"] * number
        )
        for number in (8, 120)
    )
    assert (few.stdout.count("\n"), many.stdout.count("\n")) == (8, 120)
    assert set(few.stdout.splitlines()) == set(many.stdout.splitlines())
    assert many.peak_mib - few.peak_mib < 250  # 112 clips more are 410 MiB


def test_a_corpus_with_a_three_hour_clip_is_trained_on_and_evaluated_in_little_memory(long_corpus, tmp_path, capsys):
    # The built-in encoder as it ships; the three-hour clip is trained on in one fold and tested in the other.
    command = ("train", "--manifest", long_corpus.manifest, "--folds", 2, "--encoder", "conformer", "--epochs", 1)
    done = run_within_limit("train", capsys, tmp_path, *command, "--embeddings", "--device", "cpu", "--output", "run")
    assert done.exit_code == 0, done.stderr
    tested = [row["id"] for fold in (1, 2) for row in read_csv(Path(f"run/fold-{fold}/predictions.csv"))]
    assert {"hours", "minutes"} < set(tested)
    evaluated = run_within_limit("evaluate", capsys, tmp_path, "evaluate", "run", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert len(json.loads(evaluated.stdout)["folds"]) == 2
