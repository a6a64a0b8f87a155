"""Score a run from its predictions on disk: per fold, mean and standard deviation, pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ser_cli.errors import RunError, count_of
from ser_cli.evaluation.breakdown import Breakdown, Person, break_down, read_people
from ser_cli.evaluation.normalization import Normalization, normalization_of
from ser_cli.evaluation.tasks import RunTaskScores, evaluate_tasks
from ser_cli.files import read_table
from ser_cli.metrics import Scores, confusion_matrix, score
from ser_cli.provenance import DESCRIPTION_NAME, normalized_by, read_description
from ser_cli.runs.directory import Run, RunIdentity
from ser_cli.runs.initial_weights import differing_weights, weights_of_folds
from ser_cli.runs.predictions import Prediction, read_predictions

RATES = ("wa", "ua", "macro_f1")


@dataclass(frozen=True)
class FoldedScores:
    """What predictions of several folds come to."""

    folds: tuple[tuple[int, Scores], ...]
    mean: dict[str, float]
    """Over the folds."""
    std: dict[str, float] | None
    """Sample standard deviation over the folds (divisor folds - 1); None for a single fold."""
    breakdown: Breakdown
    """All predictions together, taken apart."""

    @property
    def pooled(self) -> Scores:
        """Over all predictions together."""
        return self.breakdown.pooled

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Pooled counts, truth by row."""
        return self.breakdown.confusion

    def as_json(self) -> dict[str, Any]:
        """The part of `ser evaluate --json` that comes from here; rates in [0, 1]."""
        return {
            "folds": [{"fold": index, **asdict(scores)} for index, scores in self.folds],
            "mean": self.mean,
            "std": self.std,
            **self.breakdown.as_json(),
        }


@dataclass(frozen=True)
class RunScores(FoldedScores):
    """All figures of one run."""

    identity: RunIdentity
    selected_by: str
    """How each fold's epoch was chosen: `validation`, `last`, or `test`."""
    rule: str
    """How the protocol divides the corpus, as a sentence."""
    normalization: Normalization
    """What the clips are heard against."""
    changes: tuple[str, ...] = ()
    """What was different when the run was gone on with all the same, or changed between its folds, as sentences."""
    tasks: RunTaskScores | None = None
    """Beside emotion; None where nothing else was to be learnt."""

    @property
    def missing_folds(self) -> list[int]:
        """Folds that are not done yet."""
        done = {index for index, _ in self.folds}
        return [index for index in range(1, self.identity.folds + 1) if index not in done]

    def as_json(self) -> dict[str, Any]:
        """What `ser evaluate --json` prints; rates in [0, 1]."""
        return {
            "dataset": self.identity.dataset,
            "recipe": self.identity.recipe,
            "encoder": self.identity.encoder,
            "labels": list(self.identity.labels),
            **super().as_json(),
            "protocol": self.identity.protocol,
            "protocol_hash": self.identity.protocol_hash,
            "protocol_rule": self.rule,
            "label_set": self.identity.label_set,
            "where": list(self.identity.where),
            "targets": self.identity.targets,
            "seed": self.identity.seed,
            "selected_by": self.selected_by,
            **self.normalization.as_json(),
            "missing_folds": self.missing_folds,
            "changes": list(self.changes),
            **({"tasks": self.tasks.as_json()} if self.tasks else {}),
        }


def changes_of(run: Run | None, facts: Mapping[int, Mapping[str, Any]]) -> tuple[str, ...]:
    """What changed while folds were trained, and where they began from other weights, a sentence each.

    Args:
        run: theirs; None for folds that were copied elsewhere.
        facts: of the folds that are done, by index.

    Raises:
        RunError: a fold's `done.json` is damaged.
    """
    return (
        *(run.changes() if run else ()),
        *(f"fold {index}: {change}" for index, told in facts.items() for change in told.get("changes", ())),
        *(differing_weights(weights_of_folds(run, facts)) if run else ()),
    )


def evaluate_run(run: Run) -> RunScores:
    """Score the folds of a run that are done.

    Raises:
        RunError: the folder holds no run, no fold is done, or predictions cannot be read.
    """
    identity = run.identity()
    predictions = tested_predictions(run)
    done = list(predictions)
    facts = {index: run.fold(index).facts() for index in done}
    people = read_people(run.folds_path)
    folded = score_folds(predictions, identity.labels, lacking_of(facts), people)
    by = "speaker" if "speaker" in {_normalized_by(run.fold(i).folder, facts[i]) for i in done} else "clip"
    speakers = {i: person.speaker for i, person in people.items()}
    return RunScores(
        identity=identity,
        selected_by=facts[done[0]]["selected_by"],
        rule=run.protocol_rule(),
        folds=folded.folds,
        mean=folded.mean,
        std=folded.std,
        breakdown=folded.breakdown,
        changes=changes_of(run, facts),
        tasks=evaluate_tasks(run, done, folded.pooled.wa),
        normalization=normalization_of(by, (p.id for of_fold in predictions.values() for p in of_fold), speakers),
    )


def score_folds(
    predictions: Mapping[int, Sequence[Prediction]],
    labels: tuple[str, ...],
    lacking: Mapping[int, Sequence[str]],
    people: Mapping[str, Person],
) -> FoldedScores:
    """Score predictions fold by fold and all together.

    Args:
        predictions: by fold; one at least.
        labels: the declared ones.
        lacking: labels that may have no clip in a fold, by fold; see `metrics.score`.
        people: who speaks, by id.
    """
    folds = tuple((index, _score(said, labels, lacking[index])) for index, said in predictions.items())
    rates = {rate: [getattr(scores, rate) for _, scores in folds] for rate in RATES}
    everything = [prediction for said in predictions.values() for prediction in said]
    # While some folds are not done, an emotion that only they test is lacking in the pool too.
    everywhere = set.intersection(*(set(lacking[index]) for index in predictions))
    return FoldedScores(
        folds=folds,
        mean={rate: fmean(values) for rate, values in rates.items()},
        std={rate: stdev(values) for rate, values in rates.items()} if len(folds) > 1 else None,
        breakdown=break_down(everything, labels, people, lacking=sorted(everywhere)),
    )


def lacking_of(facts: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[str, ...]]:
    """Labels that a fold tests no clip of, by fold.

    Args:
        facts: of the folds that are done, by index.
    """
    return {index: tuple(told.get("lacking", ())) for index, told in facts.items()}


def tested_predictions(run: Run) -> dict[int, tuple[Prediction, ...]]:
    """The predictions of each fold that is done, by its index.

    Raises:
        RunError: the folder holds no run, no fold is done, or predictions cannot be read.
    """
    identity, done = run.identity(), run.done_folds()
    if not done:
        raise RunError(
            f"{run.folder}: no fold is done yet, so there is nothing to score\n  run the same `ser train` again"
        )
    return {index: _predictions_of(run, index, identity.labels) for index in done}


def _predictions_of(run: Run, index: int, labels: tuple[str, ...]) -> tuple[Prediction, ...]:
    """As they were written: a file that lost lines would be scored over what is left."""
    fold = run.fold(index)
    said = read_predictions(fold.predictions_path, labels, index)
    tested = fold.facts().get("scores", {}).get("n")
    if tested not in (None, len(said)):
        raise RunError(
            f"{fold.predictions_path}: holds {count_of(len(said), 'clip')}, and done.json says that {tested:,} were"
            f" tested\n  put the whole file back, or delete {fold.done_path} and train that fold again"
        )
    return said


def read_history(path: Path) -> dict[str, list[float | None]]:
    """The columns of a fold's `history.csv`, one value per epoch; None where a column has none.

    Raises:
        RunError: it is missing or no table of numbers.
    """
    try:
        header, rows = read_table(path)
        if not rows or "total" not in header:
            raise ValueError("no epoch with a column total")
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in header}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as a history ({error}); train that fold again") from None


def _normalized_by(folder: Path, facts: Mapping[str, Any]) -> str:
    """What the clips of a fold were heard against; runs of earlier versions tell it in the recipe of their model."""
    if "normalized_by" not in facts and (folder / DESCRIPTION_NAME).is_file():
        return normalized_by(read_description(folder))
    return str(facts.get("normalized_by", "clip"))


def _score(predictions: Sequence[Prediction], labels: tuple[str, ...], lacking: Sequence[str]) -> Scores:
    confusion = confusion_matrix([p.truth for p in predictions], [p.predicted for p in predictions], labels)
    return score(confusion, labels, lacking)
