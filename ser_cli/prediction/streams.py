"""Classify recordings as they come: decoded ahead, batched by length, answered in order."""

from collections.abc import Iterable, Iterator

from ser_cli.prediction.answers import Answer
from ser_cli.prediction.classifiers import Classifier
from ser_cli.prediction.clips import Clip, ClipBatch, Windows, clip_sets
from ser_cli.prediction.hearing import HeardSpeakers
from ser_cli.prediction.recordings import Source
from ser_cli.prediction.transcripts import Transcripts


def predict_recordings(
    classifier: Classifier,
    sources: Iterable[Source],
    *,
    batch_size: int = 16,
    windows: Windows | None = None,
    threads: int | None = None,
    transcripts: Transcripts | None = None,
    heard: HeardSpeakers | None = None,
) -> Iterator[Answer]:
    """Classify recordings in their order; one that cannot be read becomes an answer with an error.

    Args:
        classifier: of waveforms.
        sources: see `clip_sets`.
        batch_size: clips at a time.
        windows: cut each recording into windows and classify these; None classifies it as a whole.
        threads: that decode; None takes up to four.
        transcripts: for a classifier that reads them.
        heard: for one that normalises by speaker: what `hear` gave of the speakers of these recordings.
    """
    sets = clip_sets(
        sources,
        batch_size=batch_size,
        exact_under_padding=classifier.exact_under_padding,
        windows=windows,
        threads=threads,
        transcripts=transcripts,
    )
    for clips, batches in sets:
        yield from _classify(classifier, clips, batches, heard)


def _classify(
    classifier: Classifier, clips: list[Clip], batches: Iterable[ClipBatch], heard: HeardSpeakers | None
) -> Iterator[Answer]:
    """Answers in the order of the clips."""
    answers: dict[int, Answer] = {
        position: Answer(clip.path, error=clip.error) for position, clip in enumerate(clips) if clip.waveform is None
    }
    told = 0
    for batch in batches:
        offsets = heard.offsets_of([clips[position].path for position in batch.positions]) if heard else None
        rows = classifier.probabilities(batch.waveforms, batch.texts, offsets)
        for position, row in zip(batch.positions, rows, strict=True):
            clip = clips[position]
            label = classifier.labels[int(row.argmax())]
            answers[position] = Answer(clip.path, label, tuple(map(float, row)), clip.start_s, clip.end_s)
        while told in answers:
            yield answers.pop(told)
            told += 1
    while told in answers:
        yield answers.pop(told)
        told += 1
