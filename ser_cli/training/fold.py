"""Train one fold: set up, learn epoch by epoch, judge each, test the chosen weights once."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice

from accelerate import Accelerator
from torch import Tensor

from ser_cli.checkpoints import hash_weights, save_model
from ser_cli.data.batch_plans import share_of_process
from ser_cli.data.batches import Batch, BatchLoader
from ser_cli.data.folds import Fold, validates_on_heard
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import RunError, SerError, Stopped
from ser_cli.inference import predict_stored
from ser_cli.losses import LossWeights
from ser_cli.metrics import Scores, confusion_matrix, cross_entropy, score
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.processes import by_first, gathered, largest, number_of_processes, rank, shared_from_first
from ser_cli.provenance import provenance_of
from ser_cli.recipe import Recipe
from ser_cli.runs.directory import FoldFolder, Run
from ser_cli.runs.initial_weights import FACT
from ser_cli.runs.predictions import Prediction, write_predictions
from ser_cli.tasks.predictions import TaskPrediction, write_task_predictions
from ser_cli.training.checkpoint_times import CheckpointClock
from ser_cli.training.compatibility import Resuming, losses_changed, require_same
from ser_cli.training.device_memory import advising_when_memory_is_full
from ser_cli.training.disk_space import require_space
from ser_cli.training.epoch_choice import is_out_of_patience, standing_of
from ser_cli.training.history import EpochRecord, write_history
from ser_cli.training.initial_weights import hash_pretrained, require_same_weights
from ser_cli.training.learner import NotFiniteError
from ser_cli.training.observers import TrainingObserver
from ser_cli.training.resumption import KEPT, Checkpoint, CheckpointFolder, Progress, differences
from ser_cli.training.setup import EPOCH, derive_seed, plan_training_epoch, set_up_learner
from ser_cli.training.tasks import predict_fold_tasks, tasks_of_fold


def train_fold(
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    folder: FoldFolder,
    accelerator: Accelerator,
    observer: TrainingObserver,
    resuming: Resuming,
) -> None:
    """Train, choose and test the model of one fold and write its folder, the done-marker last.

    A fold that was stopped goes on at its last whole checkpoint, and ends as if it had never been: on a CPU with
    the same bits.

    Args:
        corpus: where the clips are.
        fold: the sides; the test side is read once, after the epoch is chosen (but for `select = test`).
        recipe: what to train.
        folder: where the results go; held against other processes by the caller.
        accelerator: device and precision.
        observer: told what happens; its `raise_if_stopped` is called where it is safe to leave.
        resuming: how often a checkpoint is written, and which one may be gone on from.

    Raises:
        SerError: a loss or a gradient is no finite number, or a checkpoint cannot be written. The last one is whole.
        RunError: the checkpoint that is there was made with another recipe, corpus or version, or the pre-trained
            weights are not those of the folds that are done.
        EncoderError: pre-trained weights cannot be had.
        Stopped: a signal came; a checkpoint was written.
    """
    if signal := largest([observer.signal_that_came()], accelerator.device)[0]:
        raise Stopped(signal)
    checkpoints = CheckpointFolder(folder.checkpoints_path)
    by_first(folder.delete_unfinished)
    left = checkpoints.newest(observer.checkpoint_damaged)
    if left is not None:
        require_same(left, resuming, folder, observer)
    training = _FoldTraining(corpus, fold, recipe, folder, accelerator, observer, checkpoints, resuming)
    with advising_when_memory_is_full(accelerator.device, recipe):
        training.begin(left)
        try:
            training.learn_all()
            training.test()
        except (Stopped, NotFiniteError):  # of which all processes are told
            training.save_if_newer()
            raise
        except (SerError, RuntimeError):  # a full memory, a corpus that went away: what was learnt until then stays
            if number_of_processes() == 1 and training.learner.is_between_steps:
                with suppress(SerError, OSError):  # such as a full disk, which may be what happened
                    training.save_if_newer()
            raise
    by_first(checkpoints.clear)


class _FoldTraining:
    """One fold on its way: where the loop stands, and what it works on."""

    def __init__(
        self,
        corpus: PreparedCorpus,
        fold: Fold,
        recipe: Recipe,
        folder: FoldFolder,
        accelerator: Accelerator,
        observer: TrainingObserver,
        checkpoints: CheckpointFolder,
        resuming: Resuming,
    ) -> None:
        self.corpus, self.fold, self.recipe, self.folder = corpus, fold, recipe, folder
        self.accelerator, self.observer = accelerator, observer
        self.checkpoints, self.resuming = checkpoints, resuming
        self.progress = Progress()
        self.chosen_weights: dict[str, Tensor] = {}
        self.changes: tuple[str, ...] = ()
        self.saved_steps = -1
        self.began = time.perf_counter()

    def begin(self, left: Checkpoint | None) -> None:
        """Build the learner; where a checkpoint was left, go on from it."""
        weights = None
        if left is not None and not losses_changed(left, self.resuming):
            weights = LossWeights(**left.learner.facts["loss_weights"])  # measured at the start, by random weights
        self.learner = set_up_learner(self.corpus, self.fold, self.recipe, self.accelerator, weights)
        self.encoder_hash = hash_weights(self.learner.model.encoder)
        text = self.learner.model.text
        self.text_encoder_hash = hash_weights(text) if text is not None else None
        self.pretrained = hash_pretrained(self.learner.model, self.recipe)
        if left is None and not self.resuming.anyway:
            require_same_weights(self.folder, self.fold.index, self.pretrained)
        self.observer.fold_started(self.fold, self.recipe.training.epochs)
        self.tasks = tasks_of_fold(self.learner.model.encoder, self.corpus, self.fold, self.recipe)
        self.observer.tasks_chosen(self.tasks.sentences())
        self.observer.weights_chosen(self.learner.criterion.weights, self.recipe.losses.weighting == "auto")
        if left is not None:
            self._restore(left)
        chosen = sum(value.nbytes for value in self.learner.tested_model.state_dict().values())
        size = self.learner.bytes_of_state() + chosen
        by_first(lambda: require_space(self.folder.folder, size, KEPT + 1, already=self.checkpoints.bytes_on_disk()))
        self.clock = CheckpointClock(self.resuming.interval, size)

    def _restore(self, left: Checkpoint) -> None:
        try:
            self.learner.restore(left.learner)
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunError(
                f"{self.folder.folder}: its checkpoint is of another model ({str(error).splitlines()[0]})\n"
                f"  have the fold trained from its start: delete {self.folder.checkpoints_path}"
            ) from error
        self.progress = replace(left.progress, stops=left.progress.stops + 1)
        self.chosen_weights = left.chosen_weights
        self.saved_steps = left.progress.steps_done
        self.pretrained = left.learner.facts.get(FACT, self.pretrained)
        self.changes = left.changes + tuple(differences(left.made_with, self.resuming.made_with).values())
        self.observer.fold_resumed(self.fold, self.progress.epoch, self.progress.step)

    def learn_all(self) -> None:
        """Learn and judge every epoch that is left."""
        while self.progress.epoch <= self.recipe.training.epochs and not is_out_of_patience(
            self.progress.records, self.recipe.selection.patience
        ):
            self._learn_epoch()
            self._close_epoch(self._judge())

    def _learn_epoch(self) -> None:
        """The steps that are left of the running epoch."""
        epoch, first = self.progress.epoch, self.progress.step
        settings = self.recipe.training
        seed = derive_seed(self.recipe, self.fold, EPOCH, epoch)
        plan = plan_training_epoch(self.corpus, self.fold, self.recipe, seed)
        plan = share_of_process(plan, rank(), number_of_processes(), neighbours=self.recipe.learns_by_speaker)
        steps = math.ceil(len(plan) / settings.accumulate)
        if first == 0:
            self.learner.begin_epoch(seed)
            rate = self.learner.learning_rate_at(epoch - 1)
            self.progress = replace(
                self.progress, learning_rate=rate, sums={}, summed_from=0, seconds=0.0, waited_s=0.0
            )
        self.learner.model.train()
        on_gpu = self.accelerator.device.type == "cuda"
        loader = BatchLoader(self.corpus, plan[first * settings.accumulate :], pin_memory=on_gpu)
        waited_before = self.progress.waited_s
        before = time.perf_counter()
        for batches in _batched(loader, settings.accumulate):
            step = self.progress.step + 1
            try:
                values = self.learner.learn(batches, ((epoch - 1) * steps + step - 1) / steps)
            except NotFiniteError as error:
                raise _numbers_went_wrong(self.fold, epoch, step, error) from None
            now = time.perf_counter()
            self.progress = replace(
                self.progress.after_step(values),
                seconds=self.progress.seconds + now - before,
                waited_s=waited_before + loader.waited_s,
            )
            self.observer.step_done(step, steps)
            self._save_or_stop()
            before = time.perf_counter()  # saving is no training

    def _save_or_stop(self) -> None:
        """After a step: write a checkpoint if one is due, leave if a signal came; all processes together.

        Raises:
            Stopped: a signal came, here or to another process.
        """
        signal, due = largest([self.observer.signal_that_came(), int(self.clock.is_due())], self.accelerator.device)
        if due:
            self._save()
        if signal:
            raise Stopped(signal)

    def _judge(self) -> tuple[Scores, float] | None:
        """Scores and cross-entropy on the side that chooses the epoch."""
        by = self.recipe.selection.by
        ids = {"validation": self.fold.validation, "test": self.fold.test, "last": ()}[by]
        if not ids:
            return None
        predictions = self._predict(ids)
        truth, probabilities = [p.truth for p in predictions], [p.probabilities for p in predictions]
        nats = cross_entropy(truth, probabilities, self.corpus.labels)
        return self._score(predictions, self.fold.lacking if by == "test" else ()), nats

    def _close_epoch(self, judged: tuple[Scores, float] | None) -> None:
        """Record the epoch, keep its weights if it is the best, and stand at the start of the next."""
        done = self.progress
        means = done.mean_losses()
        selection, nats = judged or (None, None)
        standing = standing_of(done.epoch, selection, nats)
        is_best = standing > done.best
        if is_best:
            self.chosen_weights = self.learner.tested_weights()
        record = EpochRecord(
            epoch=done.epoch,
            learning_rate=done.learning_rate,
            total=means.pop("total"),
            losses=means,
            selection=selection,
            is_best=is_best,
            seconds=done.seconds,
            waiting_share=done.waited_s / done.seconds,
            clips_per_s=len(self.fold.train) / done.seconds,
            selection_cross_entropy=nats,
        )
        self.progress = replace(
            done,
            epoch=done.epoch + 1,
            step=0,
            records=(*done.records, record),
            best=max(standing, done.best),
            chosen=done.epoch if is_best else done.chosen,
        )
        by_first(lambda: write_history(self.folder.history_path, self.progress.records))
        self.observer.epoch_done(record)

    def test(self) -> None:
        """Test the chosen weights and write model, predictions and, last, the done-marker."""
        tested = self.learner.tested_model
        learnt = self.learner.tested_weights()
        tested.load_state_dict(self.chosen_weights)
        try:
            predictions = self._predict(self.fold.test)
            of_tasks = self._predict_tasks(tested)
        except Stopped:
            tested.load_state_dict(learnt)  # a checkpoint is to hold what was learnt last, should more be learnt
            raise
        scores = self._score(predictions, self.fold.lacking)
        by_first(lambda: self._write(predictions, scores, of_tasks))
        self.observer.fold_done(self.fold, scores, self.progress.chosen)

    def _write(self, predictions: Sequence[Prediction], scores: Scores, of_tasks: Sequence[TaskPrediction]) -> None:
        tested, labels = self.learner.tested_model, self.corpus.labels
        provenance = provenance_of(self.corpus, self.fold, Run(self.folder.folder.parent).identity())
        for stale in (self.folder.embeddings_path, self.folder.tasks_path):  # of weights that are replaced
            stale.unlink(missing_ok=True)
        save_model(self.folder.folder, tested, self.chosen_weights, labels, self.recipe, provenance)
        write_predictions(self.folder.predictions_path, predictions, labels)
        if of_tasks:
            write_task_predictions(self.folder.tasks_path, of_tasks)
        seconds = self.progress.seconds_before + time.perf_counter() - self.began
        self.folder.finish(
            {
                "fold": self.fold.index,
                "epoch": self.progress.chosen,
                "selected_by": self._selected_by(),
                "normalized_by": self.recipe.normalization.by,
                "loss_weights": self.learner.criterion.weights.as_dict(),
                "loss_weighting": self.recipe.losses.weighting,
                "clips": {side: len(ids) for side, ids in self.fold.sides},
                "parameters": sum(p.numel() for p in self.learner.model.parameters()),
                "lacking": list(self.fold.lacking),
                "scores": asdict(scores),
                **({"tasks": self.tasks.facts()} if self.recipe.tasks.wanted else {}),
                "initial_encoder_sha256": self.encoder_hash,
                **({"initial_text_encoder_sha256": self.text_encoder_hash} if self.text_encoder_hash else {}),
                **({FACT: self.pretrained} if self.pretrained else {}),
                "processes": number_of_processes(),
                "stops": self.progress.stops,
                "changes": list(self.changes),
                "seconds": round(seconds, 1),
            }
        )

    def _selected_by(self) -> str:
        by = self.recipe.selection.by
        return "validation_clips" if by == "validation" and validates_on_heard(self.fold, self.corpus) else by

    def _predict(self, ids: Sequence[str]) -> tuple[Prediction, ...]:
        """Predictions in the order of `ids`; several processes share the clips."""
        settings, model = self.recipe.training, self.learner.tested_model
        for buffer in model.buffers():  # of batch normalisation: each process has seen its own clips
            shared_from_first(buffer)
        alone = number_of_processes() == 1
        mine = predict_stored(
            model,
            self.corpus,
            ids[rank() :: number_of_processes()],
            self.fold.index,
            settings.batch_size,
            max_clip_s=settings.max_clip_s,
            max_batch_s=settings.max_batch_s,
            # Among several, one that leaves here would have the others wait for it.
            progress=lambda done: self.observer.raise_if_stopped() if alone else None,
        )
        by_id = {prediction.id: prediction for part in gathered(mine) for prediction in part}
        return tuple(by_id[identity] for identity in ids)

    def _predict_tasks(self, tested: EmotionClassifier) -> tuple[TaskPrediction, ...]:
        """What is said of the tested clips beside their emotion; nothing where no more was learnt."""
        alone = number_of_processes() == 1
        leave = self.observer.raise_if_stopped if alone else lambda: None
        return predict_fold_tasks(tested, self.corpus, self.fold, self.tasks.outputs, self.recipe.training, leave)

    def _score(self, predictions: Sequence[Prediction], lacking: Sequence[str]) -> Scores:
        labels = self.corpus.labels
        truth, predicted = [p.truth for p in predictions], [p.predicted for p in predictions]
        return score(confusion_matrix(truth, predicted, labels), labels, lacking)

    def save_if_newer(self) -> None:
        """Write a checkpoint unless the last one stands where the loop does, or nothing was learnt yet."""
        if self.progress.steps_done > max(self.saved_steps, 0):
            self._save()

    def _save(self) -> None:
        began = time.perf_counter()
        self.saved_steps = self.progress.steps_done  # also where it fails: on its way out nobody tries it again
        checkpoint = self._checkpoint()
        by_first(lambda: self.checkpoints.save(checkpoint))
        self.clock.saved(time.perf_counter() - began)

    def _checkpoint(self) -> Checkpoint:
        spent = self.progress.seconds_before + time.perf_counter() - self.began
        learner = self.learner.state()
        learner.facts.update({"loss_weights": self.learner.criterion.weights.as_dict(), FACT: self.pretrained})
        progress = replace(self.progress, seconds_before=spent)
        return Checkpoint(progress, learner, self.chosen_weights, self.resuming.made_with, self.changes)


def _numbers_went_wrong(fold: Fold, epoch: int, step: int, error: NotFiniteError) -> NotFiniteError:
    return NotFiniteError(
        f"fold {fold.index}, epoch {epoch}, step {step}: {error}\n"
        f"  the weights of the step before are kept; look at these clips, or lower the learning rate: --set"
        f" optimizer.learning_rate=… with --resume-anyway to go on, or with --force to begin anew"
    )


def _batched(items: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
