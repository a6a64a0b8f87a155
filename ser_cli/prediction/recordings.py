"""Which recordings are meant: files, folders, patterns and lists on standard input, as one stream of paths.

The stream is never held as a whole, so that a list of a million paths costs no more memory than one of ten.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic, iglob
from itertools import islice
from pathlib import Path
from typing import IO

from ser_cli.corpora.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from ser_cli.errors import UsageError

STDIN = "-"
"""Stands for a list of paths on standard input, one per line."""


@dataclass(frozen=True)
class Missing:
    """Something that was asked for and holds no recording."""

    name: str
    problem: str


Source = str | Missing
"""The path of a recording, or what became of a name that leads to none."""


@dataclass(frozen=True)
class Shard:
    """One of equal, contiguous parts of a list: part by part, their results make up the whole's."""

    index: int
    """Counted from 1."""
    count: int

    def bounds(self, total: int) -> tuple[int, int]:
        """Where the part starts and stops in a list of so many."""
        return (self.index - 1) * total // self.count, self.index * total // self.count


def parse_shard(text: str) -> Shard:
    """Read `3/100`.

    Raises:
        UsageError: it is not of this form, or the part does not exist.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: expected I/N with I from 1 to N, such as --shard 3/100")
    return Shard(int(match[1]), int(match[2]))


def list_recordings(names: Sequence[str], shard: Shard | None = None, stdin: IO[str] | None = None) -> Iterator[Source]:
    """Every recording that the names lead to, in their order; the same each time.

    Args:
        names: files, folders (searched to any depth, in order of name), patterns such as `calls/**/*.wav`, or
            `-` for paths on standard input.
        shard: keep one part. The list is gone through twice then, once to count it.
        stdin: in place of standard input.
    """
    given = stdin or sys.stdin
    if STDIN in names and isinstance(given, io.TextIOWrapper):
        given.reconfigure(errors="surrogateescape")  # names are bytes, as those of arguments and folders are
    return _expand(names, given) if shard is None else _part(names, shard, given)


def _part(names: Sequence[str], shard: Shard, stdin: IO[str]) -> Iterator[Source]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape") as kept:
        if STDIN in names:  # it can be read once only
            kept.writelines(line if line.endswith("\n") else line + "\n" for line in stdin)
        kept.seek(0)
        total = sum(1 for _ in _expand(names, kept))
        kept.seek(0)
        yield from islice(_expand(names, kept), *shard.bounds(total))


def _expand(names: Sequence[str], stdin: IO[str]) -> Iterator[Source]:
    for name in names:
        if name == STDIN:
            for line in iter(stdin.readline, ""):
                if path := line.rstrip("\r\n"):
                    yield from _expand_name(path, patterns=False)
        else:
            yield from _expand_name(name, patterns=True)


def _expand_name(name: str, *, patterns: bool) -> Iterator[Source]:
    if patterns and has_magic(name) and not os.path.lexists(name):
        yield from _or_missing(
            (p for p in sorted(iglob(name, recursive=True)) if not Path(p).is_dir()),  # noqa: PTH207
            Missing(name, "the pattern matches no file"),
        )
    elif os.path.isdir(name):  # noqa: PTH112
        yield from _or_missing(_walk(name), Missing(name, "the folder holds no recording"))
    else:
        yield name


def _or_missing(paths: Iterable[Source], missing: Missing) -> Iterator[Source]:
    empty = True
    for path in paths:
        empty = False
        yield path
    if empty:
        yield missing


def is_recording(path: Path) -> bool:
    """Whether a file is called like a recording."""
    return path.name.lower().endswith((*AUDIO_SUFFIXES, *VIDEO_SUFFIXES))


def _walk(folder: str) -> Iterator[Source]:
    """Recordings below a folder, in order of name; hidden files and folders stay out.

    Links to folders are followed, each real folder once, as where a corpus is read. A folder that cannot be read is
    told in its place.
    """
    seen: set[tuple[int, int]] = set()
    unreadable: list[Missing] = []

    def note(error: OSError) -> None:
        unreadable.append(Missing(str(error.filename), f"the folder cannot be read ({error.strerror})"))

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=note):
        yield from unreadable
        unreadable.clear()
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and is_recording(Path(name)):
                yield os.path.join(parent, name)  # noqa: PTH118
    yield from unreadable
