"""Cross-entropy for soft labels."""

from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch


def cross_entropy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy between soft labels and predicted probabilities, eq. 3 of the multi-modal loss paper.

    L = -sum_c y_c log p_c, mean over the batch, with p = softmax(logits). It exceeds the KL divergence by the
    label's own entropy, which no weight of the model changes: both have the same gradient, and for one-hot
    labels the same value. With several processes the batch is that of all of them, see `whole_batch`.

    Args:
        logits: (batch, classes).
        targets: (batch, classes), rows sum to 1.

    Returns:
        () at least 0.
    """
    logits, targets = whole_batch(logits, targets)
    return F.cross_entropy(logits, targets)


class CrossEntropyLoss(nn.Module):
    """Module form of `cross_entropy_loss`."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `cross_entropy_loss`."""
        return cross_entropy_loss(logits, targets)
