"""MixStyle: what sounds alike in all of a clip, its voice and its microphone, moves towards another clip's."""

import numpy as np
import torch
from torch import Tensor

from ser_cli.models.masks import frame_mask

LEAST_VARIANCE = 1e-4
"""Added to the variance of a band, of spectrograms whose variance is about 1: a band that stands still stays so."""


def mix_styles(
    spectrograms: Tensor, frames: Tensor, generator: torch.Generator, *, share: float, alpha: float
) -> Tensor:
    """Give some clips a mean and a range in each band that lie between their own and those of another of the batch.

    MixStyle (Zhou et al. 2021) of the input and for each band, as is done against unheard recording devices (Schmid et
    al. 2022): sigma_mix (x - mu) / sigma + mu_mix with mu_mix = lambda mu + (1 - lambda) mu', sigma_mix likewise, and
    lambda from Beta(alpha, alpha). The course of the sound within the clip stays, and so does its label.

    Args:
        spectrograms: (batch, planes, frames, bands).
        frames: (batch,) of each clip; what is behind them enters nothing.
        generator: draws who is changed, towards whom and how far.
        share: probability that a clip is changed.
        alpha: of the Beta distribution; below 1, lambda is mostly near 0 or 1.

    Returns:
        As `spectrograms`, 0 behind the frames of a clip.
    """
    batch, device = len(frames), spectrograms.device
    # Drawn on the CPU, so that a seed means the same on every device.
    other = torch.randperm(batch, generator=generator).to(device)
    chosen = torch.rand(batch, generator=generator) < share
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    drawn = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, batch))
    own = torch.where(chosen, drawn, 1).to(spectrograms)[:, None, None, None]
    mask = frame_mask(frames, spectrograms.shape[2])[:, None, :, None]
    number = mask.sum(dim=2, keepdim=True)
    mean = (spectrograms * mask).sum(dim=2, keepdim=True) / number
    centered = (spectrograms - mean) * mask
    deviation = (centered.square().sum(dim=2, keepdim=True) / number + LEAST_VARIANCE).sqrt()
    mixed_mean = own * mean + (1 - own) * mean[other]
    mixed_deviation = own * deviation + (1 - own) * deviation[other]
    return (centered * (mixed_deviation / deviation) + mixed_mean) * mask
