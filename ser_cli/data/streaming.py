"""Long recordings in pieces: decoded block by block, so that memory does not grow with their duration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ, needs_ffmpeg, read_recording, require_whole
from ser_cli.errors import AudioError

BLOCK_S = 1.0
"""Decoded at a time."""


@dataclass(frozen=True)
class Piece:
    """One window of a recording."""

    start_s: float
    end_s: float
    waveform: NDArray[np.float32]
    """(samples,) at 16 kHz."""


def duration_of(path: Path) -> float | None:
    """Seconds that the header of a file promises, or None where only decoding can tell."""
    import soundfile

    try:
        if needs_ffmpeg(path):
            import av

            with av.open(str(path)) as container:
                return container.duration / av.time_base if container.duration else None
        return float(soundfile.info(path).duration)
    except Exception:  # whatever is wrong with the file, decoding it says so in a sentence
        return None


def read_windows(path: Path, window_s: float, hop_s: float) -> Iterator[Piece]:
    """Cut a recording into windows of equal length while it is decoded.

    The first window starts at 0 and each next one a hop later, until one reaches the end of the recording; that
    last one may be shorter. What is under 25 ms at the end is left out.

    Raises:
        AudioError: the file cannot be decoded or is under 25 ms; after some pieces, that it ends before its header
            says.
    """
    window, hop = round(window_s * SAMPLE_RATE_HZ), round(hop_s * SAMPLE_RATE_HZ)
    shortest = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
    kept = np.zeros(0, dtype=np.float32)
    start = skip = 0
    reached = -1
    for block in _blocks(path):
        if not np.isfinite(block).all():
            raise AudioError(f"{path}: holds values that are not finite numbers")
        kept = np.concatenate([kept, block])
        kept, skip = kept[skip:], max(0, skip - len(kept))
        while not skip and len(kept) >= window:
            yield Piece(start / SAMPLE_RATE_HZ, (start + window) / SAMPLE_RATE_HZ, kept[:window].copy())
            reached = start + window
            start += hop
            kept, skip = kept[hop:], max(0, hop - len(kept))
    end = start + len(kept) - skip
    if end > max(reached, 0) and end - start >= shortest:
        yield Piece(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ, kept)
    elif reached < 0:
        raise AudioError(f"{path}: lasts {1000 * max(end, 0) / SAMPLE_RATE_HZ:.1f} ms; at least 25 ms are needed")


def _blocks(path: Path) -> Iterator[NDArray[np.float32]]:
    """The recording at 16 kHz, mono, block by block."""
    if needs_ffmpeg(path):
        yield from _video_blocks(path)
        return
    import soundfile
    import soxr

    try:
        file = soundfile.SoundFile(path)
    except Exception:
        read_recording(path)  # says in a sentence what is wrong
        raise
    with file:
        resampler = None
        if file.samplerate != SAMPLE_RATE_HZ:
            resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        read = 0
        try:
            for block in file.blocks(round(BLOCK_S * file.samplerate), dtype="float32", always_2d=True):
                read += len(block)
                mono = block.mean(axis=1, dtype=np.float32)
                yield mono if resampler is None else resampler.resample_chunk(mono)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: cannot be decoded after {read / file.samplerate:.2f} s ({error})") from None
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        require_whole(path, read, file.frames, file.extra_info, file.samplerate)


def _video_blocks(path: Path) -> Iterator[NDArray[np.float32]]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no sound track")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
            parts: list[NDArray[np.float32]] = []
            for frame in container.decode(container.streams.audio[0]):
                parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(frame)]
                if sum(map(len, parts)) >= BLOCK_S * SAMPLE_RATE_HZ:
                    yield np.concatenate(parts).astype(np.float32, copy=False)
                    parts = []
            parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
            if parts:
                yield np.concatenate(parts).astype(np.float32, copy=False)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"{path}: cannot be decoded ({error})") from None
