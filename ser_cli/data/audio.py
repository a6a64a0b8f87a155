"""Recordings as they lie on disk, decoded to what everything else works on: 16 kHz, mono, float32."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.errors import AudioError

SAMPLE_RATE_HZ = 16_000
"""The rate of every waveform inside `ser`: what the pre-trained speech encoders were trained on."""

MIN_DURATION_S = 0.025
"""One analysis window: the receptive field of wav2vec 2.0's convolutions is 400 samples at 16 kHz."""


@dataclass(frozen=True)
class Recording:
    """One decoded file."""

    waveform: NDArray[np.float32]
    """(samples,) at `SAMPLE_RATE_HZ`; resampling may exceed [-1, 1], nothing is clipped."""
    source_rate_hz: int
    source_channels: int


def read_recording(path: Path) -> Recording:
    """Decode a file, average its channels and resample it to 16 kHz.

    Raises:
        AudioError: the file is missing, cannot be decoded, lasts less than 25 ms, holds only silence, or
            holds values that are not finite.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        # soundfile raises TypeError for a .raw file, which has no header; MemoryError where a header lies.
        raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from None
    channels = samples.shape[1]
    waveform = samples[:, 0] if channels == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise AudioError(f"{path}: holds values that are not finite numbers")
    duration_s = len(waveform) / rate
    if duration_s < MIN_DURATION_S:
        raise AudioError(f"{path}: lasts {duration_s * 1000:.1f} ms; at least 25 ms are needed")
    if not waveform.any():
        raise AudioError(f"{path}: holds only silence, every sample is 0")
    if rate != SAMPLE_RATE_HZ:
        import soxr

        waveform = soxr.resample(waveform, rate, SAMPLE_RATE_HZ, quality="HQ")
    return Recording(np.ascontiguousarray(waveform, dtype=np.float32), rate, channels)


def _reason(error: Exception, path: Path) -> str:
    """Why a file could not be decoded, without the path that the message already names."""
    try:
        start = path.read_bytes()[:48]
    except OSError as failure:
        return failure.strerror or str(failure)
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not audio; run git lfs pull"
    text = str(error)
    return text.partition(f"'{path}': ")[2] or text
