"""KL divergence between soft labels and predicted probabilities."""

from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch


def kl_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """KL divergence of the predicted distribution from the soft label, eq. 6 of the multi-loss paper.

    L = sum_c y_c log(y_c / p_c), mean over the batch, with p = softmax(logits) and 0 log 0 = 0. For a one-hot
    label this is cross-entropy. With several processes the batch is that of all of them, see `whole_batch`.

    Args:
        logits: (batch, classes).
        targets: (batch, classes), rows sum to 1.

    Returns:
        () at least 0.
    """
    logits, targets = whole_batch(logits, targets)
    return F.kl_div(F.log_softmax(logits, dim=-1), targets, reduction="batchmean")


class KLLoss(nn.Module):
    """Module form of `kl_loss`."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `kl_loss`."""
        return kl_loss(logits, targets)
