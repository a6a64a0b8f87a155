"""One measurement and how to take it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Measured:
    """Ours against a peer's, in one run."""

    what: str
    size: str
    ours: float
    peer: float
    unit: str
    wanted: str
    """What the ratio is to be."""


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 3) -> tuple[float, float]:
    """Median times of two works that take turns, so that what else the machine does falls on both."""
    times = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    return median(t[0] for t in times), median(t[1] for t in times)
