"""An encoder that is not trained: its frames are computed once for each clip and kept."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


class FrozenFrames:
    """Frames of clips, by what the clips sound like.

    Each clip goes through the encoder alone: in a batch its last digits would depend on the clips beside it, and a
    training that is taken up again with nothing kept would end differently.
    """

    def __init__(self, encoder: nn.Module, most_bytes: int) -> None:
        """Keep frames of an encoder.

        Args:
            encoder: maps (waveforms, lengths, generator) to frames and their numbers; is never put into training mode.
            most_bytes: of memory for the frames; clips that find no room are computed each time.
        """
        self._encoder = encoder
        self._most_bytes = most_bytes
        self._kept: dict[bytes, Tensor] = {}
        self._bytes = 0
        self.computed = 0
        """Clips that went through the encoder."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenFrames":
        return self  # a copy of the model, such as the average of its weights, has the same frozen encoder

    @torch.no_grad()
    def of(self, waveforms: Tensor, lengths: Tensor, returning: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames (batch, frames, dim), zeros behind each clip's end, and their numbers (batch,).

        Args:
            waveforms: (batch, time).
            lengths: (batch,) in samples.
            returning: (batch,) True where a clip will be asked for again; None of all. A mixture or a random stretch
                never is, and would take the room of those that are.
        """
        again = [True] * len(lengths) if returning is None else returning.tolist()
        clips = [
            self._of_clip(row[:length], keep)
            for row, length, keep in zip(waveforms, lengths.tolist(), again, strict=True)
        ]
        frames = nn.utils.rnn.pad_sequence([clip.to(waveforms.device) for clip in clips], batch_first=True)
        return frames, torch.tensor([len(clip) for clip in clips], device=lengths.device)

    def _of_clip(self, waveform: Tensor, keep: bool) -> Tensor:
        key = hashlib.blake2b(waveform.cpu().numpy().tobytes(), digest_size=16).digest()
        if key in self._kept:
            return self._kept[key]
        # In the precision of its weights, whoever asks first: training in bfloat16 and testing share what is kept.
        with torch.autocast(waveform.device.type, enabled=False):
            frames, lengths = self._encoder(waveform[None], torch.tensor([len(waveform)], device=waveform.device), None)
        clip: Tensor = frames[0, : int(lengths[0])].cpu()
        self.computed += 1
        # Whatever is kept stays: clips come in turn, and the oldest is the one that is wanted next.
        if keep and self._bytes + clip.nbytes <= self._most_bytes:
            self._kept[key] = clip
            self._bytes += clip.nbytes
        return clip
