import errno
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from ser_cli.data.audio import TooLongError, open_recording, read_recording
from ser_cli.data.streaming import read_windows
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


def write_video(path: Path, layout: str, loud_channel: int, rate: int = 48_000) -> None:
    """Half a second of 440 Hz in one channel, the others silent, as AAC in an MPEG-4 file."""
    time = np.arange(rate // 2) / rate
    samples = np.zeros((len(av.AudioLayout(layout).channels), len(time)), dtype=np.float32)
    samples[loud_channel] = 0.25 * np.sin(2 * np.pi * 440 * time)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize(
    ("name", "layout", "loud_channel", "channels"),
    [("a.mp4", "5.1", 2, 6), ("a.M4A", "mono", 0, 1), ("a.mkv", "stereo", 1, 2)],
)
def test_the_sound_of_video_and_phone_recordings_is_decoded(tmp_path, name, layout, loud_channel, channels):
    write_video(tmp_path / name.lower(), layout, loud_channel)
    (tmp_path / name.lower()).rename(tmp_path / name)
    recording = read_recording(tmp_path / name)
    assert (recording.source_rate_hz, recording.source_channels) == (48_000, channels)
    assert len(recording.waveform) == pytest.approx(8_000, abs=1_100)  # AAC begins with a frame of padding
    inner = recording.waveform[2000:6000]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert np.argmax(spectrum) * 4 == pytest.approx(440, abs=5)
    assert -30 < level_db(inner) < -12


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "flac", "mp3"])
def test_a_file_that_ends_before_its_header_says_is_never_read_as_a_shorter_clip(tmp_path, suffix):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000)
    whole = tmp_path / f"a.{suffix}"
    soundfile.write(whole, noise, 16_000)
    assert len(read_recording(whole).waveform) == pytest.approx(32_000, abs=2500)  # MP3 pads
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"is truncated, its header promises 2\.\d+ s and|cannot be decoded"):
        read_recording(half)


def test_a_wav_file_written_to_a_pipe_has_no_true_size_and_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_recording(tmp_path / "a.wav").waveform) == 16_000


def test_six_channels_of_a_wav_file_are_averaged(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 6))
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    recording = read_recording(tmp_path / "a.wav")
    assert recording.source_channels == 6
    np.testing.assert_allclose(recording.waveform, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("content", "told"), [(b"", "the file is empty"), (b"no video", "cannot be decoded")])
def test_a_video_file_that_is_none_is_named(tmp_path, content, told):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(AudioError, match=told):
        read_recording(tmp_path / "a.mp4")


def test_a_video_without_sound_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32)
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="has no sound track"):
        read_recording(tmp_path / "a.mp4")


@pytest.mark.parametrize("claimed", [1, 999, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, claimed):
    write_tone(tmp_path / "a.wav", 440)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = claimed.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=f"claims {claimed:,} samples per second; expected 1,000 to 1,000,000"):
        read_recording(tmp_path / "a.wav")


def with_total_samples(flac: bytes, total: int) -> bytes:
    """Total samples are the last 36 of bits 108 to 143 of STREAMINFO, which starts at byte 8 (RFC 9639, 8.2)."""
    word = int.from_bytes(flac[21:26], "big") >> 36 << 36 | total
    return flac[:21] + word.to_bytes(5, "big") + flac[26:]


def test_a_flac_file_written_to_a_pipe_does_not_know_its_length_and_is_read(tmp_path):
    write_tone(tmp_path / "a.flac", 440, 2.0)
    expected = read_recording(tmp_path / "a.flac").waveform
    (tmp_path / "b.flac").write_bytes(with_total_samples((tmp_path / "a.flac").read_bytes(), 0))
    np.testing.assert_array_equal(read_recording(tmp_path / "b.flac").waveform, expected)
    pieces = list(read_windows(tmp_path / "b.flac", 0.5, 0.5))
    np.testing.assert_array_equal(np.concatenate([piece.waveform for piece in pieces]), expected)


def test_windows_of_a_flac_file_that_promises_more_end_where_its_sound_ends(tmp_path):
    write_tone(tmp_path / "a.flac", 440, 2.0)
    expected = read_recording(tmp_path / "a.flac").waveform
    (tmp_path / "b.flac").write_bytes(with_total_samples((tmp_path / "a.flac").read_bytes(), 2**36 - 1))
    pieces = []
    with pytest.raises(AudioError, match=r"is truncated, its header promises 4294967\.30 s and 2\.00 s are there"):
        for piece in read_windows(tmp_path / "b.flac", 0.5, 0.5):
            pieces.append(piece)  # one by one: what came before the error counts
    np.testing.assert_array_equal(np.concatenate([piece.waveform for piece in pieces]), expected)


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile other.wav\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.wav\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_list_in_the_place_of_a_recording_opens_no_other_file(tmp_path, content):
    write_tone(tmp_path / "other.wav", 440)
    (tmp_path / "a.mp4").write_text(content)
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_recording(tmp_path / "a.mp4")


def test_a_path_that_reads_like_a_command_to_ffmpeg_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("a.mp4"), "mono", 0)
    Path("a.mp4").rename("concat:b.mp4|c.mp4")
    assert len(read_recording("concat:b.mp4|c.mp4").waveform) > 7_000


def test_a_video_file_that_ends_before_its_header_says_is_never_read_as_a_shorter_clip(tmp_path):
    time = np.arange(48_000 * 4) / 48_000
    frame = av.AudioFrame.from_ndarray(
        0.3 * np.sin(880 * np.pi * time)[None].astype("f4"), format="fltp", layout="mono"
    )
    frame.sample_rate = 48_000
    # The index comes first, as web servers want it: a half of the file can be opened.
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    content = (tmp_path / "a.mp4").read_bytes()
    assert len(read_recording(tmp_path / "a.mp4").waveform) == pytest.approx(64_000, abs=1_100)
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"is truncated, its header promises 4\.\d+ s|cannot be decoded"):
        read_recording(tmp_path / "half.mp4")


def test_what_lasts_over_two_minutes_is_not_held_in_memory_as_a_whole(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16_000, 1) as file:
        for _ in range(130):
            file.write(np.full(16_000, 0.1))
    with pytest.raises(TooLongError, match="lasts 130 s"):
        read_recording(tmp_path / "a.flac")


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_what_fails_while_a_recording_is_stored_is_not_said_of_the_recording(tmp_path, name):
    write_video(tmp_path / "a.mp4", "mono", 0)
    write_tone(tmp_path / "a.wav", 440)
    with pytest.raises(OSError, match="No space left"), open_recording(tmp_path / name) as stream:
        next(stream.blocks)
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the names of files are no bytes")
def test_a_name_that_is_no_utf_8_is_read_and_told(tmp_path):
    plain, odd = tmp_path / "tone.wav", Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav"))
    write_tone(plain, 440)
    expected = read_recording(plain).waveform
    plain.rename(odd)
    assert np.array_equal(read_recording(odd).waveform, expected)
    odd.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"caf\\xe9\.wav: cannot be decoded|cannot be decoded"):
        read_recording(odd)
