"""Training clips of the built-in encoder made into the voices of other speakers, elsewhere recorded."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ser_cli.models.background import Background
from ser_cli.models.endpoints import cut_to_spans
from ser_cli.models.features import HIGHEST_HZ, LOWEST_HZ, LogMel
from ser_cli.models.masks import frame_mask
from ser_cli.models.mixstyle import mix_styles

NOISE_SLOPE = 2.0
"""Steepest colour of noise: its power at both ends of the mel scale is e^2 times more or less than in the middle."""
NOISE_RIPPLE = 0.4
"""Standard deviation of the logarithm of its power from cell to cell, about that of 5 averaged bins."""


@dataclass(frozen=True)
class Augmentation:
    """Makes a training clip sound like another speaker at another pace.

    Each clip is resampled along time by one random factor (speaking rate) and along frequency by another, which
    moves formants and pitch together as another vocal tract would (Jaitly & Hinton 2013); a random stretch is
    kept; the average spectrum of some moves towards that of another clip (MixStyle, Zhou et al. 2021); bands and
    stretches are masked with the clip's mean, which is 0 (SpecAugment, Park et al. 2019). Before all that, some clips
    get steady noise of a random level and colour, and where silence begins is drawn anew each time.
    """

    max_time_warp: float
    """Largest change of the rate; 0.2 means factors from exp(-0.2) to exp(0.2)."""
    max_frequency_warp: float
    """Largest change of the frequency axis, likewise."""
    crop_frames: int
    """Longest stretch that is kept."""
    max_masked_bands: int
    """Widest masked band; two are drawn."""
    max_masked_frames: int
    """Longest masked stretch; two are drawn."""
    trim_jitter_db: float = 0.0
    """Largest change of what counts as silence."""
    background: Background | None = None
    """Noise and voices behind the clips; None adds none."""
    noise_share: float = 0.0
    """Share of the clips that get noise."""
    noise_min_snr_db: float = 15.0
    """Of the clip's mean power to the noise: least,"""
    noise_max_snr_db: float = 50.0
    """and most."""
    mixstyle_share: float = 0.0
    """Share of the clips whose bands get the mean and the range of another clip of the batch, in part."""
    mixstyle_alpha: float = 0.4
    """Of the Beta distribution that says how far."""

    def __call__(
        self,
        front: LogMel,
        waveforms: Tensor,
        lengths: Tensor,
        generator: torch.Generator,
        speakers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Changed spectrograms (batch, 2, frames, bands) and their numbers of frames (batch,).

        Args:
            front: makes the spectrograms.
            waveforms: (batch, time) at 16 kHz, zeros behind each clip's end.
            lengths: (batch,) in samples.
            generator: draws everything.
            speakers: (batch,) numbers; clips with the same get the same warp and pace, each a style of its own.
                None draws a warp for each.
        """
        limits = self.silence_limits(front.trim_db, len(lengths), generator).to(waveforms.device)
        start, samples = front.spans(waveforms, lengths, limits)
        if self.background is not None:
            waveforms, lengths = self.background(waveforms, start, samples, lengths, generator)
        elif front.trim_db:
            waveforms, lengths = cut_to_spans(waveforms, start, samples), samples
        power, frames = front.power(waveforms, lengths)
        assert isinstance(front.bank, Tensor)
        power = self.add_noise(power, frames, front.bank.sum(dim=0), generator)
        return self.in_other_voices(front.planes_of(power, frames), frames, generator, speakers)

    def silence_limits(self, trim_db: float, batch: int, generator: torch.Generator) -> Tensor:
        """(batch,) how far below a clip's peak silence begins, around `trim_db`."""
        if not self.trim_jitter_db:
            return torch.full((batch,), trim_db)
        return trim_db + (2 * torch.rand(batch, generator=generator) - 1) * self.trim_jitter_db

    def add_noise(self, power: Tensor, frames: Tensor, white: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to (batch, frames, bands) power, 0 in padding, of clips with (batch,) frames.

        Args:
            power: in mel bands.
            frames: (batch,).
            white: (bands,) what white noise has in each band, in any unit.
            generator: draws who gets noise, and which.
        """
        if not self.noise_share:
            return power
        batch, size, bands = power.shape

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(power.device)

        snr_db = self.noise_min_snr_db + (self.noise_max_snr_db - self.noise_min_snr_db) * draw(batch, 1, 1)
        chosen = draw(batch, 1, 1) < self.noise_share
        slope = (2 * draw(batch, 1, 1) - 1) * NOISE_SLOPE
        colour = white * (slope * torch.linspace(-1, 1, bands, device=power.device)).exp()
        ripple = (NOISE_RIPPLE * torch.randn(power.shape, generator=generator).to(power.device)).exp()
        mean_power = power.sum(dim=(1, 2), keepdim=True) / (frames[:, None, None] * bands)
        level = chosen * mean_power * 10 ** (-snr_db / 10)
        noise = level * colour / colour.mean(dim=2, keepdim=True) * ripple
        return power + noise * frame_mask(frames, size).unsqueeze(-1)

    def in_other_voices(
        self, spectrograms: Tensor, frames: Tensor, generator: torch.Generator, speakers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Warp, cut, restyle and mask (batch, planes, frames, bands) spectrograms; with new numbers of frames (batch,).

        Args:
            spectrograms: of the clips.
            frames: (batch,).
            generator: draws everything.
            speakers: (batch,) numbers; clips with the same get the same warp and pace, each a style of its own.
                None draws a warp for each.
        """
        batch, _, size, bands = spectrograms.shape
        device = spectrograms.device

        def draw(*shape: int) -> Tensor:
            # Drawn on the CPU, so that a seed means the same on every device.
            return torch.rand(*shape, generator=generator).to(device)

        rate = torch.exp((2 * draw(batch) - 1) * self.max_time_warp)
        stretch = torch.exp((2 * draw(batch) - 1) * self.max_frequency_warp)
        if speakers is not None:
            first = (speakers[:, None] == speakers).int().argmax(dim=1)  # of all clips with this number
            rate, stretch = rate[first], stretch[first]
        warped_frames = ((frames - 1) / rate).floor().long() + 1
        kept = warped_frames.clamp(max=self.crop_frames)
        start = (draw(batch) * (warped_frames - kept + 1)).floor()
        longest = int(kept.max())
        at_frame = (start[:, None] + torch.arange(longest, device=device)) * rate[:, None]
        at_band = _warped_bands(bands, stretch)
        grid = torch.stack(
            [
                _to_unit_range(at_band, bands)[:, None, :].expand(batch, longest, bands),
                _to_unit_range(at_frame, size)[:, :, None].expand(batch, longest, bands),
            ],
            dim=-1,
        )
        warped = F.grid_sample(spectrograms, grid, mode="bilinear", padding_mode="border", align_corners=True)
        if self.mixstyle_share:
            warped = mix_styles(warped, kept, generator, share=self.mixstyle_share, alpha=self.mixstyle_alpha)
        keep = frame_mask(kept, longest).unsqueeze(-1)
        for _ in range(2):
            masked_bands = _stretches(draw(2, batch), self.max_masked_bands, kept.new_full((batch,), bands), bands)
            masked_frames = _stretches(draw(2, batch), self.max_masked_frames, kept, longest)
            keep = keep & ~masked_bands[:, None, :] & ~masked_frames[:, :, None]
        return warped * keep.unsqueeze(1), kept


def _warped_bands(bands: int, stretch: Tensor) -> Tensor:
    """(batch, bands): from which band, in fractions, each warped band takes its value.

    The centre frequencies are multiplied in hertz; on the mel axis that is no constant shift.
    """
    low, high = _mel(torch.tensor(LOWEST_HZ)), _mel(torch.tensor(HIGHEST_HZ))
    step = (high - low) / (bands + 1)
    centres_mel = low + step * torch.arange(1, bands + 1)
    centres_hz = 700 * (10 ** (centres_mel / 2595) - 1)
    return (_mel(centres_hz.to(stretch.device)[None] * stretch[:, None]) - low) / step - 1


def _mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


def _to_unit_range(position: Tensor, size: int) -> Tensor:
    """Positions 0 to size - 1 as -1 to 1, as `grid_sample` wants them."""
    return position * (2 / max(size - 1, 1)) - 1


def _stretches(draws: Tensor, longest: int, room: Tensor, size: int) -> Tensor:
    """(batch, size) booleans, True in one stretch per row.

    Args:
        draws: (2, batch) uniform in [0, 1): length and start.
        longest: upper end of the length; never more than half of the room is covered.
        room: (batch,) positions that a stretch may cover.
        size: positions in all.
    """
    length = (draws[0] * (room // 2).clamp(max=longest).add(1)).floor()
    start = (draws[1] * (room - length + 1)).floor()
    position = torch.arange(size, device=draws.device)
    return (position >= start[:, None]) & (position < (start + length)[:, None])
