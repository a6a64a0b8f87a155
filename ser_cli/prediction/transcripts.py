"""What recordings say, from a table that the user gives: for models that read it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ser_cli.errors import UsageError
from ser_cli.files import read_table

COLUMNS = ("path", "text")

LONGEST_SHOWN = 40
"""Characters of a text in a message."""


@dataclass(frozen=True)
class Transcripts:
    """Texts of recordings by their paths."""

    path: Path
    """Of the table."""
    texts: Mapping[str, str]
    """By the absolute path of each recording, without `..`."""

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
        path: of the file. Relative paths in it start where the command does, as those of the recordings do, or in the
            folder of the table, as those of a manifest do: where nothing lies in the first place and something in the
            second, that is meant.

    Raises:
        UsageError: there is no such file, it cannot be read, lacks a column, or has two texts for one recording.
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
    texts: dict[str, str] = {}
    for row in rows:
        recording, text = _meant(row["path"], path.parent), row["text"].strip()
        if texts.setdefault(recording, text) != text:
            raise UsageError(
                f"--texts {path}: two texts for {row['path']}: {_shown(texts[recording])} and {_shown(text)}\n"
                f"  keep one line for each recording"
            )
    return Transcripts(path, texts)


def _meant(path: str, folder: Path) -> str:
    """The recording that a row of a table in `folder` means."""
    here, beside = _absolute(path), _absolute(str(folder / path))
    # Of a name that is too long pathlib says nothing but an error.
    there = os.path.exists
    return beside if there(beside) and not there(here) else here


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 -- takes out `..` and follows no link, for which pathlib has nothing


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…")
