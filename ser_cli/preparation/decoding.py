"""Decode recordings one after the other into one file, so that an interruption loses nothing that was done.

Beside the waveforms grows a journal, one JSON line per recording: where its samples lie, their SHA-256, and size
and time of the file they came from. Decoding that was interrupted, by whatever, goes on behind the last recording
whose file is unchanged and whose samples still have that SHA-256.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ, TooLongError, audible, open_recording, read_recording
from ser_cli.data.manifest import MAX_BYTES, Utterance
from ser_cli.data.store import AUDIO_DTYPE, AUDIO_NAME, FORMAT_VERSION, StoredAudio
from ser_cli.errors import AudioError
from ser_cli.files import parse_json, read_text, write_atomically

JOURNAL_NAME = "journal.jsonl"

DECODED_AHEAD = 32
"""Recordings that are decoded while earlier ones are stored: enough to keep every core busy, few enough for memory."""

NOTED_AT_ONCE = 64
"""Recordings between two writes of the journal: what a sudden end can cost."""

ESTIMATED_FROM = 16
"""Recordings whose headers tell how much the whole corpus will take."""

DENSEST = 128
"""Bytes of decoded speech in one byte of a file: 64,000 a second against 4.75 kbit/s, the lowest rate of AMR."""

LONGEST_STORED_S = 24 * 3600.0
"""Of a recording, 5.5 GB: a FLAC file of a few megabytes may hold weeks of silence."""

_READ_AT_ONCE = 1 << 20

Progress = Callable[[int, int], None]
"""Told how many of how many recordings are decoded."""


@dataclass(frozen=True)
class Decoded:
    """One recording that was decoded: a line of the journal."""

    path: str
    size: int
    mtime_ns: int
    audio: StoredAudio


def decode_into(
    folder: Path, utterances: Sequence[Utterance], progress: Progress | None = None
) -> tuple[dict[str, StoredAudio], dict[str, str]]:
    """Decode recordings into `audio.f32` of a folder, going on where an earlier call was interrupted.

    Args:
        folder: made where it is missing; nobody reads it yet.
        utterances: what to decode, in this order.
        progress: told how decoding goes on.

    Returns:
        Where each waveform lies, by id; and why a recording cannot be used, by id.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _resume(folder, utterances)
    todo = [utterance for utterance in utterances if utterance.id not in done]
    stored = {identity: decoded.audio for identity, decoded in done.items()}
    unusable: dict[str, str] = {}
    end = sum(audio.samples for audio in stored.values())
    lines: list[Decoded] = []
    with (folder / AUDIO_NAME).open("ab") as audio_file, (folder / JOURNAL_NAME).open("a", encoding="utf-8") as journal:
        for number, (utterance, waveform) in enumerate(_decode(todo), start=1):
            try:
                entry = _store(audio_file, end, utterance, waveform)
            except AudioError as error:
                unusable[utterance.id] = str(error)
            else:
                end += entry.samples
                stored[utterance.id] = entry
                lines.append(Decoded(utterance.path, *_state(utterance.path), entry))
            if number % NOTED_AT_ONCE == 0 or number == len(todo) or isinstance(waveform, TooLongError):
                _note(audio_file, journal, lines)
                lines.clear()
                if progress:
                    progress(len(done) + number, len(utterances))
        os.fsync(audio_file.fileno())
    return stored, unusable


def estimate_bytes(utterances: Sequence[Utterance]) -> int:
    """About how many bytes the decoded recordings take: what a few have by their headers, over their files' size.

    A header may promise anything; it is believed up to `DENSEST` times the size of its file.
    """
    sampled = utterances[:: max(1, len(utterances) // ESTIMATED_FROM)]
    decoded = files = 0
    for utterance in sampled:
        try:
            with open_recording(Path(utterance.path)) as stream:
                promised_s = stream.promised_s
        except AudioError:
            continue  # named later
        if promised_s is not None:
            size = max(0, _state(utterance.path)[0])
            promised = round(promised_s * SAMPLE_RATE_HZ) * AUDIO_DTYPE.itemsize
            decoded += min(promised, DENSEST * size)
            files += size
    if not files:
        return 0
    return round(decoded / files * sum(max(0, _state(utterance.path)[0]) for utterance in utterances))


def forget_journal(folder: Path) -> None:
    """Remove the journal of a folder that is complete."""
    (folder / JOURNAL_NAME).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Waveform:
    """A decoded recording as it is stored."""

    samples: NDArray[np.float32]
    sha256: str
    source_rate_hz: int
    source_channels: int


def _store(audio_file: BinaryIO, offset: int, utterance: Utterance, waveform: _Waveform | AudioError) -> StoredAudio:
    """Write one recording behind what is stored.

    Args:
        audio_file: at its end.
        offset: samples that are stored.
        utterance: whose recording it is.
        waveform: decoded, or why it is not; one that is too long for that is decoded while it is written.

    Raises:
        AudioError: the recording cannot be used; nothing of it is left in the file.
    """
    if isinstance(waveform, TooLongError):
        return _store_blocks(audio_file, offset, utterance)
    if isinstance(waveform, AudioError):
        raise waveform
    audio_file.write(waveform.samples.data)
    samples = len(waveform.samples)
    return StoredAudio(
        utterance.id, offset, samples, waveform.sha256, waveform.source_rate_hz, waveform.source_channels
    )


def _store_blocks(audio_file: BinaryIO, offset: int, utterance: Utterance) -> StoredAudio:
    """Decode a long recording block by block into the file; as `_store`."""
    path = Path(utterance.path)
    digest = hashlib.sha256()
    samples = 0
    try:
        with open_recording(path) as stream:
            for block in audible(path, stream.blocks):
                data = np.ascontiguousarray(block, dtype=AUDIO_DTYPE).data
                audio_file.write(data)
                digest.update(data)
                samples += len(block)
                if samples > LONGEST_STORED_S * SAMPLE_RATE_HZ:
                    hours = LONGEST_STORED_S / 3600
                    raise AudioError(
                        f"{path}: lasts over {hours:.0f} hours, the most that is stored; cut it into parts"
                    )
            rate_hz, channels = stream.source_rate_hz, stream.source_channels
    except AudioError:
        audio_file.truncate(offset * AUDIO_DTYPE.itemsize)
        raise
    return StoredAudio(utterance.id, offset, samples, digest.hexdigest(), rate_hz, channels)


def _decode(utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, _Waveform | AudioError]]:
    """Decode in order on all cores; libsndfile, soxr and SHA-256 release the interpreter lock."""

    def attempt(utterance: Utterance) -> _Waveform | AudioError:
        try:
            recording = read_recording(Path(utterance.path))
        except AudioError as error:
            return error
        samples = np.ascontiguousarray(recording.waveform, dtype=AUDIO_DTYPE)
        digest = hashlib.sha256(samples.data).hexdigest()
        return _Waveform(samples, digest, recording.source_rate_hz, recording.source_channels)

    waiting: deque[tuple[Utterance, Future[_Waveform | AudioError]]] = deque()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        try:
            for utterance in utterances:
                waiting.append((utterance, pool.submit(attempt, utterance)))
                if len(waiting) > DECODED_AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _note(audio_file: BinaryIO, journal: TextIO, lines: Sequence[Decoded]) -> None:
    """Write the journal behind the samples, so that it never speaks of samples that are not there."""
    audio_file.flush()
    journal.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
    journal.flush()


def _resume(folder: Path, utterances: Sequence[Utterance]) -> dict[str, Decoded]:
    """What an earlier call left that still holds; the files are cut back to it."""
    wanted = {utterance.id: utterance.path for utterance in utterances}
    done: dict[str, Decoded] = {}
    audio_path, journal_path = folder / AUDIO_NAME, folder / JOURNAL_NAME
    end = 0
    if audio_path.is_file():
        with audio_path.open("rb") as file:
            for decoded in _read_journal(journal_path):
                entry = decoded.audio
                if type(entry.samples) is not int or entry.samples < 1:
                    break
                unchanged = (decoded.size, decoded.mtime_ns) == _state(decoded.path)
                whole = entry.offset == end and _digest_next(file, entry.samples) == entry.sha256
                if wanted.get(entry.id) != decoded.path or not unchanged or not whole:
                    break
                done[entry.id] = decoded
                end += entry.samples
    with audio_path.open("ab") as file:
        file.truncate(end * AUDIO_DTYPE.itemsize)
    lines = [json.dumps({"format": FORMAT_VERSION}), *(json.dumps(asdict(decoded)) for decoded in done.values())]
    write_atomically(journal_path, ("\n".join(lines) + "\n").encode())
    return done


def _digest_next(file: BinaryIO, samples: int) -> str:
    """SHA-256 of the next samples of a file."""
    digest = hashlib.sha256()
    left = samples * AUDIO_DTYPE.itemsize
    while left > 0 and (data := file.read(min(left, _READ_AT_ONCE))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def _read_journal(path: Path) -> Iterator[Decoded]:
    """The lines of a journal up to the first that is not whole; none of another version's."""
    try:
        head, *lines = read_text(path, MAX_BYTES).splitlines()
        if parse_json(head) != {"format": FORMAT_VERSION}:
            return
        for line in lines:
            values = parse_json(line)
            yield Decoded(**{**values, "audio": StoredAudio(**values["audio"])})
    except (OSError, ValueError, TypeError, KeyError):
        return


def _state(path: str) -> tuple[int, int]:
    """Size and time of a file; impossible ones where it is gone."""
    try:
        status = Path(path).stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
