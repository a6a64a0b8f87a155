"""Several runs on the same folds as one classifier: the probabilities that they give each clip are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ser_cli.errors import UsageError
from ser_cli.evaluation.breakdown import read_people
from ser_cli.evaluation.comparison import COMPARED, TITLES
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES, Interval, count_units, percentile_interval, resample
from ser_cli.evaluation.normalization import CAPTION, SENTENCE
from ser_cli.evaluation.pages import Report, Section
from ser_cli.evaluation.reports import (
    breakdown_sections,
    difference_tile,
    few_speakers,
    interval_sentence,
    labels_sentence,
    score_tiles,
    scores_table,
)
from ser_cli.evaluation.same_folds import (
    names_of,
    origin_sentences,
    origin_warnings,
    predictions_of_all,
    runs_as_json,
)
from ser_cli.evaluation.scores import RATES, FoldedScores, RunScores, evaluate_run, lacking_of, score_folds
from ser_cli.evaluation.tables import Column, Table, Value, rate_columns
from ser_cli.metrics import stacked_rates
from ser_cli.runs.directory import Run
from ser_cli.runs.predictions import Prediction


@dataclass(frozen=True)
class Gain:
    """What the average has more than its runs have by themselves."""

    value: float
    """Of the pooled rate, over the mean of the runs' own."""
    interval: Interval
    """Of the paired bootstrap."""


@dataclass(frozen=True)
class Ensemble:
    """Runs, and what the average of their probabilities comes to."""

    names: tuple[str, ...]
    members: tuple[RunScores, ...]
    averaged: FoldedScores
    gains: dict[str, Gain]
    """By rate: `wa` and `ua`."""

    def as_json(self) -> dict[str, Any]:
        """What `ser evaluate RUN RUN --ensemble --json` prints; rates in [0, 1]."""
        return {
            **runs_as_json(self.names, self.members),
            **self.averaged.as_json(),
            "gain": {
                rate: {"value": gain.value, "low": gain.interval.low, "high": gain.interval.high}
                for rate, gain in self.gains.items()
            },
            "gain_bootstrap": {"level": LEVEL, "method": "paired percentile bootstrap", "resamples": RESAMPLES},
        }


def average_runs(runs: Sequence[Run], *, seed: int = 0) -> Ensemble:
    """Score the mean of what several runs say of each clip: p = 1/n sum_i p_i, each run as much as another.

    The gain is that of the pooled rate over the mean of the runs' own, with the 95 % percentile interval of a paired
    bootstrap: average and runs see the same draw of speakers, or of clips where speakers are not known.

    Args:
        runs: two or more, each once.
        seed: of the draws.

    Raises:
        UsageError: a run is named twice.
        RunError: protocol, labels, folds, tested clips or their emotions differ.
    """
    _require_once(runs)
    said = predictions_of_all(runs, "averaged")
    members = tuple(evaluate_run(run) for run in runs)
    first, labels = runs[0], members[0].identity.labels
    averaged = [_mean_of(clip, labels) for clip in zip(*said, strict=True)]
    by_fold: dict[int, list[Prediction]] = {}
    for prediction in averaged:
        by_fold.setdefault(prediction.fold, []).append(prediction)
    people = {name: person for run in reversed(runs) for name, person in read_people(run.folds_path).items()}
    lacking = lacking_of({index: first.fold(index).facts() for index in by_fold})
    scores = score_folds(by_fold, labels, lacking, people)
    speakers = {p.id: people[p.id].speaker for p in averaged if p.id in people}
    rates = stacked_rates(resample(count_units([averaged, *said], labels, speakers), seed))
    gains = {}
    for rate in COMPARED:
        interval = percentile_interval(rates[rate][:, 0] - rates[rate][:, 1:].mean(axis=1))
        assert interval
        own = fmean(getattr(member.pooled, rate) for member in members)
        gains[rate] = Gain(getattr(scores.pooled, rate) - own, interval)
    return Ensemble(names_of(runs), members, scores, gains)


def _require_once(runs: Sequence[Run]) -> None:
    folders = [run.folder.resolve() for run in runs]
    twice = [run.folder for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise UsageError(
            f"{twice[0]} is named twice: an average over a run and itself is that run\n"
            f"  name runs that differ, such as the same training with --seed 0 and --seed 1"
        )


def _mean_of(clip: Sequence[Prediction], labels: Sequence[str]) -> Prediction:
    mean = np.mean([prediction.probabilities for prediction in clip], axis=0)
    first = clip[0]
    return Prediction(first.id, first.fold, first.truth, labels[int(mean.argmax())], tuple(mean.tolist()))


def ensemble_sentences(found: Ensemble) -> list[str]:
    """What the figures are, and what they rest on."""
    sentences = [
        f"Average of {len(found.names)} runs: the mean of the probabilities that each gives a clip. It costs what all"
        f" of them cost, in training and in use."
    ]
    for rate, gain in found.gains.items():
        points = f"{100 * gain.value:+.1f} ({100 * gain.interval.low:+.1f} to {100 * gain.interval.high:+.1f})"
        chance = ", which may well be chance" if gain.interval.low <= 0 <= gain.interval.high else ""
        sentences.append(
            f"{TITLES[rate]}: {points.replace('-', '−')} percentage points over the mean of the runs' own, with its"
            f" 95 % interval{chance}."
        )
    sentences += origin_sentences(found.names, found.members)
    if len(_normalized(found)) == len(found.names):
        sentences.append(SENTENCE)
    return sentences


def ensemble_warnings(found: Ensemble) -> list[str]:
    """What makes the average look better than it is."""
    warnings = origin_warnings(found.names, found.members)
    missing = found.members[0].missing_folds
    if missing:
        warnings.append(f"Not done yet: fold {', '.join(map(str, missing))}; these figures cover the others.")
    if 0 < len(_normalized(found)) < len(found.names):
        warnings.append(
            f"{', '.join(_normalized(found))}: {CAPTION}; so the average too hears tested clips against other"
            f" unlabelled clips of their speakers."
        )
    intervals = found.averaged.breakdown.intervals
    return warnings + few_speakers(intervals.resampled, intervals.units)


def _normalized(found: Ensemble) -> list[str]:
    return [n for n, member in zip(found.names, found.members, strict=True) if member.normalization.by_speaker]


def members_table(found: Ensemble) -> Table:
    """Each run by itself and the average: mean over the folds."""
    rows: list[tuple[Value, ...]] = [
        (name, m.identity.recipe, m.identity.encoder, str(m.identity.seed), *(m.mean[rate] for rate in RATES))
        for name, m in zip(found.names, found.members, strict=True)
    ]
    rows.append(("average", "", "", "", *(found.averaged.mean[rate] for rate in RATES)))
    columns = [Column(name, name, "text") for name in ("run", "recipe", "encoder", "seed")]
    title = "The runs by themselves and their average, mean over the folds"
    return Table("runs", title, (*columns, *rate_columns()), tuple(rows))


def describe_ensemble(found: Ensemble, *, pictures: bool) -> Report:
    """Everything that is said of an average of runs."""
    identity, breakdown = found.members[0].identity, found.averaged.breakdown
    gained = [
        difference_tile(f"{TITLES[rate]}, over the runs' mean", g.value, g.interval) for rate, g in found.gains.items()
    ]
    sections = (
        Section("Runs", "", (), (members_table(found),)),
        Section("Scores of the average", f"{interval_sentence(breakdown)}.", (), (scores_table(found.averaged),)),
        *breakdown_sections(breakdown, pictures=pictures),
    )
    normalized = next((m.normalization for m in found.members if m.normalization.by_speaker), None)
    return Report(
        title=f"{identity.dataset}, average of {len(found.names)} runs",
        sentences=(*ensemble_sentences(found), labels_sentence(identity)),
        warnings=tuple(ensemble_warnings(found)),
        tiles=(*score_tiles(breakdown), *gained),
        sections=normalized.captioned(sections) if normalized else sections,
        facts=(
            *(("run", name) for name in found.names),
            ("protocol hash", identity.protocol_hash),
            ("manifest hash", identity.manifest_hash),
        ),
    )
