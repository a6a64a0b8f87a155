"""Where the sound of a clip begins and ends: silence around it says nothing of the emotion, but of the studio."""

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN_BLOCKS = 2
"""Kept on both sides of what is loud enough, so that soft onsets and fading ends stay."""


def sounding_spans(waveforms: Tensor, lengths: Tensor, block: int, below_peak_db: Tensor) -> tuple[Tensor, Tensor]:
    """First sample (batch,) and number of samples (batch,) of what is heard between leading and trailing silence.

    Silence is a block whose mean power lies further below that of the clip's loudest block than a limit, so that a
    quieter copy of a clip has the same span. A clip that is all zeros is kept whole.

    Args:
        waveforms: (batch, time), zeros behind each clip's end.
        lengths: (batch,) in samples.
        block: samples over which power is averaged; spans begin at multiples of it.
        below_peak_db: (batch,) the limits.
    """
    power = F.pad(waveforms, (0, -waveforms.shape[1] % block)).unfold(1, block, block).square().mean(dim=2)
    loud = power > power.amax(dim=1, keepdim=True) * (10 ** (-below_peak_db / 10))[:, None]
    position = torch.arange(power.shape[1], device=waveforms.device)
    first = torch.where(loud, position, power.shape[1]).amin(dim=1)
    last = torch.where(loud, position, -1).amax(dim=1)
    heard = last >= 0
    start = torch.where(heard, (first - MARGIN_BLOCKS).clamp(min=0) * block, 0)
    stop = torch.where(heard, torch.minimum((last + 1 + MARGIN_BLOCKS) * block, lengths), lengths)
    return start, stop - start


def cut_to_spans(waveforms: Tensor, start: Tensor, samples: Tensor) -> Tensor:
    """The spans of (batch, time) waveforms, shifted to time 0, zeros behind each one's end.

    Args:
        waveforms: zeros behind each clip's end.
        start: (batch,) first sample of each span.
        samples: (batch,) of each span.
    """
    # In an exported graph no size may depend on what is heard; there the batch keeps its length.
    longest = waveforms.shape[1] if torch.compiler.is_exporting() else int(samples.max())
    position = torch.arange(longest, device=waveforms.device)
    kept = waveforms.gather(1, (start[:, None] + position).clamp(max=waveforms.shape[1] - 1))
    return kept * (position < samples[:, None])
