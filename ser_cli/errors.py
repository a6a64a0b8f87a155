"""What `ser` says when it cannot go on: one kind of exception, sentences that end in advice.

Only `SerError` becomes a tidy message and an exit code; any other exception is a fault of this program
and keeps its traceback.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

SHOWN_PROBLEMS = 5
"""Problems of one input that are spelt out on the terminal; the rest is counted, and listed in a file."""


class SerError(Exception):
    """Something could not be done, for a reason that a user can act on.

    The text says what could not be done, the thing and its value, what was expected, and what to do next.
    """

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end, at a place where it was safe to."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


class UsageError(SerError):
    """The command line, a recipe or a manifest asks for something that does not exist or cannot be."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a closed list; the nearest one is suggested."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        known = sorted(known)
        text = f"unknown {kind} {name!r}{did_you_mean(name, known)}\n  known: {', '.join(known)}"
        super().__init__(text + (f"\n  {advice}" if advice else ""))


class ProblemsError(SerError):
    """Several problems of one input, reported together: the count first, a few shown, then the advice."""

    def __init__(
        self,
        subject: str,
        problems: Sequence[str],
        advice: str = "",
        *,
        usage: bool = False,
        full_list: Path | None = None,
    ) -> None:
        """Build the message.

        Args:
            subject: the input.
            problems: a sentence each.
            advice: what to do.
            usage: whether the exit code is that of a usage error.
            full_list: where all problems are listed, if there are more than are shown.
        """
        lines = [f"{subject}: {count_of(len(problems), 'problem')}"]
        lines += [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
        if len(problems) > SHOWN_PROBLEMS:
            where = f"; all of them: {full_list}" if full_list else ""
            lines.append(f"  and {len(problems) - SHOWN_PROBLEMS} more{where}")
        if advice:
            lines.append(f"  {advice}")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)
        if usage:
            self.exit_code = UsageError.exit_code


class AudioError(SerError):
    """A recording that cannot be used: undecodable, too short, silent or not finite."""


class CorpusError(SerError):
    """A corpus that is not prepared, not complete enough or not what its name says."""


class FoldError(SerError):
    """Folds that cannot be made, or that would let a speaker stand on both sides."""


class EncoderError(SerError):
    """An encoder whose weights or configuration cannot be had."""


class RunError(SerError):
    """A run folder that is missing, unfinished, or holds another run."""


class HeldError(RunError):
    """All that is asked for is being done by other processes."""


class DependencyError(SerError):
    """Installed packages that do not work together."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the nearest known name, or nothing."""
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def count_of(number: int, noun: str) -> str:
    """A number and its noun: `1 clip`, `2 clips`, `1,440 clips`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
