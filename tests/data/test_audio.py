import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_cli.data.audio import read_recording
from ser_cli.errors import AudioError
from tests.conftest import write_tone


def level_db(waveform: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


@pytest.mark.parametrize("rate", [8_000, 24_414, 44_100, 48_000])
def test_any_rate_becomes_16_khz_with_the_same_pitch_level_and_length(tmp_path, rate):
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), rate, subtype="FLOAT")
    recording = read_recording(tmp_path / "a.wav")
    assert (recording.source_rate_hz, recording.source_channels) == (rate, 1)
    assert abs(len(recording.waveform) - 16_000) <= 1
    inner = recording.waveform[1000:-1000]
    assert level_db(inner) == pytest.approx(10 * np.log10(0.125), abs=0.05)
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert np.argmax(spectrum) * 16_000 / len(inner) == pytest.approx(1000, abs=2)


def test_what_lies_above_8_khz_is_filtered_out_before_resampling(tmp_path):
    time = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 10_000 * time), 48_000, subtype="FLOAT")
    assert level_db(read_recording(tmp_path / "a.wav").waveform[500:-500]) < -80


def test_channels_are_averaged(tmp_path):
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    right = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    recording = read_recording(tmp_path / "a.wav")
    assert recording.source_channels == 2
    np.testing.assert_allclose(recording.waveform, (left + right) / 2, atol=1e-6)


def test_16_khz_mono_is_stored_as_it_was(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32767, 8000, dtype=np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    np.testing.assert_array_equal(read_recording(tmp_path / "a.flac").waveform, samples.astype(np.float32) / 32768)


def write_nan(path: Path) -> None:
    soundfile.write(path, np.array([0.1, np.nan] * 4000), 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: None, "No such file or directory"),
        (lambda p: p.touch(), "the file is empty"),
        (lambda p: p.write_bytes(b"no audio at all, only text"), "cannot be decoded"),
        (
            lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            "Git LFS pointer",
        ),
        (
            lambda p: soundfile.write(p, np.ones(399) * 0.1, 16_000),
            "lasts 24.9 ms; at least 25 ms are needed",
        ),
        (lambda p: soundfile.write(p, np.zeros(16_000), 16_000), "holds only silence"),
        (write_nan, "not finite"),
        (lambda p: soundfile.write(p, np.zeros(0), 16_000), "lasts 0.0 ms"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_reason(tmp_path, make, told):
    path = tmp_path / "clip.wav"
    make(path)
    with pytest.raises(AudioError) as error:
        read_recording(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_file_without_a_header_is_named(tmp_path):
    path = tmp_path / "clip.raw"
    path.write_bytes(b"\0\1" * 8000)
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_recording(path)


def test_a_clip_of_exactly_25_ms_is_read(tmp_path):
    write_tone(tmp_path / "a.wav", 440, 0.025)
    assert len(read_recording(tmp_path / "a.wav").waveform) == 400


@pytest.mark.corpus
def test_original_48_khz_files_decode_to_what_their_16_khz_copies_hold():
    data = Path(os.environ["SER_TEST_DATA"])
    originals = sorted((data / "ravdess-48k-sample").rglob("*.wav"))
    assert len(originals) == 13
    channels = set()
    for original in originals:
        copy = read_recording(data / "ravdess" / original.parent.name / f"{original.stem}.flac").waveform
        recording = read_recording(original)
        channels.add(recording.source_channels)
        size = min(len(copy), len(recording.waveform))
        assert abs(len(copy) - len(recording.waveform)) <= 2
        difference = level_db(recording.waveform[:size] - copy[:size]) - level_db(copy)
        assert difference < -40
    assert channels == {1, 2}
