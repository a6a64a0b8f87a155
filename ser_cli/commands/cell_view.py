"""What a person sees of the cells of a grid while they are trained, each in its own process or one after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_cli.commands.interruption import StopSignals
from ser_cli.commands.training_view import TrainingView
from ser_cli.console import Console

if TYPE_CHECKING:
    from ser_cli.training.cross_validation import Plan
    from ser_cli.training.observers import TrainingObserver


@dataclass(frozen=True)
class CellWatch:
    """Shows the training of one cell, in whichever process it happens."""

    quiet: bool
    verbose: bool
    several: bool
    """Whether other cells are shown at the same time."""

    @contextmanager
    def __call__(self, name: str, plan: "Plan") -> "Iterator[TrainingObserver]":
        """Catch signals, and show what happens with the name of the cell before it."""
        console = CellConsole(self.quiet, self.verbose, name, self.several)
        with HeldSignals() if self.several else StopSignals() as signals:
            yield TrainingView(console, plan, signals)


class HeldSignals(StopSignals):
    """Keeps signals outside of steps too: where one process of a pool dies, the pool ends all others at once."""

    @property
    def finishes_steps(self) -> bool:
        """Always."""
        return True

    @finishes_steps.setter
    def finishes_steps(self, value: bool) -> None:
        pass


@dataclass(frozen=True)
class CellConsole(Console):
    """A console that says which cell it speaks of."""

    name: str = ""
    several: bool = False

    def say(self, text: str) -> None:
        """Tell a person something of the cell."""
        super().say(f"{self.name}: {text}")

    def warn(self, text: str) -> None:
        """Warn a person of something in the cell."""
        super().warn(f"{self.name}: {text}")

    @property
    def draws_bars(self) -> bool:
        """Bars of several processes would overwrite each other."""
        return super().draws_bars and not self.several
