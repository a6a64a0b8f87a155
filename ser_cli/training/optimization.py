"""How weights move: parameter groups, learning rates over time, the running average of the weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ser_cli.recipe_settings import OptimizerSettings


def make_optimizer(model: nn.Module, criterion: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the model's matrices, the rest of the model, and the centers with a learning rate of their own."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "lr": settings.learning_rate,
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "lr": settings.learning_rate, "weight_decay": 0.0},
        {"params": list(criterion.parameters()), "lr": settings.center_learning_rate, "weight_decay": 0.0},
    ]
    for group in groups:
        group["initial_lr"] = group["lr"]
    on_gpu = any(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, fused=True) if on_gpu else torch.optim.AdamW(groups)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, epochs_done: float, epochs: int, settings: OptimizerSettings
) -> None:
    """Set the learning rate of each group for the next step: its own, times `learning_rate_factor`.

    A function of where training stands and of nothing else, so that nothing needs to be restored.
    """
    factor = learning_rate_factor(epochs_done, epochs, settings)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def learning_rate_factor(epochs_done: float, epochs: int, settings: OptimizerSettings) -> float:
    """What both learning rates are multiplied with, after so many epochs (with fractions)."""
    if settings.schedule == "exponential":
        return settings.decay ** min(math.floor(epochs_done + 1e-9), settings.decay_epochs)
    if settings.schedule == "step":
        return settings.decay ** (math.floor(epochs_done + 1e-9) // settings.step_epochs)
    if epochs_done < settings.warmup_epochs:
        return min(1.0, max(epochs_done, 0.01) / settings.warmup_epochs)
    remaining = (epochs - epochs_done) / max(epochs - settings.warmup_epochs, 1e-9)
    return 0.5 * (1 - math.cos(math.pi * min(max(remaining, 0.0), 1.0)))


def average_of(model: nn.Module, decay: float) -> AveragedModel | None:
    """A running average of a model's weights and buffers; None where `decay` is 0."""
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=_exponential_average(decay), use_buffers=True)


def _exponential_average(decay: float) -> Callable[..., None]:
    """The update of averaged weights: short memory at first, so that random initial weights are soon forgotten."""

    def update(averaged: list[Tensor], current: Sequence[Tensor], updates: Tensor) -> None:
        steps = float(updates)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, updates)

    return update
