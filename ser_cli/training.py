"""Train one fold: set up, learn epoch by epoch, judge each, test the chosen weights once."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ser_cli.checkpoints import hash_weights, save_model
from ser_cli.data.batches import Batch, batch_bounds, training_batches
from ser_cli.data.folds import Fold
from ser_cli.data.mixup import MixPlan, plan_mixtures
from ser_cli.data.store import PreparedCorpus
from ser_cli.history import EpochRecord, write_history
from ser_cli.inference import predict_stored
from ser_cli.learner import Learner, NotFiniteError
from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss, weights_from_measured
from ser_cli.metrics import Scores, confusion_matrix, score
from ser_cli.models.building import build_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.observers import TrainingObserver
from ser_cli.predictions import Prediction, write_predictions
from ser_cli.provenance import provenance_of
from ser_cli.recipe import Recipe
from ser_cli.runs import FoldFolder, Run

_INITIAL_WEIGHTS, _EPOCH, _CALIBRATION = range(3)
"""What a derived seed is for; see `_seed`."""


def train_fold(
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    folder: FoldFolder,
    accelerator: Accelerator,
    observer: TrainingObserver,
) -> None:
    """Train, choose and test the model of one fold and write its folder, the done-marker last.

    Args:
        corpus: where the clips are.
        fold: the sides; the test side is read once, after the epoch is chosen (but for `select = test`).
        recipe: what to train.
        folder: where the results go.
        accelerator: device and precision.
        observer: told what happens.

    Raises:
        SerError: a loss or a gradient is no finite number.
        EncoderError: pre-trained weights cannot be had.
    """
    began = time.perf_counter()
    learner = _set_up(corpus, fold, recipe, accelerator)
    encoder_hash = hash_weights(learner.model.encoder)
    observer.fold_started(fold, recipe.training.epochs)
    observer.weights_chosen(learner.criterion.weights, recipe.losses.weighting == "auto")
    records: list[EpochRecord] = []
    chosen, chosen_weights = 0, learner.tested_weights()
    best = (-math.inf, -math.inf)
    for epoch in range(1, recipe.training.epochs + 1):
        learning_rate = learner.learning_rate
        total, losses, seconds = _train_epoch(learner, corpus, fold, recipe, epoch, observer)
        selection = _judge(learner, corpus, fold, recipe)
        standing = (math.inf, epoch) if selection is None else (selection.ua, selection.wa)
        if standing > best:
            best, chosen, chosen_weights = standing, epoch, learner.tested_weights()
        record = EpochRecord(
            epoch=epoch,
            learning_rate=learning_rate,
            total=total,
            losses=losses,
            selection=selection,
            is_best=chosen == epoch,
            seconds=seconds,
            clips_per_s=len(fold.train) / seconds,
        )
        records.append(record)
        write_history(folder.history_path, records)
        observer.epoch_done(record)
    learner.tested_model.load_state_dict(chosen_weights)
    facts = {"initial_encoder_sha256": encoder_hash, "seconds": round(time.perf_counter() - began, 1)}
    scores = _test(learner, corpus, fold, recipe, folder, chosen, facts)
    observer.fold_done(fold, scores, chosen)


def _test(
    learner: Learner,
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    folder: FoldFolder,
    epoch: int,
    facts: dict[str, Any],
) -> Scores:
    """Test the chosen weights and write model, predictions and, last, the done-marker."""
    tested = learner.tested_model
    predictions = predict_stored(tested, corpus, fold.test, fold.index, recipe.training.batch_size)
    scores = _score(predictions, corpus.labels, fold.lacking)
    provenance = provenance_of(corpus, fold, Run(folder.folder.parent).identity())
    save_model(folder.folder, tested, learner.tested_weights(), corpus.labels, recipe, provenance)
    write_predictions(folder.predictions_path, predictions, corpus.labels)
    folder.finish(
        {
            "fold": fold.index,
            "epoch": epoch,
            "selected_by": recipe.selection.by,
            "loss_weights": learner.criterion.weights.as_dict(),
            "loss_weighting": recipe.losses.weighting,
            "clips": {side: len(ids) for side, ids in fold.sides},
            "parameters": sum(p.numel() for p in learner.model.parameters()),
            "lacking": list(fold.lacking),
            "scores": asdict(scores),
            **facts,
        }
    )
    return scores


def _set_up(corpus: PreparedCorpus, fold: Fold, recipe: Recipe, accelerator: Accelerator) -> Learner:
    torch.manual_seed(_seed(recipe, fold, _INITIAL_WEIGHTS))
    model = build_model(recipe, len(corpus.labels)).to(accelerator.device)
    weights = LossWeights(recipe.losses.kl, recipe.losses.focal, recipe.losses.center, recipe.losses.supcon)
    criterion = _criterion(recipe, weights, len(corpus.labels)).to(accelerator.device)
    if recipe.losses.weighting == "auto":
        measured = _measure_losses(model, criterion, corpus, fold, recipe, accelerator)
        criterion = _criterion(recipe, weights_from_measured(weights, measured), len(corpus.labels))
        criterion = criterion.to(accelerator.device)
    return Learner(
        model,
        criterion,
        accelerator,
        recipe.optimizer,
        steps_per_epoch=len(batch_bounds(len(fold.train), recipe.training.batch_size)),
        epochs=recipe.training.epochs,
        weight_average=recipe.training.weight_average,
    )


def _criterion(recipe: Recipe, weights: LossWeights, num_classes: int) -> MultiLoss:
    return MultiLoss(
        num_classes,
        weights,
        focal_gamma=recipe.losses.focal_gamma,
        temperature=recipe.losses.temperature,
        projection_dim=recipe.losses.projection_dim,
    )


def _train_epoch(
    learner: Learner, corpus: PreparedCorpus, fold: Fold, recipe: Recipe, epoch: int, observer: TrainingObserver
) -> tuple[float, dict[str, float], float]:
    """One pass over the training side: weighted sum and each loss as means over the steps, and seconds."""
    began = time.perf_counter()
    seed = _seed(recipe, fold, _EPOCH, epoch)
    learner.begin_epoch(seed)
    sums: dict[str, float] = dict.fromkeys(("total", *LOSS_NAMES), 0.0)
    steps, steps_per_epoch = 0, len(batch_bounds(len(fold.train), recipe.training.batch_size))
    for batch in _epoch_batches(corpus, fold, recipe, seed):
        try:
            values = learner.learn(batch)
        except NotFiniteError as error:
            raise _numbers_went_wrong(fold, epoch, steps + 1, error) from None
        for name, value in values.items():
            sums[name] += value
        steps += 1
        observer.step_done(steps, steps_per_epoch)
    means = {name: value / steps for name, value in sums.items()}
    total_mean = means.pop("total")
    kept = {name: means[name] for name, weight in learner.criterion.weights.as_dict().items() if weight}
    return total_mean, kept, time.perf_counter() - began


def _numbers_went_wrong(fold: Fold, epoch: int, step: int, error: NotFiniteError) -> NotFiniteError:
    return NotFiniteError(
        f"fold {fold.index}, epoch {epoch}, step {step}: {error}\n"
        f"  lower the learning rate (--set optimizer.learning_rate=…) or look at these clips"
    )


def _epoch_batches(corpus: PreparedCorpus, fold: Fold, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """The training side in a new order, mixed anew."""
    rng = np.random.default_rng(seed)
    ids = [fold.train[position] for position in rng.permutation(len(fold.train))]
    plans: Sequence[MixPlan | None] = [None] * len(ids)
    settings = recipe.mixup
    if settings.method != "none":
        plans = plan_mixtures(
            ids,
            fold.train,
            corpus.length,
            rng,
            method=settings.method,
            share=settings.share,
            snr_range_db=(settings.snr_min_db, settings.snr_max_db),
            max_overlap=settings.max_overlap,
            lam_lambda=settings.lam_lambda,
            mixup_alpha=settings.mixup_alpha,
        )
    return training_batches(corpus, ids, plans, recipe.training.batch_size)


@torch.no_grad()
def _measure_losses(
    model: EmotionClassifier,
    criterion: MultiLoss,
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    accelerator: Accelerator,
) -> list[dict[str, float]]:
    """Each loss on a few training batches, before anything is learnt."""
    model.eval()
    measured = []
    for batch in _epoch_batches(corpus, fold, recipe, _seed(recipe, fold, _CALIBRATION)):
        batch = batch.to(accelerator.device)  # noqa: PLW2901
        with accelerator.autocast():
            output = model(batch.waveforms, batch.lengths)
        measured.append({name: float(value) for name, value in criterion.each(output, batch.targets).items()})
        if len(measured) == recipe.losses.calibration_batches:
            break
    return measured


def _judge(learner: Learner, corpus: PreparedCorpus, fold: Fold, recipe: Recipe) -> Scores | None:
    """Scores on the side that chooses the epoch."""
    ids = {"validation": fold.validation, "test": fold.test, "last": ()}[recipe.selection.by]
    if not ids:
        return None
    predictions = predict_stored(learner.tested_model, corpus, ids, fold.index, recipe.training.batch_size)
    return _score(predictions, corpus.labels, fold.lacking if recipe.selection.by == "test" else ())


def _score(predictions: Sequence[Prediction], labels: Sequence[str], lacking: Sequence[str]) -> Scores:
    confusion = confusion_matrix([p.truth for p in predictions], [p.predicted for p in predictions], labels)
    return score(confusion, labels, lacking)


def _seed(recipe: Recipe, fold: Fold, purpose: int, epoch: int = 0) -> int:
    """A seed of its own for each fold, purpose and epoch, so that nothing depends on what ran before."""
    return int(np.random.SeedSequence([recipe.seed, fold.index, purpose, epoch]).generate_state(1)[0])
