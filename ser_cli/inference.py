"""Predictions of a model for stored clips: of their emotion, and of the tasks beside it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser_cli.data.batch_plans import PlannedBatch, plan_evaluation
from ser_cli.data.batches import Batch, BatchLoader
from ser_cli.data.manifest import is_mixture, speaker_of
from ser_cli.data.store import PreparedCorpus
from ser_cli.models.classifier import EmotionClassifier, Output
from ser_cli.runs.predictions import Prediction
from ser_cli.tasks.outputs import GENDERS, TaskOutputs, known_gender
from ser_cli.tasks.predictions import TaskPrediction
from ser_cli.tasks.transcripts import decode

Progress = Callable[[int], None]
"""Told how many clips are done, after each batch."""


def predict_stored(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    fold: int,
    batch_size: int,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
    progress: Progress = lambda done: None,
) -> tuple[Prediction, ...]:
    """Classify clips of a prepared corpus, in the order of `ids`.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        ids: the clips.
        fold: recorded with each prediction.
        batch_size: clips at a time.
        max_clip_s: longer clips are classified in windows; see `classify_stored`.
        max_batch_s: see `classify_stored`.
        progress: told how many clips are done.
    """
    if not ids:  # of several processes with few clips, some have none
        return ()
    probabilities = classify_stored(
        model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s, progress=progress
    )
    return tuple(
        Prediction(
            id=identity,
            fold=fold,
            truth=corpus.by_id[identity].emotion,
            predicted=corpus.labels[int(row.argmax())],
            probabilities=tuple(row.tolist()),
        )
        for identity, row in zip(ids, probabilities, strict=True)
    )


@dataclass(frozen=True)
class SpeakerOffsets:
    """What a model that normalises by speaker subtracts from the embeddings of clips."""

    rows: Mapping[str, int]
    """Of `offsets`, by the id of a clip."""
    offsets: Tensor
    """(speakers, embedding_dim), on the device of the model."""

    def of(self, ids: Sequence[str]) -> Tensor:
        """(batch, embedding_dim) of some clips."""
        return self.offsets[[self.rows[identity] for identity in ids]]


@torch.inference_mode()
def speaker_offsets(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    batch_size: int,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
) -> SpeakerOffsets | None:
    """Hear all clips of the corpus by the speakers of some clips; None for a model that does not need that.

    Mixtures are heard where a speaker has nothing else. The embedding of a clip that is longer than `max_clip_s` is
    the mean over its windows, weighted by their lengths. No emotion is looked at.

    Args:
        model: in evaluation mode.
        corpus: where the clips are stored.
        ids: the clips that are to be normalised.
        batch_size: clips, or windows of clips, at a time.
        max_clip_s: see `classify_stored`.
        max_batch_s: likewise.
    """
    if model.speakers is None:
        return None
    speakers = dict.fromkeys(speaker_of(corpus.by_id[identity]) for identity in ids)
    wanted = {speaker: row for row, speaker in enumerate(speakers)}
    clips: list[list[str]] = [[] for _ in wanted]
    mixtures: list[list[str]] = [[] for _ in wanted]
    for utterance in corpus.utterances:
        if (row := wanted.get(speaker_of(utterance))) is not None:
            (mixtures if is_mixture(utterance) else clips)[row].append(utterance.id)
    heard = [own or mixed for own, mixed in zip(clips, mixtures, strict=True)]
    row_of = {identity: row for row, own in enumerate(heard) for identity in own}
    total = torch.zeros(len(heard), model.embedding_dim, dtype=torch.float64)
    for planned, batch in _batches(model, corpus, list(row_of), batch_size, max_clip_s, max_batch_s):
        embeddings = model.embed(batch.waveforms, batch.lengths, batch.texts).cpu().double()
        shares = torch.tensor([clip.samples / corpus.length(clip.window.id) for clip in planned.clips])
        rows = torch.tensor([row_of[clip.window.id] for clip in planned.clips])
        total.index_add_(0, rows, shares.double()[:, None] * embeddings)
    counts = torch.tensor([len(own) for own in heard])
    device = model.speakers.center.device
    offsets = model.speakers.offset(total.to(device, torch.float32), counts.to(device))
    return SpeakerOffsets({identity: wanted[speaker_of(corpus.by_id[identity])] for identity in ids}, offsets)


def hear_stored(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    batch_size: int,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
) -> Iterator[tuple[PlannedBatch, Batch, Output]]:
    """What a model makes of stored clips, batch by batch; the caller is in inference mode.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        ids: the clips.
        batch_size: clips, or windows of clips, at a time.
        max_clip_s: see `classify_stored`.
        max_batch_s: likewise.
    """
    model.eval()
    if not getattr(model.encoder, "exact_under_padding", True):
        batch_size = 1
    offsets = speaker_offsets(model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    for planned, batch in _batches(model, corpus, ids, batch_size, max_clip_s, max_batch_s):
        told = offsets.of(batch.ids) if offsets else None
        yield planned, batch, model(batch.waveforms, batch.lengths, texts=batch.texts, offsets=told)


def _batches(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    batch_size: int,
    max_clip_s: float,
    max_batch_s: float,
) -> Iterator[tuple[PlannedBatch, Batch]]:
    """Stored clips, batch by batch, on the device of a model."""
    device = next(model.parameters()).device
    plan = plan_evaluation(ids, corpus.length, batch_size=batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    for planned, batch in zip(plan, BatchLoader(corpus, plan, pin_memory=device.type == "cuda"), strict=True):
        yield planned, batch.to(device)


@torch.inference_mode()
def classify_stored(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    batch_size: int,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
    progress: Progress = lambda done: None,
) -> NDArray[np.float64]:
    """(clips, classes) probabilities of clips of a prepared corpus, in the order of `ids`.

    A clip's probabilities do not depend on the clips beside it: an encoder that is not exact under padding gets
    one clip at a time. Those of a clip that is longer than `max_clip_s` are the mean over its windows, weighted by
    their lengths: p = sum_w l_w p_w / sum_w l_w.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        ids: the clips.
        batch_size: clips, or windows of clips, at a time.
        max_clip_s: a longer clip is parted into windows of equal length; infinity classifies every clip whole.
        max_batch_s: longest batch in seconds of audio, padding included; 0 leaves it at `batch_size` clips.
        progress: told how many clips are done, with all their windows.

    Raises:
        UsageError: a clip alone is longer than `max_batch_s`.
    """
    probabilities: dict[str, NDArray[np.float64]] = {}
    left = {identity: corpus.length(identity) for identity in ids}
    done = 0
    heard = hear_stored(model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    for planned, _, output in heard:
        rows = output.logits.cpu().double().softmax(dim=-1).numpy()
        for clip, row in zip(planned.clips, rows, strict=True):
            identity = clip.window.id
            # Of a whole clip the share is 1 and its probabilities stay as they are, to the last bit.
            share = clip.samples / corpus.length(identity)
            probabilities[identity] = probabilities.get(identity, 0.0) + share * row
            left[identity] -= clip.samples
            done += left[identity] == 0
        progress(done)
    return np.stack([probabilities[identity] for identity in ids])


@torch.inference_mode()
def predict_tasks(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    ids: Sequence[str],
    outputs: TaskOutputs,
    batch_size: int,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
    progress: Callable[[], None] = lambda: None,
) -> tuple[TaskPrediction, ...]:
    """What a model says of stored clips beside their emotion, in the order of `ids`.

    A clip that is longer than `max_clip_s` is heard in windows: its gender is that of the mean of their probabilities,
    weighted by length, and its text is that of one window after the other, so that a word at an edge may be cut in two.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        ids: the clips.
        outputs: what the outputs of its tasks mean.
        batch_size: clips, or windows of clips, at a time.
        max_clip_s: see `classify_stored`.
        max_batch_s: likewise.
        progress: called after each batch.
    """
    genders = dict.fromkeys(ids, torch.zeros(len(GENDERS), dtype=torch.float64))
    texts: dict[str, dict[int, str]] = {identity: {} for identity in ids}
    heard = hear_stored(model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    for planned, _, output in heard:
        said = {task: logits.cpu() for task, logits in output.tasks.items()}
        frames = output.frame_mask.sum(dim=1).tolist()
        for row, clip in enumerate(planned.clips):
            identity = clip.window.id
            if outputs.gender:
                share = said["gender"][row].double().softmax(dim=0) * clip.samples
                genders[identity] = genders[identity] + share
            if outputs.characters:
                best = said["characters"][row, : frames[row]].argmax(dim=-1).tolist()
                texts[identity][clip.window.start] = decode(best, outputs.characters)
        progress()
    return tuple(
        TaskPrediction(
            identity,
            known_gender(corpus.by_id[identity]),
            outputs.gender[int(genders[identity].argmax())] if outputs.gender else "",
            "" if is_mixture(corpus.by_id[identity]) else corpus.by_id[identity].text,
            " ".join(filter(None, (text for _, text in sorted(texts[identity].items())))),
        )
        for identity in ids
    )
