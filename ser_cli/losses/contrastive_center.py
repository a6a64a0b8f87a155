"""Contrastive-center loss: embeddings are drawn to the center of their class and kept away from the others."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch


def contrastive_center_loss(projections: Tensor, targets: Tensor, centers: Tensor, theta: float = 1.0) -> Tensor:
    """Distance to the own center over the distances to all others, eq. 2 of the multi-modal loss paper.

    L = 1/2 mean_b ( || z_b - c_{y_b} ||^2 / ( sum_{j != y_b} || z_b - c_j ||^2 + theta ) ) (Qi and Su 2017),
    where y_b is the dominant class of the soft label, as the center loss takes it under mixing; neither paper
    mixes its clips. The equation prints a sum over the mini-batch; the mean is taken here, so that the weight of
    the loss does not hang on the batch size. A weight of the batch size gives the printed value. With several processes
    the batch is that of all of them, see `whole_batch`.

    Args:
        projections: (batch, dim), z.
        targets: (batch, classes), rows sum to 1.
        centers: (classes, dim), c.
        theta: above 0, so that no denominator is 0; the papers' is 1.

    Returns:
        () at least 0.
    """
    projections, targets = whole_batch(projections, targets)
    # From differences, not from scalar products: near a center those cancel, and can fall below 0.
    distances = (projections.unsqueeze(1) - centers).square().sum(dim=-1)
    own = F.one_hot(targets.argmax(dim=-1), len(centers)).bool()
    intra = distances[own]
    inter = distances.masked_fill(own, 0.0).sum(dim=-1)
    return (intra / (inter + theta)).mean() / 2


class ContrastiveCenterLoss(nn.Module):
    """Module form of `contrastive_center_loss`; holds the centers, which start at the origin."""

    def __init__(self, num_classes: int, dim: int = 64, theta: float = 1.0) -> None:
        super().__init__()
        self.theta = theta
        self.centers = nn.Parameter(torch.zeros(num_classes, dim))

    def forward(self, projections: Tensor, targets: Tensor) -> Tensor:
        """See `contrastive_center_loss`."""
        return contrastive_center_loss(projections, targets, self.centers, self.theta)
