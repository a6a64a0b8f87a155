"""Clips and spectrograms for the tests of the front end and of its augmentation."""

import math

import torch

from ser_cli.models.features import LogMel
from tests.models.tiny import padded

BANDS = 64
HOP, WINDOW = 12.5, 25.0


def log_mel(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Plane 0 of the front end: scaled over the clip."""
    planes, frames = both_planes(clips)
    return planes[:, 0], frames


def both_planes(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return LogMel(BANDS, HOP, WINDOW)(*padded(clips))


def band_of(hz: float) -> float:
    """Position of a frequency among the centres of 64 HTK mel bands from 50 Hz to 8 kHz, counted from 0."""

    def mel(f: float) -> float:
        return 2595 * math.log10(1 + f / 700)

    return (mel(hz) - mel(50)) / ((mel(8000) - mel(50)) / (BANDS + 1)) - 1


def tone(hz: float, samples: int = 8000) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / 16_000).float()
