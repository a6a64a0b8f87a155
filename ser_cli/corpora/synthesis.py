"""Source-filter speech synthesis, for the demo corpus: what is said and how, in the signals of `source_filter`.

A pulse train with jitter and shimmer and breath noise drive a cascade of formant resonators that glides between
vowels and consonants; closures, bursts and frication stand between them.

References:
    Peterson and Barney (1952), Control methods used in a study of the vowels, J. Acoust. Soc. Am. 24(2).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_cli.corpora.source_filter import (
    HOP,
    SAMPLE_RATE_HZ,
    Floats,
    filter_frames,
    noise_response,
    pulse_train,
    source_response,
    tract_response,
)

BREATH_TILT_DB = -6.0

# Leaves room for the peaks of the loudest voice in its loudest take.
VOICED_LEVEL_DBFS = -30.0
PEAK = 0.94
NOISE_FLOOR_DBFS = -72.0

HOP_S = HOP / SAMPLE_RATE_HZ

VOWELS_HZ = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
"""F1 to F3 of men, after Peterson and Barney (1952)."""


@dataclass(frozen=True)
class Consonant:
    """How a syllable begins: a constriction, then for some a burst, then for some breath."""

    locus_hz: tuple[float, float, float]
    """F1 to F3 of the male reference at the constriction."""
    hold_s: float
    voice: float
    """Amplitude of the voice during the hold, relative to a vowel."""
    noise_hz: float = 0.0
    """Centre of burst or frication."""
    noise: float = 0.0
    """Root mean square of burst or frication, relative to that of a vowel."""
    burst_s: float = 0.0
    """Length of a burst after the hold; 0 lets the noise last through the hold."""
    breath_s: float = 0.0
    """Length of the breath between a burst and the voice."""


CONSONANTS = {
    "b": Consonant((250, 900, 2250), 0.060, 0.15, 900, 0.25, 0.010),
    "d": Consonant((250, 1700, 2600), 0.055, 0.15, 3800, 0.30, 0.012),
    "g": Consonant((250, 2000, 2450), 0.055, 0.15, 2000, 0.30, 0.015),
    "p": Consonant((350, 900, 2250), 0.075, 0.0, 1000, 0.30, 0.010, 0.025),
    "t": Consonant((350, 1700, 2600), 0.070, 0.0, 4200, 0.40, 0.015, 0.030),
    "k": Consonant((350, 1900, 2400), 0.070, 0.0, 2200, 0.40, 0.020, 0.035),
    "m": Consonant((260, 1050, 2200), 0.070, 0.40),
    "n": Consonant((260, 1500, 2500), 0.065, 0.40),
    "l": Consonant((350, 1200, 2700), 0.060, 0.55),
    "s": Consonant((300, 1700, 2600), 0.100, 0.0, 5800, 0.30),
    "f": Consonant((300, 1000, 2200), 0.090, 0.0, 4500, 0.12),
}


@dataclass(frozen=True)
class Segment:
    """A stretch of the utterance with one articulatory target."""

    frames: int
    formants_hz: tuple[float, float, float]
    voice: float = 0.0
    breath: float = 0.0
    noise: float = 0.0
    noise_hz: float = 1000.0


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker: what stays the same whatever the emotion."""

    id: str
    gender: str
    """`female` or `male`."""
    f0_hz: float
    """F0 level of neutral speech."""
    formant_scale: float
    """Formant frequencies over those of the male reference; the inverse of vocal-tract length."""
    rate_hz: float
    """Syllables per second in neutral speech, pauses not counted."""
    level_db: float
    """Loudness habit, relative to the mean of the voices."""
    tilt_db: float
    """Fall of the voice source per octave above `TILT_CORNER_HZ`, radiation included."""
    breath_db: float
    """Power of breath noise over power of the voice in neutral speech."""


@dataclass(frozen=True)
class Correlates:
    """What an emotion changes in a voice, for a take of average strength."""

    f0_level_st: float
    """Shift of the mean of F0, in semitones."""
    f0_range_st: float
    """Height of the pitch accents, in semitones."""
    rate: float
    """Syllable rate over that of neutral speech."""
    level_db: float
    """Shift of the level of the voiced parts."""
    level_range_db: float
    """Rise of the level on a pitch accent."""
    tilt_db: float
    """Change of the fall per octave; positive is flatter, with more energy at high frequencies."""
    jitter_percent: float
    """Standard deviation of a period, relative to its length."""
    breath_db: float
    """Shift of breath noise relative to the voice."""
    pause_probability: float
    """Chance of a pause between two syllables."""
    articulation: float
    """Distance of the vowel formants from those of a neutral tract, over that of neutral speech."""
    formant_scale: float
    """Factor on all formant frequencies; a smile shortens the vocal tract."""


def synthesise(voice: Voice, manner: Correlates, syllables: list[str], rng: np.random.Generator) -> NDArray[np.float32]:
    """Synthesise one utterance.

    Args:
        voice: who speaks.
        manner: how; what a take's emotion makes of the voice.
        syllables: a consonant and a vowel each, such as `ba`.
        rng: source of every draw.

    Returns:
        (samples,) at `SAMPLE_RATE_HZ`, at most 0.95 in magnitude, on the grid of 16-bit PCM. Levels are not
        normalised: they are part of the emotion and of the voice.
    """
    segments, syllable_starts, syllable_frames = _plan(syllables, voice.rate_hz * manner.rate, manner, rng)
    frames = sum(segment.frames for segment in segments)
    samples = frames * HOP

    formant_scale = voice.formant_scale * manner.formant_scale
    formants_hz = formant_scale * _smooth(_track(segments, "formants_hz"), 9)
    accents, loudness = _prosody(frames, syllable_starts, syllable_frames, manner.level_range_db, rng)
    contour_st = manner.f0_level_st + manner.f0_range_st * accents - 2.5 * (np.linspace(0.0, 1.0, frames) - 0.5)
    f0_hz = _to_samples(voice.f0_hz * 2.0 ** (contour_st / 12.0))
    voicing = _to_samples(_smooth(_track(segments, "voice"), 5) * loudness)
    breathing = _to_samples(_smooth(_track(segments, "breath"), 3) * loudness)
    noisiness = _to_samples(_track(segments, "noise"))

    phase = np.cumsum(f0_hz) / SAMPLE_RATE_HZ
    pulses = pulse_train(phase, f0_hz, manner.jitter_percent / 100.0, rng)
    # Breath is strongest while the glottis is open, which ties it to the voice instead of hissing beside it.
    breath = rng.standard_normal(samples) * (1.0 + 0.6 * np.cos(2 * np.pi * phase))
    noise = rng.standard_normal(samples)

    tract = tract_response(formants_hz, formant_scale)
    tilt = voice.tilt_db + manner.tilt_db
    voiced = filter_frames(pulses * voicing, tract * source_response(tilt))
    breathed = filter_frames(breath * breathing, tract * source_response(BREATH_TILT_DB))
    bursts = filter_frames(noise, noise_response(_smooth(_track(segments, "noise_hz"), 3))) * noisiness

    vowel_rms = float(np.sqrt(np.average(voiced**2, weights=voicing)))
    breathed *= vowel_rms * 10.0 ** ((voice.breath_db + manner.breath_db) / 20.0) / _rms(breathed)
    speech = voiced + breathed + vowel_rms * bursts
    speech *= 10.0 ** ((VOICED_LEVEL_DBFS + voice.level_db + manner.level_db) / 20.0) / vowel_rms
    speech += 10.0 ** ((NOISE_FLOOR_DBFS + rng.uniform(-3.0, 3.0)) / 20.0) * rng.standard_normal(samples)
    speech *= min(1.0, PEAK / float(np.abs(speech).max()))
    # Rounded here, so that a caller and a reader of the file hold the same numbers on every machine.
    return (np.rint(speech * 32768.0) / 32768.0).astype(np.float32)


def _plan(
    syllables: list[str], rate_hz: float, manner: Correlates, rng: np.random.Generator
) -> tuple[list[Segment], list[int], list[int]]:
    """Lay out the segments of an utterance.

    Args:
        syllables: a consonant and a vowel each.
        rate_hz: syllables per second, pauses and the lengthening of the last one not counted.
        manner: tells how probable pauses are and how clear the vowels.
        rng: chooses durations and pauses.

    Returns:
        The segments, and the first frame and the number of frames of every syllable.
    """
    rest = (500.0, 1500.0, 2500.0)
    segments = [Segment(_frames(rng.uniform(0.06, 0.14)), rest)]
    starts, lengths = [], []
    for index, syllable in enumerate(syllables):
        if index and rng.random() < manner.pause_probability:
            segments.append(Segment(_frames(rng.uniform(0.08, 0.16)), rest))
        starts.append(sum(segment.frames for segment in segments))
        duration_s = np.exp(rng.normal(0.0, 0.10)) / rate_hz
        if index == len(syllables) - 1:
            duration_s *= 1.25
        # Consonants stretch less than vowels when speech slows down.
        stretch = (4.6 / rate_hz) ** 0.5
        begin = _onset(CONSONANTS[syllable[0]], stretch)
        vowel_s = max(0.06, duration_s - HOP_S * sum(segment.frames for segment in begin))
        f1, f2, f3 = (
            rest_hz + manner.articulation * (formant_hz - rest_hz)
            for formant_hz, rest_hz in zip(VOWELS_HZ[syllable[1]], rest, strict=True)
        )
        varied = (f1 * rng.normal(1.0, 0.04), f2 * rng.normal(1.0, 0.03), f3)
        segments += [*begin, Segment(_frames(vowel_s), varied, voice=1.0, breath=1.0)]
        lengths.append(sum(segment.frames for segment in segments) - starts[-1])
    segments.append(Segment(_frames(rng.uniform(0.08, 0.16)), rest))
    return segments, starts, lengths


def _onset(consonant: Consonant, stretch: float) -> list[Segment]:
    """The segments before the vowel of a syllable."""
    locus = consonant.locus_hz
    sustained = consonant.noise if not consonant.burst_s else 0.0
    segments = [
        Segment(
            _frames(consonant.hold_s * stretch),
            locus,
            voice=consonant.voice,
            breath=consonant.voice,
            noise=sustained,
            noise_hz=consonant.noise_hz or 1000.0,
        )
    ]
    if consonant.burst_s:
        segments.append(Segment(_frames(consonant.burst_s), locus, noise=consonant.noise, noise_hz=consonant.noise_hz))
    if consonant.breath_s:
        segments.append(
            Segment(
                _frames(consonant.breath_s * stretch),
                locus,
                breath=1.0,
                noise=0.3 * consonant.noise,
                noise_hz=consonant.noise_hz,
            )
        )
    return segments


def _prosody(
    frames: int, starts: list[int], lengths: list[int], level_range_db: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Pitch accents and loudness over an utterance.

    Returns:
        accents: (frames,) bumps of height 0.3 to 1.2, one per syllable, less their mean, so that a wider
            range does not raise the level.
        loudness: (frames,) amplitude factor around 1 that declines, with accented syllables stronger.
    """
    time = np.arange(frames, dtype=np.float64)
    strengths = rng.uniform(0.3, 0.6, len(starts))
    strengths[rng.choice(len(starts), size=2, replace=False)] += rng.uniform(0.4, 0.6, 2)
    accents = np.zeros(frames)
    for start, length, strength in zip(starts, lengths, strengths, strict=True):
        peak = start + length * rng.uniform(0.45, 0.65)
        accents += strength * np.exp(-0.5 * ((time - peak) / (0.28 * length)) ** 2)
    spoken = slice(starts[0], starts[-1] + lengths[-1])
    loudness = 10.0 ** ((level_range_db * accents - 3.0 * time / frames) / 20.0)
    return accents - accents[spoken].mean(), loudness / loudness[spoken].mean()


def _frames(duration_s: float) -> int:
    return max(1, round(duration_s / HOP_S))


def _track(segments: list[Segment], name: str) -> Floats:
    """One property of the segments, frame by frame: (frames,) or (frames, 3)."""
    values = np.array([getattr(segment, name) for segment in segments], dtype=np.float64)
    return np.repeat(values, [segment.frames for segment in segments], axis=0)


def _smooth(track: Floats, frames: int) -> Floats:
    """Hann-weighted running mean along the first axis; articulators glide, they do not jump."""
    kernel: Floats = np.hanning(frames + 2)[1:-1]
    columns = np.pad(track, [(frames // 2, frames // 2), *[(0, 0)] * (track.ndim - 1)], mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(columns, frames, axis=0)
    # A sum in a fixed order, where a matrix product would differ between machines.
    smoothed: Floats = (views * (kernel / kernel.sum())).sum(axis=-1)
    return smoothed


def _to_samples(track: Floats) -> Floats:
    """(frames,) -> (frames * HOP,), linear between frames."""
    return np.interp(np.arange(len(track) * HOP) / HOP, np.arange(len(track)), track)


def _rms(waveform: Floats) -> float:
    return float(np.sqrt(np.mean(waveform**2)))
