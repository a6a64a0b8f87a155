"""The weighted sum of losses, and the weights that bring each into [0, 1]."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import Tensor, nn

from ser_cli.losses.center import CenterLoss
from ser_cli.losses.focal import FocalLoss
from ser_cli.losses.kl import KLLoss
from ser_cli.losses.supcon import FrameSupConLoss

LOSS_NAMES = ("kl", "focal", "center", "supcon")


@dataclass(frozen=True)
class LossWeights:
    """lambda_1 to lambda_4 of eq. 11; a loss with weight 0 is not computed."""

    kl: float
    focal: float
    center: float
    supcon: float

    def as_dict(self) -> dict[str, float]:
        """Weights by the names of their losses."""
        return asdict(self)


class LossInputs(Protocol):
    """What the losses read of a model's output."""

    @property
    def logits(self) -> Tensor: ...  # noqa: D102
    @property
    def projection(self) -> Tensor: ...  # noqa: D102
    @property
    def projected_frames(self) -> Tensor: ...  # noqa: D102
    @property
    def frame_mask(self) -> Tensor: ...  # noqa: D102


class MultiLoss(nn.Module):
    """L = lambda_1 KL + lambda_2 Focal + lambda_3 Center + lambda_4 SupCon, eq. 11 of the multi-loss paper."""

    def __init__(
        self,
        num_classes: int,
        weights: LossWeights,
        *,
        focal_gamma: float = 2.0,
        temperature: float = 0.1,
        projection_dim: int = 64,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.kl = KLLoss()
        self.focal = FocalLoss(focal_gamma)
        self.center = CenterLoss(num_classes, projection_dim)
        self.supcon = FrameSupConLoss(temperature)

    def each(self, output: LossInputs, targets: Tensor) -> dict[str, Tensor]:
        """Every loss that has a weight, unweighted, by name.

        Args:
            output: of the model.
            targets: (batch, classes) soft labels.
        """
        weights = self.weights
        losses = {}
        if weights.kl:
            losses["kl"] = self.kl(output.logits, targets)
        if weights.focal:
            losses["focal"] = self.focal(output.logits, targets)
        if weights.center:
            losses["center"] = self.center(output.projection, targets)
        if weights.supcon:
            losses["supcon"] = self.supcon(output.projected_frames, targets, output.frame_mask)
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `each` returned."""
        weights = self.weights.as_dict()
        weighted = [weights[name] * value for name, value in losses.items()]
        return sum(weighted[1:], weighted[0])


def weights_from_measured(weights: LossWeights, measured: Iterable[Mapping[str, float]]) -> LossWeights:
    """Weights that bring each loss into [0, 1], from its values on the first batches.

    lambda = weight / max(1, largest measured value): a loss that lies in [0, 1] already keeps its weight, and
    what the paper calls "empirically set" becomes a rule that is recorded with the run. It holds at the start
    of training, where losses are largest; the history shows by how much each stays below.

    Args:
        weights: factors from the recipe; 0 leaves a loss out.
        measured: values of each loss, one mapping per batch.
    """
    largest: dict[str, float] = {}
    for values in measured:
        for name, value in values.items():
            largest[name] = max(largest.get(name, 1.0), value)
    return LossWeights(**{name: weight / largest.get(name, 1.0) for name, weight in weights.as_dict().items()})
