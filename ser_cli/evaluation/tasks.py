"""What a run came to in the tasks beside emotion, from `tasks.csv` of each fold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ser_cli.errors import RunError, count_of
from ser_cli.evaluation.tables import Column, Table
from ser_cli.runs.directory import Run
from ser_cli.tasks.outputs import TASKS
from ser_cli.tasks.predictions import TaskPrediction, read_task_predictions
from ser_cli.tasks.scores import TaskScores, score_tasks

NOTE = (
    "Micro F1 is WA: each clip has one emotion, so every clip that one emotion gains falsely is one that another lacks."
    " Speakers have no score: those tested are none of those that were learnt, and neither are those that choose the"
    " epoch."
)


@dataclass(frozen=True)
class RunTaskScores:
    """All figures of the tasks of one run."""

    learnt: tuple[str, ...]
    """In at least one fold."""
    not_learnt: tuple[tuple[int, str, str], ...]
    """Fold, name and reason of each task that was asked for and not learnt."""
    folds: tuple[tuple[int, TaskScores], ...]
    pooled: TaskScores
    """Over all tested clips together."""
    micro_f1: float
    """Of emotion, over all tested clips together."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """A sentence for each fold and task that was asked for and not learnt."""
        return tuple(f"fold {index}: task {task}: {reason}" for index, task, reason in self.not_learnt)

    def as_json(self) -> dict[str, Any]:
        """The part of `ser evaluate --json` under `tasks`; rates."""
        return {
            "learnt": list(self.learnt),
            "left_out": list(self.left_out),
            "folds": [{"fold": index, **asdict(scores)} for index, scores in self.folds],
            "pooled": asdict(self.pooled),
            "micro_f1": self.micro_f1,
        }

    def sentence(self) -> str:
        """The figures in one line, for a terminal."""
        return f"emotion micro F1 {100 * self.micro_f1:.1f} % (it is WA), {rates_sentence(self.pooled)}"

    def table(self) -> Table:
        """One row per fold, and pooled."""
        return tasks_table([*((str(index), scores) for index, scores in self.folds), ("pooled", self.pooled)])


def rates_sentence(scores: TaskScores) -> str:
    """The rates in one line."""
    told = []
    if scores.gender_accuracy is not None:
        told.append(f"gender accuracy {100 * scores.gender_accuracy:.1f} % of {count_of(scores.gender_clips, 'clip')}")
    if scores.word_error_rate is not None:
        told.append(f"word error rate {100 * scores.word_error_rate:.1f} % of {count_of(scores.words, 'word')}")
    return ", ".join(told) or "no label of another task to score"


def tasks_table(scores: Sequence[tuple[str, TaskScores]]) -> Table:
    """A row of rates for each name."""
    columns = (Column("fold", "fold", "text"), Column("gender_clips", "clips of known gender", "count"),
               Column("gender_accuracy", "gender accuracy %"), Column("words", "words", "count"),
               Column("word_error_rate", "word error rate %"))  # fmt: skip
    rows = tuple((name, s.gender_clips, s.gender_accuracy, s.words, s.word_error_rate) for name, s in scores)
    return Table("tasks", "Tasks beside emotion", columns, rows)


def evaluate_tasks(run: Run, done: Sequence[int], wa: float) -> RunTaskScores | None:
    """Score the tasks of the folds that are done; None where no task was asked for.

    Args:
        run: where the folds are.
        done: the folds, counted from 1.
        wa: of emotion, over all tested clips.

    Raises:
        RunError: what a fold says of its tasks cannot be read.
    """
    facts = {index: _facts(run, index) for index in done}
    asked = {index: found for index, found in facts.items() if found is not None}
    if not asked:
        return None
    said: dict[int, tuple[TaskPrediction, ...]] = {}
    for index, (learnt, _) in asked.items():
        said[index] = read_task_predictions(run.fold(index).tasks_path) if learnt else ()

    def score_of(folds: Sequence[int]) -> TaskScores:
        gender, characters = (
            [p for index in folds if task in asked[index][0] for p in said[index]] for task in ("gender", "characters")
        )
        return score_tasks(gender, characters)

    return RunTaskScores(
        tuple(task for task in TASKS if any(task in learnt for learnt, _ in asked.values())),
        tuple((index, task, reason) for index, (_, out) in asked.items() for task, reason in out),
        tuple((index, score_of([index])) for index in asked),
        score_of(list(asked)),
        wa,
    )


def _facts(run: Run, index: int) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]] | None:
    """The tasks that a fold learnt, and those left out with the reason; None where none was asked for."""
    found = run.fold(index).facts().get("tasks")
    if found is None:
        return None
    try:
        return tuple(found["learnt"]), tuple((str(task), str(reason)) for task, reason in found["left_out"].items())
    except (KeyError, TypeError, AttributeError) as error:
        path = run.fold(index).done_path
        raise RunError(f"{path} is damaged (tasks: {error!r}); remove it and train that fold again") from None
