"""Recordings decoded ahead in threads, whole or cut into windows, and batched by length."""

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import LONGEST_S, SAMPLE_RATE_HZ, SILENT, TooLongError, read_recording
from ser_cli.data.streaming import read_windows
from ser_cli.errors import AudioError
from ser_cli.prediction.recordings import Missing, Source
from ser_cli.prediction.transcripts import Transcripts

BATCHES_AHEAD = 4
"""Batches whose clips are sorted by length together, and decoded while others are classified."""

BATCH_S = 240.0
"""Longest batch, padding included, unless a single clip is longer: bounds the memory of the model."""

SET_S = BATCHES_AHEAD * BATCH_S
"""Longest set of clips that are sorted together: bounds what is held decoded, however large the batches are."""

DECODED_AHEAD = 16
"""Clips that wait, decoded, for the next set: enough to keep the threads busy."""

PATIENCE_S = 0.25
"""How long an incomplete set of clips waits for a next path: a list that is still being written gets answers."""


@dataclass(frozen=True)
class Windows:
    """How a long recording is cut."""

    window_s: float
    hop_s: float


@dataclass(frozen=True)
class Clip:
    """Something to classify, or what went wrong with it."""

    path: str
    waveform: NDArray[np.float32] | None = None
    start_s: float | None = None
    end_s: float | None = None
    error: str = ""


@dataclass(frozen=True)
class ClipBatch:
    """Clips that go through the model together."""

    positions: list[int]
    """In the set that they are of."""
    waveforms: list[NDArray[np.float32]]
    texts: list[str]
    """What is said in them; empty for a model that does not read it."""


def clip_sets(
    sources: Iterable[Source],
    *,
    batch_size: int,
    exact_under_padding: bool,
    windows: Windows | None = None,
    threads: int | None = None,
    transcripts: Transcripts | None = None,
) -> Iterator[tuple[list[Clip], Iterator[ClipBatch]]]:
    """Sets of clips in the order of the list, each with the batches of like length that its sound clips make.

    Memory is bounded by the batch size, not by the number or (with `windows`) the duration of recordings.

    Args:
        sources: the recordings, taken one after the other while others are worked on.
        batch_size: clips at a time.
        exact_under_padding: whether clips of different length may share a batch; else each has its own.
        windows: cut each recording into windows, which are the clips then; None takes it as a whole.
        threads: that decode; None takes up to four.
        transcripts: for a model that reads them; each window of a recording is read with the whole text.
    """
    ahead = BATCHES_AHEAD * batch_size
    with _Decoder(sources, windows, ahead, threads or min(4, os.cpu_count() or 1)) as decoder:
        for clips in decoder.sets(batch_size, ahead):
            texts = [transcripts.of(clip.path) for clip in clips] if transcripts else []
            told = _without_untold(clips, texts, transcripts) if transcripts else clips
            yield told, _batches(told, texts, batch_size if exact_under_padding else 1)


def _without_untold(clips: list[Clip], texts: list[str], transcripts: Transcripts) -> list[Clip]:
    """The same clips, those without a text turned into what went wrong with them."""
    untold = f"has no text in {transcripts.path}, and the model reads one"
    return [
        clip if text or clip.waveform is None else Clip(clip.path, error=untold)
        for clip, text in zip(clips, texts, strict=True)
    ]


class _Decoder:
    """Decodes ahead in the background, as far as there is room."""

    def __init__(self, sources: Iterable[Source], windows: Windows | None, ahead: int, threads: int) -> None:
        self.sources, self.windows = sources, windows
        self.ready: queue.Queue[Any] = queue.Queue(maxsize=min(ahead, DECODED_AHEAD))
        self.stopped = threading.Event()
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # A daemon: it may wait for a line of standard input for ever.
        self.feeder = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> "_Decoder":
        self.feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def sets(self, first: int, size: int) -> Iterator[list[Clip]]:
        """Clips in order, so many at a time; fewer at first, and where the list pauses or ends."""
        clips: list[Clip] = []
        wanted, samples = first, 0
        while True:
            try:
                item = self.ready.get(timeout=PATIENCE_S if clips else None)
            except queue.Empty:
                yield clips
                clips, samples = [], 0
                continue
            if item is None or isinstance(item, BaseException):
                if clips:
                    yield clips
                if item is not None:
                    raise item
                return
            clip = item.result() if isinstance(item, Future) else item
            clips.append(clip)
            samples += 0 if clip.waveform is None else len(clip.waveform)
            if len(clips) == wanted or samples >= SET_S * SAMPLE_RATE_HZ:
                yield clips
                clips, wanted, samples = [], size, 0

    def _feed(self) -> None:
        try:
            for source in self.sources:
                if isinstance(source, Missing):
                    self._put(Clip(source.name, error=source.problem))
                elif self.windows is None:
                    # The queue is short and this thread waits for room in it: never more than one clip too many.
                    self._put(self.pool.submit(_decode, source))
                else:
                    for clip in _cut(source, self.windows):
                        self._put(clip)
                if self.stopped.is_set():
                    return
            self._put(None)
        except BaseException as error:
            if not self.stopped.is_set():
                self._put(error)

    def _put(self, item: object) -> None:
        while not self.stopped.is_set():
            try:
                self.ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue


def _decode(path: str) -> Clip:
    try:
        return Clip(path, read_recording(path).waveform)
    except TooLongError as error:
        # Attention takes memory with the square of the duration.
        return Clip(
            path,
            error=f"{_without_path(error, path)}, at most {LONGEST_S:.0f} s are classified as a whole;"
            f" cut it into windows: --window 4 --hop 1",
        )
    except AudioError as error:
        return Clip(path, error=_without_path(error, path))


def _cut(path: str, windows: Windows) -> Iterator[Clip]:
    """The windows of a recording; of one that is silent from start to end none, but an error, as without windows."""
    silent: list[tuple[int, float, float]] = []  # so far; their samples are not held
    heard = windows.hop_s > windows.window_s  # what lies between such windows is not known to be silent
    try:
        for piece in read_windows(Path(path), windows.window_s, windows.hop_s):
            if not heard and not piece.waveform.any():
                silent.append((len(piece.waveform), piece.start_s, piece.end_s))
                continue
            for samples, start_s, end_s in silent if not heard else ():
                yield Clip(path, np.zeros(samples, dtype=np.float32), start_s, end_s)
            heard = True
            yield Clip(path, piece.waveform, piece.start_s, piece.end_s)
        if not heard:
            yield Clip(path, error=SILENT)
    except AudioError as error:
        yield Clip(path, error=_without_path(error, path))


def _without_path(error: AudioError, path: str) -> str:
    return str(error).removeprefix(f"{Path(path)}: ").replace("\n", " ")


def _batches(clips: list[Clip], texts: list[str], batch_size: int) -> Iterator[ClipBatch]:
    for positions in _positions(clips, batch_size):
        waveforms = [waveform for position in positions if (waveform := clips[position].waveform) is not None]
        yield ClipBatch(positions, waveforms, [texts[position] for position in positions] if texts else [])


def _positions(clips: list[Clip], batch_size: int) -> Iterator[list[int]]:
    """Positions of clips that go through the model together."""
    lengths = {position: len(clip.waveform) for position, clip in enumerate(clips) if clip.waveform is not None}
    batch: list[int] = []
    for position in sorted(lengths, key=lambda position: (lengths[position], position)):
        padded_s = (len(batch) + 1) * lengths[position] / SAMPLE_RATE_HZ
        if batch and (len(batch) == batch_size or padded_s > BATCH_S):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
