"""Supervised contrastive loss over all frames of a batch, in memory linear in their number."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK_FRAMES = 1024
"""Anchors whose similarities to all frames are in memory together."""


def broadcast_context(frames: Tensor, mask: Tensor) -> Tensor:
    """Context broadcasting, eq. 9: each frame is averaged with the mean of its clip's frames.

    h~_t = (h_t + 1/T sum_m h_m) / 2, where m runs over the T frames that are no padding.

    Args:
        frames: (batch, frames, dim).
        mask: (batch, frames), True where a frame is no padding; at least one in each row.

    Returns:
        (batch, frames, dim).
    """
    weight = mask.unsqueeze(-1).to(frames.dtype)
    mean = (frames * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    return (frames + mean) / 2


def frame_supcon_loss(frames: Tensor, classes: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss over frames, eq. 10 (Khosla et al. 2020).

    L = 1/N sum_i -1/|P(i)| sum_{j in P(i)} log( exp(h_i.h_j / tau) / sum_{k != i} exp(h_i.h_k / tau) )

    over the N frames that are no padding; P(i) holds the other frames whose utterance has the dominant class of
    frame i's utterance. As in Khosla et al., frames are scaled to unit length first; the multi-loss paper does
    not say so, but its temperature has no scale otherwise. A frame without a positive adds nothing (N still
    counts it).

    The sum over positives needs only the sum of each class's frames, since
    sum_{j in P(i)} h_i.h_j = h_i.(S_class(i) - h_i); the denominators are streamed in blocks and computed again
    in the backward pass, so no N x N tensor exists and memory grows with N.

    Args:
        frames: (batch, frames, dim), any scale.
        classes: (batch,) integers, the dominant class of each utterance.
        mask: (batch, frames), True where a frame is no padding.
        temperature: tau, above 0.

    Returns:
        () in the precision of `frames`, at least 0.
    """
    features = F.normalize(frames[mask].float() if frames.dtype.itemsize < 4 else frames[mask], dim=-1)
    labels = classes.unsqueeze(1).expand(mask.shape)[mask]
    total = len(labels)
    if total < 2:
        return features.sum() * 0.0
    present, index = labels.unique(return_inverse=True)
    membership = F.one_hot(index, len(present)).to(features.dtype)
    positives = (membership.sum(dim=0) - 1)[index]
    class_sums = membership.T @ features
    similarity = ((class_sums[index] - features) * features).sum(dim=-1) / temperature
    has_positive = positives > 0
    attraction = torch.where(has_positive, similarity / positives.clamp_min(1), similarity.new_zeros(()))
    log_denominators = _LogDenominators.apply(features, temperature)
    repulsion = torch.where(has_positive, log_denominators, log_denominators.new_zeros(()))
    return (repulsion - attraction).sum() / total


class FrameSupConLoss(nn.Module):
    """Module form: context broadcasting, then `frame_supcon_loss`, as the paper applies them."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, frames: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Loss of projected frames (batch, frames, dim) with soft labels (batch, classes) and their mask."""
        return frame_supcon_loss(broadcast_context(frames, mask), targets.argmax(dim=-1), mask, self.temperature)


class _LogDenominators(torch.autograd.Function):
    """log sum_{k != i} exp(h_i.h_k / tau) for every i, without an N x N tensor.

    With s_ik = h_i.h_k / tau and p_ik = exp(s_ik - l_i), the gradient of sum_i g_i l_i with respect to h_i is
    1/tau sum_k (g_i p_ik + g_k p_ki) h_k. Since s is symmetric, p_ki = exp(s_ik - l_k): one product per block
    gives both terms.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, temperature: float) -> Tensor:
        result = features.new_empty(len(features))
        for start in range(0, len(features), BLOCK_FRAMES):
            block = slice(start, start + BLOCK_FRAMES)
            scores = features[block] @ features.T
            scores.mul_(1 / temperature)
            scores.diagonal(offset=start).fill_(-torch.inf)
            result[block] = torch.logsumexp(scores, dim=1)
        ctx.save_for_backward(features, result)
        ctx.temperature = temperature
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        features, log_denominators = ctx.saved_tensors
        gradient = torch.empty_like(features)
        for start in range(0, len(features), BLOCK_FRAMES):
            block = slice(start, start + BLOCK_FRAMES)
            scores = features[block] @ features.T
            scores.mul_(1 / ctx.temperature)
            scores.diagonal(offset=start).fill_(-torch.inf)
            weights = upstream[block, None] * (scores - log_denominators[block, None]).exp_()
            weights += upstream * scores.sub_(log_denominators).exp_()
            gradient[block] = weights @ features
        return gradient / ctx.temperature, None
