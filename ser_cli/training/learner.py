"""What learning changes in one fold, and one step of it: weights, their average, centers, moments, learning rates."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ser_cli.data.batches import Batch
from ser_cli.errors import SerError
from ser_cli.losses import MultiLoss
from ser_cli.models.classifier import EmotionClassifier, Output
from ser_cli.models.compiled import compile_layers
from ser_cli.processes import gathered, number_of_processes, rank
from ser_cli.recipe_settings import OptimizerSettings
from ser_cli.tasks.labels import TaskLabels
from ser_cli.training.device_memory import is_memory_full
from ser_cli.training.optimization import average_of, learning_rate_factor, make_optimizer, set_learning_rates

GRADIENT = "gradient"
MOST_SKIPPED = 25
"""Steps in a row that float16 may leave out: its scale starts at 2^16 and is halved each time."""


class NotFiniteError(SerError):
    """A loss or a gradient is NaN or infinite; nothing was learnt from it."""


@dataclass(frozen=True)
class LearnerState:
    """Everything that `Learner.restore` needs to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    """Off the device; weights, averages, centers, moments and random states by name."""
    facts: dict[str, Any]
    """What is no tensor, as JSON keeps it: floats keep all their digits there."""


def require_finite(losses: Mapping[str, float], clips: Sequence[str]) -> None:
    """See that losses are numbers.

    Raises:
        NotFiniteError: one is not; it is named with its clips.
    """
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    name = next((name for name in broken if name != "total"), "total")
    if broken:
        raise NotFiniteError(_sentence(f"the loss {name} is {losses[name]}", clips))


def _sentence(what: str, clips: Sequence[str]) -> str:
    return f"{what}\n  clips of the batch: {', '.join(clips)}"


class Learner:
    """The moving parts of one fold."""

    def __init__(
        self,
        model: EmotionClassifier,
        criterion: MultiLoss,
        accelerator: Accelerator,
        settings: OptimizerSettings,
        epochs: int,
        *,
        weight_average: float = 0.0,
        compiled: bool = False,
        retry_smaller: bool = False,
        labels: TaskLabels | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: on the accelerator's device, with the weights that training starts from.
            criterion: on the same device; its centers are learnt too.
            accelerator: device and precision.
            settings: how weights move.
            epochs: of the schedule of the learning rates.
            weight_average: decay per step of the running average; 0 keeps none.
            compiled: compile the layers of a pre-trained encoder.
            retry_smaller: learn batches in parts once the memory of the device was full.
            labels: of the tasks beside emotion; None where there are none.
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
        self._retry_smaller = retry_smaller
        self._labels = labels
        self._parts = 1
        """In how many parts each batch is learnt."""
        self.is_between_steps = True
        """Whether all weights, moments and averages are those after the same step; not where one was broken off."""
        self._skipped = 0
        """Steps in a row that float16 left out, since its scale was too large."""
        if compiled:
            compile_layers(model.encoder)
        self._distributed = _distributed(model, criterion, accelerator.device)
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

    def bytes_of_state(self) -> int:
        """How much `state` will hold once every parameter has its two moments."""
        modules = [self.model, self.criterion, *([self._average] if self._average is not None else [])]
        kept = sum(value.nbytes for module in modules for value in module.state_dict().values())
        return kept + 2 * sum(parameter.nbytes for parameter in self._parameters)

    @property
    def learning_rates(self) -> list[float]:
        """Of the groups, at the last step."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def begin_epoch(self, seed: int) -> None:
        """Seed everything that is drawn while an epoch is learnt, and put the model into training mode."""
        own = seed if rank() == 0 else int(np.random.SeedSequence([seed, rank()]).generate_state(1)[0])
        torch.manual_seed(own)  # dropout
        self.augmentation.manual_seed(own)
        self.model.train()

    def learn(self, batches: Sequence[Batch], epochs_done: float) -> dict[str, float]:
        """One step: the weighted sum of the losses under `total`, and each loss unweighted, mean over the batches.

        Args:
            batches: whose gradients make the step; of several processes, each has its clips of them.
            epochs_done: before this step, with fractions; decides the learning rates.

        Raises:
            NotFiniteError: a loss or a gradient is NaN or infinite. Weights and buffers are those of the step before.
            torch.OutOfMemoryError: a batch does not fit into the memory of the device, nor do its parts where they
                may be tried.
        """
        buffers = [(each, each.clone()) for part in (self.model, self.criterion) for each in part.buffers()]
        drawn = self._random_states()
        while True:
            try:
                values = self._add_gradients(batches)
                break
            except (NotFiniteError, RuntimeError) as error:
                # A forward pass has moved running means: by numbers that are none, or by batches that come once more.
                for each, before in buffers:
                    each.copy_(before)
                if isinstance(error, NotFiniteError) or not self._learns_smaller(batches, error):
                    self._draw_from(drawn)  # whoever goes on with this step draws what it drew
                    raise
        set_learning_rates(self._optimizer, epochs_done, self._epochs, self._settings)
        self.is_between_steps = False
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        self.is_between_steps = True
        return values

    def _add_gradients(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Forward and backward through all batches; their losses."""
        self._optimizer.zero_grad()
        parts = [
            (part, len(part.ids) / len(batch.ids) / len(batches))
            for batch in batches
            for part in (batch.parted(self._parts) if self._parts > 1 else [batch])
        ]
        names: list[str] = []
        means: list[Tensor] = []
        for position, (part, share) in enumerate(parts):
            with self._without_exchange(unless=position == len(parts) - 1):
                losses = self._losses(part)
                total = self.criterion.total(losses)
                self.accelerator.backward(share * total if len(parts) > 1 else total)
            names = ["total", *losses]
            values = [share * _precise(value.detach()) for value in (total, *losses.values())]
            means = values if not means else [a + b for a, b in zip(means, values, strict=True)]
        norm = _precise(self._clip_gradients())
        # One transfer: each would wait for the device.
        read = torch.stack([*means, norm]).tolist()
        found = dict(zip([*names, GRADIENT], read, strict=True))
        self._require_finite(found, batches)
        del found[GRADIENT]
        return found

    def _without_exchange(self, *, unless: bool) -> AbstractContextManager[object]:
        """Of several processes, exchange gradients after the last batch of a step alone."""
        return nullcontext() if unless or self._distributed is None else self._distributed.no_sync()

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.accelerator.device
        task_targets = self._labels.of(batch).to(device) if self._labels is not None else None
        batch = batch.to(device)
        with self.accelerator.autocast():
            output = (self._distributed or self.model)(
                batch.waveforms,
                batch.lengths,
                self.augmentation,
                batch.texts,
                batch.speakers,
                returning=batch.untouched,
            )
        return self.criterion.each(output, batch.targets, task_targets)

    def _learns_smaller(self, batches: Sequence[Batch], error: RuntimeError) -> bool:
        """Part the batches once more after the memory was full, where that was asked for and they can be parted."""
        clips = max(len(batch.ids) for batch in batches)
        if not (self._retry_smaller and is_memory_full(error) and 2 * self._parts <= clips // 2):
            return False
        self._parts *= 2
        self._optimizer.zero_grad()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def _clip_gradients(self) -> Tensor:
        """Clip the model's gradients where the recipe says so; the norm of all gradients before that."""
        self.accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if self._settings.gradient_clip:
            # Not accelerate's: it would unscale the gradients of float16 a second time.
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.gradient_clip)
        return norm

    def _require_finite(self, values: Mapping[str, float], batches: Sequence[Batch]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken == [GRADIENT] and self.accelerator.scaler is not None and self._skipped < MOST_SKIPPED:
            self._skipped += 1
            return  # float16: the scaler leaves the step out and lowers its scale
        if not broken:
            self._skipped = 0
            return
        clips = [identity for batch in batches for identity in batch.ids]
        if broken == [GRADIENT]:
            raise NotFiniteError(_sentence(f"the losses are finite, but {self._blame_gradient(batches)}", clips))
        require_finite(values, clips)

    def _blame_gradient(self, batches: Sequence[Batch]) -> str:
        """Which loss has a gradient that is no number; the batches go through the model once more for each."""
        guilty: list[str] = []
        for batch in batches:
            for name in self.criterion.weights.as_dict():
                gradients = torch.autograd.grad(self._losses(batch)[name], self._parameters, allow_unused=True)
                if not all(g is None or bool(g.isfinite().all()) for g in gradients):
                    guilty.append(name)
        if not guilty:
            return "the gradient of their sum is not"
        return f"the gradient of the loss {' and of '.join(dict.fromkeys(guilty))} is not"

    def state(self) -> LearnerState:
        """A copy of everything that a later process needs to go on; called by all processes together."""
        tensors = {f"model.{name}": _off_device(value) for name, value in self.model.state_dict().items()}
        tensors |= {f"criterion.{name}": _off_device(value) for name, value in self.criterion.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": _off_device(value) for name, value in self._average.state_dict().items()}
        names = self._names()
        for parameter, values in self._optimizer.state.items():
            tensors |= {f"optimizer.{names[parameter]}.{key}": _off_device(value) for key, value in values.items()}
        for number, states in enumerate(gathered(self._random_states())):
            tensors |= {f"random.{number}.{name}": value for name, value in states.items()}
        facts = {
            "parts": self._parts,
            "skipped": self._skipped,
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
        places = {parameter: place for place, parameter in enumerate(self._parameters)}
        place_of = {name: places.get(parameter) for parameter, name in self._names().items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer", tensors).items():
            parameter, _, key = name.rpartition(".")
            place = place_of[parameter]
            if place is not None:  # else it is not trained any more
                moments.setdefault(place, {})[key] = value
        # The settings of the groups are the recipe's, which may have been changed; learning rates follow the schedule.
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
        if facts["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self._parts, self._skipped = int(facts["parts"]), int(facts["skipped"])
        random = _under(f"random.{rank()}", tensors)
        if random:  # a training that goes on with more processes has none for the new ones
            self._draw_from(random)
        self.model.train()

    def _names(self) -> dict[Tensor, str]:
        """All parameters by their names: moments are kept by them, since what is trained may change in between."""
        parts = {"model": self.model, "criterion": self.criterion}
        return {value: f"{part}.{name}" for part, module in parts.items() for name, value in module.named_parameters()}

    def _random_states(self) -> dict[str, Tensor]:
        states = {"torch": torch.get_rng_state(), "augmentation": self.augmentation.get_state()}
        if self.accelerator.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        return states

    def _draw_from(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["torch"])
        self.augmentation.set_state(states["augmentation"])
        if "cuda" in states and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.accelerator.device)


class _ReadOutputs(nn.Module):
    """A model of whose outputs those that no loss reads are cut off: gradients of what they are made of never come.

    DistributedDataParallel takes every parameter behind an output for used, and waits for its gradient.
    """

    def __init__(self, model: EmotionClassifier, unread: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._unread = unread

    def forward(self, *arguments: Any, **named: Any) -> Output:
        output: Output = self.model(*arguments, **named)
        return replace(output, **{name: getattr(output, name).detach() for name in self._unread})


def _distributed(
    model: EmotionClassifier, criterion: MultiLoss, device: torch.device
) -> DistributedDataParallel | None:
    """The model among several processes; None where this is the only one."""
    if number_of_processes() == 1:
        return None
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Which parameters take part differs by step: layers are left out at random, losses without a weight read nothing.
    own = [device] if device.type == "cuda" else None
    read = _ReadOutputs(model, criterion.unread)
    return DistributedDataParallel(read, device_ids=own, find_unused_parameters=True)


def _precise(value: Tensor) -> Tensor:
    """In double precision, where the device has it: Apple's has not."""
    return value.float() if value.device.type == "mps" else value.double()


def _off_device(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names start with a prefix, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
