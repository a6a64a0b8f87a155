"""What a user tells of recordings: CSV tables with the column `path` and one more."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ser_cli.errors import UsageError
from ser_cli.files import read_table, separator_told

LONGEST_SHOWN = 40
"""Characters of a value in a message."""


@dataclass(frozen=True)
class RecordingTable:
    """Something told of recordings, by their paths."""

    path: Path
    """Of the table."""
    values: Mapping[str, str]
    """By the absolute path of each recording, without `..`."""

    def of(self, recording: str) -> str:
        """What is told of a recording; empty where the table does not tell."""
        return self.values.get(absolute(recording), "")

    @property
    def hash(self) -> str:
        """SHA-256 over all that is told, by which a list of answers knows what it was made from."""
        return hashlib.sha256(json.dumps(sorted(self.values.items())).encode()).hexdigest()


def read_recording_table(path: Path, option: str, column: str) -> RecordingTable:
    """Read a CSV file with the column `path` and one more, such as the manifest of a corpus.

    Args:
        path: of the file. Relative paths in it start where the command does, as those of the recordings do, or in the
            folder of the table, as those of a manifest do: where nothing lies in the first place and something in the
            second, that is meant.
        option: by which the user named the file, for messages.
        column: that tells something of each recording.

    Raises:
        UsageError: there is no such file, it cannot be read, lacks a column, or tells two things of one recording.
    """
    try:
        header, rows = read_table(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option} {path}: cannot be read as CSV in UTF-8 ({reason})") from None
    called = {name.strip(): name for name in header}
    missing = [name for name in ("path", column) if name not in called]
    if missing:
        raise UsageError(
            f"{option} {path}: no column {', '.join(missing)}; found: {', '.join(called)}{separator_told(header)}\n"
            f"  expected CSV with a line path,{column} and one for each recording"
        )
    values: dict[str, str] = {}
    for row in rows:
        recording, value = _meant(row[called["path"]], path.parent), row[called[column]].strip()
        if values.setdefault(recording, value) != value:
            raise UsageError(
                f"{option} {path}: two {column}s for {row[called['path']]}: {_shown(values[recording])} and"
                f" {_shown(value)}\n  keep one line for each recording"
            )
    return RecordingTable(path, values)


def absolute(path: str) -> str:
    """The path of a recording however it was written: from the root, without `..`, links not followed."""
    return os.path.abspath(path)  # noqa: PTH100 -- takes out `..` and follows no link, for which pathlib has nothing


def _meant(path: str, folder: Path) -> str:
    """The recording that a row of a table in `folder` means."""
    here, beside = absolute(path), absolute(str(folder / path))
    # Of a name that is too long pathlib says nothing but an error.
    there = os.path.exists
    return beside if there(beside) and not there(here) else here


def _shown(value: str) -> str:
    return repr(value if len(value) <= LONGEST_SHOWN else value[:LONGEST_SHOWN] + "…")
