"""Ctrl-C while training: the running step is finished, then the command leaves; a second one leaves at once.

Python raises `KeyboardInterrupt` wherever it happens to be, and where that is a finaliser or a callback from C it
is printed and lost. A flag that is looked at after each step is never lost.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ser_cli.console import print_error


@contextmanager
def finishing_steps() -> Iterator[Callable[[], None]]:
    """Catch Ctrl-C inside the block; gives a function that raises `KeyboardInterrupt` if there was one."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True
        print_error("Ctrl-C: finishing the step that runs; press it again to leave at once")

    def raise_if_pressed() -> None:
        if pressed:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_pressed
    finally:
        signal.signal(signal.SIGINT, previous)
