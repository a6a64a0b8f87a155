"""One measurement and how to take it."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

MEGABYTE = 1_000_000

ROOT = Path(__file__).parents[2]


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


def in_own_process(module: str, arguments: Sequence[object]) -> Any:
    """What `python -m MODULE ARGUMENTS…` prints as JSON in its last line; for peak memory, and for what is set once.

    Raises:
        RuntimeError: it failed; the end of what it said on stderr stands in the message.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    paths = filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def peak_mb(work: Callable[[], object]) -> float:
    """Highest resident set of this process during some work, above that before it; Linux alone tells it."""
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew: importing may have needed more
    work()
    return resident_mb("VmHWM") - before


def resident_mb(field: str) -> float:
    """Resident memory of this process: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MEGABYTE for line in lines if line.startswith(f"{field}:"))


class StepWatch:
    """Time and memory of training steps: starts when some have warmed up, and waits for the device where it is read."""

    def __init__(self, device: str, warm_up: int) -> None:
        """Set up, before the first step.

        Args:
            device: `cpu` or `cuda`.
            warm_up: steps that are not counted; at least 1.
        """
        self._device, self._warm_up = device, warm_up
        self._steps = 0
        gc.collect()  # the model of a measurement before this one, whose memory is not this one's

    def step_done(self) -> bool:
        """Called behind each step; whether the watch starts now."""
        self._steps += 1
        if self._steps != self._warm_up:
            return False
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._began = time.perf_counter()
        return True

    def read(self) -> tuple[float, float]:
        """Seconds since the warm-up, and the peak of memory in GB: of the device, or of this process on a CPU."""
        if self._device == "cpu":
            return time.perf_counter() - self._began, resident_mb("VmHWM") / 1000
        import torch

        torch.cuda.synchronize()
        return time.perf_counter() - self._began, torch.cuda.max_memory_allocated() / 1e9
