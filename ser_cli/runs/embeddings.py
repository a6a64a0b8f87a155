"""Embeddings and frame attention of a fold's tested model, stored beside its predictions when asked for.

    fold-1/embeddings.npz   ids, sides, embeddings; for tested clips the share of each frame and its time

Reading needs NumPy alone; nothing is pickled.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.errors import RunError
from ser_cli.files import read_bounded, write_atomically

DURATIONS = "attention_durations_s"
"""Not in archives of earlier versions, whose frames covered all of each clip."""
NUMBERS = ("embedding", "attention_times_s", "attention_share")
ARRAYS = ("ids", "sides", "emotions", "attention_ids", "attention_frames", *NUMBERS)
"""What every archive holds."""

MAX_BYTES = 4 << 30
ALWAYS_ALLOWED_BYTES = 64 << 20
MAX_RATIO = 50
"""Of the unpacked arrays to the archive: numbers of float32 hardly shrink, ids shrink well."""


@dataclass(frozen=True)
class FrameAttention:
    """How much each frame of one clip has in its embedding."""

    times_s: NDArray[np.float32]
    """(frames,) middle of each frame; the frames are taken to be spread evenly over what the encoder hears of the
    clip, which may leave out silence at its ends."""
    share: NDArray[np.float32]
    """(frames,), together 1."""
    duration_s: float
    """Of the clip."""


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
        attention_durations_s=np.array([clip.duration_s for clip in attention.values()], dtype=np.float64),
    )
    write_atomically(path, content.getvalue())


def read_embeddings(path: Path) -> FoldEmbeddings:
    """Read what `write_embeddings` wrote.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(_read_archive(path)), allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        bounds = np.cumsum(held["attention_frames"])[:-1]
        times_s, shares = (np.split(held[name], bounds) for name in ("attention_times_s", "attention_share"))
        names = [str(identity) for identity in held["attention_ids"]]
        if DURATIONS not in held:
            held[DURATIONS] = np.array([float(t[0] + t[-1]) for t in times_s if len(names)])
        durations_s = map(float, held[DURATIONS])
        found = FoldEmbeddings(
            ids=tuple(map(str, held["ids"])),
            sides=tuple(map(str, held["sides"])),
            emotions=tuple(map(str, held["emotions"])),
            embedding=held["embedding"],
            attention={
                identity: FrameAttention(times, share, duration_s)
                for identity, times, share, duration_s in zip(names, times_s, shares, durations_s, strict=bool(names))
            },
        )
        if not len(found.ids) == len(found.sides) == len(found.emotions) == len(found.embedding):
            raise ValueError("its columns differ in length")
        numbers = (*NUMBERS, DURATIONS)
        if found.embedding.ndim != 2 or any(held[name].dtype.kind != "f" for name in numbers):
            raise ValueError("its arrays are not of the expected shape and kind")
        if not all(np.isfinite(held[name]).all() for name in numbers) or set(found.sides) - {"train", "test"}:
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
    there = sorted(member.filename for member in members)
    if there not in [sorted(f"{name}.npy" for name in names) for names in (ARRAYS, (*ARRAYS, DURATIONS))]:
        raise ValueError(f"expected the arrays {', '.join(ARRAYS)}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * len(content)):
        raise ValueError(f"{len(content):,} bytes would unpack to {unpacked:,}")
    return content


def _as_text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([*parts, np.zeros(0, dtype=np.float32)]).astype(np.float32)
