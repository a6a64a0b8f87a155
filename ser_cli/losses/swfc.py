"""Sample-weighted focal contrastive loss (SWFC): hard pairs and rare classes count more."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch

SwfcForm = Literal["positives", "printed"]
"""How the equation is read; see `swfc_loss`."""


def swfc_loss(
    embeddings: Tensor,
    classes: Tensor,
    class_weights: Tensor,
    *,
    temperature: float = 0.8,
    gamma: float = 2.0,
    form: SwfcForm = "positives",
) -> Tensor:
    """Sample-weighted focal contrastive loss, eq. 2 of the multi-task paper.

    With p_ij = exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) and s the scalar product, the paper prints

        printed:    L = -1/N sum_i w_i sum_{j != i} p_ij (1 - p_ij)^gamma

    which never asks whether i and j share a class: it would treat all pairs alike. Its text speaks of positive and
    negative pairs, and the loss that it takes up (Shi and Huang 2023) is

        positives:  L = -1/N sum_i w_i 1/|P(i)| sum_{j in P(i)} (1 - p_ij)^gamma log p_ij

    over the other clips P(i) of clip i's class. `positives` is therefore what is meant unless `printed` is asked for.
    Putting the positives into the printed sum alone would not do either: without the logarithm, p (1 - p)^gamma is
    largest at p = 1 / (1 + gamma), and a pair that is closer would be pushed apart. With gamma 0 and equal weights,
    `positives` is the supervised contrastive loss of Khosla et al.

    Embeddings are scaled to unit length first, as Shi and Huang do; the temperature has no scale otherwise. A clip
    without a positive adds nothing (N still counts it). With several processes the clips are those of all of them, see
    `whole_batch`.

    Args:
        embeddings: (batch, dim), any scale; what the pooling gives.
        classes: (batch,) integers, the dominant class of each clip.
        class_weights: (classes,), w of a clip is that of its class.
        temperature: tau, above 0.
        gamma: focusing parameter, at least 0.
        form: which of the two equations.

    Returns:
        () in at least single precision; at least 0 for `positives`, at most 0 for `printed`.
    """
    own = F.normalize(embeddings.float() if embeddings.dtype.itemsize < 4 else embeddings, dim=-1)
    features, classes = whole_batch(own, classes)
    if len(features) < 2:
        return features.sum() * 0.0
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similarity = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    # A clip's own entry is minus infinity, which must meet no product: infinity times 0 is no number.
    log_p = similarity.log_softmax(dim=1).masked_fill(itself, 0.0)
    remainder = -log_p.expm1()
    if gamma < 1:
        # The gradient of x^gamma is infinite at 0 for gamma below 1.
        remainder = remainder.clamp_min(1e-12)
    if form == "printed":
        gain = (log_p.exp() * remainder**gamma).masked_fill(itself, 0.0).sum(dim=1)
    else:
        positive = (classes.unsqueeze(1) == classes) & ~itself
        gain = (log_p * remainder**gamma * positive).sum(dim=1) / positive.sum(dim=1).clamp_min(1)
    return -(class_weights.to(features.dtype)[classes] * gain).mean()


def balanced_class_weights(counts: Sequence[int]) -> Tensor:
    """Weights in inverse proportion to how often each class occurs, whose mean over the clips is 1.

    w_c = N / (K n_c), with K the number of classes that occur; a class that does not occur has 0. The multi-task
    paper calls w the category weight and does not say how it is set.

    Args:
        counts: clips of each class on the training side.

    Returns:
        (classes,) float32.
    """
    clips = torch.tensor(counts, dtype=torch.float64)
    occurs = clips > 0
    weights = clips.sum() / (occurs.sum() * clips.clamp_min(1))
    return torch.where(occurs, weights, 0.0).float()


class SWFCLoss(nn.Module):
    """Module form: takes the dominant class of each soft label."""

    class_weights: Tensor

    def __init__(
        self, class_weights: Tensor, *, temperature: float = 0.8, gamma: float = 2.0, form: SwfcForm = "positives"
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)
        self.temperature = temperature
        self.gamma = gamma
        self.form: SwfcForm = form

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Loss of embeddings (batch, dim) with soft labels (batch, classes); see `swfc_loss`."""
        return swfc_loss(
            embeddings,
            targets.argmax(dim=-1),
            self.class_weights,
            temperature=self.temperature,
            gamma=self.gamma,
            form=self.form,
        )
