"""Which clips go through the model together: drawn here as plain data, made into tensors by `batches.py`.

A plan holds every choice (order, stretch of a long clip, mixture, who stands beside whom), so it can be printed and
replayed: training resumes at a step by leaving out the batches before it, and how many threads make the tensors
changes nothing.

Clips longer than a limit never go in whole. In training a random stretch of each is taken, a new one in every epoch,
and mixtures are drawn as if that stretch were the clip. For testing the clip is parted into windows of equal length,
and what the model says of them is averaged, weighted by their lengths.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.mixup import MixPlan
from ser_cli.errors import UsageError

POOL_BATCHES = 64
"""Batches whose clips are sorted by length together, but never more than a quarter of an epoch's: the more, the less
padding and the less chance."""

DrawMixtures = Callable[
    [Sequence[str], Sequence[str], Callable[[str], int], np.random.Generator], Sequence[MixPlan | None]
]
"""`mixup.plan_mixtures` with its settings filled in: dominant clips, possible partners, their lengths, the draws."""

DrawGroups = Callable[[Sequence[str], np.random.Generator], Sequence[Sequence[str]]]
"""`speaker_groups.draw_speaker_groups` with its settings filled in: the clips, the draws."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a stored clip, or all of it."""

    id: str
    start: int
    """In samples."""
    samples: int


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """One row of a batch."""

    window: Window
    mixture: MixPlan | None = None
    """Its starts count from the start of the windows."""
    partner: Window | None = None
    """Of the clip that interferes, where there is one."""

    @property
    def samples(self) -> int:
        """Length of the row: of all rules but `eam` that of the longer clip."""
        if self.mixture is None or self.partner is None or self.mixture.method == "eam":
            return self.window.samples
        return max(self.window.samples, self.partner.samples)


@dataclass(frozen=True)
class PlannedBatch:
    """Clips that go through the model together."""

    clips: tuple[PlannedClip, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the dominant clips, in the order of the rows."""
        return tuple(clip.window.id for clip in self.clips)

    @property
    def padded_samples(self) -> int:
        """Samples of all rows with their padding."""
        return len(self.clips) * max(clip.samples for clip in self.clips)


def plan_epoch(
    ids: Sequence[str],
    length_of: Callable[[str], int],
    rng: np.random.Generator,
    *,
    batch_size: int,
    max_clip_s: float,
    max_batch_s: float = 0.0,
    group_by_length: bool = True,
    draw_mixtures: DrawMixtures | None = None,
    draw_groups: DrawGroups | None = None,
) -> tuple[PlannedBatch, ...]:
    """Draw the batches of one pass over the training clips.

    Grouped by length, the shuffled clips are dealt into pools, each pool is sorted by length and cut into batches, and
    the batches are shuffled. Which clips share a pool is new in every epoch, and the pools begin at another place:
    sometimes one pool is a single batch, where any two clips can meet, however unlike their lengths.

    A batch of a single clip has no second utterance to contrast with and poor statistics for batch normalisation. It
    joins a batch before it, which may so hold one clip more than `batch_size`, or takes one's last clip; it stands
    alone only where `max_batch_s` leaves room for neither.

    Args:
        ids: the training clips; each takes part once, and any may interfere with another.
        length_of: length of a clip in samples.
        rng: source of every draw.
        batch_size: clips in a batch.
        max_clip_s: of a longer clip a stretch of this duration is taken at a random place; infinity takes all.
        max_batch_s: longest batch in seconds of audio, padding included; 0 leaves it at `batch_size` clips.
        group_by_length: whether clips of like length are put together.
        draw_mixtures: draws who is mixed with whom; None mixes nothing.
        draw_groups: draws which clips stand together, whatever their length: `group_by_length` then groups nothing.
            A batch holds whole groups, and parts of one only if the group is larger than the batch may be.

    Raises:
        UsageError: a clip alone is longer than `max_batch_s`.
    """
    longest = _samples_of(max_clip_s)
    groups: Sequence[Sequence[str]] = [[ids[position]] for position in rng.permutation(len(ids))]
    if draw_groups is not None:
        groups = draw_groups(ids, rng)
    ordered = [identity for group in groups for identity in group]
    mixtures: Sequence[MixPlan | None] = [None] * len(ids)
    if draw_mixtures is not None:
        mixtures = draw_mixtures(ordered, ids, lambda identity: min(length_of(identity), longest), rng)
    # Drawn for every clip and after the mixtures, so that a long clip in a corpus shifts no other clip's draws.
    places = rng.random((len(ids), 2))

    def stretch(identity: str, place: float) -> Window:
        samples = length_of(identity)
        kept = min(samples, longest)
        return Window(identity, int(place * (samples - kept + 1)), kept)

    clips = [
        PlannedClip(
            stretch(identity, own), mixture, None if mixture is None else stretch(mixture.interfering, partners)
        )
        for identity, mixture, (own, partners) in zip(ordered, mixtures, places.tolist(), strict=True)
    ]
    if draw_groups is not None:
        return tuple(PlannedBatch(tuple(batch)) for batch in _cut_between(groups, clips, batch_size, max_batch_s))
    if group_by_length:
        clips = _sorted_in_pools(clips, batch_size, rng)
    batches = _cut(clips, batch_size, max_batch_s)
    batches = _without_single_clips(batches, batch_size, max_batch_s)
    if group_by_length:
        batches = [batches[position] for position in rng.permutation(len(batches))]
    return tuple(PlannedBatch(tuple(batch)) for batch in batches)


def plan_evaluation(
    ids: Sequence[str],
    length_of: Callable[[str], int],
    *,
    batch_size: int,
    max_clip_s: float,
    max_batch_s: float = 0.0,
) -> tuple[PlannedBatch, ...]:
    """Batches of unmixed clips of like length, the longest first, so that memory is at its peak at once.

    Args:
        ids: the clips.
        length_of: length of a clip in samples.
        batch_size: clips, or windows of clips, in a batch.
        max_clip_s: a longer clip is parted into windows that do not overlap, as few as this allows, equal in length
            to a sample; infinity parts none.
        max_batch_s: longest batch in seconds of audio, padding included; 0 leaves it at `batch_size` clips.

    Raises:
        UsageError: a clip alone is longer than `max_batch_s`.
    """
    longest = _samples_of(max_clip_s)
    windows = [window for identity in ids for window in _windows(identity, length_of(identity), longest)]
    windows.sort(key=lambda window: (-window.samples, window.id, window.start))
    clips = [PlannedClip(window) for window in windows]
    return tuple(PlannedBatch(tuple(batch)) for batch in _cut(clips, batch_size, max_batch_s))


def share_of_process(
    plan: Sequence[PlannedBatch], rank: int, processes: int, *, neighbours: bool = False
) -> tuple[PlannedBatch, ...]:
    """The rows of one of several processes that learn each batch together: every n-th.

    With `neighbours` they are the n-th part in a row instead, so that groups of one speaker, who is given one new
    voice in each process, are parted no more than needs be.

    A batch with fewer clips than there are processes joins those behind it until there is one for each (the last, the
    one before it), so that no process is left without a clip and no batch grows without end.

    Raises:
        UsageError: all batches together have fewer clips than there are processes.
    """
    joined: list[tuple[PlannedClip, ...]] = []
    waiting: tuple[PlannedClip, ...] = ()
    for batch in plan:
        waiting += batch.clips
        if len(waiting) >= processes:
            joined.append(waiting)
            waiting = ()
    if waiting and joined:
        joined[-1] += waiting
    elif waiting:
        raise UsageError(f"{processes} processes cannot share {len(waiting)} training clips; start fewer of them")
    if neighbours:
        return tuple(
            PlannedBatch(clips[rank * len(clips) // processes : (rank + 1) * len(clips) // processes])
            for clips in joined
        )
    return tuple(PlannedBatch(clips[rank::processes]) for clips in joined)


def is_cut(samples: int, max_clip_s: float) -> bool:
    """Whether of a clip of so many samples only a stretch goes in, see `plan_epoch`."""
    return samples > _samples_of(max_clip_s)


def padding_share(batches: Sequence[PlannedBatch]) -> float:
    """Samples of padding over all samples of some batches."""
    real = sum(clip.samples for batch in batches for clip in batch.clips)
    return 1 - real / sum(batch.padded_samples for batch in batches)


def _samples_of(duration_s: float) -> int:
    return round(min(duration_s * SAMPLE_RATE_HZ, sys.maxsize))  # infinity is no limit


def _windows(identity: str, samples: int, longest: int) -> Iterator[Window]:
    count = -(-samples // longest)
    edges = [samples * part // count for part in range(count + 1)]
    for start, stop in pairwise(edges):
        yield Window(identity, start, stop - start)


def _sorted_in_pools(clips: Sequence[PlannedClip], batch_size: int, rng: np.random.Generator) -> list[PlannedClip]:
    """Deal clips into pools and sort each by length, to and fro: a batch across two pools is of like length too."""
    batches = -(-len(clips) // batch_size)
    in_pool = max(1, min(POOL_BATCHES, batches // 4))
    pool, first = batch_size * in_pool, batch_size * int(rng.integers(1, in_pool + 1))
    edges = [0, *range(first, len(clips), pool), len(clips)]
    grouped: list[PlannedClip] = []
    for turn, (start, stop) in enumerate(pairwise(edges)):
        grouped += sorted(clips[start:stop], key=lambda clip: clip.samples, reverse=turn % 2 == 1)
    return grouped


def _cut(clips: Sequence[PlannedClip], batch_size: int, max_batch_s: float) -> list[list[PlannedClip]]:
    """Batches of neighbours, each as full as it may be."""
    batches: list[list[PlannedClip]] = []
    for clip in clips:
        if not _fits([clip], max_batch_s):
            raise UsageError(
                f"clip {clip.window.id}: its {clip.samples / SAMPLE_RATE_HZ:g} s do not fit into a batch of at most"
                f" {max_batch_s:g} s\n  raise training.max_batch_s, or lower training.max_clip_s to take less of a clip"
            )
        if batches and len(batches[-1]) < batch_size and _fits([*batches[-1], clip], max_batch_s):
            batches[-1].append(clip)
        else:
            batches.append([clip])
    return batches


def _cut_between(
    groups: Sequence[Sequence[str]], clips: Sequence[PlannedClip], batch_size: int, max_batch_s: float
) -> list[list[PlannedClip]]:
    """Batches of neighbouring groups, each as full as it may be; `clips` are those of the groups, in their order."""
    batches: list[list[PlannedClip]] = []
    remaining = iter(clips)
    for group in groups:
        for part in _cut([next(remaining) for _ in group], batch_size, max_batch_s):
            if batches and len(batches[-1]) + len(part) <= batch_size and _fits([*batches[-1], *part], max_batch_s):
                batches[-1] += part
            else:
                batches.append(part)
    return _without_single_clips(batches, batch_size, max_batch_s)


def _without_single_clips(
    batches: Sequence[list[PlannedClip]], batch_size: int, max_batch_s: float
) -> list[list[PlannedClip]]:
    """Find company for clips that would stand alone: in the batches before them, else in those after them."""
    seen = _with_earlier_ones(batches, batch_size, max_batch_s)
    return _with_earlier_ones(seen[::-1], batch_size, max_batch_s)[::-1]


def _with_earlier_ones(
    batches: Sequence[list[PlannedClip]], batch_size: int, max_batch_s: float
) -> list[list[PlannedClip]]:
    """A clip alone joins the nearest earlier batch that has room, or takes the last clip of one of more than two."""
    kept: list[list[PlannedClip]] = []
    for batch in batches:
        if len(batch) == 1:
            joined = (b for b in reversed(kept) if len(b) <= batch_size and _fits([*b, *batch], max_batch_s))
            donors = (b for b in reversed(kept) if len(b) > 2 and _fits([b[-1], *batch], max_batch_s))
            if (before := next(joined, None)) is not None:
                before += batch
                continue
            if (donor := next(donors, None)) is not None:
                batch = [donor.pop(), *batch]  # noqa: PLW2901
        kept.append(batch)
    return kept


def _fits(clips: Sequence[PlannedClip], max_batch_s: float) -> bool:
    padded = len(clips) * max(clip.samples for clip in clips)
    return max_batch_s == 0 or padded <= max_batch_s * SAMPLE_RATE_HZ
