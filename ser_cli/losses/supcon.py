"""Supervised contrastive loss over all frames of a batch, in memory linear in their number."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ser_cli.global_batch import whole_batch
from ser_cli.losses.log_denominators import gradient_of_log_denominators, log_denominators


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

    The sum over positives needs only the sum S_c of each class's n_c frames, since
    sum_{i in c} sum_{j in P(i)} h_i.h_j = S_c.S_c - sum_{i in c} h_i.h_i; the denominators are computed in
    blocks, see `log_denominators`. No N x N tensor exists and memory grows with N.

    With several processes the frames are those of all of them, see `whole_batch`, and the work is shared.

    Args:
        frames: (batch, frames, dim), any scale.
        classes: (batch,) integers, the dominant class of each utterance.
        mask: (batch, frames), True where a frame is no padding.
        temperature: tau, above 0.

    Returns:
        () in the precision of `frames`, but at least in float32; at least 0. NaN where a frame holds one.
    """
    own = F.normalize(frames[mask].float() if frames.dtype.itemsize < 4 else frames[mask], dim=-1)
    features, labels = whole_batch(own, classes.unsqueeze(1).expand(mask.shape)[mask])
    if len(features) < 2:
        return features.sum() * 0.0
    return _SupCon.apply(features, labels, temperature)


class FrameSupConLoss(nn.Module):
    """Module form: context broadcasting, then `frame_supcon_loss`, as the paper applies them."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, frames: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Loss of projected frames (batch, frames, dim) with soft labels (batch, classes) and their mask."""
        return frame_supcon_loss(broadcast_context(frames, mask), targets.argmax(dim=-1), mask, self.temperature)


class _SupCon(torch.autograd.Function):
    """Eq. 10 of features (frames, dim) of unit length with one label each.

    The gradient is computed with the value, while the denominators are at hand: the backward pass is one
    multiplication, and processes that share the work need not meet in the middle of it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, labels: Tensor, temperature: float) -> Tensor:
        with _exact_products(features.device):
            index = labels.unique(return_inverse=True)[1]
            # Products with it add up in one order always, which scattered additions do not.
            membership = F.one_hot(index).to(features.dtype)
            positives = membership.sum(dim=0) - 1
            # Weights of 0 instead of a choice: what is not a number stays so and reaches the loss.
            anchors = (positives > 0).to(features.dtype)[index] / len(features)
            per_pair = (positives > 0) / (positives.clamp_min(1) * temperature * len(features))
            class_sums = membership.T @ features
            similarity = class_sums.square().sum(dim=1) - membership.T @ features.square().sum(dim=1)
            log_sums = log_denominators(features, temperature)
            if ctx.needs_input_grad[0]:
                gradient = gradient_of_log_denominators(features, anchors, log_sums, temperature)
                gradient -= membership @ (2 * per_pair[:, None] * class_sums)
                gradient += features * (2 * per_pair)[index, None]
                ctx.save_for_backward(gradient)
            return anchors @ log_sums - per_pair @ similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """Products in full precision, whatever the rest of the model is allowed.

    A similarity that TF32 or bfloat16 has rounded is wrong by up to 1e-3, divided by the temperature.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    allowed = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, allowed, strict=True):
            backend.fp32_precision = precision
