"""Two voices: results on stdout for the next program, everything said to a person on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Console:
    """Where a command prints.

    `quiet` silences everything on stderr but errors; `verbose` adds where settings came from.
    """

    quiet: bool = False
    verbose: bool = False

    def result(self, text: str) -> None:
        """Print one line of the result on stdout, unchanged by any terminal."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def result_json(self, value: object) -> None:
        """Print the result as one JSON object on stdout."""
        self.result(json.dumps(value, ensure_ascii=False, allow_nan=False))

    def result_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout: drawn for a person on a terminal, tab-separated for a program."""
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


def print_error(text: str) -> None:
    """Print an error on stderr; never silenced."""
    _print_to_person(f"error: {text}", style="red")


def _print_to_person(text: str, style: str | None = None) -> None:
    from rich.console import Console as RichConsole

    # soft_wrap: a path must never be broken by the width of a window; markup off: brackets in file names.
    RichConsole(stderr=True, highlight=False, soft_wrap=True).print(text, style=style, markup=False)
