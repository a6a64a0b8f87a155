"""The losses: one per file, each with its paper and equation; `multi_loss` adds them up.

Targets are soft labels (batch, classes) that sum to 1; a one-hot row is the special case. Where a loss needs
one class, it takes the dominant one.
"""

from ser_cli.losses.center import CenterLoss, center_loss
from ser_cli.losses.contrastive_center import ContrastiveCenterLoss, contrastive_center_loss
from ser_cli.losses.cross_entropy import CrossEntropyLoss, cross_entropy_loss
from ser_cli.losses.focal import FocalLoss, focal_loss
from ser_cli.losses.kl import KLLoss, kl_loss
from ser_cli.losses.multi_loss import LOSS_NAMES, LossWeights, MultiLoss, weights_from_measured
from ser_cli.losses.supcon import FrameSupConLoss, broadcast_context, frame_supcon_loss
from ser_cli.losses.swfc import SWFCLoss, balanced_class_weights, swfc_loss

__all__ = [
    "LOSS_NAMES",
    "CenterLoss",
    "ContrastiveCenterLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "FrameSupConLoss",
    "KLLoss",
    "LossWeights",
    "MultiLoss",
    "SWFCLoss",
    "balanced_class_weights",
    "broadcast_context",
    "center_loss",
    "contrastive_center_loss",
    "cross_entropy_loss",
    "focal_loss",
    "frame_supcon_loss",
    "kl_loss",
    "swfc_loss",
    "weights_from_measured",
]
