"""The tasks beside emotion in one fold: which are learnt, and what the tested model says of its clips."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ser_cli.data.folds import Fold
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import count_of
from ser_cli.inference import predict_tasks
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.processes import gathered, number_of_processes, rank
from ser_cli.recipe_settings import TrainingSettings
from ser_cli.tasks.outputs import ChosenOutputs, TaskOutputs, choose_outputs, texts_too_long
from ser_cli.tasks.predictions import TaskPrediction
from ser_cli.tasks.settings import TaskSettings


@dataclass(frozen=True)
class FoldTasks:
    """The tasks beside emotion of one fold."""

    chosen: ChosenOutputs
    texts_too_long: int
    """Training clips of which the encoder makes fewer frames than CTC needs for their text."""

    @property
    def outputs(self) -> TaskOutputs:
        """What the outputs of the tasks that are learnt mean."""
        return self.chosen.outputs

    def sentences(self) -> list[str]:
        """What a person has to know."""
        found = self.chosen.sentences()
        if self.texts_too_long:
            found.append(
                f"task characters: {count_of(self.texts_too_long, 'training clip')} with more characters than frames do"
                " not count for it"
            )
        return found

    def facts(self) -> dict[str, object]:
        """What `done.json` holds."""
        return {
            "learnt": {task: self.outputs.number(task) for task in self.outputs.learnt},
            "left_out": self.chosen.left_out,
            "texts_too_long": self.texts_too_long,
        }


def choose_for_fold(corpus: PreparedCorpus, fold: Fold, settings: TaskSettings) -> ChosenOutputs:
    """What the tasks' outputs mean, from the training side alone."""
    return choose_outputs(settings.wanted, [corpus.by_id[identity] for identity in fold.train])


def tasks_of_fold(model: EmotionClassifier, corpus: PreparedCorpus, fold: Fold, settings: TaskSettings) -> FoldTasks:
    """What is learnt beside emotion, and what of it is not to be had; the model tells how many frames a clip has."""
    chosen = choose_for_fold(corpus, fold, settings)
    if not chosen.outputs.characters:
        return FoldTasks(chosen, 0)
    lengths = torch.tensor([corpus.length(identity) for identity in fold.train])
    frames = model.encoder.frames_of(lengths).tolist()  # type: ignore[operator]
    return FoldTasks(chosen, texts_too_long(chosen.outputs, [corpus.by_id[i] for i in fold.train], frames))


def predict_fold_tasks(
    model: EmotionClassifier,
    corpus: PreparedCorpus,
    fold: Fold,
    outputs: TaskOutputs,
    settings: TrainingSettings,
    progress: Callable[[], None],
) -> tuple[TaskPrediction, ...]:
    """What a model says of a fold's tested clips beside their emotion; several processes share the clips.

    Args:
        model: the tested one, the same in each process.
        corpus: where the clips are stored.
        fold: whose test side is heard.
        outputs: what the outputs of the tasks mean; nothing is heard where there are none.
        settings: how long clips and batches may be.
        progress: called after each batch.
    """
    if not outputs.learnt:
        return ()
    mine = predict_tasks(
        model,
        corpus,
        fold.test[rank() :: number_of_processes()],
        outputs,
        settings.batch_size,
        max_clip_s=settings.max_clip_s,
        max_batch_s=settings.max_batch_s,
        progress=progress,
    )
    by_id = {prediction.id: prediction for part in gathered(mine) for prediction in part}
    return tuple(by_id[identity] for identity in fold.test)
