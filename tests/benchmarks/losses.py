"""Frame-level SupCon against the direct formula and pytorch-metric-learning, and how it grows with the frames.

Each figure is of a process of its own, forward and backward once: `python -m tests.benchmarks.losses METHOD FRAMES`
is what `measure` starts. Memory is the highest resident set during the work (VmHWM, set back before it) above that
with the inputs in place; the method has run on a few frames before, so that libraries are loaded and counted to the
inputs' side. This counts what the tensors' own allocator does not see, such as the work space of a matrix product.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from ser_cli.losses import frame_supcon_loss
from tests.benchmarks.measuring import Measured, seconds

DIM, CLASSES, CLIPS = 64, 8, 16
TEMPERATURE = 0.1
FRAMES = 11_984
"""16 clips of 15 s."""
GROWTH = (1_500, 3_000, 6_000, 12_000, 24_000, 48_000)
ROUNDS = 3


def measure() -> Iterator[Measured]:
    """Time and memory at 16 clips of 15 s against each peer in turn, then at each size against half of it."""
    size = f"{FRAMES:,} frames, d = {DIM}, forward and backward"
    for peer, wanted in (("direct", ("0.25 at most", "0.05 at most")), ("metric_learning", ("below 1", "below 1"))):
        rounds = [(_in_own_process("ours", FRAMES), _in_own_process(peer, FRAMES)) for _ in range(ROUNDS)]
        for number, unit in enumerate(("s", "MB")):
            ours, theirs = (median(pair[who][number] for pair in rounds) for who in (0, 1))
            yield Measured(f"supcon: {peer.replace('_', ' ')}", size, ours, theirs, unit, wanted[number])
    of_size = {frames: _in_own_process("ours", frames) for frames in GROWTH}
    for frames in GROWTH[1:]:
        size = f"{frames:,} frames against {frames // 2:,}"
        for number, (unit, wanted) in enumerate((("s", "about 4"), ("MB", "2 at most"))):
            yield Measured(
                "supcon: half the frames", size, of_size[frames][number], of_size[frames // 2][number], unit, wanted
            )


def _ours(frames: Tensor, classes: Tensor) -> Tensor:
    return frame_supcon_loss(frames, classes, torch.ones(frames.shape[:2], dtype=torch.bool), TEMPERATURE)


def _direct(frames: Tensor, classes: Tensor) -> Tensor:
    """Eq. 10 as it is printed, with the matrix of all similarities and autograd."""
    features = F.normalize(frames.flatten(0, 1), dim=-1)
    labels = classes.repeat_interleave(frames.shape[1])
    itself = torch.eye(len(labels), dtype=torch.bool)
    scores = (features @ features.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    log_p = scores - scores.logsumexp(dim=1, keepdim=True)
    positive = (labels[:, None] == labels) & ~itself
    return -(log_p.masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)).mean()


def _metric_learning(frames: Tensor, classes: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(TEMPERATURE)(frames.flatten(0, 1), classes.repeat_interleave(frames.shape[1]))


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": _ours,
    "direct": _direct,
    "metric_learning": _metric_learning,
}


def _in_own_process(method: str, frames: int) -> tuple[float, float]:
    """Seconds and megabytes."""
    command = [sys.executable, "-m", "tests.benchmarks.losses", method, str(frames)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    taken_s, memory_mb = json.loads(result.stdout)
    return taken_s, memory_mb


def _work(method: str, total: int) -> None:
    """Print seconds and megabytes of one forward and backward pass."""

    def inputs(frames: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn(CLIPS, frames // CLIPS, DIM, generator=generator, requires_grad=True)
        return clips, torch.arange(CLIPS) % CLASSES

    METHODS[method](*inputs(160)).backward()
    frames, classes = inputs(total)
    before = _resident_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is resident now
    taken_s = seconds(lambda: METHODS[method](frames, classes).backward())
    print(json.dumps([taken_s, (_resident_kb("VmHWM") - before) * 1024 / 1e6]))


def _resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
