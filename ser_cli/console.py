"""Two voices: results on stdout for the next program, everything said to a person on stderr."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ser_cli.errors import SerError


@contextmanager
def silenced(library_logging: Any) -> Iterator[None]:
    """Keep the warnings of transformers or huggingface_hub off the terminal: what matters of them is said by ours.

    Args:
        library_logging: the library's module `utils.logging`.
    """
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(before)


@contextmanager
def writing_to_stdout() -> Iterator[None]:
    """Turn what keeps results from being written into a sentence.

    Raises:
        SerError: a disk is full, or the like.
        BrokenPipeError: the reader has seen enough; see `cli.SerGroup`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise SerError(f"cannot write to standard output: {error.strerror or error}") from None


def discard_stdout() -> None:
    """Have what is left in the buffer go nowhere: Python's own flush at the exit would fail again, and complain."""
    with suppress(OSError, ValueError):  # where stdout is no file, nothing is flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but the line feed, and those that turn the direction of text around: with them a name from a
file could colour, overwrite or reorder what a terminal shows."""


@dataclass(frozen=True)
class Console:
    """Where a command prints.

    `quiet` silences everything on stderr but errors; `verbose` adds where settings came from.
    """

    quiet: bool = False
    verbose: bool = False

    def result(self, text: str) -> None:
        """Print one line of the result on stdout: as it is for a program, what cannot be seen escaped for a person."""
        with writing_to_stdout():
            sys.stdout.write((visible(text) if sys.stdout.isatty() else text) + "\n")
            sys.stdout.flush()

    def result_json(self, value: object) -> None:
        """Print the result as one JSON object on stdout."""
        import json

        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        self.result(UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))

    def result_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout: drawn for a person on a terminal, tab-separated for a program."""
        header, *rows = ([visible(cell).replace("\n", "\\n") for cell in row] for row in (header, *rows))
        if not sys.stdout.isatty():
            for row in [header, *rows]:
                self.result("\t".join(row))
            return
        # Rich takes half of the time in which `ser` starts, and TAB has nothing to draw.
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        with writing_to_stdout():
            RichConsole(file=sys.stdout, markup=False, highlight=False).print(table)

    def say(self, text: str) -> None:
        """Tell a person something, on stderr."""
        if not self.quiet:
            _print_to_person(text)

    def detail(self, text: str) -> None:
        """Tell what only `--verbose` asks for."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Warn a person, on stderr."""
        if not self.quiet:
            _print_to_person(f"warning: {text}", style="yellow")

    def insist(self, text: str) -> None:
        """Warn even where silence was asked for: the result would mislead without it."""
        _print_to_person(f"warning: {text}", style="yellow")

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """Show names and values to a person, on stderr."""
        if self.quiet:
            return
        width = max((len(name) for name in rows), default=0)
        self.say(title)
        for name, value in rows.items():
            self.say(f"  {name:<{width}}  {value}")

    @property
    def draws_bars(self) -> bool:
        """Whether a progress bar would be seen: a person is at stderr and did not ask for silence."""
        return sys.stderr.isatty() and not self.quiet


def visible(text: str) -> str:
    """Text for a terminal or a picture: what would act on it, or hide in it, is shown as an escape."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_error(text: str) -> None:
    """Print an error on stderr; never silenced."""
    _print_to_person(f"error: {text}", style="red")


def _print_to_person(text: str, style: str | None = None) -> None:
    from rich.console import Console as RichConsole

    class Person(RichConsole):
        def on_broken_pipe(self) -> None:
            """Go on: whoever read stderr is gone, such as `tee` after Ctrl-C, and the work is not theirs to end."""

    # A full disk behind stderr, or a stderr that was closed, ends nothing either.
    with suppress(OSError, ValueError):
        # soft_wrap: a path must never be broken by the width of a window; markup off: brackets in file names.
        Person(stderr=True, highlight=False, soft_wrap=True).print(visible(text), style=style, markup=False)
