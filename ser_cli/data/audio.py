"""Recordings as they lie on disk, decoded to what everything else works on: 16 kHz, mono, float32.

Decoded block by block, so that what a file costs in memory follows from what is in it and not from what its header
says: a header may promise 4 GB, a FLAC file of 1 MB may hold a day of silence.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_cli.errors import AudioError

if TYPE_CHECKING:
    import av
    import soundfile

SAMPLE_RATE_HZ = 16_000
"""The rate of every waveform inside `ser`: what the pre-trained speech encoders were trained on."""

MIN_DURATION_S = 0.025
"""One analysis window: the receptive field of wav2vec 2.0's convolutions is 400 samples at 16 kHz."""

SOURCE_RATES_HZ = (1_000, 1_000_000)
"""Rates of a file that are believed. Speech ends above the lowest; and each sample of a file that claims 1 Hz would
become 16,000, so that 1 MB would fill 64 GB."""

LOUDEST = 2.0**31
"""Largest absolute sample value: 32-bit integers that were stored as floats. The square of much more than this, summed
over a window, leaves float32, and a spectrum of infinities gives no probabilities."""

BLOCK_S = 1.0
"""Decoded at a time: as much is lost before the place where a file is broken."""

BLOCK_VALUES = 1 << 18
"""Sample values decoded at a time at most, over all channels: 1 MiB."""

LONGEST_S = 120.0
"""Of a recording that is held in memory as a whole; longer ones are stored or classified while they are decoded."""

MISSING_SOUND_S = 0.5
"""By how much the header of a video file may be wrong: encoders pad, and players cut it off by an edit list."""

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

_UNKNOWN_FRAMES = 1 << 62
"""From here on libsndfile says that it does not know, as of a FLAC file that was written to a pipe."""


SILENT = "holds only silence, every sample is 0"


class TooLongError(AudioError):
    """A recording that is not held in memory as a whole."""


@dataclass(frozen=True)
class Recording:
    """One decoded file."""

    waveform: NDArray[np.float32]
    """(samples,) at `SAMPLE_RATE_HZ`; resampling may exceed [-1, 1], nothing is clipped."""
    source_rate_hz: int
    source_channels: int


@dataclass(frozen=True)
class RecordingStream:
    """One file that is being decoded."""

    source_rate_hz: int
    source_channels: int
    promised_s: float | None
    """Duration by the file's header, true or not; None where it tells none."""
    blocks: Iterator[NDArray[np.float32]]
    """(samples,) each, at `SAMPLE_RATE_HZ`, one after the other. Raises AudioError where the file cannot be decoded
    further, at values that cannot be used, and at the end of what is too short or ends before its header says."""


def read_recording(path: Path | str) -> Recording:
    """Decode a file, average its channels and resample it to 16 kHz.

    The sound of a video file is mixed down to mono by FFmpeg's own matrix, which knows what each channel of 5.1
    sound is for.

    Raises:
        AudioError: the file is missing, cannot be decoded, ends before its header says, lasts less than 25 ms,
            holds only silence, or holds values that are not finite or beyond `LOUDEST`.
        TooLongError: it lasts longer than `LONGEST_S`.
    """
    path = Path(path)
    parts: list[NDArray[np.float32]] = []
    samples = 0
    with open_recording(path) as stream:
        for block in audible(path, stream.blocks):
            parts.append(block)
            samples += len(block)
            if samples > LONGEST_S * SAMPLE_RATE_HZ:
                promised_s = stream.promised_s or 0.0
                lasts = f"{promised_s:,.0f}" if promised_s > LONGEST_S else f"over {LONGEST_S:,.0f}"
                raise TooLongError(f"{path}: lasts {lasts} s")
        waveform = np.concatenate(parts)
        return Recording(waveform, stream.source_rate_hz, stream.source_channels)


def audible(path: Path, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Pass on the blocks of a recording.

    Raises:
        AudioError: at the end, all of them were silence.
    """
    heard = False
    for block in blocks:
        heard = heard or bool(block.any())
        yield block
    if not heard:
        raise AudioError(f"{path}: {SILENT}")


@contextmanager
def open_recording(path: Path) -> Iterator[RecordingStream]:
    """Open a file for decoding it block by block.

    Raises:
        AudioError: it is missing, no regular file, or cannot be decoded.
    """
    _require_file(path)
    decoder = _open_video if needs_ffmpeg(path) else _open_audio
    with decoder(path) as stream:
        yield RecordingStream(
            stream.source_rate_hz, stream.source_channels, stream.promised_s, _usable(path, stream.blocks)
        )


def _require_file(path: Path) -> None:
    """Keep to what can be read to its end: a FIFO, a socket or a terminal would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise AudioError(f"{path}: cannot be decoded ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise AudioError(f"{path}: cannot be decoded (it is {kind}; expected a file)")


def _usable(path: Path, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Pass on blocks whose values a model can take."""
    for block in blocks:
        peak = float(np.abs(block).max(initial=0.0))  # NaN where one value is
        if not np.isfinite(peak):
            raise AudioError(f"{path}: holds values that are not finite numbers")
        if peak > LOUDEST:
            raise AudioError(f"{path}: holds values up to {peak:.3g}; expected -1 to 1, at most {LOUDEST:.3g}")
        yield block


def _require_rate(path: Path, rate_hz: int) -> None:
    lowest, highest = SOURCE_RATES_HZ
    if not lowest <= rate_hz <= highest:
        raise AudioError(f"{path}: claims {rate_hz:,} samples per second; expected {lowest:,} to {highest:,}")


def _require_duration(path: Path, duration_s: float) -> None:
    if duration_s < MIN_DURATION_S:
        raise AudioError(f"{path}: lasts {duration_s * 1000:.1f} ms; at least 25 ms are needed")


@contextmanager
def _open_audio(path: Path) -> Iterator[RecordingStream]:
    """A file of a format that libsndfile knows."""
    import soundfile

    try:
        file = soundfile.SoundFile(_name_for_libsndfile(path))
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError) as error:
        # soundfile raises TypeError for a .raw file, which has no header.
        raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from None
    with file:
        rate_hz = file.samplerate
        _require_rate(path, rate_hz)
        promised_s = file.frames / rate_hz if file.frames < _UNKNOWN_FRAMES else None
        yield RecordingStream(rate_hz, file.channels, promised_s, _audio_blocks(path, file))


def _name_for_libsndfile(path: Path) -> Path | bytes:
    """The path, or its bytes where they are no text, as soundfile would have to encode it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _audio_blocks(path: Path, file: "soundfile.SoundFile") -> Iterator[NDArray[np.float32]]:
    """All that is in an open file, at 16 kHz, mono."""
    import soundfile

    rate_hz = file.samplerate
    resampler = None
    if rate_hz != SAMPLE_RATE_HZ:
        import soxr

        resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
    at_once = max(1, min(round(BLOCK_S * rate_hz), BLOCK_VALUES // file.channels))
    # soundfile seeks to the place where it is after each block; in a FLAC file that was written to a pipe, and does
    # not know its length, that fails. What is read from its start to its end need not be seekable.
    file.seekable = lambda: False
    read = 0
    while True:
        # Not SoundFile.blocks: it goes on for as many frames as the header promises, and repeats old ones.
        try:
            block = file.read(at_once, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(
                f"{path}: cannot be decoded after {read / rate_hz:.2f} s ({_reason(error, path)})"
            ) from None
        if not len(block):
            break
        read += len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused in a sentence
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        yield mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono))
    _require_whole(path, read, file.frames, file.extra_info, rate_hz)
    _require_duration(path, read / rate_hz)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _require_whole(path: Path, read: int, declared: int, log: str, rate: int) -> None:
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
    if declared >= _UNKNOWN_FRAMES:
        declared = read
    for match in _SHORT_DATA.finditer(log):
        size, there = int(match[1]), int(match[2])
        if size < _STREAMED and there:
            # libsndfile reads such a file without a word, as a shorter clip.
            declared = max(declared, read * size // there)
    if (declared - read) / rate > MIN_DURATION_S:
        raise _truncated(path, declared / rate, read / rate)


def _truncated(path: Path, promised_s: float, there_s: float) -> AudioError:
    return AudioError(f"{path}: is truncated, its header promises {promised_s:.2f} s and {there_s:.2f} s are there")


@contextmanager
def _open_video(path: Path) -> Iterator[RecordingStream]:
    """The first sound track of a video or MPEG-4 file."""
    import av

    with ExitStack() as stack:
        try:
            # An open file and no protocol beside it: a path that reads like an address, and a playlist in the place
            # of a recording, would make FFmpeg open other files or addresses.
            file = stack.enter_context(path.open("rb"))
            container = stack.enter_context(av.open(file, container_options={"protocol_whitelist": "none"}))
            if not container.streams.audio:
                raise AudioError(f"{path}: has no sound track")
            track = container.streams.audio[0]
            if track.codec_context is None:
                raise AudioError(f"{path}: cannot be decoded (its sound is of a format that FFmpeg does not know)")
            _require_rate(path, track.rate or 0)
            promised_s = float(track.duration * track.time_base) if track.duration and track.time_base else None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{path}: cannot be decoded ({_reason(error, path)})") from None
        # Outside of the `try`: what goes wrong with the blocks elsewhere, such as a full disk, is not the file's fault.
        yield RecordingStream(track.rate, track.channels, promised_s, _video_blocks(path, container, promised_s))


def _video_blocks(
    path: Path, container: "av.container.InputContainer", promised_s: float | None
) -> Iterator[NDArray[np.float32]]:
    """All sound of an open file, at 16 kHz, mono."""
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    parts: list[NDArray[np.float32]] = []
    gathered = read = 0
    try:
        for frame in chain(container.decode(container.streams.audio[0]), [None]):
            if frame is not None:
                _require_rate(path, frame.sample_rate)
            parts += [out.to_ndarray().reshape(-1).astype(np.float32, copy=False) for out in resampler.resample(frame)]
            gathered = sum(map(len, parts))
            if gathered >= BLOCK_S * SAMPLE_RATE_HZ:
                read += gathered
                yield np.concatenate(parts)
                parts, gathered = [], 0
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(
            f"{path}: cannot be decoded after {read / SAMPLE_RATE_HZ:.2f} s ({_reason(error, path)})"
        ) from None
    if parts:
        yield np.concatenate(parts)
    read += gathered
    if promised_s is not None and promised_s - read / SAMPLE_RATE_HZ > MISSING_SOUND_S:
        raise _truncated(path, promised_s, read / SAMPLE_RATE_HZ)
    _require_duration(path, read / SAMPLE_RATE_HZ)


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
    if getattr(error, "errno", None) == errno.ENOMEM:  # FFmpeg's own limits, long before ours
        return "its header asks for more memory than any recording needs"
    text = getattr(error, "strerror", None) or str(error)  # FFmpeg's errors have a number and a name besides
    if "not a regular file" in text:  # so libsndfile says of an MP3 file in which mpg123 finds no MPEG audio
        return "it is not what its name says"
    return text.partition(f"'{path}': ")[2] or text
