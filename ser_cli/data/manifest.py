"""The manifest: one row per utterance, as the tool writes it; `user_manifest.py` reads those that users bring."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.data import votes
from ser_cli.files import read_table, write_atomically

COLUMNS = ("id", "path", "emotion", "speaker", "session", "gender", "text", "duration_s")
"""The columns that every prepared manifest has, in this order; a reader may add more."""

MAX_BYTES = 1 << 30
"""Of a manifest as the tool writes it: a million rows of which each tells a kilobyte."""

DECISIVE_COLUMNS = (votes.COLUMN, "dialog", "partition")
"""Further columns that decide what is learnt or which side of a fold an utterance stands on."""


@dataclass(frozen=True)
class Utterance:
    """One labelled recording of one speaker."""

    id: str
    path: str
    """Where the recording was read from."""
    emotion: str
    speaker: str
    session: str = ""
    gender: str = ""
    """`female`, `male`, or empty where unknown."""
    text: str = ""
    duration_s: float = 0.0
    extra: tuple[tuple[str, str], ...] = field(default=())
    """Further columns of the corpus, such as intensity or scenario."""


def write_manifest(path: Path, utterances: Sequence[Utterance]) -> None:
    """Write utterances as CSV, whole or not at all."""
    extra = sorted({name for utterance in utterances for name, _ in utterance.extra})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *extra])
    for utterance in utterances:
        more = dict(utterance.extra)
        writer.writerow(
            [*(getattr(utterance, c) for c in COLUMNS[:-1]), f"{utterance.duration_s:.6f}"]
            + [more.get(name, "") for name in extra]
        )
    write_atomically(path, text.getvalue().encode())


def read_prepared_manifest(path: Path) -> tuple[Utterance, ...]:
    """Read a manifest that `write_manifest` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such table.
        KeyError: it lacks a column.
    """
    _, rows = read_table(path, MAX_BYTES)
    return tuple(
        Utterance(
            **{column: row[column] for column in COLUMNS[:-1]},
            duration_s=float(row["duration_s"]),
            extra=tuple((name, value) for name, value in row.items() if name not in COLUMNS and value),
        )
        for row in rows
    )


def hash_manifest(utterances: Iterable[Utterance], audio_hashes: Iterable[str]) -> str:
    """SHA-256 over what decides a result: all that is learnt from or divided by, and the decoded audio.

    Where the recordings lay on disk does not enter, so that the same corpus has one hash on every machine.
    """
    digest = hashlib.sha256()
    for utterance, audio_hash in zip(utterances, audio_hashes, strict=True):
        row = [utterance.id, utterance.emotion, utterance.speaker, utterance.session, utterance.gender, audio_hash]
        row += [f"{column}={text}" for column, text in utterance.extra if column in DECISIVE_COLUMNS]
        digest.update("\x1f".join(row).encode() + b"\n")
    return digest.hexdigest()


def total_hours(utterances: Iterable[Utterance]) -> float:
    """Duration of all utterances in hours."""
    return math.fsum(utterance.duration_s for utterance in utterances) / 3600
