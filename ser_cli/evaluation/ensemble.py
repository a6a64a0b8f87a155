"""Several runs on the same folds as one classifier: the probabilities that they give each clip are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_cli.errors import UsageError
from ser_cli.evaluation.comparison import COMPARED, TITLES
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES
from ser_cli.evaluation.normalization import CAPTION
from ser_cli.evaluation.pages import Report, Section
from ser_cli.evaluation.paired import PairedDifference, paired_differences
from ser_cli.evaluation.same_folds import (
    names_of,
    origin_sentences,
    origin_warnings,
    people_of_all,
    predictions_of_all,
    runs_as_json,
)
from ser_cli.evaluation.scores import RATES, FoldedScores, RunScores, evaluate_run, lacking_of, score_folds
from ser_cli.evaluation.sections import breakdown_sections, difference_tile, score_tiles, scores_table
from ser_cli.evaluation.sentences import (
    few_speakers,
    interval_sentence,
    labels_sentences,
    missing_folds_warning,
    told_of,
    too_few,
)
from ser_cli.evaluation.tables import Column, Table, Value, rate_columns, signed_points
from ser_cli.runs.directory import Run
from ser_cli.runs.predictions import Prediction


@dataclass(frozen=True)
class RunEnsemble:
    """Runs, and what the average of their probabilities comes to."""

    names: tuple[str, ...]
    members: tuple[RunScores, ...]
    averaged: FoldedScores
    gains: dict[str, PairedDifference]
    """By rate, `wa` and `ua`: what the average has more than its runs have by themselves, in the mean."""

    @property
    def normalized(self) -> list[str]:
        """Names of the runs that are normalised by speaker."""
        return [n for n, member in zip(self.names, self.members, strict=True) if member.normalization.by_speaker]

    def as_json(self) -> dict[str, Any]:
        """What `ser evaluate RUN RUN --ensemble --json` prints; rates in [0, 1]."""
        first = self.members[0]
        return {
            **runs_as_json(self.names, self.members),
            **self.averaged.as_json(),
            "missing_folds": first.missing_folds,
            "gain": {
                rate: {"value": gain.value, "low": gain.interval.low, "high": gain.interval.high}
                for rate, gain in self.gains.items()
            },
            "gain_bootstrap": {
                "of": "pooled rate, less the mean of the runs' own",
                "level": LEVEL,
                "method": "paired percentile bootstrap",
                "resamples": RESAMPLES,
            },
        }


def average_runs(runs: Sequence[Run], *, seed: int = 0) -> RunEnsemble:
    """Score the mean of what several runs say of each clip: p = 1/n sum_i p_i, each run as much as another.

    The gain is that of the pooled rate over the mean of the runs' own, with the 95 % percentile interval of a paired
    bootstrap: average and runs see the same draw of speakers, or of clips where speakers are not known.

    Args:
        runs: two or more, each once.
        seed: of the draws.

    Raises:
        UsageError: a run is named twice, or what two say is the same.
        RunError: protocol, labels, folds, tested clips or their emotions differ.
    """
    _require_once(runs)
    said = predictions_of_all(runs, "averaged")
    _require_different(runs, said)
    members = tuple(evaluate_run(run) for run in runs)
    first, labels = runs[0], members[0].identity.labels
    averaged = [_mean_of(clip, labels) for clip in zip(*said, strict=True)]
    by_fold: dict[int, list[Prediction]] = {}
    for prediction in averaged:
        by_fold.setdefault(prediction.fold, []).append(prediction)
    people = people_of_all(runs)
    lacking = lacking_of({index: first.fold(index).facts() for index in by_fold})
    scores = score_folds(by_fold, labels, lacking, people)
    speakers = {p.id: people[p.id].speaker for p in averaged if p.id in people}
    gains, _ = paired_differences(said, [averaged], labels, speakers, COMPARED, seed=seed)
    return RunEnsemble(names_of(runs), members, scores, gains)


def _require_once(runs: Sequence[Run]) -> None:
    folders = [run.folder.resolve() for run in runs]
    twice = [run.folder for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise UsageError(
            f"{twice[0]} is named twice: an average over a run and itself is that run\n"
            f"  name runs that differ, such as the same training with --seed 0 and --seed 1"
        )


def _require_different(runs: Sequence[Run], said: Sequence[Sequence[Prediction]]) -> None:
    """A copy counts a run twice, and so does a training that was repeated to the same bits."""
    seen: dict[tuple[tuple[float, ...], ...], Run] = {}
    for run, predictions in zip(runs, said, strict=True):
        other = seen.setdefault(tuple(p.probabilities for p in predictions), run)
        if other is not run:
            raise UsageError(
                f"{run.folder} says of every clip what {other.folder} says, so that it would be counted twice\n"
                f"  leave one of them out; runs differ where something does, such as --seed"
            )


def _mean_of(clip: Sequence[Prediction], labels: Sequence[str]) -> Prediction:
    mean = np.mean([prediction.probabilities for prediction in clip], axis=0)
    first = clip[0]
    return Prediction(first.id, first.fold, first.truth, labels[int(mean.argmax())], tuple(mean.tolist()))


def ensemble_sentences(found: RunEnsemble) -> list[str]:
    """What the figures are, and what they rest on."""
    sentences = [
        f"Average of {len(found.names)} runs: the mean of the probabilities that each gives a clip. It costs what all"
        f" of them cost, in training and in use."
    ]
    drawn = found.averaged.breakdown.intervals.drawn
    for rate, gain in found.gains.items():
        low, high = signed_points(gain.interval.low), signed_points(gain.interval.high)
        chance = ""
        if gain.interval.low <= 0 <= gain.interval.high:
            chance = ", which may well be chance"
        elif drawn.are_few:
            chance = f", but {too_few(drawn)} to tell"
        sentences.append(
            f"{TITLES[rate]} of all clips pooled: {signed_points(gain.value)} ({low} to {high}) percentage points over"
            f" the mean of the runs' own, with its 95 % interval{chance}."
        )
    sentences += origin_sentences(found.names, found.members)
    normalizations = [member.normalization for member in found.members if member.normalization.by_speaker]
    if len(normalizations) == len(found.members):
        sentences += normalizations[0].sentences()
    elif normalizations:
        sentences += [f"{', '.join(found.normalized)}: {told}" for told in normalizations[0].sentences()]
    return sentences


def ensemble_warnings(found: RunEnsemble) -> list[str]:
    """What makes the average look better than it is."""
    warnings = origin_warnings(found.names, found.members)
    warnings += missing_folds_warning(found.members[0].missing_folds)
    if 0 < len(found.normalized) < len(found.names):
        warnings.append(
            f"{', '.join(found.normalized)}: {CAPTION}; so the average too hears tested clips against other"
            f" unlabelled clips of their speakers."
        )
    return warnings + few_speakers(found.averaged.breakdown.intervals.drawn)


def members_table(found: RunEnsemble) -> Table:
    """Each run by itself and the average: all clips pooled, and UA as the mean over the folds."""
    rows: list[tuple[Value, ...]] = []
    for name, member in zip(found.names, found.members, strict=True):
        identity = member.identity
        told = (name, identity.recipe, identity.encoder, str(identity.seed), member.normalization.by)
        rows.append((*told, *(getattr(member.pooled, rate) for rate in RATES), member.mean["ua"]))
    averaged = found.averaged
    rows.append(("average", "", "", "", "", *(getattr(averaged.pooled, rate) for rate in RATES), averaged.mean["ua"]))
    columns = [Column(name, name, "text") for name in ("run", "recipe", "encoder", "seed")]
    columns += [Column("normalized_by", "normalised by", "text"), *rate_columns()]
    title = "The runs by themselves and their average, all clips pooled"
    return Table("runs", title, (*columns, Column("mean_ua", "UA %, mean over folds")), tuple(rows))


def describe_ensemble(found: RunEnsemble, *, pictures: bool) -> Report:
    """Everything that is said of an average of runs."""
    identity, breakdown = found.members[0].identity, found.averaged.breakdown
    gained = [
        difference_tile(f"{TITLES[rate]}, over the runs' mean", gain.value, gain.interval)
        for rate, gain in found.gains.items()
    ]
    runs = Section("Runs", "", (), (members_table(found),))
    sections = (
        Section("Scores of the average", f"{interval_sentence(breakdown)}.", (), (scores_table(found.averaged),)),
        *breakdown_sections(breakdown, pictures=pictures),
    )
    # The table of the runs says itself which of them are normalised; the average is where one of them is.
    normalized = next((m.normalization for m in found.members if m.normalization.by_speaker), None)
    manifests = told_of((n, m.identity.manifest_hash) for n, m in zip(found.names, found.members, strict=True))
    return Report(
        title=f"{identity.dataset}, average of {len(found.names)} runs",
        sentences=(
            *ensemble_sentences(found),
            *labels_sentences((name, member.identity) for name, member in zip(found.names, found.members, strict=True)),
        ),
        warnings=tuple(ensemble_warnings(found)),
        tiles=(*score_tiles(breakdown), *gained),
        sections=(runs, *(normalized.captioned(sections) if normalized else sections)),
        facts=(
            *(("run", name) for name in found.names),
            ("protocol hash", identity.protocol_hash),
            *(("manifest hash", told) for told in manifests),
        ),
    )
