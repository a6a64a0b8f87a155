"""Log-mel spectrograms of padded batches."""

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.models.endpoints import cut_to_spans, sounding_spans
from ser_cli.models.masks import frame_mask

LOWEST_HZ = 50.0
HIGHEST_HZ = SAMPLE_RATE_HZ / 2


class LogMel(nn.Module):
    """Log-mel spectrogram of what lies between leading and trailing silence, in planes without the recording level.

    Plane 0 has zero mean and unit variance over the clip. Plane 1 has zero mean in each band, which takes the
    voice's and the microphone's average spectrum away, and unit variance over the clip. Padding frames are 0 and
    enter no mean, so a clip in a padded batch gives what it gives alone.
    """

    planes = 2

    def __init__(
        self, bands: int, hop_ms: float, window_ms: float, *, trim_db: float = 0.0, over_noise_db: float = 0.0
    ) -> None:
        """Make window and mel bank.

        Args:
            bands: of the spectrogram.
            hop_ms: step between its frames.
            window_ms: length of its window.
            trim_db: silence lies so far below the clip's loudest moment; 0 keeps clips whole.
            over_noise_db: silence is also what lies less than this above the recording's noise; 0 ignores the noise.
        """
        super().__init__()
        self.hop = round(SAMPLE_RATE_HZ * hop_ms / 1000)
        # Even: with an odd one a clip that fills its last hop has a frame more before padding than alone.
        self.window_length = 2 * round(SAMPLE_RATE_HZ * window_ms / 2000)
        self.trim_db = trim_db
        self.over_noise_db = over_noise_db
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)
        bank = torchaudio.functional.melscale_fbanks(
            self.window_length // 2 + 1, LOWEST_HZ, HIGHEST_HZ, bands, SAMPLE_RATE_HZ
        )
        self.register_buffer("bank", bank, persistent=False)

    def frames_of(self, samples: Tensor) -> Tensor:
        """(batch,) frames of (batch,) samples."""
        return samples // self.hop + 1

    def spans(self, waveforms: Tensor, lengths: Tensor, below_peak_db: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """First sample (batch,) and number of samples (batch,) of what the frames are made of.

        Args:
            waveforms: (batch, time), zeros behind each clip's end.
            lengths: (batch,) in samples.
            below_peak_db: (batch,) what counts as silence; None takes `trim_db`.
        """
        if not self.trim_db:
            return torch.zeros_like(lengths), lengths
        if below_peak_db is None:
            below_peak_db = torch.full(lengths.shape, self.trim_db, device=waveforms.device)
        return sounding_spans(waveforms, lengths, self.hop, below_peak_db, self.over_noise_db)

    @torch.no_grad()
    def power(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Power in mel bands (batch, frames, bands), 0 in padding, and numbers of frames (batch,).

        Args:
            waveforms: (batch, time) at 16 kHz, zeros behind each clip's end; nothing is cut.
            lengths: (batch,) in samples.
        """
        assert isinstance(self.window, Tensor)
        assert isinstance(self.bank, Tensor)
        if torch.compiler.is_exporting():
            real, imaginary = _convolved_spectrum(waveforms.float(), self.window, self.hop)
        else:
            spectrum = torch.stft(
                waveforms.float(),
                self.window_length,
                self.hop,
                window=self.window,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            real, imaginary = spectrum.real, spectrum.imag
            del spectrum
        power = real.square().add_(imaginary.square())
        del real, imaginary  # of a long clip they are most of what is held
        with torch.autocast(waveforms.device.type, enabled=False):  # 8 bits are too few for power
            mel = power.transpose(1, 2) @ self.bank
        frames = self.frames_of(lengths)
        return mel * frame_mask(frames, mel.shape[1]).unsqueeze(-1), frames

    @torch.no_grad()
    def planes_of(self, power: Tensor, frames: Tensor) -> Tensor:
        """Spectrograms (batch, 2, frames, bands) of what `power` gives.

        Args:
            power: (batch, frames, bands), 0 in padding.
            frames: (batch,).
        """
        mask = frame_mask(frames, power.shape[1]).unsqueeze(-1)
        cells = mask.sum(dim=(1, 2), keepdim=True) * power.shape[2]
        # The floor lies 60 dB under the clip's own mean power: what is lower is the recording's noise. It follows
        # the clip, so that a quiet copy gives the same spectrogram; the constant keeps log finite in silence.
        floor = 1e-6 * power.sum(dim=(1, 2), keepdim=True) / cells
        log_mel = torch.log(power + floor + 1e-30)
        band_mean = (log_mel * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
        planes = []
        for mean in (band_mean.mean(dim=2, keepdim=True), band_mean):
            centered = (log_mel - mean) * mask
            variance = centered.square().sum(dim=(1, 2), keepdim=True) / cells
            planes.append(centered / (variance + 1e-5).sqrt())
        return torch.stack(planes, dim=1)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms (batch, 2, frames, bands) and their numbers of frames (batch,); nothing is augmented."""
        if self.trim_db:
            start, lengths = self.spans(waveforms, lengths)
            waveforms = cut_to_spans(waveforms, start, lengths)
        power, frames = self.power(waveforms, lengths)
        return self.planes_of(power, frames), frames


def _convolved_spectrum(waveforms: Tensor, window: Tensor, hop: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of `torch.stft` (batch, bins, frames), as convolutions with cosines and sines.

    For exported graphs: the Fourier transform of onnxruntime is less exact, which shows where a recording is soft.
    """
    length = window.shape[0]
    turns = torch.outer(torch.arange(length // 2 + 1), torch.arange(length)) % length
    angles = turns.double() * (2 * torch.pi / length)
    kernels = torch.cat([angles.cos(), -angles.sin()]) * window.double().cpu()
    padded = F.pad(waveforms, (length // 2, length // 2)).unsqueeze(1)
    parts = F.conv1d(padded, kernels.float().unsqueeze(1).to(waveforms.device), stride=hop)
    real, imaginary = parts.chunk(2, dim=1)
    return real, imaginary
