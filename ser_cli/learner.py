"""What learning changes in one fold, and one step of it: weights, their average, centers, moments, learning rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ser_cli.data.batches import Batch
from ser_cli.errors import SerError
from ser_cli.losses import MultiLoss
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.optimization import average_of, learning_rate_factor, make_optimizer, set_learning_rates
from ser_cli.recipe import OptimizerSettings

GRADIENT = "gradient"


class NotFiniteError(SerError):
    """A loss or a gradient is NaN or infinite; nothing was learnt from it."""


@dataclass(frozen=True)
class LearnerState:
    """Everything that `Learner.restore` needs to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    """Off the device; weights, averages, centers, moments and random states by name."""
    facts: dict[str, Any]
    """What is no tensor, as JSON keeps it: floats keep all their digits there."""


class Learner:
    """The moving parts of one fold."""

    def __init__(
        self,
        model: EmotionClassifier,
        criterion: MultiLoss,
        accelerator: Accelerator,
        settings: OptimizerSettings,
        epochs: int,
        weight_average: float,
    ) -> None:
        """Put the parts together.

        Args:
            model: on the accelerator's device, with the weights that training starts from.
            criterion: on the same device; its centers are learnt too.
            accelerator: device and precision.
            settings: how weights move.
            epochs: of the schedule of the learning rates.
            weight_average: decay per step of the running average; 0 keeps none.
        """
        self.model = model
        self.criterion = criterion
        self.accelerator = accelerator
        self.augmentation = torch.Generator()
        """Draws the encoder's augmentation of the features."""
        self._settings = settings
        self._epochs = epochs
        optimizer = make_optimizer(model, criterion, settings)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._average = average_of(model, weight_average)
        self._optimizer: Any = accelerator.prepare(optimizer)

    def learning_rate_at(self, epochs_done: float) -> float:
        """Of the model, after so many epochs, with fractions."""
        return self._settings.learning_rate * learning_rate_factor(epochs_done, self._epochs, self._settings)

    @property
    def tested_model(self) -> EmotionClassifier:
        """The model whose predictions count: the average of the weights where the recipe keeps one."""
        model = self.model if self._average is None else self._average.module
        assert isinstance(model, EmotionClassifier)
        return model

    def tested_weights(self) -> dict[str, Tensor]:
        """A copy of the weights of `tested_model`, off the device."""
        return {name: _off_device(value) for name, value in self.tested_model.state_dict().items()}

    def begin_epoch(self, seed: int) -> None:
        """Seed everything that is drawn while an epoch is learnt, and put the model into training mode."""
        torch.manual_seed(seed)  # dropout
        self.augmentation.manual_seed(seed)
        self.model.train()

    def learn(self, batch: Batch, epochs_done: float) -> dict[str, float]:
        """One step: the weighted sum of the losses under `total`, and each loss unweighted.

        Args:
            batch: what is learnt.
            epochs_done: before this step, with fractions; decides the learning rates.

        Raises:
            NotFiniteError: a loss or a gradient is NaN or infinite. The weights are those of the step before.
        """
        batch = batch.to(self.accelerator.device)
        self._optimizer.zero_grad()
        losses = self._losses(batch)
        total = self.criterion.total(losses)
        self.accelerator.backward(total)
        norm = self._clip_gradients()
        # One transfer: each would wait for the device.
        read = torch.stack([v.detach().double() for v in (total, *losses.values(), norm)]).tolist()
        values = dict(zip(("total", *losses, GRADIENT), read, strict=True))
        self._require_finite(values, batch)
        set_learning_rates(self._optimizer, epochs_done, self._epochs, self._settings)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        del values[GRADIENT]
        return values

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        with self.accelerator.autocast():
            output = self.model(batch.waveforms, batch.lengths, self.augmentation)
        return self.criterion.each(output, batch.targets)

    def _clip_gradients(self) -> Tensor:
        """Clip the model's gradients where the recipe says so; the norm of all gradients before that."""
        self.accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self._settings.gradient_clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self._settings.gradient_clip)
        return norm

    def _require_finite(self, values: Mapping[str, float], batch: Batch) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken == [GRADIENT] and self.accelerator.scaler is not None:
            return  # float16: the scaler leaves the step out and lowers its scale
        if not broken:
            return
        name = next((name for name in broken if name != "total"), "total")
        if name == GRADIENT:
            what = f"the losses are finite, but {self._blame_gradient(batch)}"
        else:
            what = f"the loss {name} is {values[name]}"
        raise NotFiniteError(f"{what}\n  clips of the batch: {', '.join(batch.ids)}")

    def _blame_gradient(self, batch: Batch) -> str:
        """Which loss has a gradient that is no number; the batch goes through the model once more for each."""
        guilty = []
        for name in self._losses(batch):
            loss = self._losses(batch)[name]
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            if not all(g is None or bool(g.isfinite().all()) for g in gradients):
                guilty.append(name)
        if not guilty:
            return "the gradient of their sum is not"
        return f"the gradient of the loss {' and of '.join(guilty)} is not"

    def state(self) -> LearnerState:
        """A copy of everything that a later process needs to go on."""
        tensors = {f"model.{name}": _off_device(value) for name, value in self.model.state_dict().items()}
        tensors |= {f"criterion.{name}": _off_device(value) for name, value in self.criterion.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": _off_device(value) for name, value in self._average.state_dict().items()}
        moments = self._optimizer.state_dict()
        for index, values in moments["state"].items():
            tensors |= {f"optimizer.{index}.{key}": _off_device(value) for key, value in values.items()}
        tensors["random.torch"] = torch.get_rng_state()
        tensors["random.augmentation"] = self.augmentation.get_state()
        device = self.accelerator.device
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        facts = {
            "groups": moments["param_groups"],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }
        return LearnerState(tensors, facts)

    def restore(self, state: LearnerState) -> None:
        """Go on where `state` was taken; `begin_epoch` is not called again for that epoch.

        Raises:
            KeyError, ValueError, RuntimeError: the state is of another model.
        """
        tensors, facts = state.tensors, state.facts
        self.model.load_state_dict(_under("model", tensors))
        self.criterion.load_state_dict(_under("criterion", tensors))
        if self._average is not None:
            self._average.load_state_dict(_under("average", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer", tensors).items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({"state": moments, "param_groups": facts["groups"]})
        if facts["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        torch.set_rng_state(tensors["random.torch"])
        self.augmentation.set_state(tensors["random.augmentation"])
        if self.accelerator.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.accelerator.device)
        self.model.train()


def _off_device(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names start with a prefix, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
