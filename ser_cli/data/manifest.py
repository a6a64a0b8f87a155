"""The manifest: one row per utterance, as the tool writes it; `user_manifest.py` reads those that users bring."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.data import votes
from ser_cli.errors import CorpusError, count_of
from ser_cli.files import read_table, write_atomically

COLUMNS = ("id", "path", "emotion", "speaker", "session", "gender", "text", "duration_s")
"""The columns that every prepared manifest has, in this order; a reader may add more."""

UNKNOWN_SPEAKER = "unknown"
"""Of all clips whose speaker is not known, so that nobody takes them for disjoint people."""

MAX_BYTES = 1 << 30
"""Of a manifest as the tool writes it: a million rows of which each tells a kilobyte."""

SOURCE_A, SOURCE_B = "source_a", "source_b"
"""Columns that name the clips a mixture was made of."""

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


def mixed_from(utterance: Utterance) -> tuple[str, ...]:
    """Ids of the clips that a mixture was made of; none for a recording."""
    told = dict(utterance.extra)
    return tuple(filter(None, (told.get(SOURCE_A), told.get(SOURCE_B))))


def is_mixture(utterance: Utterance) -> bool:
    """Whether this is a mixture of clips, made by `ser mix`: its speaker and its text are those of the first alone."""
    return bool(dict(utterance.extra).get(SOURCE_B))


def speaker_of(utterance: Utterance) -> tuple[str, str]:
    """Who speaks, as a key: a clip of unknown speaker is the only one of its own."""
    return ("", utterance.id) if utterance.speaker in ("", UNKNOWN_SPEAKER) else (utterance.speaker, "")


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


def hash_with_texts(manifest_hash: str, utterances: Iterable[Utterance]) -> str:
    """The hash of a manifest for a run that reads transcripts: they decide its result too.

    Args:
        manifest_hash: what `hash_manifest` gave.
        utterances: in the same order.
    """
    digest = hashlib.sha256(manifest_hash.encode())
    for utterance in utterances:
        text = utterance.text.encode()
        digest.update(b"%d:%b" % (len(text), text))  # no text can be taken for the end of one and the start of another
    return digest.hexdigest()


def require_texts(corpus: str, utterances: Sequence[Utterance]) -> None:
    """See that every utterance has a transcript, and that what is heard is what it says.

    Args:
        corpus: its name, for the message.
        utterances: that a model is to read.

    Raises:
        CorpusError: some have none, or are mixtures of two clips that say two things.
    """
    mixed = [utterance.id for utterance in utterances if is_mixture(utterance)]
    if mixed:
        raise CorpusError(
            f"{corpus}: {len(mixed):,} of {count_of(len(utterances), 'clip')} are mixtures, such as {mixed[0]}, in"
            f" which two voices say two things, and the model reads one transcript (text.encoder)\n"
            f"  leave them out: --where '{SOURCE_B}='; or train a model that hears alone: --set text.encoder="
        )
    silent = [utterance.id for utterance in utterances if not utterance.text]
    if len(silent) == len(utterances):
        raise CorpusError(
            f"{corpus}: no clip has a transcript (column text of the manifest), and the model reads them (text.encoder)"
            f"\n  choose a corpus that has them, add the column to a manifest of your own, or train a model that hears"
            f" alone: --set text.encoder="
        )
    if silent:
        raise CorpusError(
            f"{corpus}: {len(silent):,} of {count_of(len(utterances), 'clip')} have no transcript (column text of the"
            f" manifest), such as {silent[0]}, and the model reads them (text.encoder)\n"
            f"  leave these clips out: --where 'text!='; or add what they say to a manifest of your own"
        )


def total_hours(utterances: Iterable[Utterance]) -> float:
    """Duration of all utterances in hours."""
    return math.fsum(utterance.duration_s for utterance in utterances) / 3600
