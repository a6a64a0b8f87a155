"""The whole model: encoder, pooling, and the heads that the losses read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ser_cli.models.conformer import ConformerEncoder
from ser_cli.models.frozen import FrozenFrames
from ser_cli.models.fusion import FUSIONS, Fusion
from ser_cli.models.heads import Head, LinearHead
from ser_cli.models.masks import frame_mask
from ser_cli.models.pooling import POOLINGS, Pooled
from ser_cli.models.speaker_normalization import RelativeHead, SpeakerNormalization
from ser_cli.models.text import TextEncoder


@dataclass(frozen=True)
class Output:
    """What the model makes of a batch."""

    logits: Tensor
    """(batch, classes)."""
    embedding: Tensor
    """(batch, embedding_dim), f of eq. 5; `attentive_statistics` makes it twice as wide as a frame. Of a model that
    reads text, what the fusion gives. Of one that normalises by speaker, what is left of it."""
    projection: Tensor
    """(batch, projection_dim), z of eq. 8."""
    classifier_input: Tensor
    """(batch, head.classifier_input_dim): what the layer that gives the logits reads."""
    projected_frames: Tensor
    """(batch, frames, projection_dim), h of eq. 9."""
    frame_mask: Tensor
    """(batch, frames), True where a frame is no padding."""
    attention: Tensor
    """(batch, frames), the share of each frame in the embedding; under fusion `attention` the text has the rest."""
    tasks: Mapping[str, Tensor]
    """What the branches of further tasks give, by the name of the task; empty where the head has none."""
    relative_logits: Tensor | None = None
    """(batch, classes) of the classifier that helps in training, `losses.speaker_relative`; None without it, and where
    the speakers were not told."""


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
        hidden_dim: int = 0,
        dropout: float = 0.0,
        projection_dim: int = 64,
        frozen_cache_bytes: int | None = None,
        make_head: Callable[[int, int], Head] | None = None,
        text: TextEncoder | None = None,
        fusion: str = "concatenate",
        fusion_heads: int = 8,
        normalize_by_speaker: bool = False,
        speaker_relative: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: has `dim` and maps (waveforms, lengths, generator) to frames (batch, frames, dim) and
                their numbers (batch,).
            num_classes: declared emotions.
            pooling: a name in `POOLINGS`.
            pooling_heads: self-attention heads of `flam`.
            attention_dim: hidden width of `attentive_statistics`.
            hidden_dim: of the head; see `LinearHead`.
            dropout: before the layer that gives the logits.
            projection_dim: width of the projections.
            frozen_cache_bytes: memory for the frames of an encoder that is not trained; None trains it.
            make_head: another head than `LinearHead`, from the widths of an embedding and of a frame.
            text: reads the transcripts; None where there are none.
            fusion: of what is heard and read, a name in `FUSIONS`.
            fusion_heads: attention heads of the fusion `attention`.
            normalize_by_speaker: subtract from each embedding what its speaker's have in common.
            speaker_relative: also give `relative_logits` in training.
        """
        super().__init__()
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.encoder = encoder
        self.pooling = POOLINGS[pooling](dim, pooling_heads, attention_dim)
        embedding_dim = dim * self.pooling.values_per_feature
        self.text = text
        self.fusion: Fusion | None = FUSIONS[fusion](text.dim, dim, fusion_heads) if text else None
        if self.fusion is not None:
            embedding_dim += self.fusion.text_values
        self.embedding_dim = embedding_dim
        self.speakers = SpeakerNormalization(embedding_dim) if normalize_by_speaker else None
        self.head: Head = (
            make_head(embedding_dim, dim)
            if make_head
            else LinearHead(embedding_dim, num_classes, hidden_dim=hidden_dim, dropout=dropout)
        )
        self.projection = nn.Linear(embedding_dim, projection_dim)
        self.frame_projection = nn.Linear(dim, projection_dim)
        self.relative = RelativeHead(embedding_dim, num_classes, dropout) if speaker_relative else None
        self._frozen: FrozenFrames | None = None
        if frozen_cache_bytes is not None:
            self._frozen = FrozenFrames(encoder.requires_grad_(False).eval(), frozen_cache_bytes)

    def train(self, mode: bool = True) -> "EmotionClassifier":
        """Training or evaluation mode; an encoder that is not trained stays in the latter."""
        super().train(mode)
        if self._frozen is not None:
            self.encoder.eval()
        return self

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
        texts: Sequence[str] = (),
        speakers: Tensor | None = None,
        offsets: Tensor | None = None,
        returning: Tensor | None = None,
    ) -> Output:
        """Classify clips.

        Args:
            waveforms: (batch, time) at 16 kHz, zeros behind each clip's end.
            lengths: (batch,) in samples.
            generator: draws the encoder's augmentation of the features; None augments nothing.
            texts: (batch,) transcripts of the clips, for models that read them.
            speakers: (batch,) numbers, equal where the speaker is the same: a model that normalises by speaker and
                is being trained hears each clip against those of the batch.
            offsets: (batch, embedding_dim) from `SpeakerNormalization.offset`: one that is trained hears it against
                all clips that there are.
            returning: (batch,) True where the same clip comes again, so that an encoder that is not trained keeps its
                frames; None for all.

        Raises:
            ValueError: the model normalises by speaker and is not told the speakers, or reads texts and is not told
                them.
        """
        pooled, mask = self._heard(waveforms, lengths, generator, texts, speakers, returning)
        if self.speakers is not None:
            pooled = replace(pooled, embedding=pooled.embedding - self._offset(pooled.embedding, speakers, offsets))
        head = self.head(pooled.embedding, pooled.frames, mask)
        return Output(
            logits=_for_losses(head.logits),
            embedding=pooled.embedding,
            projection=_for_losses(self.projection(pooled.embedding)),
            classifier_input=_for_losses(head.classifier_input),
            projected_frames=_for_losses(self.frame_projection(pooled.frames)),
            frame_mask=mask,
            attention=pooled.attention,
            tasks={name: _for_losses(value) for name, value in head.tasks.items()},
            relative_logits=None
            if self.relative is None or speakers is None
            else _for_losses(self.relative(pooled.embedding, speakers)),
        )

    def embed(self, waveforms: Tensor, lengths: Tensor, texts: Sequence[str] = ()) -> Tensor:
        """(batch, embedding_dim) before anything of the speaker is subtracted; see `forward` for the arguments."""
        pooled, _ = self._heard(waveforms, lengths, None, texts, None)
        return _for_losses(pooled.embedding)

    def _heard(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None,
        texts: Sequence[str],
        speakers: Tensor | None,
        returning: Tensor | None = None,
    ) -> tuple[Pooled, Tensor]:
        """What pooling gives, and the mask of the frames."""
        if self._frozen is not None and not torch.compiler.is_exporting():
            frames, frame_lengths = self._frozen.of(waveforms, lengths, returning)
        elif (self.speakers or self.relative) is not None and isinstance(self.encoder, ConformerEncoder):
            frames, frame_lengths = self.encoder(waveforms, lengths, generator, speakers)
        else:
            frames, frame_lengths = self.encoder(waveforms, lengths, generator)
        mask = frame_mask(frame_lengths, frames.shape[1])
        return self._pooled(frames, mask, texts), mask

    def _offset(self, embedding: Tensor, speakers: Tensor | None, offsets: Tensor | None) -> Tensor:
        assert self.speakers is not None
        if speakers is not None:
            return self.speakers.offset_in_batch(embedding, speakers)
        if offsets is None:
            raise ValueError("this model normalises by speaker and was not told the speakers of the clips")
        return offsets.to(embedding.dtype)

    def _pooled(self, frames: Tensor, mask: Tensor, texts: Sequence[str]) -> Pooled:
        if self.text is None or self.fusion is None:
            pooled: Pooled = self.pooling(frames, mask)
        else:
            if len(texts) != len(frames):
                raise ValueError(f"{len(texts)} texts for {len(frames)} clips: this model reads one of each")
            pooled = self.fusion(self.text(texts), frames, mask, self.pooling)
        return pooled


def _for_losses(x: Tensor) -> Tensor:
    """What autocast left in half precision, in single: logarithms and sums over all frames need it."""
    return x.float() if x.dtype.itemsize < 4 else x
