"""The weighted sum of losses, and the weights that bring each into [0, 1]."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ser_cli.losses.center import CenterLoss
from ser_cli.losses.contrastive_center import ContrastiveCenterLoss
from ser_cli.losses.cross_entropy import CrossEntropyLoss
from ser_cli.losses.ctc import ctc_loss
from ser_cli.losses.focal import FocalLoss
from ser_cli.losses.kl import KLLoss
from ser_cli.losses.labelled import labelled_cross_entropy
from ser_cli.losses.supcon import FrameSupConLoss
from ser_cli.losses.swfc import SwfcForm, SWFCLoss
from ser_cli.tasks.labels import TaskTargets
from ser_cli.tasks.outputs import TASKS


@dataclass(frozen=True)
class LossWeights:
    """The weight of each loss by its name; a loss with weight 0 is not computed.

    The first four are lambda_1 to lambda_4 of eq. 11 of the multi-loss paper.
    """

    kl: float = 0.0
    focal: float = 0.0
    center: float = 0.0
    supcon: float = 0.0
    cross_entropy: float = 0.0
    contrastive_center: float = 0.0
    swfc: float = 0.0
    speaker_relative: float = 0.0
    gender: float = 0.0
    speaker: float = 0.0
    characters: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Weights of the losses that are computed, by their names."""
        return {name: weight for name, weight in asdict(self).items() if weight}

    def with_tasks(self, tasks: Sequence[str], alpha: float) -> "LossWeights":
        """The weights of the multi-task paper's objective, eq. 1, from those of the losses of emotion.

        L = (1 - n alpha) L_emotion + alpha sum_k L_k + beta L_SWFC, over the n tasks k; the paper has n = 3. L_emotion
        is the weighted sum of all losses of emotion but SWFC, whose own weight is beta.

        Args:
            tasks: names of the tasks that are learnt; none leaves the weights as they are.
            alpha: weight of each, below 1/n.
        """
        share = 1 - len(tasks) * alpha
        emotion = {name: share * getattr(self, name) for name in LOSS_NAMES if name != "swfc"} if tasks else {}
        return replace(self, **emotion, **dict.fromkeys(tasks, alpha))


LOSS_NAMES = tuple(field.name for field in fields(LossWeights) if field.name not in TASKS)
"""The losses that learn emotion; those of further tasks have the names of the tasks."""


class LossInputs(Protocol):
    """What the losses read of a model's output."""

    @property
    def logits(self) -> Tensor: ...  # noqa: D102
    @property
    def embedding(self) -> Tensor: ...  # noqa: D102
    @property
    def projection(self) -> Tensor: ...  # noqa: D102
    @property
    def classifier_input(self) -> Tensor: ...  # noqa: D102
    @property
    def projected_frames(self) -> Tensor: ...  # noqa: D102
    @property
    def frame_mask(self) -> Tensor: ...  # noqa: D102
    @property
    def relative_logits(self) -> Tensor | None: ...  # noqa: D102
    @property
    def tasks(self) -> Mapping[str, Tensor]: ...  # noqa: D102


class MultiLoss(nn.Module):
    """The weighted sum of any of the losses, eq. 11 of the multi-loss paper where it is that paper's four.

    KL, focal and cross-entropy read the logits; center and contrastive-center the projection (the multi-loss paper) or
    what the classifier's last layer reads (the label-adaptive mixup paper, and that on losses for multi-modal
    recognition); SupCon the projected frames; SWFC the embedding; the speaker-relative loss is cross-entropy of logits
    of its own. The losses of further tasks read what their branches give.

    What each learns for itself are its class centers, the module's only parameters.
    """

    def __init__(
        self,
        num_classes: int,
        weights: LossWeights,
        *,
        focal_gamma: float = 2.0,
        temperature: float = 0.1,
        center_reads: Literal["projection", "classifier_input"] = "projection",
        center_dim: int = 64,
        contrastive_center_theta: float = 1.0,
        swfc_gamma: float = 2.0,
        swfc_temperature: float = 0.8,
        swfc_form: SwfcForm = "positives",
        class_weights: Tensor | None = None,
    ) -> None:
        """Set the losses up.

        Args:
            num_classes: declared emotions.
            weights: of the losses.
            focal_gamma: focusing parameter of the focal loss.
            temperature: of SupCon.
            center_reads: which of the model's outputs lies near the centers.
            center_dim: its width.
            contrastive_center_theta: what keeps its denominators above 0.
            swfc_gamma: focusing parameter of SWFC.
            swfc_temperature: of SWFC.
            swfc_form: how its equation is read.
            class_weights: (classes,) of SWFC, see `balanced_class_weights`; None weighs all classes alike.
        """
        super().__init__()
        self.weights = weights
        self.center_reads = center_reads
        self.kl = KLLoss()
        self.focal = FocalLoss(focal_gamma)
        self.supcon = FrameSupConLoss(temperature)
        self.cross_entropy = CrossEntropyLoss()
        # Centers that nothing moves would be parameters without a gradient.
        if weights.center:
            self.center = CenterLoss(num_classes, center_dim)
        if weights.contrastive_center:
            self.contrastive_center = ContrastiveCenterLoss(num_classes, center_dim, contrastive_center_theta)
        self.swfc = SWFCLoss(
            torch.ones(num_classes) if class_weights is None else class_weights,
            temperature=swfc_temperature,
            gamma=swfc_gamma,
            form=swfc_form,
        )

    def each(self, output: LossInputs, targets: Tensor, task_targets: TaskTargets | None = None) -> dict[str, Tensor]:
        """Every loss that has a weight, unweighted, by name.

        Args:
            output: of the model.
            targets: (batch, classes) soft labels.
            task_targets: what further tasks are to say; needed where one has a weight.
        """
        near_centers = output.projection if self.center_reads == "projection" else output.classifier_input
        losses: dict[str, Callable[[], Tensor]] = {
            "kl": lambda: self.kl(output.logits, targets),
            "focal": lambda: self.focal(output.logits, targets),
            "center": lambda: self.center(near_centers, targets),
            "supcon": lambda: self.supcon(output.projected_frames, targets, output.frame_mask),
            "cross_entropy": lambda: self.cross_entropy(output.logits, targets),
            "contrastive_center": lambda: self.contrastive_center(near_centers, targets),
            "swfc": lambda: self.swfc(output.embedding, targets),
            "speaker_relative": lambda: self._speaker_relative(output, targets),
        }
        if task_targets is not None:
            labels = task_targets
            losses |= {
                "gender": lambda: labelled_cross_entropy(output.tasks["gender"], labels.gender),
                "speaker": lambda: labelled_cross_entropy(output.tasks["speaker"], labels.speaker),
                "characters": lambda: ctc_loss(
                    output.tasks["characters"],
                    output.frame_mask.sum(dim=1),
                    labels.characters,
                    labels.character_counts,
                ),
            }
        return {name: losses[name]() for name in self.weights.as_dict()}

    def _speaker_relative(self, output: LossInputs, targets: Tensor) -> Tensor:
        if output.relative_logits is None:
            raise ValueError("the speaker-relative loss needs the speakers of the batch")
        loss: Tensor = self.cross_entropy(output.relative_logits, targets)
        return loss

    @property
    def unread(self) -> tuple[str, ...]:
        """The model's outputs that no loss with a weight reads, and nothing else is made of."""
        weights = self.weights
        centers = bool(weights.center or weights.contrastive_center) and self.center_reads == "projection"
        return (*(() if centers else ("projection",)), *(() if weights.supcon else ("projected_frames",)))

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `each` returned."""
        weights = self.weights.as_dict()
        weighted = [weights[name] * value for name, value in losses.items()]
        return sum(weighted[1:], weighted[0])


def weights_from_measured(weights: LossWeights, measured: Iterable[Mapping[str, float]]) -> LossWeights:
    """Weights that bring each loss into [0, 1], from its values on the first batches.

    lambda = weight / max(1, largest measured value): a loss that lies in [0, 1] already keeps its weight, and
    what the paper calls "empirically set" becomes a rule that is recorded with the run. It holds for the batches
    that were measured; the history shows how much each is later, mostly less. SWFC as printed is never above 0, so it
    always keeps its weight.

    Args:
        weights: factors from the recipe; 0 leaves a loss out.
        measured: values of each loss, one mapping per batch.
    """
    largest: dict[str, float] = {}
    for values in measured:
        for name, value in values.items():
            largest[name] = max(largest.get(name, 1.0), value)
    return LossWeights(**{name: weight / largest.get(name, 1.0) for name, weight in weights.as_dict().items()})
