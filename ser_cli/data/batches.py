"""From planned batches to waveforms and soft labels, made in the background while the model is busy."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser_cli.data.batch_plans import PlannedBatch, Window
from ser_cli.data.manifest import is_mixture, speaker_of
from ser_cli.data.mixup import mix, mix_targets
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
    texts: tuple[str, ...]
    """Transcripts of the clips; of a mixture, that of its dominant clip. Empty where there is none."""
    untouched: Tensor
    """(batch,) True where a row is a whole recording, neither mixed nor cut: all that is known of the clip holds for
    it."""
    unmixed: Tensor
    """(batch,) True where one recording is heard, whole or cut: who speaks in it is known."""
    speakers: Tensor
    """(batch,) numbers of the corpus's speakers, of a mixture that of the clip which carries most of its label; of one
    that `ser mix` wrote that of its first clip, whose speaker is the mixture's in the manifest."""

    def parted(self, parts: int) -> list["Batch"]:
        """The batch in so many batches of neighbours, or as many as there are clips."""
        bounds = [round(part * len(self.ids) / parts) for part in range(parts + 1)]
        return [self._rows(start, stop) for start, stop in pairwise(bounds) if stop > start]

    def _rows(self, start: int, stop: int) -> "Batch":
        rows = slice(start, stop)
        longest = int(self.lengths[rows].max())
        return Batch(
            self.ids[rows],
            self.waveforms[rows, :longest],
            self.lengths[rows],
            self.targets[rows],
            self.texts[rows],
            self.untouched[rows],
            self.unmixed[rows],
            self.speakers[rows],
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same batch in memory from which a CUDA device copies while it computes."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            waveforms=change(self.waveforms),
            lengths=change(self.lengths),
            targets=change(self.targets),
            untouched=change(self.untouched),
            unmixed=change(self.unmixed),
            speakers=change(self.speakers),
        )


class BatchLoader:
    """The batches of a plan, in its order, made ahead in a background thread.

    A thread and not a process: reading and mixing are long array operations, during which Python lets the model go
    on, and the batches need no copy. The thread ends with the loop over the batches, however that ends; what goes
    wrong in it is raised in the loop.
    """

    def __init__(
        self, corpus: PreparedCorpus, plan: Sequence[PlannedBatch], *, ahead: int = 2, pin_memory: bool = False
    ) -> None:
        """Take up a plan; nothing is read yet.

        Args:
            corpus: where the clips are stored.
            plan: the batches; without the first few of an epoch, training goes on behind these.
            ahead: batches that are made before they are asked for; 0 makes each when it is asked for, in no thread.
            pin_memory: for a CUDA device.
        """
        self.corpus, self.plan, self.ahead, self.pin_memory = corpus, plan, ahead, pin_memory
        self.waited_s = 0.0
        """How long the loop has waited for batches, the first one included."""

    def __iter__(self) -> Iterator[Batch]:
        if self.ahead == 0:
            for planned in self.plan:
                began = time.perf_counter()
                batch = self._make(planned)
                self.waited_s += time.perf_counter() - began
                yield batch
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            coming: deque[Future[Batch]] = deque()
            for planned in self.plan:
                coming.append(thread.submit(self._make, planned))
                if len(coming) > self.ahead:
                    yield self._wait(coming.popleft())
            while coming:
                yield self._wait(coming.popleft())
        finally:
            thread.shutdown(cancel_futures=True)

    def _make(self, planned: PlannedBatch) -> Batch:
        batch = make_batch(self.corpus, planned)
        return batch.pinned() if self.pin_memory else batch

    def _wait(self, future: "Future[Batch]") -> Batch:
        began = time.perf_counter()
        try:
            return future.result()
        finally:
            self.waited_s += time.perf_counter() - began


def make_batch(corpus: PreparedCorpus, planned: PlannedBatch) -> Batch:
    """Read clips, mix what is planned, and pad to the longest.

    Of each clip only the planned stretch is touched, so a clip of hours costs no more than its stretch.

    Args:
        corpus: where the clips are stored.
        planned: the rows.
    """
    lengths = [clip.samples for clip in planned.clips]
    waveforms = np.zeros((len(lengths), max(lengths)), dtype=np.float32)
    targets = np.stack([corpus.target(identity) for identity in planned.ids])
    leading = list(planned.ids)
    for row, clip in enumerate(planned.clips):
        waveform = _read(corpus, clip.window)
        if clip.mixture is not None and clip.partner is not None:
            mixture = mix(clip.mixture, waveform, _read(corpus, clip.partner))
            waveform = mixture.waveform
            targets[row] = mix_targets(targets[row], corpus.target(clip.partner.id), mixture.weight)
            if mixture.weight > 0.5:  # never of EAM with half of a clip overlaid; LAM and mixup know no dominant clip
                leading[row] = clip.partner.id
        waveforms[row, : len(waveform)] = waveform
    unmixed = [clip.mixture is None and not is_mixture(corpus.by_id[clip.window.id]) for clip in planned.clips]
    whole = [clip.samples == corpus.length(clip.window.id) for clip in planned.clips]
    return Batch(
        planned.ids,
        torch.from_numpy(waveforms),
        torch.tensor(lengths),
        torch.from_numpy(targets),
        tuple(corpus.by_id[identity].text for identity in planned.ids),
        torch.tensor(unmixed) & torch.tensor(whole),
        torch.tensor(unmixed),
        torch.tensor([corpus.speaker_numbers[speaker_of(corpus.by_id[identity])] for identity in leading]),
    )


def _read(corpus: PreparedCorpus, window: Window) -> NDArray[np.float32]:
    """(samples,) of a stretch."""
    if window.samples == corpus.length(window.id):
        return corpus.waveform(window.id)
    return corpus.stretch(window.id, window.start, window.samples)
