"""The demo corpus: what was rendered is measured here by independent means."""

from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.lib.stride_tricks import sliding_window_view

from ser_cli.corpora import demo
from ser_cli.corpora.corpus import Listing

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.render(folder)
    return folder


@pytest.fixture(scope="module")
def listing(folder) -> Listing:
    return demo.read(folder)


@pytest.fixture(scope="module")
def waveforms(listing) -> dict[tuple[str, str, int], np.ndarray]:
    return {(u.speaker, u.emotion, int(u.id.rsplit("-", 1)[1])): soundfile.read(u.path)[0] for u in listing.utterances}


@pytest.fixture(scope="module")
def measured(waveforms):
    """Mean of a measure per speaker, over the first three takes of an emotion."""

    @cache
    def mean(measure, emotion: str) -> np.ndarray:
        return np.array(
            [np.mean([measure(waveforms[voice.id, emotion, take]) for take in (1, 2, 3)]) for voice in demo.SPEAKERS]
        )

    return mean


def speech_level_db(waveform: np.ndarray) -> float:
    """Power of the louder half of the 20 ms stretches."""
    power = np.mean(waveform[: len(waveform) // 320 * 320].reshape(-1, 320) ** 2, axis=1)
    return 10 * np.log10(np.mean(np.sort(power)[len(power) // 2 :]))


def slope_db_per_octave(waveform: np.ndarray) -> float:
    """Straight line through the long-term spectrum of the loud frames, 300 Hz to 4 kHz, in third octaves."""
    frames = sliding_window_view(waveform, 512)[::256]
    energy = (frames**2).sum(axis=1)
    loud = frames[energy > 0.1 * energy.max()] * np.hanning(512)
    spectrum = (np.abs(np.fft.rfft(loud, axis=1)) ** 2).mean(axis=0)
    frequency_hz = np.arange(257) * RATE_HZ / 512
    edges = 300 * 2 ** (np.arange(12) / 3)
    bands = [10 * np.log10(spectrum[(frequency_hz >= a) & (frequency_hz < b)].mean()) for a, b in pairwise(edges)]
    return float(np.polyfit(np.arange(len(bands)) / 3, bands, 1)[0])


@cache
def _low_pass() -> np.ndarray:
    n = np.arange(-64, 65)
    return np.sinc(n * 2 * 800 / RATE_HZ) * np.hanning(129) * 2 * 800 / RATE_HZ


def pitch_st(waveform: np.ndarray) -> np.ndarray:
    """F0 of the voiced frames in semitones over 100 Hz, by the normalised cross-correlation (Talkin 1995)."""
    return _track_pitch(waveform.tobytes())


@cache
def _track_pitch(content: bytes) -> np.ndarray:
    waveform = np.frombuffer(content)
    size, shortest, longest = 400, 32, 229
    smooth = np.convolve(waveform, _low_pass(), "same")
    threshold = 0.3 * np.sqrt(np.mean(smooth**2))
    found = []
    for start in range(0, len(smooth) - size - longest, 240):
        here = smooth[start : start + size]
        if np.sqrt(np.mean(here**2)) < threshold:
            continue
        later = sliding_window_view(smooth[start : start + size + longest], size)[shortest:]
        likeness = later @ here / np.sqrt((here @ here) * (later**2).sum(axis=1))
        best = likeness.max()
        inner = likeness[1:-1]
        peaks = (inner >= likeness[:-2]) & (inner >= likeness[2:]) & (inner > best - 0.08)
        if best > 0.75 and peaks.any():
            found.append(12 * np.log2(RATE_HZ / (shortest + 1 + int(np.argmax(peaks))) / 100))
    return np.array(found)


def pitch_level_st(waveform: np.ndarray) -> float:
    return float(np.median(pitch_st(waveform)))


def pitch_range_st(waveform: np.ndarray) -> float:
    low, high = np.percentile(pitch_st(waveform), [25, 75])
    return float(high - low)


def _loud_stretches(waveform: np.ndarray) -> np.ndarray:
    """Whether each 5 ms stretch lies within 30 dB of the loudest."""
    power = np.mean(waveform[: len(waveform) // 80 * 80].reshape(-1, 80) ** 2, axis=1)
    return power > 1e-3 * power.max()


def spoken_s(waveform: np.ndarray) -> float:
    """From the first loud stretch to the last."""
    loud = np.flatnonzero(_loud_stretches(waveform))
    return float(loud[-1] - loud[0] + 1) * 0.005


def test_the_same_take_is_the_same_samples_every_time():
    first = demo.render_utterance(demo.SPEAKERS[4], "happy", 2)
    np.random.seed(1)
    demo.render_utterance(demo.SPEAKERS[0], "sad", 1)
    again = demo.render_utterance(demo.SPEAKERS[4], "happy", 2)
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes()


def test_rendering_twice_writes_the_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SPEAKERS", demo.SPEAKERS[:2])
    demo.render(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.flac"))
    assert len(written) == 64
    assert all((tmp_path / path).read_bytes() == (folder / path).read_bytes() for path in written)


def test_a_recording_holds_exactly_the_samples_that_were_rendered(waveforms):
    for key in (("s01", "angry", 1), ("s08", "sad", 8)):
        voice = next(voice for voice in demo.SPEAKERS if voice.id == key[0])
        np.testing.assert_array_equal(waveforms[key], demo.render_utterance(voice, *key[1:]))


def test_recordings_are_mono_16_bit_flac_at_16_khz_and_nothing_else_is_left(folder):
    info = soundfile.info(folder / "s01" / "s01-happy-3.flac")
    assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 256


def test_every_take_of_every_voice_differs(waveforms):
    assert len({waveform.tobytes() for waveform in waveforms.values()}) == 256


def test_no_clip_is_clipped_silent_or_of_odd_length(waveforms):
    for key, waveform in waveforms.items():
        assert 0.03 < np.abs(waveform).max() <= 0.95, key
        assert 0.7 < len(waveform) / RATE_HZ < 2.5, key
        # A clip that is one click and otherwise noise has a peak, too; most of speech is loud.
        assert np.mean(_loud_stretches(waveform)) > 0.35, key


def test_every_clip_begins_and_ends_near_silence(waveforms):
    for key, waveform in waveforms.items():
        assert np.sqrt(np.mean(waveform[:480] ** 2)) < 0.001, key
        assert np.sqrt(np.mean(waveform[-160:] ** 2)) < 0.01, key


def test_every_speaker_has_every_emotion_equally_often(listing):
    assert listing.problems == ()
    assert len(listing.utterances) == demo.CORPUS.counts.utterances == 256
    counts = Counter((u.speaker, u.emotion) for u in listing.utterances)
    assert set(counts.values()) == {8}
    assert len(counts) == 8 * 4
    assert Counter({u.speaker: u.gender for u in listing.utterances}.values()) == {"female": 4, "male": 4}


def test_names_parse_back(folder, listing):
    assert [u.id for u in listing.utterances] == sorted(u.id for u in listing.utterances)
    one = next(u for u in listing.utterances if u.id == "s05-sad-7")
    assert (one.speaker, one.emotion, one.gender, one.session) == ("s05", "sad", "female", "")
    assert one.path == str(folder / "s05" / "s05-sad-7.flac")
    assert one.text == demo.spoken_text(demo.SPEAKERS[4], "sad", 7)


def test_text_does_not_tell_the_emotion(listing):
    texts = {emotion: Counter() for emotion in demo.LABELS}
    for utterance in listing.utterances:
        texts[utterance.emotion][utterance.text] += 1
    assert texts["neutral"] == texts["happy"] == texts["sad"] == texts["angry"]


@pytest.mark.parametrize(
    "name",
    ["s01/s01-bored-1.flac", "s01/s01-happy-9.flac", "s09/s09-happy-1.flac", "s02/s01-happy-1.flac", "x.wav"],
)
def test_a_stray_recording_is_named_as_a_problem(tmp_path, name):
    for path in (tmp_path / name, tmp_path / "s01" / "s01-sad-2.flac"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = demo.read(tmp_path)
    assert [u.id for u in found.utterances] == ["s01-sad-2"]
    assert found.problems == (f"{name}: not a recording of demo; expected names such as s01/s01-happy-3.flac",)


# In the tests below, "for every voice" compares a voice with itself; a mean over voices, as the literature
# reports it, is a weaker claim.


def test_anger_is_louder_than_neutral_and_sadness_softer(measured):
    level = {emotion: measured(speech_level_db, emotion) for emotion in demo.LABELS}
    assert np.all(level["angry"] > level["neutral"] + 4)
    assert np.all(level["sad"] < level["neutral"] - 2)
    assert level["neutral"].mean() < level["happy"].mean() < level["angry"].mean()


def test_anger_has_a_flatter_spectrum_than_neutral_and_sadness_a_steeper_one(measured):
    slope = {emotion: measured(slope_db_per_octave, emotion) for emotion in demo.LABELS}
    assert np.all(slope["angry"] > slope["neutral"] + 1)
    assert np.all(slope["sad"] < slope["neutral"])
    assert slope["neutral"].mean() < slope["happy"].mean() < slope["angry"].mean()


def test_happiness_has_the_highest_pitch_and_sadness_the_lowest(measured):
    pitch = {emotion: measured(pitch_level_st, emotion) for emotion in demo.LABELS}
    assert np.all(pitch["happy"] > pitch["sad"] + 4)
    assert pitch["sad"].mean() < pitch["neutral"].mean() < pitch["angry"].mean() < pitch["happy"].mean()


def test_happiness_and_anger_have_a_wider_pitch_range_than_neutral_and_sadness(measured):
    width = {emotion: measured(pitch_range_st, emotion).mean() for emotion in demo.LABELS}
    assert min(width["happy"], width["angry"]) > max(width["neutral"], width["sad"]) + 0.5


def test_sadness_is_slower_than_neutral_and_anger_and_happiness_are_faster(measured):
    # The takes have the same syllables in every emotion, so durations compare like syllable rates.
    duration = {emotion: measured(spoken_s, emotion) for emotion in demo.LABELS}
    assert np.all(duration["sad"] > 1.1 * duration["neutral"])
    assert duration["angry"].mean() < 0.95 * duration["neutral"].mean()
    assert duration["happy"].mean() < 0.95 * duration["neutral"].mean()


def test_neutral_pitch_is_that_of_the_voice(measured):
    for voice, found_st in zip(demo.SPEAKERS, measured(pitch_level_st, "neutral"), strict=True):
        assert found_st == pytest.approx(12 * np.log2(voice.f0_hz / 100), abs=2), voice.id


@pytest.mark.parametrize("measure", [speech_level_db, slope_db_per_octave, pitch_level_st, spoken_s])
def test_voices_overlap_so_that_no_single_value_tells_neutral_from_happiness(waveforms, measure):
    values = {
        emotion: [measure(waveforms[voice.id, emotion, take]) for voice in demo.SPEAKERS for take in (1, 2)]
        for emotion in ("neutral", "happy")
    }
    assert max(min(values["neutral"]), min(values["happy"])) < min(max(values["neutral"]), max(values["happy"]))
