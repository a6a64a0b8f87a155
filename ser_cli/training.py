"""Train one fold: setup, the loop in the order of events, the chosen weights tested once."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ser_cli.checkpoints import hash_weights, save_model
from ser_cli.data.batches import Batch, batch_bounds, training_batches
from ser_cli.data.folds import Fold
from ser_cli.data.mixup import MixPlan, plan_mixtures
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import SerError
from ser_cli.files import write_atomically
from ser_cli.inference import predict_stored
from ser_cli.losses import LOSS_NAMES, LossWeights, MultiLoss, weights_from_measured
from ser_cli.metrics import Scores, confusion_matrix, score
from ser_cli.models.building import build_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.predictions import Prediction, write_predictions
from ser_cli.provenance import provenance_of
from ser_cli.recipe import OptimizerSettings, Recipe
from ser_cli.runs import FoldFolder, Run

_INITIAL_WEIGHTS, _EPOCH, _CALIBRATION = range(3)
"""What a derived seed is for; see `_seed`."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """Of the model, at the epoch's first step."""
    total: float
    """Weighted sum of the losses, mean over the steps."""
    losses: dict[str, float]
    """Each loss, unweighted, mean over the steps."""
    selection: Scores | None
    """On the side that chooses the epoch; None where the last one is taken."""
    is_best: bool
    """Whether this is the epoch to be tested, so far."""
    seconds: float
    """Training alone."""
    clips_per_s: float


class TrainingObserver(Protocol):
    """Told what happens while folds train; decides what a person sees of it."""

    def run_opened(self, finished: Sequence[int]) -> None:
        """The run folder is open; some of the wanted folds may be done already."""

    def fold_taken(self, index: int) -> None:
        """A fold is being trained by another process and is left to it."""

    def fold_started(self, fold: Fold, epochs: int) -> None:
        """A fold begins."""

    def weights_chosen(self, weights: LossWeights, measured: bool) -> None:
        """The weights of the losses are known."""

    def step_done(self, step: int, steps: int) -> None:
        """One batch was learnt."""

    def epoch_done(self, record: EpochRecord) -> None:
        """One epoch was learnt and judged."""

    def fold_done(self, fold: Fold, scores: Scores, epoch: int) -> None:
        """The chosen epoch was tested."""

    def embedding(self, fold: Fold, done: int, total: int) -> None:
        """So many of the fold's clips have their embeddings; 0 as it begins."""


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
        SerError: a loss is no finite number.
        EncoderError: pre-trained weights cannot be had.
    """
    began = time.perf_counter()
    setup = _set_up(corpus, fold, recipe, accelerator)
    encoder_hash = hash_weights(setup.model.encoder)
    observer.fold_started(fold, recipe.training.epochs)
    observer.weights_chosen(setup.criterion.weights, recipe.losses.weighting == "auto")
    records: list[EpochRecord] = []
    chosen, chosen_weights = 0, setup.tested_weights()
    best = (-math.inf, -math.inf)
    for epoch in range(1, recipe.training.epochs + 1):
        learning_rate = float(setup.schedule.get_last_lr()[0])
        total, losses, seconds = _train_epoch(setup, corpus, fold, recipe, epoch, observer)
        selection = _judge(setup, corpus, fold, recipe)
        standing = (math.inf, epoch) if selection is None else (selection.ua, selection.wa)
        if standing > best:
            best, chosen, chosen_weights = standing, epoch, setup.tested_weights()
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
        _write_history(folder, records)
        observer.epoch_done(record)
    setup.tested_model.load_state_dict(chosen_weights)
    facts = {"initial_encoder_sha256": encoder_hash, "seconds": round(time.perf_counter() - began, 1)}
    scores = _test(setup, corpus, fold, recipe, folder, chosen, facts)
    observer.fold_done(fold, scores, chosen)


def _test(
    setup: "_Setup",
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    folder: FoldFolder,
    epoch: int,
    facts: dict[str, Any],
) -> Scores:
    """Test the chosen weights and write model, predictions and, last, the done-marker."""
    tested = setup.tested_model
    predictions = predict_stored(tested, corpus, fold.test, fold.index, recipe.training.batch_size)
    scores = _score(predictions, corpus.labels, fold.lacking)
    provenance = provenance_of(corpus, fold, Run(folder.folder.parent).identity())
    save_model(folder.folder, tested, setup.tested_weights(), corpus.labels, recipe, provenance)
    write_predictions(folder.predictions_path, predictions, corpus.labels)
    folder.finish(
        {
            "fold": fold.index,
            "epoch": epoch,
            "selected_by": recipe.selection.by,
            "loss_weights": setup.criterion.weights.as_dict(),
            "loss_weighting": recipe.losses.weighting,
            "clips": {side: len(ids) for side, ids in fold.sides},
            "parameters": sum(p.numel() for p in setup.model.parameters()),
            "lacking": list(fold.lacking),
            "scores": asdict(scores),
            **facts,
        }
    )
    return scores


@dataclass(frozen=True)
class _Setup:
    """The moving parts of one fold."""

    model: EmotionClassifier
    average: AveragedModel | None
    criterion: MultiLoss
    optimizer: Any
    schedule: LambdaLR
    accelerator: Accelerator
    steps_per_epoch: int

    @property
    def tested_model(self) -> EmotionClassifier:
        """The model whose predictions count: the average of the weights where the recipe keeps one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, EmotionClassifier)
        return model

    def tested_weights(self) -> dict[str, Tensor]:
        """A copy of the weights of `tested_model`, off the device."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.tested_model.state_dict().items()}


def _set_up(corpus: PreparedCorpus, fold: Fold, recipe: Recipe, accelerator: Accelerator) -> _Setup:
    torch.manual_seed(_seed(recipe, fold, _INITIAL_WEIGHTS))
    model = build_model(recipe, len(corpus.labels)).to(accelerator.device)
    weights = LossWeights(recipe.losses.kl, recipe.losses.focal, recipe.losses.center, recipe.losses.supcon)
    criterion = _criterion(recipe, weights, len(corpus.labels)).to(accelerator.device)
    if recipe.losses.weighting == "auto":
        measured = _measure_losses(model, criterion, corpus, fold, recipe, accelerator)
        criterion = _criterion(recipe, weights_from_measured(weights, measured), len(corpus.labels))
        criterion = criterion.to(accelerator.device)
    steps = len(batch_bounds(len(fold.train), recipe.training.batch_size))
    optimizer = torch.optim.AdamW(_parameter_groups(model, criterion, recipe.optimizer))
    schedule = LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step / steps, recipe.training.epochs, recipe.optimizer),
    )
    average = None
    if recipe.training.weight_average:
        average = AveragedModel(
            model, multi_avg_fn=_exponential_average(recipe.training.weight_average), use_buffers=True
        )
    return _Setup(model, average, criterion, accelerator.prepare(optimizer), schedule, accelerator, steps)


def _criterion(recipe: Recipe, weights: LossWeights, num_classes: int) -> MultiLoss:
    return MultiLoss(
        num_classes,
        weights,
        focal_gamma=recipe.losses.focal_gamma,
        temperature=recipe.losses.temperature,
        projection_dim=recipe.losses.projection_dim,
    )


def _parameter_groups(
    model: EmotionClassifier, criterion: MultiLoss, settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """The model's matrices, the rest of the model, and the centers with a learning rate of their own."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [p for p in trained if p.ndim > 1],
            "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "lr": settings.learning_rate, "weight_decay": 0.0},
        {"params": list(criterion.parameters()), "lr": settings.center_learning_rate, "weight_decay": 0.0},
    ]


def _exponential_average(decay: float) -> Callable[..., None]:
    """The update of averaged weights: short memory at first, so that random initial weights are soon forgotten."""

    def update(averaged: list[Tensor], current: Sequence[Tensor], updates: Tensor) -> None:
        steps = float(updates)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, updates)

    return update


def learning_rate_factor(epochs_done: float, epochs: int, settings: OptimizerSettings) -> float:
    """What both learning rates are multiplied with, after so many epochs (with fractions)."""
    if settings.schedule == "exponential":
        return settings.decay ** min(math.floor(epochs_done + 1e-9), settings.decay_epochs)
    if epochs_done < settings.warmup_epochs:
        return max(epochs_done, 0.01) / settings.warmup_epochs
    remaining = (epochs - epochs_done) / max(epochs - settings.warmup_epochs, 1e-9)
    return 0.5 * (1 - math.cos(math.pi * min(max(remaining, 0.0), 1.0)))


def _train_epoch(
    setup: _Setup, corpus: PreparedCorpus, fold: Fold, recipe: Recipe, epoch: int, observer: TrainingObserver
) -> tuple[float, dict[str, float], float]:
    """One pass over the training side: weighted sum and each loss as means over the steps, and seconds."""
    began = time.perf_counter()
    seed = _seed(recipe, fold, _EPOCH, epoch)
    torch.manual_seed(seed)  # dropout
    augmentation = torch.Generator().manual_seed(seed)
    setup.model.train()
    sums: dict[str, float] = dict.fromkeys(("total", *LOSS_NAMES), 0.0)
    steps = 0
    for batch in _epoch_batches(corpus, fold, recipe, seed):
        batch = batch.to(setup.accelerator.device)  # noqa: PLW2901
        setup.optimizer.zero_grad()
        with setup.accelerator.autocast():
            output = setup.model(batch.waveforms, batch.lengths, augmentation)
        losses = setup.criterion.each(output, batch.targets)
        total = setup.criterion.total(losses)
        values = {name: float(value.detach()) for name, value in {"total": total, **losses}.items()}
        _require_finite(values, fold, epoch, steps + 1, batch)
        setup.accelerator.backward(total)
        if recipe.optimizer.gradient_clip:
            setup.accelerator.clip_grad_norm_(setup.model.parameters(), recipe.optimizer.gradient_clip)
        setup.optimizer.step()
        setup.schedule.step()
        if setup.average is not None:
            setup.average.update_parameters(setup.model)
        for name, value in values.items():
            sums[name] += value
        steps += 1
        observer.step_done(steps, setup.steps_per_epoch)
    means = {name: value / steps for name, value in sums.items()}
    total_mean = means.pop("total")
    kept = {name: means[name] for name, weight in setup.criterion.weights.as_dict().items() if weight}
    return total_mean, kept, time.perf_counter() - began


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


def _judge(setup: _Setup, corpus: PreparedCorpus, fold: Fold, recipe: Recipe) -> Scores | None:
    """Scores on the side that chooses the epoch."""
    ids = {"validation": fold.validation, "test": fold.test, "last": ()}[recipe.selection.by]
    if not ids:
        return None
    predictions = predict_stored(setup.tested_model, corpus, ids, fold.index, recipe.training.batch_size)
    return _score(predictions, corpus.labels, fold.lacking if recipe.selection.by == "test" else ())


def _score(predictions: Sequence[Prediction], labels: Sequence[str], lacking: Sequence[str]) -> Scores:
    confusion = confusion_matrix([p.truth for p in predictions], [p.predicted for p in predictions], labels)
    return score(confusion, labels, lacking)


def _require_finite(values: dict[str, float], fold: Fold, epoch: int, step: int, batch: Batch) -> None:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        name = next((name for name in broken if name != "total"), "total")
        raise SerError(
            f"fold {fold.index}, epoch {epoch}, step {step}: the loss {name} is {values[name]}\n"
            f"  clips of the batch: {', '.join(batch.ids)}\n"
            f"  lower the learning rate (--set optimizer.learning_rate=…) or look at these clips"
        )


def _write_history(folder: FoldFolder, records: Sequence[EpochRecord]) -> None:
    text = io.StringIO()
    rows = [_history_row(record) for record in records]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder.history_path, text.getvalue().encode())


def _history_row(record: EpochRecord) -> dict[str, object]:
    judged = asdict(record.selection) if record.selection else {}
    return {
        "epoch": record.epoch,
        "learning_rate": f"{record.learning_rate:.6g}",
        "total": f"{record.total:.6f}",
        **{name: f"{value:.6f}" for name, value in record.losses.items()},
        **{f"selection_{rate}": f"{judged[rate]:.6f}" if judged else "" for rate in ("wa", "ua", "macro_f1")},
        "is_best": int(record.is_best),
        "seconds": f"{record.seconds:.2f}",
        "clips_per_s": f"{record.clips_per_s:.1f}",
    }


def _seed(recipe: Recipe, fold: Fold, purpose: int, epoch: int = 0) -> int:
    """A seed of its own for each fold, purpose and epoch, so that nothing depends on what ran before."""
    return int(np.random.SeedSequence([recipe.seed, fold.index, purpose, epoch]).generate_state(1)[0])
