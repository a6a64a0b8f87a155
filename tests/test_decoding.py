"""Decoding that goes on where it was interrupted, and never trusts what an interruption left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_cli.data.manifest import Utterance
from ser_cli.preparation import decoding
from ser_cli.preparation.decoding import decode_into
from tests.conftest import write_tone


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    """Ten tones of different lengths."""
    made = []
    for number in range(10):
        path = tmp_path / f"{number}.wav"
        write_tone(path, 200 + 50 * number, 0.1 + 0.01 * number, seed=number)
        made.append(Utterance(f"u{number}", str(path), "sad", "p1"))
    return made


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(decoding, "NOTED_AT_ONCE", 3)


def count_decoded(monkeypatch) -> list[str]:
    decoded: list[str] = []
    real = decoding.read_recording

    def read(path):
        decoded.append(Path(path).stem)
        return real(path)

    monkeypatch.setattr(decoding, "read_recording", read)
    return decoded


def waveform(folder: Path, entry) -> np.ndarray:
    samples = np.fromfile(folder / "audio.f32", "<f4")
    return samples[entry.offset : entry.offset + entry.samples]


def check(folder: Path, utterances, stored) -> None:
    assert list(stored) == [u.id for u in utterances]
    for utterance in utterances:
        expected, _ = soundfile.read(utterance.path, dtype="float32")
        np.testing.assert_array_equal(waveform(folder, stored[utterance.id]), expected)


def interrupted(folder: Path, utterances, at: int) -> None:
    """Decode until a chunk is done, then be stopped."""

    def stop(done: int, total: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_into(folder, utterances, stop)


def test_decoding_goes_on_where_it_was_interrupted(tmp_path, utterances, monkeypatch):
    folder = tmp_path / "part"
    interrupted(folder, utterances, 6)
    decoded = count_decoded(monkeypatch)
    told = []
    stored, unusable = decode_into(folder, utterances, lambda *done: told.append(done))
    assert sorted(decoded) == ["6", "7", "8", "9"]
    assert told == [(9, 10), (10, 10)]
    assert not unusable
    check(folder, utterances, stored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "audio.f32", (folder / "audio.f32").stat().st_size - 10),
        lambda folder: (folder / "audio.f32").open("ab").write(b"half a recording"),
        lambda folder: (folder / "journal.jsonl").open("a").write('{"path": "/x", "siz'),
        lambda folder: (folder / "journal.jsonl").write_text("nothing"),
        lambda folder: (folder / "journal.jsonl").write_text('{"format": 1}\n'),
        lambda folder: (folder / "journal.jsonl").unlink(),
        lambda folder: (folder / "audio.f32").unlink(),
        lambda folder: shutil.copyfile("/dev/null", folder / "audio.f32"),
    ],
)
def test_what_an_interruption_damaged_is_decoded_again(tmp_path, utterances, damage):
    folder = tmp_path / "part"
    interrupted(folder, utterances, 6)
    damage(folder)
    stored, _ = decode_into(folder, utterances)
    check(folder, utterances, stored)


def test_a_flipped_bit_in_what_was_stored_is_noticed(tmp_path, utterances):
    folder = tmp_path / "part"
    interrupted(folder, utterances, 6)
    data = bytearray((folder / "audio.f32").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "audio.f32").write_bytes(data)
    stored, _ = decode_into(folder, utterances)
    check(folder, utterances, stored)


def test_a_file_that_changed_meanwhile_is_decoded_again(tmp_path, utterances):
    folder = tmp_path / "part"
    interrupted(folder, utterances, 6)
    write_tone(Path(utterances[2].path), 900, 0.3)
    stored, _ = decode_into(folder, utterances)
    check(folder, sorted(utterances, key=lambda u: stored[u.id].offset), stored)


def test_a_file_that_could_not_be_decoded_is_tried_again_and_the_others_are_not(tmp_path, utterances, monkeypatch):
    folder = tmp_path / "part"
    good = Path(utterances[1].path).read_bytes()
    Path(utterances[1].path).write_bytes(b"nothing")
    _, unusable = decode_into(folder, utterances)
    assert list(unusable) == ["u1"]
    assert "cannot be decoded" in unusable["u1"]
    Path(utterances[1].path).write_bytes(good)
    decoded = count_decoded(monkeypatch)
    stored, unusable = decode_into(folder, utterances)
    assert decoded == ["1"]
    assert not unusable
    expected, _ = soundfile.read(utterances[1].path, dtype="float32")
    np.testing.assert_array_equal(waveform(folder, stored["u1"]), expected)


def test_prepare_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, ser):
    lines = ["path,emotion,speaker"]
    for number in range(400):
        name = f"{number:03d}.wav"
        write_tone(tmp_path / name, 200 + number, 1.0, 44_100, seed=number)
        lines.append(f"{name},{'sad' if number % 2 else 'happy'},p{number % 4}")
    manifest = tmp_path / "many.csv"
    manifest.write_text("\n".join(lines) + "\n")
    home = Path(os.environ["SER_HOME"])
    journal = home / "corpora" / ".many.part" / "journal.jsonl"
    killed = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "ser_cli", "prepare", "--manifest", manifest, "-q"], stdout=subprocess.PIPE
        )
        before = len(journal.read_text().splitlines()) if journal.exists() else 0
        while process.poll() is None and (not journal.exists() or len(journal.read_text().splitlines()) <= before):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 1
    assert not (home / "corpora" / "many").exists() or killed < 3
    result = ser("prepare", "--manifest", manifest, "--json", "-q")
    resumed = home / "corpora" / "many"
    audio = (resumed / "audio.f32").read_bytes()
    assert json.loads(result.stdout)["utterances"] == 400
    assert ser("prepare", "--manifest", manifest, "--force", "-q").exit_code == 0
    assert (resumed / "audio.f32").read_bytes() == audio
    assert sorted(path.name for path in resumed.iterdir()) == [
        *("audio.csv", "audio.f32", "manifest.csv", "missing.txt", "prepared.json", "report.json", "skipped.csv")
    ]
