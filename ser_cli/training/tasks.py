"""The tasks beside emotion in one fold: which are learnt, and what the tested model says of its clips."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ser_cli.data.batch_plans import is_cut
from ser_cli.data.folds import Fold
from ser_cli.data.manifest import is_mixture
from ser_cli.data.store import PreparedCorpus
from ser_cli.encoder_settings import BUILT_IN_ENCODER
from ser_cli.errors import count_of
from ser_cli.inference import predict_tasks
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.processes import gathered, number_of_processes, rank
from ser_cli.recipe import Recipe
from ser_cli.recipe_settings import TrainingSettings
from ser_cli.tasks.outputs import ChosenOutputs, TaskOutputs, choose_outputs, texts_too_long
from ser_cli.tasks.predictions import TaskPrediction
from ser_cli.tasks.transcripts import encode


@dataclass(frozen=True)
class FoldTasks:
    """The tasks beside emotion of one fold."""

    chosen: ChosenOutputs
    texts_too_long: int
    """Training clips, not cut, of which the encoder makes fewer frames than CTC needs for their text."""
    texts_cut: int
    """Training clips with a text that are longer than `training.max_clip_s`."""
    mixtures: int
    """Training clips that `ser mix` made: they teach emotion alone."""
    changing: tuple[str, ...] = ()
    """Settings with which the built-in encoder makes a training clip sound like another speaker."""

    @property
    def outputs(self) -> TaskOutputs:
        """What the outputs of the tasks that are learnt mean."""
        return self.chosen.outputs

    def sentences(self) -> list[str]:
        """What a person has to know."""
        found = self.chosen.sentences()
        if self.mixtures and self.outputs.learnt:
            found.append(
                f"tasks {', '.join(self.outputs.learnt)}: {count_of(self.mixtures, 'mixture')} of two clips do not"
                " count for them"
            )
        if self.changing and (voices := [task for task in ("gender", "speaker") if self.outputs.number(task)]):
            found.append(
                f"tasks {' and '.join(voices)}: training clips are given other voices, of which these labels say less"
                f" ({', '.join(self.changing)}); set to 0, they are heard as they are"
            )
        if not self.outputs.characters:
            return found
        if self.texts_cut:
            found.append(
                f"task characters: {count_of(self.texts_cut, 'training clip')} that training.max_clip_s cuts do not"
                " count for it"
            )
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
            "texts_cut": self.texts_cut,
            "mixtures": self.mixtures,
        }


def choose_for_fold(corpus: PreparedCorpus, fold: Fold, recipe: Recipe) -> ChosenOutputs:
    """What the tasks' outputs mean, from the training side alone, as far as is known before there is an encoder."""
    clips = [corpus.by_id[identity] for identity in fold.train]
    return choose_outputs(recipe.tasks.wanted, clips, _cut(corpus, fold, recipe))


def tasks_of_fold(encoder: nn.Module, corpus: PreparedCorpus, fold: Fold, recipe: Recipe) -> FoldTasks:
    """What is learnt beside emotion, and what of it is not to be had.

    Args:
        encoder: tells how many frames a clip has.
        corpus: where the clips are stored.
        fold: whose training side is learnt.
        recipe: tells the tasks, and which clips are cut.
    """
    chosen = choose_for_fold(corpus, fold, recipe)
    clips = [corpus.by_id[identity] for identity in fold.train]
    recordings = [clip for clip in clips if not is_mixture(clip)]
    mixtures = len(clips) - len(recordings) if recipe.tasks.wanted else 0
    changing = _changing_voices(recipe)
    if not chosen.outputs.characters:
        return FoldTasks(chosen, 0, 0, mixtures, changing)
    cut = _cut(corpus, fold, recipe)
    told = [clip for clip in recordings if clip.id not in cut and encode(clip.text, chosen.outputs.characters)]
    frames = encoder.frames_of(torch.tensor([corpus.length(clip.id) for clip in told]))  # type: ignore[operator]
    too_long = texts_too_long(chosen.outputs, told, frames.tolist())
    if too_long == len(told):
        chosen = chosen.without("characters", "every training clip with a text has more characters than frames")
    texts_cut = sum(bool(clip.text) and clip.id in cut for clip in recordings)
    return FoldTasks(chosen, too_long, texts_cut, mixtures, changing)


def _changing_voices(recipe: Recipe) -> tuple[str, ...]:
    if recipe.encoder.name != BUILT_IN_ENCODER:
        return ()
    settings = {name: getattr(recipe.conformer, name) for name in ("max_frequency_warp", "mixstyle_share")}
    return tuple(f"conformer.{name} = {value:g}" for name, value in settings.items() if value)


def _cut(corpus: PreparedCorpus, fold: Fold, recipe: Recipe) -> set[str]:
    """The training clips of which no batch holds all."""
    longest = recipe.training.max_clip_s
    return {identity for identity in fold.train if is_cut(corpus.length(identity), longest)}


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
