"""Bootstrap confidence intervals: what the scores would be with other speakers of the same kind.

Clips of one speaker are alike, so whole speakers are drawn where they are known (the cluster bootstrap, Field and
Welsh 2007); drawing clips one by one would make the intervals too narrow.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.manifest import UNKNOWN_SPEAKER
from ser_cli.errors import count_of
from ser_cli.metrics import stacked_rates
from ser_cli.runs.predictions import Prediction

LEVEL = 0.95
RESAMPLES = 5000
FEW_SPEAKERS = 10
"""Below so many speakers there are too few different draws for the level to be kept; reports say so."""

_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values."""

    low: float
    high: float


@dataclass(frozen=True, order=True)
class Resampled:
    """What a bootstrap draws with replacement."""

    kind: str
    """`speaker` or `clip`."""
    units: int
    """How many there are."""
    unknown: int = 0
    """Of these, clips of unknown speakers, each drawn for itself among known speakers."""
    of_one: bool = False
    """Whether all clips are of one known speaker, so that nothing but clips could be drawn."""

    @property
    def known(self) -> int:
        """Speakers that are known; 0 where clips are drawn since they are not."""
        if self.kind == "clip":
            return int(self.of_one)
        return self.units - self.unknown

    @property
    def are_few(self) -> bool:
        """Whether intervals rest on so few speakers that they are rough."""
        return 0 < self.known < FEW_SPEAKERS

    @property
    def told(self) -> str:
        """`24 speakers`, for sentences."""
        if self.of_one:
            return f"{count_of(self.units, self.kind)} of one speaker"
        if self.unknown:
            return f"{count_of(self.known, 'speaker')} and {count_of(self.unknown, 'clip')} of unknown speakers"
        return count_of(self.units, self.kind)


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals of the pooled scores."""

    drawn: Resampled
    wa: Interval
    ua: Interval
    macro_f1: Interval
    recall: tuple[Interval | None, ...]
    """For each label; None where it has no clip."""

    @property
    def sentence(self) -> str:
        """How they were made, for reports."""
        caution = f"; only {count_of(self.drawn.known, 'speaker')}, so take them as rough" if self.drawn.are_few else ""
        return f"{100 * LEVEL:.0f} % percentile bootstrap, {RESAMPLES:,} resamples of {self.drawn.told}{caution}"


@dataclass(frozen=True)
class Units:
    """What a bootstrap draws from: speakers, or clips of which equal ones are counted together."""

    kind: str
    """`speaker` or `clip`."""
    contributions: NDArray[np.int64]
    """(units, models, labels, labels): what each adds to each model's confusion matrix."""
    multiplicity: NDArray[np.int64]
    """(units,): how many units are like this one."""
    unknown: int = 0
    """Clips of unknown speakers among units that are speakers."""
    of_one: bool = False
    """Whether units are clips because all are of one speaker."""

    @property
    def total(self) -> int:
        """How many are drawn each time."""
        return int(self.multiplicity.sum())

    @property
    def resampled(self) -> Resampled:
        """What is drawn, for reports."""
        return Resampled(self.kind, self.total, self.unknown, self.of_one)


def count_units(
    models: Sequence[Sequence[Prediction]], labels: Sequence[str], speakers: Mapping[str, str] | None
) -> Units:
    """Group clips into what is resampled.

    Args:
        models: each model's predictions, of each clip once; a clip that one has not tested adds nothing to it.
        labels: the declared ones.
        speakers: speaker by id; None, or fewer than two, has clips drawn. A clip of unknown speaker is the only one
            of its own.
    """
    position = {label: index for index, label in enumerate(labels)}
    counted: dict[str, list[tuple[int, int, int]]] = {}
    for model, predictions in enumerate(models):
        for p in predictions:
            counted.setdefault(p.id, []).append((model, position[p.truth], position[p.predicted]))
    known = {} if speakers is None else {identity: speakers.get(identity, "") for identity in counted}
    named = set(known.values()) - {UNKNOWN_SPEAKER}
    alone = [identity for identity, name in known.items() if name == UNKNOWN_SPEAKER]
    known |= {identity: f"{UNKNOWN_SPEAKER} {identity}" for identity in alone}
    clustered = all(known.values()) and bool(named) and len(set(known.values())) > 1
    if clustered:
        units: dict[Any, int] = {name: row for row, name in enumerate(sorted(set(known.values())))}
        multiplicity = np.ones(len(units), dtype=np.int64)
        members = [(units[known[identity]], cells) for identity, cells in counted.items()]
    else:
        # Drawing n clips is drawing n times from the kinds of clips there are, each as often as it occurs.
        kinds = Counter(tuple(cells) for cells in counted.values())
        units = {kind: row for row, kind in enumerate(sorted(kinds))}
        multiplicity = np.array([kinds[kind] for kind in units], dtype=np.int64)
        members = [(row, list(kind)) for kind, row in units.items()]
    contributions = np.zeros((len(units), len(models), len(labels), len(labels)), dtype=np.int64)
    for row, cells in members:
        for model, truth, predicted in cells:
            contributions[row, model, truth, predicted] += 1
    if clustered:
        return Units("speaker", contributions, multiplicity, len(alone))
    return Units("clip", contributions, multiplicity, of_one=len(named) == 1 and all(known.values()))


def resample(units: Units, seed: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """Confusion matrices (resamples, models, labels, labels) of units drawn with replacement, as many as there are.

    All models see the same draw, which is what makes their differences paired.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(units.total, units.multiplicity / units.total, size=resamples)
    flat = units.contributions.reshape(len(units.multiplicity), -1)
    # In floating point for the fast matrix product; counts of clips are exact there.
    confusions = np.rint(drawn.astype(np.float64) @ flat.astype(np.float64)).astype(np.int64)
    return confusions.reshape(resamples, *units.contributions.shape[1:])


def percentile_interval(values: NDArray[np.float64]) -> Interval | None:
    """The 2.5th and 97.5th percentile of (resamples,) values, NaN left out; None where all are."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return Interval(float(low), float(high))


def bootstrap_intervals(
    predictions: Sequence[Prediction], labels: Sequence[str], speakers: Mapping[str, str] | None, seed: int
) -> Intervals:
    """Intervals of the pooled WA, UA, macro F1 and recalls.

    A draw that lacks a label leaves it out of that draw's means.

    Args:
        predictions: of one model or of all folds together.
        labels: the declared ones.
        speakers: speaker by id; None, or fewer than two, has clips drawn in their place.
        seed: of the draws.
    """
    units = count_units([predictions], labels, speakers)
    rates = stacked_rates(resample(units, seed)[:, 0])
    pooled = {name: percentile_interval(rates[name]) for name in ("wa", "ua", "macro_f1")}
    wa, ua, macro_f1 = pooled["wa"], pooled["ua"], pooled["macro_f1"]
    assert wa and ua and macro_f1
    recall = tuple(percentile_interval(rates["recall"][:, index]) for index in range(len(labels)))
    return Intervals(units.resampled, wa, ua, macro_f1, recall)
