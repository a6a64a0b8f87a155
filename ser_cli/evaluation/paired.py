"""Differences between models that tested the same clips, with what chance would make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ser_cli.evaluation.intervals import Interval, Units, count_units, percentile_interval, resample
from ser_cli.metrics import stacked_rates
from ser_cli.runs.predictions import Prediction


@dataclass(frozen=True)
class PairedDifference:
    """What the mean rate of some models has more than that of others."""

    value: float
    """Of the pooled rates, in [-1, 1]."""
    interval: Interval
    """Of the paired bootstrap; without 0 in it, chance alone would hardly make such a difference."""


def paired_differences(
    first: Sequence[Sequence[Prediction]],
    second: Sequence[Sequence[Prediction]],
    labels: Sequence[str],
    speakers: Mapping[str, str],
    rates: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[dict[str, PairedDifference], Units]:
    """Hold the mean of the second models' pooled rates against that of the first ones'.

    The interval is the 95 % percentile interval of a paired bootstrap (Efron & Tibshirani 1993) over whole speakers,
    or over clips where speakers are not known: all models see the same draw, so that several of one kind that tested
    the same speakers do not count as more speakers.

    Args:
        first: predictions of each model that is held against, each clip once.
        second: of each of the others.
        labels: the declared ones.
        speakers: speaker by id.
        rates: of `metrics.stacked_rates`.
        seed: of the draws.

    Returns:
        The difference of each rate, and what was resampled.
    """
    units = count_units([*first, *second], labels, speakers)
    drawn = stacked_rates(resample(units, seed))
    whole = stacked_rates(np.einsum("u,umtp->mtp", units.multiplicity, units.contributions))
    differences = {}
    for rate in rates:
        # A draw without any speaker that a model has tested says nothing of that model.
        one, other = (np.ma.masked_invalid(part).mean(axis=1) for part in np.split(drawn[rate], [len(first)], axis=1))
        interval = percentile_interval(np.ma.filled((other - one).astype(float), np.nan))
        assert interval
        value = float(whole[rate][len(first) :].mean() - whole[rate][: len(first)].mean())
        differences[rate] = PairedDifference(value, interval)
    return differences, units


def folds_won(pairs: Sequence[tuple[float, float]]) -> tuple[int, int, int]:
    """In how many folds the first of two rates is higher, the second, and neither."""
    return sum(a > b for a, b in pairs), sum(b > a for a, b in pairs), sum(a == b for a, b in pairs)
