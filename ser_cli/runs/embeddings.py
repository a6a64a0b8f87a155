"""Embeddings and frame attention of a fold's tested model, stored beside its predictions when asked for.

    fold-1/embeddings.npz   ids, sides, embeddings; for tested clips the share of each frame and its time

Reading needs NumPy alone; nothing is pickled.
"""

import io
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import RunError
from ser_cli.files import read_bounded, write_atomically

if TYPE_CHECKING:
    from ser_cli.data.batch_plans import Window
    from ser_cli.data.folds import Fold
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.models.classifier import EmotionClassifier

NUMBERS = ("embedding", "attention_times_s", "attention_share")
ARRAYS = ("ids", "sides", "emotions", "attention_ids", "attention_frames", *NUMBERS)
"""What the archive holds."""

MAX_BYTES = 4 << 30
ALWAYS_ALLOWED_BYTES = 64 << 20
MAX_RATIO = 50
"""Of the unpacked arrays to the archive: numbers of float32 hardly shrink, ids shrink well."""

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
    import torch

    from ser_cli.data.batch_plans import plan_evaluation
    from ser_cli.data.batches import BatchLoader
    from ser_cli.inference import exact_batch_size, speaker_offsets

    model.eval()
    device = next(model.parameters()).device
    batch_size = exact_batch_size(model, batch_size)
    ids = (*fold.train, *fold.test)
    offsets = speaker_offsets(model, corpus, ids, batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    tested = set(fold.test)
    plan = plan_evaluation(ids, corpus.length, batch_size=batch_size, max_clip_s=max_clip_s, max_batch_s=max_batch_s)
    rows: dict[str, NDArray[np.float32]] = {}
    parts: dict[str, dict[int, FrameAttention]] = {}
    progress(0, len(ids))
    with torch.inference_mode():
        for planned, batch in zip(plan, BatchLoader(corpus, plan, pin_memory=device.type == "cuda"), strict=True):
            told = offsets.of(batch.ids) if offsets else None
            waveforms, lengths = batch.waveforms.to(device), batch.lengths.to(device)
            output = model(waveforms, lengths, texts=batch.texts, offsets=told)
            embeddings = output.embedding.float().cpu().numpy()
            shares = output.attention.float().cpu().numpy()
            frames = output.frame_mask.sum(dim=1).tolist()
            for row, clip in enumerate(planned.clips):
                window = clip.window
                weight = np.float32(window.samples / corpus.length(window.id))
                rows[window.id] = rows.get(window.id, np.float32(0)) + weight * embeddings[row]
                if window.id in tested:
                    of_window = _attention_of(window, weight * shares[row, : frames[row]])
                    parts.setdefault(window.id, {})[window.start] = of_window
            progress(len(rows), len(ids))
    return FoldEmbeddings(
        ids=ids,
        sides=("train",) * len(fold.train) + ("test",) * len(fold.test),
        emotions=tuple(corpus.by_id[identity].emotion for identity in ids),
        embedding=np.stack([rows[identity] for identity in ids]),
        attention={identity: _in_order(parts[identity]) for identity in fold.test},
    )


def _attention_of(window: "Window", share: NDArray[np.float32]) -> FrameAttention:
    middles = (np.arange(len(share)) + 0.5) * (window.samples / SAMPLE_RATE_HZ) / len(share)
    return FrameAttention((window.start / SAMPLE_RATE_HZ + middles).astype(np.float32), share)


def _in_order(windows: dict[int, FrameAttention]) -> FrameAttention:
    """One clip's windows, by where they start, put together."""
    ordered = [windows[start] for start in sorted(windows)]
    return FrameAttention(_joined([part.times_s for part in ordered]), _joined([part.share for part in ordered]))


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
        with np.load(io.BytesIO(_read_archive(path)), allow_pickle=False) as file:
            held = {name: file[name] for name in ARRAYS}
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
        if found.embedding.ndim != 2 or any(held[name].dtype.kind != "f" for name in NUMBERS):
            raise ValueError("its arrays are not of the expected shape and kind")
        if not all(np.isfinite(held[name]).all() for name in NUMBERS) or set(found.sides) - {"train", "test"}:
            raise ValueError("it holds numbers that are not finite, or sides that do not exist")
        return found
    except Exception as error:  # NumPy and zipfile raise nearly anything at a damaged file
        raise RunError(
            f"{path}: cannot be read as embeddings ({error})\n"
            f"  delete it and run the same `ser train` with --embeddings again, which makes it anew"
        ) from None


def _read_archive(path: Path) -> bytes:
    """The bytes of an archive that unpacks to nothing but what is expected, within bounds."""
    content = read_bounded(path, MAX_BYTES)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in ARRAYS):
        raise ValueError(f"expected the arrays {', '.join(ARRAYS)}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * len(content)):
        raise ValueError(f"{len(content):,} bytes would unpack to {unpacked:,}")
    return content


def _as_text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([*parts, np.zeros(0, dtype=np.float32)]).astype(np.float32)
