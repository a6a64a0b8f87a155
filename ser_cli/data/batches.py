"""From ids to batches of waveforms and soft labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser_cli.data.mixup import MixPlan, mix, mix_targets
from ser_cli.data.store import PreparedCorpus


@dataclass(frozen=True)
class Batch:
    """Clips that go through the model together."""

    ids: tuple[str, ...]
    waveforms: Tensor
    """(batch, time) float32 at 16 kHz, zeros behind each clip's end."""
    lengths: Tensor
    """(batch,) in samples."""
    targets: Tensor
    """(batch, classes) soft labels."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(self.ids, *(t.to(device, non_blocking=True) for t in (self.waveforms, self.lengths, self.targets)))


def make_batch(corpus: PreparedCorpus, ids: Sequence[str], plans: Sequence[MixPlan | None] | None = None) -> Batch:
    """Read clips, mix what is planned, and pad to the longest.

    Args:
        corpus: where the clips are stored.
        ids: the clips; with a plan, the dominant ones.
        plans: one plan or None for each id; None mixes nothing.
    """
    clips: list[NDArray[np.float32]] = []
    targets = np.stack([corpus.target(identity) for identity in ids])
    for row, (identity, plan) in enumerate(zip(ids, plans or [None] * len(ids), strict=True)):
        waveform = corpus.waveform(identity)
        if plan is not None:
            mixture = mix(plan, waveform, corpus.waveform(plan.interfering))
            waveform = mixture.waveform
            targets[row] = mix_targets(targets[row], corpus.target(plan.interfering), mixture.weight)
        clips.append(waveform)
    lengths = [len(clip) for clip in clips]
    waveforms = np.zeros((len(ids), max(lengths)), dtype=np.float32)
    for row, clip in enumerate(clips):
        waveforms[row, : len(clip)] = clip
    return Batch(tuple(ids), torch.from_numpy(waveforms), torch.tensor(lengths), torch.from_numpy(targets))


def evaluation_batches(corpus: PreparedCorpus, ids: Sequence[str], batch_size: int) -> Iterator[Batch]:
    """Unmixed batches of clips of similar length, longest first, so that memory is at its peak at once."""
    ordered = sorted(ids, key=lambda identity: (-corpus.length(identity), identity))
    for start in range(0, len(ordered), batch_size):
        yield make_batch(corpus, ordered[start : start + batch_size])


def training_batches(
    corpus: PreparedCorpus, ids: Sequence[str], plans: Sequence[MixPlan | None], batch_size: int
) -> Iterator[Batch]:
    """Batches of clips in the given order, each mixed as planned; cut as `batch_bounds` tells."""
    for start, stop in batch_bounds(len(ids), batch_size):
        yield make_batch(corpus, ids[start:stop], plans[start:stop])


def batch_bounds(clips: int, batch_size: int) -> list[tuple[int, int]]:
    """Where training batches start and stop.

    A last batch of a single clip joins the one before it, which then holds one clip more than `batch_size`: alone
    it has no second utterance to contrast with and poor statistics for batch normalisation.
    """
    starts = list(range(0, clips, batch_size))
    if len(starts) > 1 and clips - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], clips], strict=True))
