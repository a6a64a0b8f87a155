"""Energy-adaptive mixup: part of one clip is overlaid with part of another, and the label follows.

Choosing is apart from applying: `plan_energy_adaptive` draws which segments meet at which ratio and returns
rows that can be printed, stored and replayed; `mix_energy_adaptive` applies one row to waveforms and labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MixPlan:
    """One mixture: where the interfering clip j is laid over the dominant clip i."""

    dominant: str
    """Id of clip i, which is heard in full."""
    interfering: str
    """Id of clip j, of which a segment is added."""
    dominant_start: int
    """s_i, in samples."""
    interfering_start: int
    """s_j, in samples."""
    length: int
    """l_mix, in samples."""
    snr_db: float
    """Power of the dominant over power of the scaled interfering segment."""


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
        own = position.get(dominant)
        others = len(partners) - (own is not None)
        if not mixed or others == 0:
            plans.append(None)
            continue
        choice = int(partner_draw * others)
        interfering = partners[choice + (own is not None and choice >= own)]
        length_i, length_j = length_of(dominant), length_of(interfering)
        longest = max(1, min(int(length_i * max_overlap), length_j))
        length = 1 + int(length_draw * longest)
        plans.append(
            MixPlan(
                dominant,
                interfering,
                int(start_i_draw * (length_i - length + 1)),
                int(start_j_draw * (length_j - length + 1)),
                length,
                snr_db,
            )
        )
    return tuple(plans)


def mix_energy_adaptive(
    dominant: NDArray[np.float32],
    interfering: NDArray[np.float32],
    dominant_start: int,
    interfering_start: int,
    length: int,
    snr_db: float,
) -> tuple[NDArray[np.float32], float]:
    """Lay a segment of one waveform over a segment of another at a given ratio, eq. 1-4.

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

    Returns:
        The mixture, (samples of `dominant`,), a new array that may exceed [-1, 1]; and lambda, the weight of
        the interfering clip's label, in [0, 1).
    """
    mixed = dominant.copy()
    segment_i = dominant[dominant_start : dominant_start + length]
    segment_j = interfering[interfering_start : interfering_start + length]
    energy_i = _energy(segment_i)
    energy_j = _energy(segment_j)
    if energy_i == 0 or energy_j == 0:
        return mixed, 0.0
    ratio = 10 ** (snr_db / 10)
    scale = np.sqrt(energy_i / (ratio * energy_j))
    mixed[dominant_start : dominant_start + length] += (scale * segment_j.astype(np.float64)).astype(np.float32)
    return mixed, float(1 / (1 + ratio) * length / len(dominant))


def mix_targets(dominant: NDArray[np.float32], interfering: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """The soft label of a mixture, eq. 4: (1 - lambda) y_i + lambda y_j.

    Args:
        dominant: (classes,) y_i.
        interfering: (classes,) y_j.
        weight: lambda.
    """
    return ((1 - weight) * dominant + weight * interfering).astype(np.float32)


def _energy(segment: NDArray[np.float32]) -> float:
    # float64: the square of a very quiet sample underflows float32.
    # No BLAS: its threads would go on spinning beside those of torch and halve the speed of training.
    return float(np.square(segment, dtype=np.float64).sum())
