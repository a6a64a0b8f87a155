"""Answers as lines: tab-separated, JSON Lines, or columns for a person; and the file that goes on where it stopped."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ser_cli.errors import SerError
from ser_cli.files import parse_json, read_json_object, write_atomically
from ser_cli.prediction.recordings import Missing, Source

ERROR = "error"
"""In the place of the label, where a recording could not be classified."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Answer:
    """What is said of one recording, or of one window of it."""

    path: str
    label: str = ""
    probabilities: tuple[float, ...] = ()
    """In the order of the labels."""
    start_s: float | None = None
    end_s: float | None = None
    error: str = ""
    """Why there is no label."""


def as_tsv(answer: Answer, *, windows: bool = False) -> str:
    """`path, label, probabilities…`; a window has `path, start_s, end_s, label, probabilities…`.

    A recording without an answer gives `path, error, why`, with `windows` two empty values behind the path. Tabs and
    line ends in a path are written as in C.
    """
    path = _plain(answer.path)
    if answer.error:
        return "\t".join((path, *(("", "") if windows else ()), ERROR, _plain(answer.error)))
    times = [] if answer.start_s is None else [f"{answer.start_s:.3f}", f"{answer.end_s:.3f}"]
    return "\t".join((path, *times, answer.label, *(f"{value:.6f}" for value in answer.probabilities)))


def tsv_header(labels: Sequence[str], *, windows: bool) -> str:
    """The names of the columns of `as_tsv`."""
    return "\t".join(("path", *(("start_s", "end_s") if windows else ()), "label", *labels))


def as_json(answer: Answer, labels: Sequence[str]) -> str:
    """One object: `path`, with `start_s` and `end_s` for a window, `label` and `probabilities`; or `path`, `error`."""
    value: dict[str, Any] = {"path": _encodable(answer.path)}
    if answer.error:
        value["error"] = _encodable(answer.error)
        return json.dumps(value, ensure_ascii=False)
    if answer.start_s is not None:
        value |= {"start_s": round(answer.start_s, 3), "end_s": round(answer.end_s or 0.0, 3)}
    value["label"] = answer.label
    value["probabilities"] = {
        label: round(number, 6) for label, number in zip(labels, answer.probabilities, strict=True)
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class Columns:
    """Lines for a person: the label, per cent for each label, and the path last, where nothing cuts it."""

    def __init__(self, labels: Sequence[str], *, windows: bool) -> None:
        self.labels, self.windows = labels, windows
        self.width = max(len(label) for label in (*labels, "label"))

    def header(self) -> str:
        """The names of the columns, per cent in those of the labels."""
        times = f"{'from s':>8} {'to s':>8}  " if self.windows else ""
        return f"{times}{'label':<{self.width}}  {' '.join(f'{name:>5}' for name in self.labels)}  path"

    def line(self, answer: Answer) -> str:
        """One row."""
        if answer.error:
            return f"{ERROR}: {_encodable(answer.path)}: {_encodable(answer.error)}"
        times = "" if answer.start_s is None else f"{answer.start_s:>8.1f} {answer.end_s:>8.1f}  "
        shares = " ".join(
            f"{100 * value:>{max(5, len(name))}.1f}"
            for name, value in zip(self.labels, answer.probabilities, strict=True)
        )
        return f"{times}{answer.label:<{self.width}}  {shares}  {_encodable(answer.path)}"


def _plain(text: str) -> str:
    escaped = text.replace("\\", "\\\\") if any(c in text for c in "\t\n\r") else text
    return _encodable(escaped.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r"))


def _encodable(text: str) -> str:
    """File names may hold bytes that are no UTF-8; they are written as escapes, such as the one of Python."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class AnswerFile:
    """A file of answers that a later call of the same command goes on with.

    `FILE.model.json` beside it says which model and which options made it.
    """

    def __init__(self, path: Path, facts: Mapping[str, object]) -> None:
        self.path, self.facts = path, dict(facts)
        self.facts_path = path.with_name(path.name + ".model.json")

    @contextmanager
    def open(self, *, force: bool) -> Iterator[IO[bytes]]:
        """Open for going on: what a stopped process left of a last line is cut off.

        Args:
            force: start anew where the file was made otherwise.

        Raises:
            SerError: the file was made by something else, or another process writes it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise SerError(
                f"--output {self.path}: another process is writing it; wait for it, or name another"
            ) from None
        except OSError as error:
            raise SerError(f"--output {self.path}: cannot be written ({error.strerror or error})") from None
        try:
            self._take_over(force=force)
            with self.path.open("r+b") as file:
                _cut_partial_line(file)
                yield file
        except OSError as error:
            raise SerError(
                f"--output {self.path}: cannot be written ({error.strerror or error})\n"
                f"  what is whole is kept; free space and give the same command again"
            ) from None
        finally:
            lock.release()

    def _take_over(self, *, force: bool) -> None:
        if self.path.exists() and self.path.stat().st_size and not force:
            try:
                there = read_json_object(self.facts_path)
            except (OSError, ValueError):
                raise SerError(
                    f"--output {self.path} exists and {self.facts_path.name} does not say which model made it\n"
                    f"  name another file, or write this one anew with --force"
                ) from None
            told = json.loads(json.dumps(self.facts))
            different = [key for key in told if there.get(key) != told[key]]
            if different:
                raise SerError(
                    f"--output {self.path} was made otherwise: "
                    + "; ".join(f"{key} {there.get(key)} there, {told[key]} asked for" for key in different)
                    + "\n  name another file, or write this one anew with --force"
                )
            return
        self.path.write_bytes(b"")
        write_atomically(self.facts_path, (json.dumps(self.facts, indent=1) + "\n").encode())


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    """Copy so many bytes from where two files stand."""
    while length and (content := source.read(min(length, _CHUNK))):
        target.write(content)
        length -= len(content)


def _cut_partial_line(file: IO[bytes]) -> None:
    """Cut off what follows the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)
    file.seek(0)


@dataclass(frozen=True)
class Failure:
    """A recording that an earlier call could not classify, and the lines that say so."""

    source: Source
    start: int
    """In bytes from the start of the file, as is the end."""
    end: int


class Resumption:
    """Goes through a list and the lines that answer it already, side by side; of both it holds what failed alone."""

    def __init__(self, file: IO[bytes], *, json_lines: bool, windows: bool, header: bool) -> None:
        self.file, self.json_lines, self.windows = file, json_lines, windows
        self.done = 0
        self.failures: list[Failure] = []
        self.kept = 0
        """Bytes of lines whose recordings are answered as a whole."""
        self.lines = 0
        """That were read."""
        if header and self._next_line():
            self.kept = file.tell()

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The part of a list that is not answered yet; the file stands where its next line goes.

        Raises:
            SerError: the lines answer another list.
        """
        line = self._next_line()
        pending: list[Source] = []
        while line:
            source = next(sources, None)
            path, window_start, failed = self._read(line)
            name = source.name if isinstance(source, Missing) else source
            if source is None or path != (_encodable(name or "") if self.json_lines else _plain(name or "")):
                raise SerError(
                    f"{self.file.name}: line {self.lines:,} answers {path}, and the list has"
                    f" {name or 'nothing'} there\n  it is of another list: name another file, or use --force"
                )
            line = self._next_line()
            while self.windows and line:
                next_path, next_start, next_failed = self._read(line)
                if next_path != path or next_start == 0 or window_start is None:
                    break
                failed |= next_failed
                window_start = next_start
                line = self._next_line()
            if not line and self.windows and not failed:
                pending = [source]  # it may lack windows: it is done again
                break
            end = self.file.tell() - len(line)
            if failed:
                self.failures.append(Failure(source, self.kept, end))
            self.done += 1
            self.kept = end
        self.file.truncate(self.kept)
        self.file.seek(self.kept)
        yield from pending
        yield from sources

    def mend(self, answers: Iterator[Sequence[bytes]]) -> None:
        """Put new lines in the place of those that say what failed; the file changes as a whole or not at all.

        Args:
            answers: the lines of each of `failures`, in their order.
        """
        path = Path(self.file.name).resolve()
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as new:
                self.file.seek(0)
                for failure, lines in zip(self.failures, answers, strict=True):
                    _copy(self.file, new, failure.start - self.file.tell())
                    new.writelines(lines)
                    self.file.seek(failure.end)
                shutil.copyfileobj(self.file, new)
                new.flush()
                os.fsync(new.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _next_line(self) -> bytes:
        line = self.file.readline()
        self.lines += bool(line)
        return line

    def _read(self, line: bytes) -> tuple[str, float | None, bool]:
        """Path, start of the window, whether it is an error."""
        try:
            text = line.decode("utf-8").rstrip("\n")
            if self.json_lines:
                value = parse_json(text)
                return str(value["path"]), value.get("start_s"), ERROR in value
            path, second, *others = text.split("\t")
            failed = ERROR in (second, *others[1:2]) if self.windows else second == ERROR
            return path, float(second) if self.windows and not failed else None, failed
        except (ValueError, KeyError, TypeError):
            raise SerError(
                f"{self.file.name}: holds a line that no `ser predict` wrote: {line[:60]!r}\n"
                f"  name another file, or write this one anew with --force"
            ) from None
