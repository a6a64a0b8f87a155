"""Center loss: embeddings are drawn to a learnt center of their class."""

import torch
from torch import Tensor, nn

from ser_cli.global_batch import whole_batch


def center_loss(projections: Tensor, targets: Tensor, centers: Tensor) -> Tensor:
    """Mean squared distance to the center of the dominant class, eq. 8 (Wen et al. 2016).

    L = 1/B sum_b || z_b - c_{y_b} ||^2, where y_b is the dominant class of the soft label. Wen et al. halve it
    and move the centers by a rule of their own; the multi-loss paper does neither and learns the centers by
    gradient with a learning rate of their own. With several processes the batch is that of all of them, see
    `whole_batch`, and the centers have its whole gradient in each process.

    Args:
        projections: (batch, dim), z.
        targets: (batch, classes), rows sum to 1.
        centers: (classes, dim), c.

    Returns:
        () at least 0.
    """
    projections, targets = whole_batch(projections, targets)
    return (projections - centers[targets.argmax(dim=-1)]).square().sum(dim=-1).mean()


class CenterLoss(nn.Module):
    """Module form of `center_loss`; holds the centers, which start at the origin."""

    def __init__(self, num_classes: int, dim: int = 64) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(num_classes, dim))

    def forward(self, projections: Tensor, targets: Tensor) -> Tensor:
        """See `center_loss`."""
        return center_loss(projections, targets, self.centers)
