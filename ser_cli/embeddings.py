"""Embeddings and frame attention of a fold's tested model, stored beside its predictions when asked for.

    fold-1/embeddings.npz   ids, sides, embeddings; for tested clips the share of each frame and its time

Reading needs NumPy alone; nothing is pickled.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import RunError
from ser_cli.files import write_atomically

if TYPE_CHECKING:
    from ser_cli.data.folds import Fold
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.models.classifier import EmotionClassifier

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FrameAttention:
    """How much each frame of one clip has in its embedding."""

    times_s: NDArray[np.float32]
    """(frames,) middle of each frame; the frames are taken to be spread evenly over the clip."""
    share: NDArray[np.float32]
    """(frames,), together 1."""


@dataclass(frozen=True)
class FoldEmbeddings:
    """What `embeddings.npz` holds."""

    ids: tuple[str, ...]
    sides: tuple[str, ...]
    """`train` or `test`, for each id."""
    emotions: tuple[str, ...]
    embedding: NDArray[np.float32]
    """(clips, dim), f of eq. 5."""
    attention: dict[str, FrameAttention]
    """Of each tested clip, by id."""


def embed_fold(
    model: "EmotionClassifier",
    corpus: "PreparedCorpus",
    fold: "Fold",
    batch_size: int,
    progress: Progress = lambda done, total: None,
) -> FoldEmbeddings:
    """Run the training and the test side of a fold through its model, nothing mixed or masked.

    Args:
        model: put into evaluation mode, and left so.
        corpus: where the clips are stored.
        fold: its sides.
        batch_size: clips at a time; one where the encoder is not exact under padding.
        progress: told how many clips of how many are done.
    """
    import torch

    from ser_cli.data.batches import evaluation_batches

    model.eval()
    device = next(model.parameters()).device
    if not getattr(model.encoder, "exact_under_padding", True):
        batch_size = 1
    ids = (*fold.train, *fold.test)
    tested = set(fold.test)
    rows: dict[str, NDArray[np.float32]] = {}
    attention: dict[str, FrameAttention] = {}
    progress(0, len(ids))
    with torch.inference_mode():
        for batch in evaluation_batches(corpus, ids, batch_size):
            output = model(batch.waveforms.to(device), batch.lengths.to(device))
            embeddings = output.embedding.float().cpu().numpy()
            shares = output.attention.float().cpu().numpy()
            frames = output.frame_mask.sum(dim=1).tolist()
            for row, identity in enumerate(batch.ids):
                rows[identity] = embeddings[row]
                if identity in tested:
                    duration_s = int(batch.lengths[row]) / SAMPLE_RATE_HZ
                    times_s = ((np.arange(frames[row]) + 0.5) * duration_s / frames[row]).astype(np.float32)
                    attention[identity] = FrameAttention(times_s, shares[row, : frames[row]])
            progress(len(rows), len(ids))
    return FoldEmbeddings(
        ids=ids,
        sides=("train",) * len(fold.train) + ("test",) * len(fold.test),
        emotions=tuple(corpus.by_id[identity].emotion for identity in ids),
        embedding=np.stack([rows[identity] for identity in ids]),
        attention={identity: attention[identity] for identity in fold.test},
    )


def write_embeddings(path: Path, embeddings: FoldEmbeddings) -> None:
    """Write `embeddings.npz`, whole or not at all."""
    attention = embeddings.attention
    content = io.BytesIO()
    np.savez_compressed(
        content,
        ids=_as_text(embeddings.ids),
        sides=_as_text(embeddings.sides),
        emotions=_as_text(embeddings.emotions),
        embedding=embeddings.embedding.astype(np.float32),
        attention_ids=_as_text(tuple(attention)),
        attention_frames=np.array([len(clip.share) for clip in attention.values()], dtype=np.int64),
        attention_times_s=_joined([clip.times_s for clip in attention.values()]),
        attention_share=_joined([clip.share for clip in attention.values()]),
    )
    write_atomically(path, content.getvalue())


def read_embeddings(path: Path) -> FoldEmbeddings:
    """Read what `write_embeddings` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        bounds = np.cumsum(held["attention_frames"])[:-1]
        times_s, shares = (np.split(held[name], bounds) for name in ("attention_times_s", "attention_share"))
        names = [str(identity) for identity in held["attention_ids"]]
        found = FoldEmbeddings(
            ids=tuple(map(str, held["ids"])),
            sides=tuple(map(str, held["sides"])),
            emotions=tuple(map(str, held["emotions"])),
            embedding=held["embedding"],
            attention={i: FrameAttention(t, s) for i, t, s in zip(names, times_s, shares, strict=bool(names))},
        )
        if not len(found.ids) == len(found.sides) == len(found.emotions) == len(found.embedding):
            raise ValueError("its columns differ in length")
        return found
    except Exception as error:  # NumPy and zipfile raise nearly anything at a damaged file
        raise RunError(
            f"{path}: cannot be read as embeddings ({error})\n"
            f"  delete it and run the same `ser train` with --embeddings again, which makes it anew"
        ) from None


def _as_text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([*parts, np.zeros(0, dtype=np.float32)]).astype(np.float32)
