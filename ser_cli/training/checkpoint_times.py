"""When a checkpoint is due: after so many steps, after so much time, or as often as it costs next to nothing."""

import re
import time
from dataclasses import dataclass

from ser_cli.errors import UsageError

AUTOMATIC = "auto"
LARGEST_SHARE = 0.02
"""Of the time that `auto` spends on checkpoints."""
SHORTEST_S, LONGEST_S = 10.0, 600.0
"""Between two checkpoints of `auto`."""
DISK_BYTES_PER_S = 200e6
"""Assumed of a disk before the first checkpoint was timed."""


@dataclass(frozen=True)
class Interval:
    """How often a fold is saved; `auto` where neither is given."""

    steps: int | None = None
    seconds: float | None = None


def parse_interval(text: str) -> Interval:
    """Read `--checkpoint-every`: `auto`, `200steps`, `90s`, `10m`, `1h`.

    Raises:
        UsageError: it is none of these.
    """
    if text == AUTOMATIC:
        return Interval()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(steps?|s|m|h)", text)
    number = float(match[1]) if match else 0.0
    if match is None or number <= 0 or (match[2].startswith("step") and not number.is_integer()):
        raise UsageError(
            f"--checkpoint-every {text}: expected auto, or a number above 0 with its unit: 200steps, 10m, 1h"
        )
    if match[2].startswith("step"):
        return Interval(steps=int(number))
    return Interval(seconds=number * {"s": 1, "m": 60, "h": 3600}[match[2]])


class CheckpointClock:
    """Tells when the next checkpoint is due."""

    def __init__(self, interval: Interval, expected_bytes: int) -> None:
        """Start the clock.

        Args:
            interval: how often.
            expected_bytes: of a checkpoint; what `auto` guesses the cost of the first from.
        """
        self._interval = interval
        self._cost_s = expected_bytes / DISK_BYTES_PER_S
        self._saved_at = time.monotonic()
        self._steps = 0

    def is_due(self) -> bool:
        """Whether to save now; called once after each step."""
        self._steps += 1
        if self._interval.steps is not None:
            return self._steps >= self._interval.steps
        seconds = self._interval.seconds
        if seconds is None:
            seconds = min(max(self._cost_s / LARGEST_SHARE, SHORTEST_S), LONGEST_S)
        return time.monotonic() - self._saved_at >= seconds

    def saved(self, took_s: float) -> None:
        """A checkpoint was written."""
        self._cost_s = took_s
        self._saved_at = time.monotonic()
        self._steps = 0
