"""Files that are written whole or not at all, and read with bounds, for nothing tells beforehand who made them."""

import csv
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ser_cli.errors import SerError

MAX_JSON_BYTES = 16 << 20
"""Of a description: those of this program have some kilobytes, the score file of a thousand folds two megabytes."""
MAX_DEPTH = 50
"""Of JSON and TOML; that of this program has five levels."""
MAX_TABLE_BYTES = 64 << 20
"""Of a table: half a million rows of 128 bytes."""
MAX_ROWS = 1_000_000
MAX_COLUMNS = 1_000
"""Rows and columns together bound the memory that a table takes, whatever it repeats."""


ABSOLUTE = "is absolute"
LEADS_OUT = "leads out of the folder"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it and rename it, so that no reader ever sees half of it.

    Raises:
        SerError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read; a result follows the user's umask.
            temporary.chmod(0o666 & ~_current_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SerError(
            f"cannot write {path}: {error.strerror or error}\n  free space or choose another folder with --output"
        ) from error


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk, so that a rename in it outlives a loss of power."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a file that may be anything: a pipe, a device, a folder, or without an end.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is larger than `most_bytes`.
    """
    with os.fdopen(_open_plain(path), "rb") as file:
        # Not `most_bytes + 1`: Python takes the memory for all that may come before anything does.
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most_bytes) + 1)
    if len(content) > most_bytes:
        raise ValueError(f"more than {most_bytes:,} bytes are too many for such a file")
    return content


def read_text(path: Path, most_bytes: int = MAX_TABLE_BYTES) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark; line ends stay as they are.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is too large, not UTF-8, or holds NUL bytes.
    """
    text = read_bounded(path, most_bytes).decode("utf-8-sig")
    if "\0" in text:
        raise ValueError(f"it holds a NUL byte, in line {text.count(chr(10), 0, text.index(chr(0))) + 1}")
    return text


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file, strictly: each key once, numbers that are finite, text that can be written again.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is not such JSON, too large or nested too deeply.
    """
    return parse_json(read_text(path, most_bytes))


def read_json_object(path: Path, most_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is not such JSON, or no object.
    """
    value = read_json(path, most_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"it holds no JSON object but {type(value).__name__}")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text; see `read_json`.

    Raises:
        ValueError: it is not such JSON.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require_shallow(value)
    # JSON can spell half of a surrogate pair, which no file or terminal takes.
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_table(path: Path, most_bytes: int = MAX_TABLE_BYTES) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Read a CSV file whose rows all have a value for each column: header and rows.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: it is not such a CSV file, or too large.
    """
    lines = read_lines(read_text(path, most_bytes))
    _, header = next(lines, (1, []))
    rows = []
    for number, line in lines:
        if len(line) != len(header):
            raise ValueError(f"line {number} has {len(line):,} values for {len(header):,} columns")
        rows.append(dict(zip(header, line, strict=True)))
    return tuple(header), rows


def separator_told(header: Sequence[str]) -> str:
    """The end of a sentence on a header that other characters than commas part; nothing where commas do."""
    separator = next((s for s in (";", "\t", "|") if len(header) == 1 and s in header[0]), "")
    return f"; its columns are separated by {separator!r}; save it with commas" if separator else ""


def read_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows of a CSV text that are not empty, each with the number of the line that it ends in.

    Raises:
        ValueError: it is no CSV, a column has two places or no name, or there are too many rows or columns.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = 0
    try:
        for line in reader:
            if not line and rows:
                continue
            if len(line) > MAX_COLUMNS:
                raise ValueError(f"line {reader.line_num:,} has {len(line):,} values, at most {MAX_COLUMNS:,} are read")
            if rows > MAX_ROWS:
                raise ValueError(f"it has more than {MAX_ROWS:,} rows")
            rows += 1
            yield reader.line_num, line
    except csv.Error as error:
        raise ValueError(f"it is no CSV in line {reader.line_num:,}: {error}") from None


def path_fault(text: str) -> str:
    """Why a path that a file names is not followed, as the end of a sentence; empty for one that stays in its folder.

    Links are for the caller to look at, who knows the folder.
    """
    faults = {
        "holds a NUL byte": "\0" in text,
        "holds a control character": any(character < " " for character in text),
        ABSOLUTE: text.startswith("/") or bool(PureWindowsPath(text).drive),
        "holds a backslash; folders are parted by /": "\\" in text,
        LEADS_OUT: ".." in text.split("/"),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _require_shallow(value: Any) -> None:
    """Whoever walks through the value may do so by recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _open_plain(path: Path) -> int:
    """Open a file that is no pipe, device or folder, without waiting for anybody."""
    _require_plain(path.stat().st_mode, path)
    # Looked at again once it is open: it may have been exchanged. A pipe would wait for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _require_plain(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_plain(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(22, "it is a pipe or a device, not a file", str(path))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands in one object twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
