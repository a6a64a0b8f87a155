"""Signals while training: the running step is finished and a checkpoint written; a second Ctrl-C leaves at once.

Python raises `KeyboardInterrupt` wherever it happens to be, and where that is a finaliser or a callback from C it
is printed and lost. A flag that is looked at after each step is never lost.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ser_cli.console import print_error

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1"}
"""What a person is told; schedulers send the last two before they take the machine away. Windows lacks SIGUSR1."""


@contextmanager
def finishing_steps() -> Iterator[Callable[[], int]]:
    """Catch signals inside the block; gives a function that returns the number of the one that came, or 0."""
    came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if not came:
            again = "; press it again to leave at once" if number == signal.SIGINT else ""
            print_error(f"{NAMES[signal.Signals(number).name]}: finishing the step that runs{again}")
        came = number

    caught = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield lambda: came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
