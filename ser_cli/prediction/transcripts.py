"""What recordings say, from a table that the user gives: for models that read it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ser_cli.errors import UsageError
from ser_cli.files import read_table

COLUMNS = ("path", "text")


@dataclass(frozen=True)
class Transcripts:
    """Texts of recordings by their paths."""

    path: Path
    """Of the table."""
    texts: Mapping[str, str]
    """By the absolute path of each recording."""

    def of(self, recording: str) -> str:
        """What a recording says; empty where the table does not tell."""
        return self.texts.get(_absolute(recording), "")

    @property
    def hash(self) -> str:
        """SHA-256 over all texts, by which a list of answers knows what it was made from."""
        return hashlib.sha256(json.dumps(sorted(self.texts.items())).encode()).hexdigest()


def read_transcripts(path: Path) -> Transcripts:
    """Read a CSV file with the columns `path` and `text`, such as the manifest of a corpus.

    Args:
        path: of the file. Relative paths in it start where the command does, as those of the recordings do.

    Raises:
        UsageError: there is no such file, it cannot be read, or lacks a column.
    """
    try:
        header, rows = read_table(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--texts {path}: cannot be read as CSV in UTF-8 ({reason})") from None
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise UsageError(
            f"--texts {path}: no column {', '.join(missing)}; found: {', '.join(header)}\n"
            f"  expected CSV with a line path,text and one for each recording"
        )
    return Transcripts(path, {_absolute(row["path"]): row["text"].strip() for row in rows})


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
