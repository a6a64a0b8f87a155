"""Finding the files of a corpus as people have it on disk: nested, doubled, linked, half unreadable, oddly encoded."""

import csv
import hashlib
import io
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_cli.data.audio import PHONE_SUFFIXES, VIDEO_SUFFIXES
from ser_cli.errors import count_of

LOSSLESS_SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".w64", ".caf", ".au")
LOSSY_SUFFIXES = (".opus", ".ogg", ".oga", ".mp3", *PHONE_SUFFIXES)
AUDIO_SUFFIXES = (*LOSSLESS_SUFFIXES, *LOSSY_SUFFIXES)
"""What is decoded and corpora are found in, the ones to prefer first; compared in lower case."""

MAX_TEXT_BYTES = 64 << 20
"""A label or transcript file is smaller than this."""


@dataclass(frozen=True)
class Tree:
    """All files below a folder."""

    paths: tuple[Path, ...]
    """Sorted; without hidden files, AppleDouble twins (`._x`) and what lies in hidden or `__MACOSX` folders."""
    problems: tuple[str, ...]
    """Folders that could not be read."""

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, whatever its case."""
        return [path for path in self.paths if path.suffix.lower() in suffixes]

    def named(self, *names: str) -> list[Path]:
        """The files with one of these names, whatever its case."""
        wanted = {name.lower() for name in names}
        return [path for path in self.paths if path.name.lower() in wanted]


def walk(source: Path) -> Tree:
    """List a folder with everything below it.

    Links to folders are followed, each real folder once, so that a loop of links ends and a corpus whose sessions
    lie on other disks is found.
    """
    paths: list[Path] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, inner, names in os.walk(source, followlinks=True, onerror=unreadable):
        try:
            status = Path(folder).stat()
        except OSError as error:
            unreadable(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__MACOSX")
        paths += [Path(folder, name) for name in names if not name.startswith(".") and _is_file(folder, name)]
    return Tree(tuple(sorted(paths)), tuple(sorted(problems)))


def _is_file(folder: str, name: str) -> bool:
    """Whether this can be opened without waiting: no pipe and no device; a dangling link is named when it is read."""
    try:
        return stat.S_ISREG(os.stat(os.path.join(folder, name)).st_mode)  # noqa: PTH116, PTH118  (200,000 of them)
    except OSError:
        return True


@dataclass(frozen=True)
class OneEach:
    """One file for each id."""

    paths: dict[str, Path]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def one_file_each(found: Iterable[tuple[str, Path]]) -> OneEach:
    """Choose one file for each id where a corpus was found doubled or in several formats.

    Copies that are equal byte for byte count once; of several formats the lossless one is taken; files of one id
    and one format that differ are a problem, and that id is left out.

    Args:
        found: ids and files, in any order.
    """
    by_id: dict[str, list[Path]] = defaultdict(list)
    for identity, path in found:
        by_id[identity].append(path)
    chosen: dict[str, Path] = {}
    problems: list[str] = []
    copies = formats = 0
    for identity, paths in sorted(by_id.items()):
        ranked = sorted(paths, key=lambda path: (_rank(path), path))
        best = [path for path in ranked if _rank(path) == _rank(ranked[0])]
        formats += len(ranked) - len(best)
        try:
            other = next((path for path in best[1:] if _hash(path) != _hash(best[0])), None)
        except OSError as error:
            problems.append(f"{error.filename}: cannot be read ({error.strerror})")
            continue
        if other is not None:
            problems.append(f"{best[0]}: differs from {other}, which has the same name")
            continue
        copies += len(best) - 1
        chosen[identity] = best[0]
    notes = []
    if copies:
        notes.append(f"{count_of(copies, 'file')} left out, byte for byte the clip of the same name")
    if formats:
        notes.append(f"{count_of(formats, 'file')} left out, the same clip in another format")
    return OneEach(chosen, tuple(problems), tuple(notes))


def left_out(number: int, reason: str) -> list[str]:
    """A note of files that were left out on purpose; none where there were none."""
    return [f"{count_of(number, 'file')} {reason} left out"] if number else []


def read_text(
    path: Path, encodings: Sequence[str] = ("utf-8", "cp1252", "latin-1"), max_bytes: int = MAX_TEXT_BYTES
) -> str:
    """Text of a label or transcript file, whatever its encoding; line ends become line feeds.

    A byte order mark decides; without one, the first encoding that fits.

    Raises:
        OSError: the file cannot be read, or is far too large for a text.
    """
    if path.stat().st_size > max_bytes:
        raise OSError(27, "too large for a text file", str(path))
    data = path.read_bytes()
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((encoding for mark, encoding in marks.items() if data.startswith(mark)), None) or _utf_16_of(data)
    for encoding in (marked,) if marked else encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    return data.decode(encodings[-1], errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, each with the number of its line.

    Names of columns are in lower case, since they are spelt in several ways; values are stripped. A row that is too
    short lacks its last columns.

    Raises:
        OSError: the file cannot be read.
        csv.Error: it is not a CSV file.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""))
    header = [name.strip().lower() for name in next(lines, [])]
    for line in lines:
        if line:
            yield lines.line_num, dict(zip(header, (value.strip() for value in line), strict=False))


def _utf_16_of(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, told by the zero bytes of its Latin letters; None for any other text."""
    start = data[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if 5 * max(even, odd) < len(start) or not start:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def folders_of(path: Path, source: Path) -> Iterator[str]:
    """Names of the folders that a file lies in, the nearest first, up to and including the source folder.

    The source folder itself counts: people point at `Session1` as well as at its parent.
    """
    yield from reversed(path.relative_to(source).parts[:-1])
    yield source.resolve().name


def nearest_folder(path: Path, source: Path, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The nearest folder that a file lies in whose whole name has a pattern."""
    return next(filter(None, map(pattern.fullmatch, folders_of(path, source))), None)


SESSION_FOLDER = re.compile(r"session[_ -]?0*(\d+)", re.IGNORECASE)
"""How the corpora of dialogues name the folders of their sessions."""


def _rank(path: Path) -> int:
    """Place of a file's format among those to prefer."""
    known = (*LOSSLESS_SUFFIXES, *LOSSY_SUFFIXES, *VIDEO_SUFFIXES)
    suffix = path.suffix.lower()
    return known.index(suffix) if suffix in known else len(known)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


__all__ = [
    "AUDIO_SUFFIXES",
    "LOSSLESS_SUFFIXES",
    "SESSION_FOLDER",
    "VIDEO_SUFFIXES",
    "OneEach",
    "Tree",
    "folders_of",
    "left_out",
    "nearest_folder",
    "one_file_each",
    "read_rows",
    "read_text",
    "walk",
]
