"""Run the clips of a fold through its trained model, for what `runs/embeddings.py` stores."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.folds import Fold
from ser_cli.data.store import PreparedCorpus
from ser_cli.inference import hear_stored
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.runs.embeddings import FoldEmbeddings, FrameAttention

Progress = Callable[[int, int], None]
_Frames = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Times and shares of the frames of one window."""


def embed_fold(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    fold: Fold,
    batch_size: int,
    progress: Progress = lambda done, total: None,
    *,
    max_clip_s: float = math.inf,
    max_batch_s: float = 0.0,
) -> FoldEmbeddings:
    """Run the training and the test side of a fold through its model, nothing mixed or masked.

    A clip that is longer than `max_clip_s` goes through in windows of equal length. Its embedding is the mean of
    theirs, weighted by their lengths; the shares of their frames are multiplied with the same weights.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        fold: its sides.
        batch_size: clips at a time; one where the encoder is not exact under padding.
        progress: told how many clips of how many are done.
        max_clip_s: infinity takes every clip whole.
        max_batch_s: longest batch in seconds of audio, padding included; 0 leaves it at `batch_size` clips.
    """
    ids = (*fold.train, *fold.test)
    tested = set(fold.test)
    rows: dict[str, NDArray[np.float32]] = {}
    parts: dict[str, dict[int, _Frames]] = {}
    progress(0, len(ids))
    with torch.inference_mode():
        heard = hear_stored(model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
        for planned, batch, output in heard:
            embeddings = output.embedding.float().cpu().numpy()
            shares = output.attention.float().cpu().numpy()
            starts, samples = _heard_spans(model.encoder, batch.waveforms, batch.lengths)
            frames = output.frame_mask.sum(dim=1).tolist()
            for row, clip in enumerate(planned.clips):
                window = clip.window
                weight = np.float32(window.samples / corpus.length(window.id))
                rows[window.id] = rows.get(window.id, np.float32(0)) + weight * embeddings[row]
                if window.id in tested:
                    times_s = _middles_s(window.start + starts[row], samples[row], frames[row])
                    parts.setdefault(window.id, {})[window.start] = (times_s, weight * shares[row, : frames[row]])
            progress(len(rows), len(ids))
    return FoldEmbeddings(
        ids=ids,
        sides=("train",) * len(fold.train) + ("test",) * len(fold.test),
        emotions=tuple(corpus.by_id[identity].emotion for identity in ids),
        embedding=np.stack([rows[identity] for identity in ids]),
        attention={i: _in_order(parts[i], corpus.length(i) / SAMPLE_RATE_HZ) for i in fold.test},
    )


def _heard_spans(encoder: nn.Module, waveforms: Tensor, lengths: Tensor) -> tuple[list[int], list[int]]:
    """First sample and number of samples of what an encoder makes frames of; all of each clip unless it tells."""
    spans = getattr(encoder, "spans", None)
    start, samples = spans(waveforms, lengths) if spans else (lengths * 0, lengths)
    return start.tolist(), samples.tolist()


def _middles_s(start: int, samples: int, frames: int) -> NDArray[np.float32]:
    """(frames,) times in the middle of equal parts of a stretch."""
    middles = start + (np.arange(frames) + 0.5) * samples / frames
    return (middles / SAMPLE_RATE_HZ).astype(np.float32)


def _in_order(windows: dict[int, _Frames], duration_s: float) -> FrameAttention:
    """One clip's windows, by where they start, put together."""
    times_s, shares = zip(*(windows[start] for start in sorted(windows)), strict=True)
    return FrameAttention(np.concatenate(times_s), np.concatenate(shares), duration_s)
