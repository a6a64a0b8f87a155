"""What a fold needs before its first step: model, losses with their weights, the batches of an epoch."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator

from ser_cli.data.batch_plans import DrawGroups, DrawMixtures, PlannedBatch, plan_epoch, share_of_process
from ser_cli.data.batches import BatchLoader
from ser_cli.data.folds import Fold
from ser_cli.data.manifest import speaker_of
from ser_cli.data.mixup import plan_mixtures
from ser_cli.data.speaker_groups import draw_speaker_groups
from ser_cli.data.store import PreparedCorpus
from ser_cli.losses import LossWeights, MultiLoss, balanced_class_weights, weights_from_measured
from ser_cli.models.building import build_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.processes import number_of_processes, rank
from ser_cli.recipe import Recipe
from ser_cli.recipe_settings import MixupSettings, NormalizationSettings
from ser_cli.tasks.labels import TaskLabels
from ser_cli.training.learner import Learner, require_finite
from ser_cli.training.tasks import choose_for_fold, tasks_of_fold

INITIAL_WEIGHTS, EPOCH, CALIBRATION = range(3)
"""What a derived seed is for; see `derive_seed`."""


def derive_seed(recipe: Recipe, fold: Fold, purpose: int, epoch: int = 0) -> int:
    """A seed of its own for each fold, purpose and epoch, so that nothing depends on what ran before."""
    return int(np.random.SeedSequence([recipe.seed, fold.index, purpose, epoch]).generate_state(1)[0])


def set_up_learner(
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    accelerator: Accelerator,
    loss_weights: LossWeights | None = None,
) -> Learner:
    """Build model and losses on the accelerator's device.

    Args:
        corpus: tells the labels; its clips measure the losses where the recipe says so.
        fold: the training side is what the losses are measured on.
        recipe: what to build.
        accelerator: device and precision.
        loss_weights: those of the process that the fold is taken up from; None takes the recipe's, or measures.

    Raises:
        EncoderError: pre-trained weights cannot be had.
        NotFiniteError: a loss that is to be measured is NaN or infinite.
    """
    torch.manual_seed(derive_seed(recipe, fold, INITIAL_WEIGHTS))
    chosen = choose_for_fold(corpus, fold, recipe).outputs
    model = build_model(recipe, len(corpus.labels), chosen)
    tasks = tasks_of_fold(model.encoder, corpus, fold, recipe).outputs
    if tasks != chosen:  # what else cannot be learnt is known once there is an encoder
        torch.manual_seed(derive_seed(recipe, fold, INITIAL_WEIGHTS))
        model = build_model(recipe, len(corpus.labels), tasks)
    model = model.to(accelerator.device)
    labels = TaskLabels(tasks, [corpus.by_id[identity] for identity in fold.train]) if tasks.learnt else None
    weights = LossWeights(**recipe.losses.weights).with_tasks(tasks.learnt, recipe.tasks.alpha)
    criterion = _criterion(recipe, weights, model, corpus, fold).to(accelerator.device)
    if loss_weights is None and recipe.losses.weighting == "auto":
        measured = _measure_losses(model, criterion, corpus, fold, recipe, accelerator, labels)
        loss_weights = weights_from_measured(weights, measured)
    if loss_weights is not None:
        criterion = _criterion(recipe, loss_weights, model, corpus, fold).to(accelerator.device)
    return Learner(
        model,
        criterion,
        accelerator,
        recipe.optimizer,
        recipe.training.epochs,
        weight_average=recipe.training.weight_average,
        compiled=recipe.training.compile,
        retry_smaller=recipe.training.retry_smaller,
        labels=labels,
    )


def _criterion(
    recipe: Recipe, weights: LossWeights, model: EmotionClassifier, corpus: PreparedCorpus, fold: Fold
) -> MultiLoss:
    settings = recipe.losses
    class_weights = None
    if weights.swfc:
        classes = [int(corpus.target(identity).argmax()) for identity in fold.train]
        class_weights = balanced_class_weights(np.bincount(classes, minlength=len(corpus.labels)).tolist())
    return MultiLoss(
        len(corpus.labels),
        weights,
        focal_gamma=settings.focal_gamma,
        temperature=settings.temperature,
        center_reads=settings.center_reads,
        center_dim=settings.projection_dim
        if settings.center_reads == "projection"
        else model.head.classifier_input_dim,
        contrastive_center_theta=settings.contrastive_center_theta,
        swfc_gamma=settings.swfc_gamma,
        swfc_temperature=settings.swfc_temperature,
        swfc_form=settings.swfc_form,
        class_weights=class_weights,
    )


def plan_training_epoch(corpus: PreparedCorpus, fold: Fold, recipe: Recipe, seed: int) -> tuple[PlannedBatch, ...]:
    """The batches of one pass over the training side, drawn from a seed.

    Raises:
        UsageError: a clip alone is longer than the recipe's longest batch.
    """
    settings = recipe.training
    return plan_epoch(
        fold.train,
        corpus.length,
        np.random.default_rng(seed),
        batch_size=settings.batch_size,
        max_clip_s=settings.max_clip_s,
        max_batch_s=settings.max_batch_s,
        group_by_length=settings.group_by_length,
        draw_mixtures=_mixing_rule(recipe.mixup),
        draw_groups=_grouping_rule(corpus, recipe.normalization) if recipe.learns_by_speaker else None,
    )


def _grouping_rule(corpus: PreparedCorpus, settings: NormalizationSettings) -> DrawGroups:
    return partial(
        draw_speaker_groups,
        size=settings.group,
        speaker_of=lambda identity: speaker_of(corpus.by_id[identity]),
        emotion_of=lambda identity: corpus.by_id[identity].emotion,
    )


def _mixing_rule(settings: MixupSettings) -> DrawMixtures | None:
    if settings.method == "none":
        return None
    return partial(
        plan_mixtures,
        method=settings.method,
        share=settings.share,
        snr_range_db=(settings.snr_min_db, settings.snr_max_db),
        max_overlap=settings.max_overlap,
        lam_lambda=settings.lam_lambda,
        mixup_alpha=settings.mixup_alpha,
    )


@torch.no_grad()
def _measure_losses(
    model: EmotionClassifier,
    criterion: MultiLoss,
    corpus: PreparedCorpus,
    fold: Fold,
    recipe: Recipe,
    accelerator: Accelerator,
    labels: TaskLabels | None,
) -> Iterable[dict[str, float]]:
    """Each loss on a few training batches as the first steps meet them, before anything is learnt.

    In training mode, since batch normalisation has no running statistics yet: those it starts with would make features
    of another size, and the center loss another one.
    """
    seed = derive_seed(recipe, fold, CALIBRATION)
    plan = plan_training_epoch(corpus, fold, recipe, seed)
    # Each loss is that of all processes together.
    plan = share_of_process(plan, rank(), number_of_processes(), neighbours=recipe.learns_by_speaker)
    measured = []
    moving = [(buffer, buffer.clone()) for buffer in model.buffers()]
    augmentation = torch.Generator().manual_seed(seed)
    model.train()
    with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch in BatchLoader(corpus, plan[: recipe.losses.calibration_batches]):
            task_targets = labels.of(batch).to(accelerator.device) if labels is not None else None
            batch = batch.to(accelerator.device)  # noqa: PLW2901
            with accelerator.autocast():
                output = model(batch.waveforms, batch.lengths, augmentation, batch.texts, batch.speakers)
            values = {name: float(value) for name, value in criterion.each(output, batch.targets, task_targets).items()}
            require_finite(values, batch.ids)
            measured.append(values)
    for buffer, before in moving:
        buffer.copy_(before)
    return measured
