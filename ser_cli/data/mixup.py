"""Mixing two clips and their labels: energy-adaptive, label-adaptive and conventional mixup.

Choosing is apart from applying: `plan_mixtures` draws who is mixed with whom, where and how strongly, and returns
rows that can be printed, stored and replayed; `mix` applies one row to two waveforms.

- `eam`, energy-adaptive (paper A, eq. 1-4): a segment of another clip is laid over part of a clip at a random
  signal-to-noise ratio; the label follows energy and length.
- `lam`, label-adaptive (paper B): lambda x_i + (1 - lambda) x_j from the first sample on, lambda = 0.5; the weights
  of the labels follow the lengths of the clips, lambda l_i : (1 - lambda) l_j.
- `mixup`, conventional (Zhang et al. 2018, the comparison of paper B): the same sum with lambda from
  Beta(alpha, alpha), which is the weight of the label too.

Paper A is "multi-loss learning with energy-adaptive mixup", paper B "label-adaptive mixup".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

METHODS = ("eam", "lam", "mixup")


@dataclass(frozen=True)
class MixPlan:
    """One mixture of a clip i with a clip j."""

    method: str
    """A name in `METHODS`."""
    dominant: str
    """Id of clip i; of `eam` it is heard in full and its length stands."""
    interfering: str
    """Id of clip j."""
    dominant_start: int
    """s_i, in samples, where the clips begin to overlap in clip i."""
    interfering_start: int
    """s_j, in samples, likewise in clip j."""
    length: int
    """l_mix, in samples, for how long they overlap."""
    snr_db: float = 0.0
    """Of `eam`: power of the dominant over power of the scaled interfering segment."""
    share: float = 1.0
    """Of `lam` and `mixup`: lambda, what waveform i is multiplied with; j with 1 - lambda."""


class Mixture(NamedTuple):
    """What `mix` makes of two waveforms."""

    waveform: NDArray[np.float32]
    """(samples,) that may exceed [-1, 1]: what to do about peaks is the caller's decision."""
    weight: float
    """Of the label of clip j; 1 - weight is that of clip i."""
    snr_db: float
    """Measured where the clips overlap: energy of what comes of i over energy of what comes of j, in decibels;
    infinite where nothing of j is there."""


def plan_mixtures(
    ids: Sequence[str],
    partners: Sequence[str],
    length_of: Callable[[str], int],
    rng: np.random.Generator,
    *,
    method: str = "eam",
    share: float = 0.5,
    snr_range_db: tuple[float, float] = (-5.0, 10.0),
    max_overlap: float = 0.5,
    lam_lambda: float = 0.5,
    mixup_alpha: float = 0.2,
) -> tuple[MixPlan | None, ...]:
    """Draw a mixture, or none, for each of a list of clips.

    Args:
        ids: the dominant clips.
        partners: the clips that may interfere; a clip is never mixed with itself.
        length_of: length of a clip in samples.
        rng: source of every draw.
        method: a name in `METHODS`.
        share: probability that a clip is mixed at all.
        snr_range_db: of `eam`, lowest and highest signal-to-noise ratio.
        max_overlap: of `eam`, longest segment as a share of the dominant clip; the paper's is half.
        lam_lambda: of `lam`, the weight of clip i's waveform.
        mixup_alpha: of `mixup`, the parameter of the Beta distribution.

    Returns:
        One plan or None per id, in their order.
    """
    if method == "eam":
        return plan_energy_adaptive(
            ids, partners, length_of, rng, share=share, snr_range_db=snr_range_db, max_overlap=max_overlap
        )
    position = {identity: index for index, identity in enumerate(partners)}
    plans: list[MixPlan | None] = []
    for dominant in ids:
        # Every clip takes the same number of draws, so that one clip's plan never shifts another's.
        mixed, partner_draw = rng.random(2)
        drawn = float(np.random.default_rng(rng.integers(2**63)).beta(mixup_alpha, mixup_alpha))
        interfering = _partner(dominant, partners, position, float(partner_draw))
        if mixed >= share or interfering is None:
            plans.append(None)
            continue
        overlap = min(length_of(dominant), length_of(interfering))
        weight = lam_lambda if method == "lam" else drawn
        plans.append(MixPlan(method, dominant, interfering, 0, 0, overlap, share=weight))
    return tuple(plans)


def _partner(dominant: str, partners: Sequence[str], position: dict[str, int], draw: float) -> str | None:
    """The partner that a draw from [0, 1) means, never the clip itself; None where there is no other."""
    own = position.get(dominant)
    others = len(partners) - (own is not None)
    if others == 0:
        return None
    choice = int(draw * others)
    return partners[choice + (own is not None and choice >= own)]


def plan_energy_adaptive(
    ids: Sequence[str],
    partners: Sequence[str],
    length_of: Callable[[str], int],
    rng: np.random.Generator,
    *,
    share: float = 0.5,
    snr_range_db: tuple[float, float] = (-5.0, 10.0),
    max_overlap: float = 0.5,
) -> tuple[MixPlan | None, ...]:
    """Draw a mixture, or none, for each of a list of clips.

    The segment's length is uniform from one sample to `max_overlap` of the dominant clip or the whole
    interfering clip, whichever is shorter; the starts are uniform over the places where the segments lie
    inside their clips; the ratio is uniform in decibels.

    Args:
        ids: the dominant clips.
        partners: the clips that may interfere; a clip is never mixed with itself.
        length_of: length of a clip in samples.
        rng: source of every draw.
        share: probability that a clip is mixed at all.
        snr_range_db: lowest and highest signal-to-noise ratio.
        max_overlap: longest segment as a share of the dominant clip; the paper's is half.

    Returns:
        One plan or None per id, in their order.
    """
    position = {identity: index for index, identity in enumerate(partners)}
    plans: list[MixPlan | None] = []
    for dominant in ids:
        # Every clip takes the same number of draws, so that one clip's plan never shifts another's.
        mixed = rng.random() < share
        partner_draw, length_draw, start_i_draw, start_j_draw = rng.random(4)
        snr_db = float(rng.uniform(*snr_range_db))
        interfering = _partner(dominant, partners, position, float(partner_draw))
        if not mixed or interfering is None:
            plans.append(None)
            continue
        length_i, length_j = length_of(dominant), length_of(interfering)
        longest = max(1, min(int(length_i * max_overlap), length_j))
        length = 1 + int(length_draw * longest)
        plans.append(
            MixPlan(
                "eam",
                dominant,
                interfering,
                int(start_i_draw * (length_i - length + 1)),
                int(start_j_draw * (length_j - length + 1)),
                length,
                snr_db,
            )
        )
    return tuple(plans)


def mix(plan: MixPlan, waveform_i: NDArray[np.float32], waveform_j: NDArray[np.float32]) -> Mixture:
    """Apply a plan.

    Args:
        plan: what to do; its segments must lie inside the clips.
        waveform_i: (samples,) of the dominant clip.
        waveform_j: (samples,) of the interfering clip, same sample rate.
    """
    if plan.method == "eam":
        return mix_energy_adaptive(
            waveform_i, waveform_j, plan.dominant_start, plan.interfering_start, plan.length, plan.snr_db
        )
    return mix_whole(waveform_i, waveform_j, plan.share, label_adaptive=plan.method == "lam")


def mix_whole(
    waveform_i: NDArray[np.float32], waveform_j: NDArray[np.float32], share: float, *, label_adaptive: bool
) -> Mixture:
    """Add two whole clips, weighted: label-adaptive (paper B) and conventional mixup.

    x = lambda x_i + (1 - lambda) x_j, as long as the longer clip; where one has ended only the other sounds, at its
    weight, and no padding of a batch takes part. The weight of label j is (1 - lambda) l_j over
    lambda l_i + (1 - lambda) l_j where it is label-adaptive, else 1 - lambda.

    Args:
        waveform_i: (samples,).
        waveform_j: (samples,), same sample rate.
        share: lambda.
        label_adaptive: whether the labels follow the lengths of the clips.
    """
    mixed = np.zeros(max(len(waveform_i), len(waveform_j)), dtype=np.float32)
    part_i = np.float32(share) * waveform_i
    part_j = np.float32(1 - share) * waveform_j
    mixed[: len(part_i)] += part_i
    mixed[: len(part_j)] += part_j
    weight = 1 - share
    if label_adaptive:
        weight = (1 - share) * len(waveform_j) / (share * len(waveform_i) + (1 - share) * len(waveform_j))
    overlap = min(len(part_i), len(part_j))
    return Mixture(mixed, weight, _ratio_db(_energy(part_i[:overlap]), _energy(part_j[:overlap])))


def mix_energy_adaptive(
    dominant: NDArray[np.float32],
    interfering: NDArray[np.float32],
    dominant_start: int,
    interfering_start: int,
    length: int,
    snr_db: float,
) -> Mixture:
    """Lay a segment of one waveform over a segment of another at a given ratio, paper A, eq. 1-4.

    scale = sqrt(P_i / (10^(SNR/10) P_j)), x_mix[s_i : s_i + l_mix] = x_i' + scale x_j', and
    lambda = P_j'' / (P_i + P_j'') * l_mix / l_i, with P the energy of a segment and P_j'' that of the scaled
    one, so that P_j'' / (P_i + P_j'') = 1 / (1 + 10^(SNR/10)). Where either segment is silent no gain reaches
    the ratio: nothing is mixed and lambda is 0.

    Args:
        dominant: (samples,) x_i.
        interfering: (samples,) x_j, same sample rate.
        dominant_start: s_i.
        interfering_start: s_j.
        length: l_mix; both segments must lie inside their clips.
        snr_db: signal-to-noise ratio.
    """
    mixed = dominant.copy()
    segment_i = dominant[dominant_start : dominant_start + length]
    segment_j = interfering[interfering_start : interfering_start + length]
    energy_i = _energy(segment_i)
    energy_j = _energy(segment_j)
    if energy_i == 0 or energy_j == 0:
        return Mixture(mixed, 0.0, float("inf"))
    ratio = 10 ** (snr_db / 10)
    scale = np.sqrt(energy_i / (ratio * energy_j))
    scaled = (scale * segment_j.astype(np.float64)).astype(np.float32)
    mixed[dominant_start : dominant_start + length] += scaled
    weight = float(1 / (1 + ratio) * length / len(dominant))
    return Mixture(mixed, weight, _ratio_db(energy_i, _energy(scaled)))


def mix_targets(dominant: NDArray[np.float32], interfering: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """The soft label of a mixture, eq. 4: (1 - weight) y_i + weight y_j.

    Two clips of one emotion keep all of it.

    Args:
        dominant: (classes,) y_i.
        interfering: (classes,) y_j.
        weight: lambda of eq. 4.
    """
    return ((1 - weight) * dominant + weight * interfering).astype(np.float32)


def _ratio_db(energy_i: float, energy_j: float) -> float:
    if energy_j == 0:
        return float("inf")
    return float(10 * np.log10(energy_i / energy_j)) if energy_i else float("-inf")


def _energy(segment: NDArray[np.float32]) -> float:
    # float64: the square of a very quiet sample underflows float32.
    # No BLAS: its threads would go on spinning beside those of torch and halve the speed of training.
    return float(np.square(segment, dtype=np.float64).sum())
