"""Recordings as they lie on disk, decoded to what everything else works on: 16 kHz, mono, float32."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.errors import AudioError

SAMPLE_RATE_HZ = 16_000
"""The rate of every waveform inside `ser`: what the pre-trained speech encoders were trained on."""

MIN_DURATION_S = 0.025
"""One analysis window: the receptive field of wav2vec 2.0's convolutions is 400 samples at 16 kHz."""

PHONE_SUFFIXES = (".m4a", ".aac", ".amr", ".3gp", ".wma")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
"""Formats that libsndfile does not know; FFmpeg's libraries decode their sound. Compared in lower case."""


def needs_ffmpeg(path: Path) -> bool:
    """Whether a file is of a format that FFmpeg's libraries decode and libsndfile does not, by its suffix."""
    return path.suffix.lower() in (*PHONE_SUFFIXES, *VIDEO_SUFFIXES)


_SHORT_DATA = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
"""What libsndfile's log says of a WAV, AIFF or AU file whose header promises more than there is."""

_STREAMED = 0x7FFF_0000
"""Sizes from here on are the placeholders of programs that write to a pipe and cannot go back to the header."""


@dataclass(frozen=True)
class Recording:
    """One decoded file."""

    waveform: NDArray[np.float32]
    """(samples,) at `SAMPLE_RATE_HZ`; resampling may exceed [-1, 1], nothing is clipped."""
    source_rate_hz: int
    source_channels: int


def read_recording(path: Path | str) -> Recording:
    """Decode a file, average its channels and resample it to 16 kHz.

    The sound of a video file is mixed down to mono by FFmpeg's own matrix, which knows what each channel of 5.1
    sound is for.

    Raises:
        AudioError: the file is missing, cannot be decoded, ends before its header says, lasts less than 25 ms,
            holds only silence, or holds values that are not finite.
    """
    path = Path(path)
    decode = _decode_video if needs_ffmpeg(path) else _decode_audio
    waveform, rate, source_rate_hz, channels = decode(path)
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
    return Recording(np.ascontiguousarray(waveform, dtype=np.float32), source_rate_hz, channels)


def _decode_audio(path: Path) -> tuple[NDArray[np.float32], int, int, int]:
    """(samples,) mono, its rate, and rate and channels of the file."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True)
            rate, declared, log = file.samplerate, file.frames, file.extra_info
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        # soundfile raises TypeError for a .raw file, which has no header; MemoryError where a header lies.
        raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from None
    channels = samples.shape[1]
    require_whole(path, len(samples), declared, log, rate)
    waveform = samples[:, 0] if channels == 1 else samples.mean(axis=1, dtype=np.float32)
    return waveform, rate, rate, channels


def require_whole(path: Path, read: int, declared: int, log: str, rate: int) -> None:
    """Compare what was read of a file with what its header promises.

    Args:
        path: of the file.
        read: samples per channel that were there.
        declared: samples per channel as libsndfile tells.
        log: of libsndfile.
        rate: in hertz.

    Raises:
        AudioError: more than 25 ms are missing.
    """
    for match in _SHORT_DATA.finditer(log):
        size, there = int(match[1]), int(match[2])
        if size < _STREAMED and there:
            # libsndfile reads such a file without a word, as a shorter clip.
            declared = max(declared, read * size // there)
    if (declared - read) / rate > MIN_DURATION_S:
        raise AudioError(
            f"{path}: is truncated, its header promises {declared / rate:.2f} s and {read / rate:.2f} s are there"
        )


def _decode_video(path: Path) -> tuple[NDArray[np.float32], int, int, int]:
    """The first sound track of a video or MPEG-4 file; as `_decode_audio`."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no sound track")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
            frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
            frames += resampler.resample(None)
            source_rate_hz, channels = stream.rate, stream.channels
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from None
    parts = [frame.to_ndarray().reshape(-1) for frame in frames]
    waveform = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return waveform.astype(np.float32, copy=False), SAMPLE_RATE_HZ, source_rate_hz, channels


def _reason(error: Exception, path: Path) -> str:
    """Why a file could not be decoded, without the path that the message already names."""
    try:
        with path.open("rb") as file:
            start = file.read(48)
    except OSError as failure:
        return failure.strerror or str(failure)
    if not start:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not audio; run git lfs pull"
    text = str(error)
    return text.partition(f"'{path}': ")[2] or text
