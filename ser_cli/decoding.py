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

from ser_cli.data.audio import SAMPLE_RATE_HZ, read_recording
from ser_cli.data.manifest import Utterance
from ser_cli.data.store import AUDIO_DTYPE, AUDIO_NAME, FORMAT_VERSION, StoredAudio
from ser_cli.errors import AudioError
from ser_cli.files import write_atomically

JOURNAL_NAME = "journal.jsonl"

DECODED_AHEAD = 32
"""Recordings that are decoded while earlier ones are stored: enough to keep every core busy, few enough for memory."""

NOTED_AT_ONCE = 64
"""Recordings between two writes of the journal: what a sudden end can cost."""

ESTIMATED_FROM = 16
"""Recordings whose headers tell how much the whole corpus will take."""

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
            if isinstance(waveform, AudioError):
                unusable[utterance.id] = str(waveform)
            else:
                audio_file.write(waveform.samples)
                entry = waveform.stored_at(end, utterance.id)
                end += entry.samples
                stored[utterance.id] = entry
                lines.append(Decoded(utterance.path, *_state(utterance.path), entry))
            if number % NOTED_AT_ONCE == 0 or number == len(todo):
                _note(audio_file, journal, lines)
                lines.clear()
                if progress:
                    progress(len(done) + number, len(utterances))
        os.fsync(audio_file.fileno())
    return stored, unusable


def estimate_bytes(utterances: Sequence[Utterance]) -> int:
    """About how many bytes the decoded recordings take: what a few have by their headers, over their files' size."""
    import soundfile

    sampled = utterances[:: max(1, len(utterances) // ESTIMATED_FROM)]
    decoded = files = 0
    for utterance in sampled:
        try:
            known = soundfile.info(utterance.path)
        except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError):
            continue  # named later; video files too tell no length here
        decoded += round(known.frames / known.samplerate * SAMPLE_RATE_HZ) * AUDIO_DTYPE.itemsize
        files += max(0, _state(utterance.path)[0])
    if not files:
        return 0
    return round(decoded / files * sum(max(0, _state(utterance.path)[0]) for utterance in utterances))


def forget_journal(folder: Path) -> None:
    """Remove the journal of a folder that is complete."""
    (folder / JOURNAL_NAME).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Waveform:
    """A decoded recording as it is stored."""

    samples: bytes
    sha256: str
    source_rate_hz: int
    source_channels: int

    def stored_at(self, offset: int, identity: str) -> StoredAudio:
        return StoredAudio(
            identity,
            offset,
            len(self.samples) // AUDIO_DTYPE.itemsize,
            self.sha256,
            self.source_rate_hz,
            self.source_channels,
        )


def _decode(utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, _Waveform | AudioError]]:
    """Decode in order on all cores; libsndfile, soxr and SHA-256 release the interpreter lock."""

    def attempt(utterance: Utterance) -> _Waveform | AudioError:
        try:
            recording = read_recording(Path(utterance.path))
        except AudioError as error:
            return error
        samples = recording.waveform.astype(AUDIO_DTYPE, copy=False).tobytes()
        digest = hashlib.sha256(samples).hexdigest()
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
                unchanged = (decoded.size, decoded.mtime_ns) == _state(decoded.path)
                data = file.read(entry.samples * AUDIO_DTYPE.itemsize)
                whole = entry.offset == end and hashlib.sha256(data).hexdigest() == entry.sha256
                if wanted.get(entry.id) != decoded.path or not unchanged or not whole:
                    break
                done[entry.id] = decoded
                end += entry.samples
    with audio_path.open("ab") as file:
        file.truncate(end * AUDIO_DTYPE.itemsize)
    lines = [json.dumps({"format": FORMAT_VERSION}), *(json.dumps(asdict(decoded)) for decoded in done.values())]
    write_atomically(journal_path, ("\n".join(lines) + "\n").encode())
    return done


def _read_journal(path: Path) -> Iterator[Decoded]:
    """The lines of a journal up to the first that is not whole; none of another version's."""
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(head) != {"format": FORMAT_VERSION}:
            return
        for line in lines:
            values = json.loads(line)
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
