"""Speakers heard before anything is said of them: for models that hear each recording against others of one voice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_cli.prediction.classifiers import Ensemble
from ser_cli.prediction.clips import Windows, clip_sets
from ser_cli.prediction.speakers import Speaker
from ser_cli.prediction.transcripts import Transcripts


@dataclass(frozen=True)
class HeardSpeakers:
    """What is subtracted from the embeddings of each speaker's recordings."""

    offsets: NDArray[np.float32]
    """(speakers, width) as `Ensemble.offsets` gives it."""
    rows: Mapping[Speaker, int]
    """Of `offsets`, by the speaker."""
    speaker_of: Callable[[str], Speaker | None]
    """Who speaks in a recording."""
    recordings: int
    """That were heard."""
    clips: NDArray[np.int64]
    """(speakers,) how many recordings, or windows of recordings, were heard of each."""

    def offsets_of(self, recordings: Sequence[str]) -> NDArray[np.float32]:
        """(batch, width) of recordings of speakers who were heard."""
        speakers = [self.speaker_of(recording) for recording in recordings]
        return self.offsets[[self.rows[speaker] for speaker in speakers if speaker is not None]]


def hear(
    classifier: Ensemble,
    spoken: Mapping[str, Speaker],
    speaker_of: Callable[[str], Speaker | None],
    *,
    batch_size: int = 16,
    windows: Windows | None = None,
    transcripts: Transcripts | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> HeardSpeakers:
    """Add up the embeddings of each speaker's recordings; one that cannot be read adds nothing.

    Of a recording in windows with the lengths l_1 … l_n and the embeddings f_1 … f_n, the mean
    sum_w l_w f_w / sum_w l_w is added n times: it counts as so many clips, each of which is classified on its own. Sums
    alone are kept, a row for each speaker. A recording that ends before its header says counts as far as it goes.

    Args:
        classifier: that normalises by speaker.
        spoken: the recordings and who speaks in them.
        speaker_of: the same of any way to write their paths.
        batch_size: clips at a time.
        windows: as they will be classified.
        transcripts: for models that read them.
        progress: told how many recordings are done.
    """
    rows = {speaker: row for row, speaker in enumerate(dict.fromkeys(spoken.values()))}
    sums = _Sums(classifier.embedding_dim, spoken, rows)
    sets = clip_sets(
        spoken,
        batch_size=batch_size,
        exact_under_padding=classifier.exact_under_padding,
        windows=windows,
        transcripts=transcripts,
    )
    for clips, batches in sets:
        embeddings: dict[int, NDArray[np.float64]] = {}
        for batch in batches:
            embedded = classifier.embeddings(batch.waveforms, batch.texts)
            embeddings |= zip(batch.positions, embedded, strict=True)
        # In the order of the list, whatever the batches were: then a part of it gives the sums of the whole.
        for position, clip in enumerate(clips):
            sums.add(clip.path, embeddings.get(position), 0 if clip.waveform is None else len(clip.waveform))
        progress(sums.done)
    sums.close()
    return HeardSpeakers(classifier.offsets(sums.total, sums.clips), rows, speaker_of, sums.heard, sums.clips)


class _Sums:
    """Sums of embeddings by speaker, and within the recording whose windows come at the moment."""

    def __init__(self, width: int, spoken: Mapping[str, Speaker], rows: Mapping[Speaker, int]) -> None:
        self.spoken, self.rows = spoken, rows
        self.total = np.zeros((len(rows), width))
        self.clips = np.zeros(len(rows), dtype=np.int64)
        self.heard = self.done = 0
        self.recording = ""
        self.within, self.samples, self.windows = np.zeros(width), 0, 0

    def add(self, recording: str, embedding: NDArray[np.float64] | None, samples: int) -> None:
        """Take the next clip of the list; `embedding` is None for what cannot be read."""
        if recording != self.recording:
            self.close()
            self.recording = recording
        if embedding is not None:
            self.within += samples * embedding
            self.samples += samples
            self.windows += 1

    def close(self) -> None:
        """Add the recording that ends here to those of its speaker."""
        if self.windows:
            row = self.rows[self.spoken[self.recording]]
            self.total[row] += self.within / self.samples * self.windows
            self.clips[row] += self.windows
            self.heard += 1
            self.within[:], self.samples, self.windows = 0, 0, 0
        self.done += bool(self.recording)
