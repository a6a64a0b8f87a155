"""The manifest: one row per utterance, as the tool writes it and as users bring it."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.data import votes
from ser_cli.errors import ProblemsError, UsageError, did_you_mean
from ser_cli.files import write_atomically

COLUMNS = ("id", "path", "emotion", "speaker", "session", "gender", "text", "duration_s")
"""The columns that every prepared manifest has, in this order; a reader may add more."""

OVERFLOW = "\0overflow"
"""Marks a row that has more values than the header has columns."""

REQUIRED_COLUMNS = ("path", "emotion", "speaker")
"""What a user's own manifest must have; the other columns may be absent."""


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
    """Read a manifest that `write_manifest` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Utterance(
            **{column: row[column] for column in COLUMNS[:-1]},
            duration_s=float(row["duration_s"]),
            extra=tuple((name, value) for name, value in row.items() if name not in COLUMNS and value),
        )
        for row in rows
    )


def read_user_manifest(path: Path, source: Path, labels: Sequence[str] | None) -> tuple[Utterance, ...]:
    """Read a manifest that a user brings.

    Args:
        path: CSV in UTF-8 with a header; `path`, `emotion` and `speaker` are required, `id`, `session`,
            `gender` and `text` optional, any other column is kept.
        source: folder that relative paths start from, and that no path may leave.
        labels: the declared emotions, or None to accept every emotion that occurs.

    Returns:
        The utterances, sorted by id. A missing id is the path without its suffix.

    Raises:
        UsageError: the file cannot be read as a CSV with the required columns.
        ProblemsError: rows that lack a value, name a label outside `labels`, repeat an id, or leave `source`.
    """
    header, rows = _read_rows(path)
    missing = [column for column in REQUIRED_COLUMNS if column not in header]
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise UsageError(f"{path}: column {repeated[0]!r} stands there twice; rename or remove one")
    if missing:
        raise UsageError(
            f"{path}: no column {', '.join(repr(m) for m in missing)}{did_you_mean(missing[0], header)}\n"
            f"  found: {', '.join(header) or 'an empty first line'}\n"
            f"  needed: {', '.join(REQUIRED_COLUMNS)}; also read: id, session, gender, text, votes"
        )
    problems: list[str] = []
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        problem = _problem_of(row, source, labels)
        identity = row.get("id") or Path(row["path"]).with_suffix("").as_posix()
        if not problem and identity in seen:
            problem = f"id {identity!r} stands in line {seen[identity]} too"
        if problem:
            problems.append(f"line {number}: {problem}")
            continue
        seen[identity] = number
        utterances.append(
            Utterance(
                id=identity,
                path=str((source.resolve() / row["path"]).resolve()),
                emotion=row["emotion"],
                speaker=row["speaker"],
                session=row.get("session", ""),
                gender=row.get("gender", ""),
                text=row.get("text", ""),
                extra=tuple((name, value) for name, value in row.items() if name not in COLUMNS and value),
            )
        )
    if problems:
        raise ProblemsError(str(path), problems, "correct the lines and run again", usage=True)
    if not utterances:
        raise UsageError(f"{path}: no utterance; a header and at least one row are needed")
    return tuple(sorted(utterances, key=lambda utterance: utterance.id))


def _problem_of(row: dict[str, str], source: Path, labels: Sequence[str] | None) -> str:
    """What is wrong with one row, or nothing."""
    if OVERFLOW in row:
        return "more values than columns; put text that holds commas into quotes"
    empty = [column for column in REQUIRED_COLUMNS if not row[column]]
    if empty:
        return f"{', '.join(empty)} is empty"
    if labels is not None and row["emotion"] not in labels:
        nearest = did_you_mean(row["emotion"], labels)
        return f"emotion {row['emotion']!r} is not among the declared {', '.join(labels)}{nearest}"
    if "\0" in row["path"]:
        return "the path holds a NUL byte"
    if not (source.resolve() / row["path"]).resolve().is_relative_to(source.resolve()):
        return f"{row['path']} lies outside {source}; give the common folder with --source"
    return _problem_of_votes(row.get(votes.COLUMN, ""))


def _problem_of_votes(text: str) -> str:
    try:
        votes.parse_votes(text)
    except ValueError as error:
        return f"votes {text!r}: {error}"
    return ""


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and numbered rows of a CSV file, every value stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such manifest; give a CSV file with --manifest") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error}); save it as CSV in UTF-8") from None
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}: not a CSV file ({error}); save it as comma-separated text") from None
    header = [name.strip() for name in lines[0]] if lines else []
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if any(cell.strip() for cell in line):
            values = [*line, *[""] * (len(header) - len(line))]
            row = {name: value.strip() for name, value in zip(header, values, strict=False)}
            if len(line) > len(header):
                row[OVERFLOW] = line[-1]
            rows.append((number, row))
    return header, rows


def hash_manifest(utterances: Iterable[Utterance], audio_hashes: Iterable[str]) -> str:
    """SHA-256 over what decides a result: ids, labels, speakers, sessions, genders, votes and the decoded audio.

    Where the recordings lay on disk does not enter, so that the same corpus has one hash on every machine.
    """
    digest = hashlib.sha256()
    for utterance, audio_hash in zip(utterances, audio_hashes, strict=True):
        row = [utterance.id, utterance.emotion, utterance.speaker, utterance.session, utterance.gender, audio_hash]
        row += (text for column, text in utterance.extra if column == votes.COLUMN)
        digest.update("\x1f".join(row).encode() + b"\n")
    return digest.hexdigest()


def total_hours(utterances: Iterable[Utterance]) -> float:
    """Duration of all utterances in hours."""
    return math.fsum(utterance.duration_s for utterance in utterances) / 3600
