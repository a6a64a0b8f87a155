"""Signals while training: the running step is finished and a checkpoint written; a second Ctrl-C leaves at once.

Python raises `KeyboardInterrupt` wherever it happens to be, and where that is a finaliser or a callback from C it
is printed and lost. A flag that is looked at after each step is never lost.
"""

import os
import signal
from types import FrameType, TracebackType

from ser_cli.console import print_error

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1", "SIGHUP": "SIGHUP"}
"""What a person is told. Schedulers send SIGTERM or SIGUSR1 before they take the machine away, a terminal SIGHUP when
it closes. Windows lacks the last two."""


class StopSignals:
    """Catches signals inside a `with` block, and keeps them while there is something to finish.

    Outside of steps, such as while an encoder is downloaded, a signal does what it always does: nothing would be lost.
    """

    def __init__(self) -> None:
        self.came = 0
        """The number of the signal that asked the process to end; 0 where none did."""
        self.finishes_steps = False
        """Whether steps are being learnt, so that a signal waits for the end of the running one."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for name in NAMES:
            if hasattr(signal, name):
                number = getattr(signal, name)
                if name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup: training outlives its terminal
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.came or not self.finishes_steps):
            signal.default_int_handler(number, frame)
        if not self.finishes_steps:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        first, self.came = not self.came, number  # noted before it is told: whoever reads stderr may be gone
        if first:
            again = "; press it again to leave at once" if number == signal.SIGINT else ""
            print_error(f"{NAMES[signal.Signals(number).name]}: finishing the step that runs{again}")
