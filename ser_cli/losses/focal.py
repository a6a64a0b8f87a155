"""Focal loss for soft labels."""

from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that turns away from what is classified well, eq. 7 (Lin et al. 2017).

    L = -sum_c y_c (1 - p_c)^gamma log p_c, mean over the batch, with p = softmax(logits). With several processes
    the batch is that of all of them, see `whole_batch`.

    Args:
        logits: (batch, classes).
        targets: (batch, classes), rows sum to 1.
        gamma: focusing parameter, at least 0; 0 gives cross-entropy. The multi-loss paper does not state
            its value.

    Returns:
        () at least 0.
    """
    logits, targets = whole_batch(logits, targets)
    log_probabilities = F.log_softmax(logits, dim=-1)
    # 1 - p as -expm1(log p) keeps digits that 1 - exp(log p) loses where p is near 1.
    remainder = -log_probabilities.expm1()
    if gamma < 1:
        # The gradient of x^gamma is infinite at 0 for gamma below 1.
        remainder = remainder.clamp_min(1e-12)
    return -(targets * remainder**gamma * log_probabilities).sum(dim=-1).mean()


class FocalLoss(nn.Module):
    """Module form of `focal_loss`."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `focal_loss`."""
        return focal_loss(logits, targets, self.gamma)
