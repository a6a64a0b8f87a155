"""Where the sound of a clip begins and ends: silence around it says nothing of the emotion, but of the studio."""

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN_BLOCKS = 2
"""Kept on both sides of what is loud enough, so that soft onsets and fading ends stay."""
STEPS = 16
"""Places within a block where one may begin: of a clip that is shifted by some silence the same sound is kept."""
QUIET_SHARE = 10
"""One in so many blocks of a recording is taken to hold its noise alone."""
LEAST_RANGE_DB = 18.0
"""What is no further below the loudest block is sound, however loud the noise seems."""


def sounding_spans(
    waveforms: Tensor, lengths: Tensor, block: int, below_peak_db: Tensor, over_noise_db: float = 0.0
) -> tuple[Tensor, Tensor]:
    """First sample (batch,) and number of samples (batch,) of what is heard between leading and trailing silence.

    Silence is where the mean power of a block lies further below that of the clip's loudest block than a limit, or
    less than another above the recording's steady noise. A quieter copy of a clip has the same span, and so has one
    with silence added at its ends (but as the margin of a clip that is loud to its end); where that is more than a
    tenth of the clip, the noise counts as sound, since the quietest tenth is then none. A clip that is all zeros is
    kept whole.

    Args:
        waveforms: (batch, time), zeros behind each clip's end.
        lengths: (batch,) in samples.
        block: samples over which power is averaged, about; at least `STEPS`.
        below_peak_db: (batch,) the limits below the loudest block.
        over_noise_db: the limit above the noise; 0 ignores the noise.
    """
    step = block // STEPS
    block = step * STEPS
    squares = F.pad(waveforms.square(), (0, -waveforms.shape[1] % block + block))
    power = F.avg_pool1d(squares.unfold(1, step, step).mean(dim=2)[:, None], STEPS, 1)[:, 0]
    peak = power.amax(dim=1, keepdim=True)
    limit = peak * (10 ** (-below_peak_db / 10))[:, None]
    if over_noise_db:
        above = 10 ** (over_noise_db / 10) * _noise(power[:, ::STEPS], lengths // block)
        limit = torch.maximum(limit, torch.minimum(above, 10 ** (-LEAST_RANGE_DB / 10) * peak))
    position = torch.arange(power.shape[1], device=waveforms.device)
    loud = power > limit
    first = torch.where(loud, position, power.shape[1]).amin(dim=1)
    last = torch.where(loud, position, -1).amax(dim=1)
    heard = last >= 0
    start = torch.where(heard, (first * step - MARGIN_BLOCKS * block).clamp(min=0), 0)
    stop = torch.where(heard, torch.minimum(last * step + (1 + MARGIN_BLOCKS) * block, lengths), lengths)
    return start, stop - start


def _noise(power: Tensor, blocks: Tensor) -> Tensor:
    """(batch, 1) power of the loudest of the quietest tenth of the blocks.

    Args:
        power: (batch, blocks at most) of each block.
        blocks: (batch,) how many of them are of the clip.
    """
    blocks = blocks.clamp(min=1)
    outside = torch.arange(power.shape[1], device=power.device) >= blocks[:, None]
    ordered = power.masked_fill(outside, torch.inf).sort(dim=1).values
    return ordered.gather(1, (blocks // QUIET_SHARE)[:, None])


def cut_to_spans(waveforms: Tensor, start: Tensor, samples: Tensor) -> Tensor:
    """The spans of (batch, time) waveforms, shifted to time 0, zeros behind each one's end.

    Args:
        waveforms: zeros behind each clip's end.
        start: (batch,) first sample of each span.
        samples: (batch,) of each span.
    """
    if torch.compiler.is_exporting():  # no size may depend on what is heard: the batch keeps its length
        position = torch.arange(waveforms.shape[1], device=waveforms.device)
        kept = waveforms.gather(1, (start[:, None] + position).clamp(max=waveforms.shape[1] - 1))
        return kept * (position < samples[:, None])
    numbers = samples.tolist()
    # Row by row: an index for every sample would take four times the memory of the waveforms.
    kept = waveforms.new_zeros(len(numbers), max(numbers))
    for row, (first, number) in enumerate(zip(start.tolist(), numbers, strict=True)):
        kept[row, :number] = waveforms[row, first : first + number]
    return kept
