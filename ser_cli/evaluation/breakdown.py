"""Scores of one set of predictions taken apart: by label, by speaker, by gender, by confidence."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_cli.data.manifest import UNKNOWN_SPEAKER
from ser_cli.errors import RunError
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES, Interval, Intervals, bootstrap_intervals
from ser_cli.files import read_table
from ser_cli.metrics import Calibration, Scores, calibrate, confusion_matrix, score
from ser_cli.runs.predictions import Prediction


@dataclass(frozen=True)
class Person:
    """Who speaks in an utterance."""

    speaker: str
    gender: str = ""
    """`female`, `male`, or empty where unknown."""


@dataclass(frozen=True)
class LabelRecall:
    """How many clips of one label were found."""

    label: str
    n: int
    recall: float | None
    """None where no clip has the label."""
    interval: Interval | None


@dataclass(frozen=True)
class GroupScores:
    """Scores of the clips of one speaker, or of one gender."""

    name: str
    n: int
    wa: float
    ua: float
    """Over the labels that the group's clips have."""
    macro_f1: float
    speakers: int
    gender: str = ""
    """Of a speaker; empty for a gender, or where it is unknown."""


@dataclass(frozen=True)
class Breakdown:
    """Everything that predictions alone, and who spoke, can tell."""

    labels: tuple[str, ...]
    pooled: Scores
    confusion: tuple[tuple[int, ...], ...]
    """Counts, truth by row."""
    recall: tuple[LabelRecall, ...]
    speakers: tuple[GroupScores, ...]
    """By name; empty where speakers are not known."""
    genders: tuple[GroupScores, ...]
    calibration: Calibration
    intervals: Intervals

    def as_json(self) -> dict[str, Any]:
        """The part of `ser evaluate --json` that comes from here; rates in [0, 1]."""
        intervals = self.intervals
        return {
            "pooled": asdict(self.pooled),
            "confusion": [list(row) for row in self.confusion],
            "recall": [{"label": r.label, "n": r.n, "recall": r.recall, **_bounds(r.interval)} for r in self.recall],
            "speakers": [asdict(group) for group in self.speakers],
            "genders": [
                {key: value for key, value in asdict(group).items() if key != "gender"} for group in self.genders
            ],
            "ece": self.calibration.ece,
            "calibration": [asdict(interval) for interval in self.calibration.bins],
            "intervals": {
                "level": LEVEL,
                "method": "percentile bootstrap",
                "resamples": RESAMPLES,
                "resampled": intervals.drawn.kind,
                "units": intervals.drawn.units,
                "clips_of_unknown_speakers": intervals.drawn.unknown,
                **{name: asdict(getattr(intervals, name)) for name in ("wa", "ua", "macro_f1")},
            },
        }


def break_down(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    people: Mapping[str, Person],
    *,
    lacking: Sequence[str] = (),
    seed: int = 0,
) -> Breakdown:
    """Take predictions apart.

    Args:
        predictions: each clip once.
        labels: the declared ones, in the order of the probabilities.
        people: who speaks, by id; clips that are not there belong to no speaker.
        lacking: labels that may have no clip; see `metrics.score`.
        seed: of the bootstrap.

    Raises:
        SerError: a truth or prediction is not among the labels, or a label that is not `lacking` has no clip.
    """
    confusion = _confusion(predictions, labels)
    known = {p.id: people[p.id].speaker for p in predictions if p.id in people}
    named = {identity: speaker for identity, speaker in known.items() if speaker != UNKNOWN_SPEAKER}
    intervals = bootstrap_intervals(predictions, labels, known, seed)
    support = confusion.sum(axis=1)
    recall = tuple(
        LabelRecall(
            label, int(support[i]), float(confusion[i, i] / support[i]) if support[i] else None, intervals.recall[i]
        )
        for i, label in enumerate(labels)
    )
    confidence = np.array([max(p.probabilities) for p in predictions])
    correct = np.array([p.truth == p.predicted for p in predictions])
    return Breakdown(
        labels=tuple(labels),
        pooled=score(confusion, labels, lacking),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        recall=recall,
        speakers=_by_group(predictions, labels, named, people),
        genders=_by_group(predictions, labels, {i: person.gender for i, person in people.items()}, people),
        calibration=calibrate(confidence, correct),
        intervals=intervals,
    )


def read_people(path: Path) -> dict[str, Person]:
    """Who speaks in each utterance, from a run's `folds.csv`; nothing where there is none.

    Raises:
        RunError: it is no table of folds.
    """
    try:
        _, rows = read_table(path)
        return {row["id"]: Person(row["speaker"], row.get("gender", "")) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{path} cannot be read as the folds of a run ({error!r})\n"
            f"  delete it and run the same `ser train` again, which writes it anew"
        ) from None


def _by_group(
    predictions: Sequence[Prediction], labels: Sequence[str], group_of: Mapping[str, str], people: Mapping[str, Person]
) -> tuple[GroupScores, ...]:
    """Scores of each named group; clips whose group is not known belong to none."""
    members: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if group_of.get(prediction.id):
            members[group_of[prediction.id]].append(prediction)
    groups = []
    for name, clips in sorted(members.items()):
        scores = score(_confusion(clips, labels), labels, lacking=labels)
        speakers = {people[p.id].speaker for p in clips} - {UNKNOWN_SPEAKER}
        genders = {people[p.id].gender for p in clips} if speakers == {name} else set()
        gender = genders.pop() if len(genders) == 1 else ""
        groups.append(GroupScores(name, scores.n, scores.wa, scores.ua, scores.macro_f1, len(speakers), gender))
    return tuple(groups)


def _confusion(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return confusion_matrix([p.truth for p in predictions], [p.predicted for p in predictions], labels)


def _bounds(interval: Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}
