"""The built-in encoder: log-mel spectrogram, convolutions, Conformer; trained from scratch, no download."""

from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.models.augmentation import Augmentation
from ser_cli.models.features import LogMel
from ser_cli.models.masks import frame_mask, nothing_is_padded
from ser_cli.models.self_attention import attend


class ConformerEncoder(nn.Module):
    """Log-mel spectrogram, residual 2-D convolutions that shorten it fourfold, then `torchaudio`'s Conformer.

    Exact under padding: padding is zeroed before every convolution that looks sideways, normalisation takes its
    statistics from real frames alone, and attention does not see padding.
    """

    exact_under_padding = True

    def __init__(
        self,
        *,
        mel_bands: int,
        hop_ms: float,
        window_ms: float,
        trim_db: float = 0.0,
        over_noise_db: float = 0.0,
        channels: tuple[int, ...],
        dim: int,
        layers: int,
        heads: int,
        feed_forward_dim: int,
        kernel_size: int,
        dropout: float,
        augmentation: Augmentation,
    ) -> None:
        """Build the encoder with random weights.

        Args:
            mel_bands: bands of the spectrogram.
            hop_ms: step between frames of the spectrogram.
            window_ms: length of its window.
            trim_db: leading and trailing silence lies so far below the clip's peak; 0 keeps clips whole.
            over_noise_db: silence also lies less than this above the recording's noise; 0 ignores the noise.
            channels: of each convolution block; the first two halve time and frequency, the others frequency.
            dim: width of the frames that are returned.
            layers: of the Conformer.
            heads: of its self-attention.
            feed_forward_dim: hidden width of its feed-forward modules.
            kernel_size: frames under its depthwise convolution, odd.
            dropout: of every module.
            augmentation: of the spectrogram, drawn where a generator is passed.
        """
        super().__init__()
        self.dim = dim
        self.log_mel = LogMel(mel_bands, hop_ms, window_ms, trim_db=trim_db, over_noise_db=over_noise_db)
        self.augmentation = augmentation
        blocks: list[nn.Module] = []
        bands, previous = mel_bands, self.log_mel.planes
        for position, width in enumerate(channels):
            time_stride = 2 if position < 2 else 1
            block = _Convolution if position == 0 else _ResidualBlock
            blocks.append(block(previous, width, time_stride))
            bands, previous = -(-bands // 2), width
        # Channels last: 3 x 3 convolutions with few channels are fastest so on a CPU.
        self.blocks = nn.ModuleList(blocks).to(memory_format=torch.channels_last)
        self.projection = nn.Linear(previous * bands, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.conformer = torchaudio.models.Conformer(dim, heads, feed_forward_dim, layers, kernel_size, dropout)

    def frames_of(self, lengths: Tensor) -> Tensor:
        """(batch,) frames of clips of (batch,) samples, at most: silence at their ends and augmentation change them."""
        frames = self.log_mel.frames_of(lengths)
        for block in self.blocks:
            frames = -(-frames // block.time_stride)  # type: ignore[operator]
        return frames

    def spans(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """First sample (batch,) and number of samples (batch,) of what the frames are made of."""
        return self.log_mel.spans(waveforms, lengths)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
        speakers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frames (batch, frames, dim) and their numbers (batch,) of waveforms (batch, time).

        Args:
            waveforms: at 16 kHz, zeros behind each clip's end.
            lengths: (batch,) in samples.
            generator: draws the augmentation; None augments nothing.
            speakers: (batch,) numbers; clips with the same are given the same vocal tract and pace, each a style of its
                own. None draws all for each.
        """
        if generator is None:
            spectrogram, frames = self.log_mel(waveforms, lengths)
        else:
            spectrogram, frames = self.augmentation(self.log_mel, waveforms, lengths, generator, speakers)
        planes = spectrogram.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            planes, frames = block(planes, frames)
        sequence = planes.permute(0, 2, 1, 3).flatten(start_dim=2)
        sequence = self.dropout(self.norm(self.projection(sequence)))
        mask = frame_mask(frames, sequence.shape[1])
        for layer in self.conformer.conformer_layers:
            sequence = _conformer_layer(layer, sequence, mask)
        return sequence, frames


def _conformer_layer(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """One layer of `torchaudio`'s Conformer (Gulati et al. 2020, eq. 1), padding kept out of its convolution.

    The layer's own forward pass masks attention only: its depthwise convolution and batch normalisation would
    see the padding, so the same modules are run here in the same order with the mask between them.

    Args:
        layer: a `ConformerLayer`.
        x: (batch, frames, dim).
        mask: (batch, frames), True where a frame is no padding.
    """
    x = x + 0.5 * layer.ffn1(x)
    x = x + layer.self_attn_dropout(attend(layer.self_attn, layer.self_attn_layer_norm(x), mask))
    expand, gate, depthwise, norm, activation, contract, dropout = layer.conv_module.sequential
    convolved = gate(expand(layer.conv_module.layer_norm(x).transpose(1, 2)))
    convolved = depthwise(convolved * mask.unsqueeze(1))
    convolved = _normalize_real_frames(norm, convolved.transpose(1, 2), mask).transpose(1, 2)
    x = x + dropout(contract(activation(convolved))).transpose(1, 2)
    x = x + 0.5 * layer.ffn2(x)
    normed_output: Tensor = layer.final_layer_norm(x)
    return normed_output


def _normalize_real_frames(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Batch-normalise (batch, frames, …, channels) over its real frames; padding becomes 0."""
    if nothing_is_padded(mask):
        return _normalize_rows(norm, x.reshape(-1, x.shape[-1])).view(x.shape)
    if torch.compiler.is_exporting():
        # A trained model normalises with stored statistics, frame by frame, so padding may go through and be zeroed.
        normed = norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        return normed * mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
    result = x.new_zeros(x.shape)
    real = x[mask]
    result[mask] = _normalize_rows(norm, real.reshape(-1, x.shape[-1])).view(real.shape)
    return result


def _normalize_rows(norm: nn.Module, rows: Tensor) -> Tensor:
    """Batch-normalise (rows, channels); one row alone has no statistics of its own and takes the stored ones."""
    if norm.training and len(rows) == 1 and isinstance(norm, nn.BatchNorm1d):
        return F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    normed: Tensor = norm(rows)
    return normed


class _Convolution(nn.Module):
    """A 3 x 3 convolution that halves frequency, and time by its stride; padding stays 0."""

    def __init__(self, inputs: int, outputs: int, time_stride: int) -> None:
        super().__init__()
        self.time_stride = time_stride
        self.convolution = nn.Conv2d(inputs, outputs, 3, (time_stride, 2), 1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, planes: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        planes = self.convolution(planes)
        frames = -(-frames // self.time_stride)
        planes = _normalize_planes(self.norm, planes, frames)
        return F.relu(planes), frames


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016); padding stays 0."""

    def __init__(self, inputs: int, outputs: int, time_stride: int) -> None:
        super().__init__()
        self.first = _Convolution(inputs, outputs, time_stride)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.time_stride = time_stride
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, planes: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        # A last odd frame is averaged with a zero, as it would be in front of padding.
        odd = (0, planes.shape[3] % 2, 0, planes.shape[2] % self.time_stride)
        if torch.compiler.is_exporting():  # the pooling drops a zero too many; whether it is one, no graph can ask
            odd = (0, planes.shape[3] % 2, 0, self.time_stride - 1)
        shortcut = self.shortcut(F.avg_pool2d(F.pad(planes, odd), (self.time_stride, 2)))
        planes, frames = self.first(planes, frames)
        planes = _normalize_planes(self.norm, self.second(planes), frames)
        mask = frame_mask(frames, planes.shape[2])[:, None, :, None]
        return F.relu(planes + shortcut) * mask, frames


def _normalize_planes(norm: nn.Module, planes: Tensor, frames: Tensor) -> Tensor:
    """Batch-normalise (batch, channels, frames, bands) over its real frames; padding becomes 0."""
    mask = frame_mask(frames, planes.shape[2])
    return _normalize_real_frames(norm, planes.permute(0, 2, 3, 1), mask).permute(0, 3, 1, 2)
