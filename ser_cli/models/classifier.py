"""The whole model: encoder, pooling, and the heads that the losses read."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ser_cli.models.frozen import FrozenFrames
from ser_cli.models.masks import frame_mask
from ser_cli.models.pooling import POOLINGS


@dataclass(frozen=True)
class Output:
    """What the model makes of a batch."""

    logits: Tensor
    """(batch, classes)."""
    embedding: Tensor
    """(batch, embedding_dim), f of eq. 5; `attentive_statistics` makes it twice as wide as a frame."""
    projection: Tensor
    """(batch, projection_dim), z of eq. 8."""
    projected_frames: Tensor
    """(batch, frames, projection_dim), h of eq. 9."""
    frame_mask: Tensor
    """(batch, frames), True where a frame is no padding."""
    attention: Tensor
    """(batch, frames), the share of each frame in the embedding."""


class EmotionClassifier(nn.Module):
    """Waveforms to emotion logits, with the projections that the center and contrastive losses work on."""

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        *,
        pooling: str = "flam",
        pooling_heads: int = 16,
        attention_dim: int = 64,
        dropout: float = 0.0,
        projection_dim: int = 64,
        frozen_cache_bytes: int | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: has `dim` and maps (waveforms, lengths, generator) to frames (batch, frames, dim) and
                their numbers (batch,).
            num_classes: declared emotions.
            pooling: a name in `POOLINGS`.
            pooling_heads: self-attention heads of `flam`.
            attention_dim: hidden width of `attentive_statistics`.
            dropout: on the embedding before the classifier.
            projection_dim: width of the projections.
            frozen_cache_bytes: memory for the frames of an encoder that is not trained; None trains it.
        """
        super().__init__()
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.encoder = encoder
        self.pooling = POOLINGS[pooling](dim, pooling_heads, attention_dim)
        embedding_dim = dim * self.pooling.values_per_feature
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(embedding_dim, num_classes)
        self.projection = nn.Linear(embedding_dim, projection_dim)
        self.frame_projection = nn.Linear(dim, projection_dim)
        self._frozen: FrozenFrames | None = None
        if frozen_cache_bytes is not None:
            self._frozen = FrozenFrames(encoder.requires_grad_(False).eval(), frozen_cache_bytes)

    def train(self, mode: bool = True) -> "EmotionClassifier":
        """Training or evaluation mode; an encoder that is not trained stays in the latter."""
        super().train(mode)
        if self._frozen is not None:
            self.encoder.eval()
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Output:
        """Classify clips.

        Args:
            waveforms: (batch, time) at 16 kHz, zeros behind each clip's end.
            lengths: (batch,) in samples.
            generator: draws the encoder's augmentation of the features; None augments nothing.
        """
        if self._frozen is not None and not torch.compiler.is_exporting():
            frames, frame_lengths = self._frozen.of(waveforms, lengths)
        else:
            frames, frame_lengths = self.encoder(waveforms, lengths, generator)
        mask = frame_mask(frame_lengths, frames.shape[1])
        pooled = self.pooling(frames, mask)
        return Output(
            logits=_for_losses(self.classifier(self.dropout(pooled.embedding))),
            embedding=pooled.embedding,
            projection=_for_losses(self.projection(pooled.embedding)),
            projected_frames=_for_losses(self.frame_projection(pooled.frames)),
            frame_mask=mask,
            attention=pooled.attention,
        )


def _for_losses(x: Tensor) -> Tensor:
    """What autocast left in half precision, in single: logarithms and sums over all frames need it."""
    return x.float() if x.dtype.itemsize < 4 else x
