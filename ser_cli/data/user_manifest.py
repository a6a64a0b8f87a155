"""The manifest that a user brings: a CSV file of recordings, read with every fault named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

from ser_cli.data import votes
from ser_cli.data.manifest import Utterance
from ser_cli.errors import ProblemsError, UsageError, did_you_mean
from ser_cli.files import ABSOLUTE, LEADS_OUT, path_fault, read_bounded, read_lines, separator_told

REQUIRED_COLUMNS = ("path", "emotion", "speaker")
OPTIONAL_COLUMNS = ("id", "session", "gender", "text", "dialog", votes.COLUMN)
"""What is used where it is there; every other column is kept for `--where`."""

OVERFLOW = "\0overflow"
"""Marks a row that has more values than the header has columns."""

MAX_BYTES = 64 << 20
"""Of a manifest: half a million rows of 128 bytes."""


@dataclass(frozen=True)
class UserManifest:
    """What a user's manifest holds."""

    utterances: tuple[Utterance, ...]
    """Sorted by id."""
    notes: tuple[str, ...]
    """What looks misspelt, columns and emotions, each a sentence."""


def require_manifest(path: Path) -> None:
    """See that a manifest is there, before anything is concluded from its name.

    Raises:
        UsageError: it is not, or it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the CSV file that lists its recordings with --manifest")
    if not path.exists():
        raise UsageError(f"{path}: no such manifest; give a CSV file with --manifest")


def read_user_manifest(path: Path, source: Path, labels: Sequence[str] | None) -> UserManifest:
    """Read a manifest that a user brings.

    Args:
        path: CSV in UTF-8 with a header; `path`, `emotion` and `speaker` are required; `id`, `session`, `gender`,
            `text`, `dialog` and `votes` are used where they are there, any other column is kept.
        source: folder that relative paths start from, and that no path may leave.
        labels: the declared emotions, or None to accept every emotion that occurs.

    Returns:
        The utterances, sorted by id. A missing id is the path without its suffix.

    Raises:
        UsageError: the file cannot be read as a CSV with the required columns.
        ProblemsError: rows that lack a value, name a label outside `labels`, repeat an id, or leave `source`.
    """
    require_manifest(path)
    rows = _read_rows(path)
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    _require_columns(path, header)
    root = source.resolve()
    problems: list[str] = []
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, line in rows:
        if not any(cell.strip() for cell in line):
            continue
        row = _row_of(header, line)
        if problem := _problem_of(row, root, source, labels):
            problems.append(f"line {number}: {problem}")
            continue
        identity = row.get("id") or Path(row["path"]).with_suffix("").as_posix()
        if identity in seen:
            stands = f"line {number}: id {identity!r} stands in line {seen[identity]} too"
            made = "; it is made of the path without its ending, so give both rows another in a column id"
            problems.append(stands + ("" if row.get("id") else made))
            continue
        seen[identity] = number
        utterances.append(_utterance(identity, row, root))
    if problems:
        raise ProblemsError(str(path), problems, "correct the lines and run again", usage=True)
    if not utterances:
        raise UsageError(f"{path}: no utterance; a header and at least one row are needed")
    notes = (*_misspelt(header), *_written_otherwise({utterance.emotion for utterance in utterances}))
    return UserManifest(tuple(sorted(utterances, key=lambda utterance: utterance.id)), notes)


def _utterance(identity: str, row: dict[str, str], root: Path) -> Utterance:
    told = ("id", "path", "emotion", "speaker", "session", "gender", "text", "duration_s")
    return Utterance(
        id=identity,
        path=str(root / row["path"]),
        emotion=row["emotion"],
        speaker=row["speaker"],
        session=row.get("session", ""),
        gender=row.get("gender", ""),
        text=row.get("text", ""),
        extra=tuple((name, value) for name, value in row.items() if name not in told and value),
    )


def _require_columns(path: Path, header: Sequence[str]) -> None:
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise UsageError(f"{path}: column {repeated[0]!r} stands there twice; rename or remove one")
    missing = [column for column in REQUIRED_COLUMNS if column not in header]
    if not missing:
        return
    others = [column for column in header if column not in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)]
    told = []
    for column in missing:
        nearest = get_close_matches(column, [other.lower() for other in others], n=1, cutoff=0.5)
        meant = [other for other in others if [other.lower()] == nearest]
        told.append(f"{column!r} (is it {meant[0]!r}?)" if meant else repr(column))
    raise UsageError(
        f"{path}: no column {', '.join(told)}\n"
        f"  found: {', '.join(header) or 'an empty first line'}{separator_told(header)}\n"
        f"  needed: {', '.join(REQUIRED_COLUMNS)}; also read: {', '.join(OPTIONAL_COLUMNS)}"
    )


def _misspelt(header: Sequence[str]) -> list[str]:
    """Columns that are kept but not used, and look like one that would be."""
    absent = [column for column in OPTIONAL_COLUMNS if column not in header]
    notes = []
    for column in header:
        if column in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
            continue
        nearest = get_close_matches(column.lower(), absent, n=1, cutoff=0.75)
        if nearest:
            notes.append(f"column {column!r} is kept for --where and not used otherwise; is {nearest[0]!r} meant?")
    return notes


def _written_otherwise(emotions: set[str]) -> list[str]:
    """Emotions that are told apart though they differ in capitals alone."""
    alike: dict[str, list[str]] = {}
    for emotion in sorted(emotions):
        alike.setdefault(emotion.casefold(), []).append(emotion)
    return [
        f"{' and '.join(same)} are taken for {len(same)} emotions; write them alike if one is meant"
        for same in alike.values()
        if len(same) > 1
    ]


def _problem_of(row: dict[str, str], root: Path, source: Path, labels: Sequence[str] | None) -> str:
    """What is wrong with one row, or nothing."""
    if OVERFLOW in row:
        return "more values than columns; put text that holds commas into quotes"
    empty = [column for column in REQUIRED_COLUMNS if not row[column]]
    if empty:
        return f"{', '.join(empty)} is empty"
    if labels is not None and row["emotion"] not in labels:
        nearest = did_you_mean(row["emotion"], labels)
        return f"emotion {row['emotion']!r} is not among the declared {', '.join(labels)}{nearest}"
    return _problem_of_path(row["path"], root, source) or _problem_of_votes(row.get(votes.COLUMN, ""))


def _problem_of_path(text: str, root: Path, source: Path) -> str:
    """Why the recording of a row is not opened, or nothing; one that is not there is named when it is decoded.

    An absolute path and one with `..` are welcome as long as they stay below the source folder, links included.
    """
    fault = path_fault(text)
    if fault and fault not in (ABSOLUTE, LEADS_OUT):
        return f"the path {fault}: {text!r}"
    try:
        path = (root / text).resolve()
        if not path.is_relative_to(root) or PureWindowsPath(text).drive:
            return f"{text} lies outside {source}; give the common folder with --source"
        if path.exists() and not path.is_file():
            return f"{text} is a folder, a pipe or a device, not a recording"
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long; a loop of links
        return f"the path {text[:80]!r} cannot be followed ({error.__class__.__name__})"
    return ""


def _problem_of_votes(text: str) -> str:
    try:
        votes.parse_votes(text)
    except ValueError as error:
        return f"votes {text!r}: {error}"
    return ""


def _row_of(header: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    """A row by its columns, every value stripped; one that is too short lacks its last columns."""
    row = {name: value.strip() for name, value in zip(header, line, strict=False)}
    if len(line) > len(header):
        row[OVERFLOW] = line[-1]
    return dict.fromkeys(REQUIRED_COLUMNS, "") | row


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Header and rows of a CSV file with the lines that they end in."""
    try:
        yield from read_lines(read_bounded(path, MAX_BYTES).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({reason}); save it as CSV in UTF-8") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a CSV file ({error}); save it as comma-separated text") from None
