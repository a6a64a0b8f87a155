"""Noise and voices behind training clips, so that a model has heard them before it meets them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ser_cli.models.endpoints import cut_to_spans

MOST_VOICES = 6
"""Of more, hardly one can be told from the others: babble comes near to steady noise."""


@dataclass(frozen=True)
class Background:
    """Lays white noise, or a babble of clips of the batch, behind a share of training clips.

    Of such a clip a little of what lies around the voice may stay, with the background: in noise the ends of a clip are
    no longer told from it by their level. Labels stay as they are, since what is added is soft.
    """

    share: float
    """Of the clips."""
    min_snr_db: float
    """Of the sounding part to the background: least,"""
    max_snr_db: float
    """and most."""
    max_margin: int
    """Most samples that stay before and behind the sounding part; half of the clips keep none on a side."""

    def __call__(
        self, waveforms: Tensor, start: Tensor, samples: Tensor, lengths: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, time) cut to their sounding parts, with a background, and their lengths (batch,).

        Args:
            waveforms: (batch, time), zeros behind each clip's end.
            start: (batch,) first sample of the sounding part.
            samples: (batch,) of it.
            lengths: (batch,) in samples.
            generator: draws everything.
        """
        batch, device = len(lengths), waveforms.device
        # Drawn on the CPU, so that a seed means the same on every device.
        chosen, white, level = torch.rand(3, batch, generator=generator)
        longest, kept_at_all = torch.rand(2, 2, batch, generator=generator)
        has_background = chosen < self.share
        margins = (longest * self.max_margin * (kept_at_all < 0.5) * has_background).long().to(device)
        first = (start - margins[0]).clamp(min=0)
        sizes = torch.minimum(start + samples + margins[1], lengths) - first
        kept = cut_to_spans(waveforms, first, sizes)
        spans = zip(waveforms, start.tolist(), samples.tolist(), strict=True)
        voices = [waveform[begin : begin + number] for waveform, begin, number in spans]
        for row, size in enumerate(sizes.tolist()):
            if not has_background[row]:
                continue
            if white[row] < 0.5:
                sound = torch.randn(size, generator=generator).to(device)
            else:
                sound = babble(voices, size, generator)
            snr_db = self.min_snr_db + (self.max_snr_db - self.min_snr_db) * float(level[row])
            ratio = voices[row].square().mean() / _power(sound) * 10 ** (-snr_db / 10)
            kept[row, :size] += ratio.sqrt() * sound
        return kept, sizes


def babble(voices: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """(size,) of one to `MOST_VOICES` voices at once, each of power 1, begun anywhere and repeated.

    Args:
        voices: (samples,) each.
        size: in samples.
        generator: draws how many, whose (one may be drawn twice), and where they begin.
    """
    number = 1 + int(torch.randint(MOST_VOICES, (), generator=generator))
    drawn = [voices[who] for who in torch.randint(len(voices), (number,), generator=generator).tolist()]
    parts = []
    for voice in drawn:
        begin = int(torch.randint(len(voice), (), generator=generator))
        parts.append(voice.roll(-begin).repeat(-(-size // len(voice)))[:size] / _power(voice).sqrt())
    return torch.stack(parts).sum(dim=0)


def _power(sound: Tensor) -> Tensor:
    """Mean square; of silence, of what makes a division by it harmless."""
    return sound.square().mean().clamp(min=1e-12)
