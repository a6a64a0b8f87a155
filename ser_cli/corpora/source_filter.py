"""The signals of source-filter synthesis: pulses of a voice, a vocal tract's resonances, and noise.

References:
    Klatt (1980), Software for a cascade/parallel formant synthesizer, J. Acoust. Soc. Am. 67(3).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLE_RATE_HZ = 16_000

HOP = 80
FFT_SIZE = 512

TILT_CORNER_HZ = 250.0
SHIMMER = 0.06

MOVING_BANDWIDTHS_HZ = (80.0, 100.0, 160.0)
FIXED_FORMANTS = ((3500.0, 220.0), (4500.0, 280.0), (5500.0, 350.0), (6500.0, 450.0))
"""Frequency and bandwidth in Hz of the formants that stay; they keep the upper spectrum speech-like."""


def pulse_train(phase: Floats, f0_hz: Floats, jitter: float, rng: np.random.Generator) -> Floats:
    """Glottal pulses as band-limited impulses.

    Args:
        phase: (samples,) cycles since the start, increasing.
        f0_hz: (samples,)
        jitter: standard deviation of a period, relative to its length.
        rng: draws jitter and shimmer.

    Returns:
        (samples,)
    """
    cycles = np.arange(1, int(phase[-1]))
    instants = np.interp(cycles, phase, np.arange(len(phase)))
    periods = SAMPLE_RATE_HZ / np.interp(instants, np.arange(len(phase)), f0_hz)
    # An instant strays by 1/sqrt(2) of what its period does, since two instants bound a period.
    instants += jitter * np.sqrt(0.5) * periods * rng.standard_normal(len(cycles))
    heights = 1.0 + SHIMMER * rng.standard_normal(len(cycles))
    # Pulses between samples need a windowed sinc; rounding them to samples would add a jitter of its own.
    taps = np.arange(-8, 9)
    nearest = np.rint(instants).astype(np.int64)
    distance = taps - (instants - nearest)[:, None]
    shape = np.sinc(distance) * np.cos(np.pi * distance / 18.0) ** 2
    train = np.zeros(len(phase))
    places = np.clip(nearest[:, None] + taps, 0, len(phase) - 1)
    np.add.at(train, places, heights[:, None] * shape)
    return train


def tract_response(formants_hz: Floats, scale: float) -> NDArray[np.complex128]:
    """Frequency response of the vocal tract, a cascade of two-pole resonators (Klatt 1980, eq. 1 and 2).

    Args:
        formants_hz: (frames, 3) the formants that move.
        scale: factor on the formants that do not.

    Returns:
        (frames, FFT_SIZE // 2 + 1)
    """
    fixed = np.ones((1, FFT_SIZE // 2 + 1), dtype=np.complex128)
    for frequency_hz, bandwidth_hz in FIXED_FORMANTS:
        # A resonance above the Nyquist frequency would fold back.
        if frequency_hz * scale < 0.47 * SAMPLE_RATE_HZ:
            fixed *= _resonator(np.array([frequency_hz * scale]), bandwidth_hz)
    moving = [_resonator(formants_hz[:, i], MOVING_BANDWIDTHS_HZ[i]) for i in range(3)]
    response: NDArray[np.complex128] = moving[0] * moving[1] * moving[2] * fixed
    return response


def _resonator(frequency_hz: Floats, bandwidth_hz: float) -> NDArray[np.complex128]:
    """Response of one resonator with unit gain at 0 Hz: (frames,) -> (frames, bins)."""
    radius = np.exp(-np.pi * bandwidth_hz / SAMPLE_RATE_HZ)
    b = 2.0 * radius * np.cos(2 * np.pi * frequency_hz / SAMPLE_RATE_HZ)[:, None]
    c = -(radius**2)
    delay = _delay()
    response: NDArray[np.complex128] = (1.0 - b - c) / (1.0 - c * delay**2 - b * delay)
    return response


def source_response(tilt_db: float) -> NDArray[np.complex128]:
    """A causal low-pass with a slope of `tilt_db` per octave, and a high-pass against rumble: (bins,)."""
    delay = _delay()
    pole = np.exp(-2 * np.pi * TILT_CORNER_HZ / SAMPLE_RATE_HZ)
    # A one-pole filter falls by 6.02 dB per octave; its power falls in proportion.
    low_pass = ((1.0 - pole) / (1.0 - pole * delay)) ** (-tilt_db / 6.02)
    response: NDArray[np.complex128] = low_pass * (1.0 - delay) / (1.0 - 0.97 * delay)
    return response


def noise_response(centre_hz: Floats) -> Floats:
    """Bell of 0.7 octaves around a centre, with unit power gain: (frames,) -> (frames, bins)."""
    octaves = np.log2(np.maximum(_frequencies_hz(), 20.0) / centre_hz[:, None])
    bell = np.exp(-0.5 * (octaves / 0.35) ** 2)
    response: Floats = bell / np.sqrt(np.mean(bell**2, axis=1, keepdims=True))
    return response


def filter_frames(source: Floats, response: NDArray[np.complex128] | Floats) -> Floats:
    """Filter with a response that changes from frame to frame, by overlap-add of Hann-windowed frames.

    Args:
        source: (frames * HOP,)
        response: (frames, FFT_SIZE // 2 + 1)

    Returns:
        (frames * HOP,)
    """
    frames = len(response)
    padded = np.concatenate([source, np.zeros(HOP)])
    # Two neighbouring windows of this shape add up to one everywhere.
    window = np.sin(np.pi * (np.arange(2 * HOP) + 0.5) / (2 * HOP)) ** 2
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP] * window
    filtered = np.fft.irfft(np.fft.rfft(pieces, FFT_SIZE) * response, FFT_SIZE)
    result = np.zeros(frames * HOP + FFT_SIZE)
    for index in range(frames):
        result[index * HOP : index * HOP + FFT_SIZE] += filtered[index]
    return result[: frames * HOP]


def _frequencies_hz() -> Floats:
    return np.arange(FFT_SIZE // 2 + 1, dtype=np.float64) * (SAMPLE_RATE_HZ / FFT_SIZE)


def _delay() -> NDArray[np.complex128]:
    """A delay by one sample, at every bin."""
    delay: NDArray[np.complex128] = np.exp(-2j * np.pi * _frequencies_hz() / SAMPLE_RATE_HZ)
    return delay
