"""Embeddings against those of the same voice: what all clips of a speaker have in common says nothing of one clip."""

import torch
from torch import Tensor, nn

from ser_cli.global_batch import sum_with_gradient, whole_batch

MOMENTUM = 0.01
"""Share of each training batch in the running mean over speakers."""


class SpeakerNormalization(nn.Module):
    """Subtracts from each embedding the mean of its speaker's, drawn a little towards the mean over all speakers.

    Of a speaker with the embeddings f_1 … f_n, and c the mean over training speakers,

        f'_i = f_i - (f_1 + … + f_n + c) / (n + 1).

    With many clips that is the speaker's own mean. With one it is half way between the clip and c, so that a single
    clip still says something. Emotions of the clips are not needed. In training the n clips are those of the speaker
    in the same batch, as in batch normalisation; later they are all that there are.
    """

    center: Tensor

    def __init__(self, dim: int) -> None:
        """Start with a mean of zero over speakers; `dim` is the width of an embedding."""
        super().__init__()
        self.register_buffer("center", torch.zeros(dim))

    def offset(self, total: Tensor, clips: Tensor) -> Tensor:
        """(speakers, dim) what is to be subtracted.

        Args:
            total: (speakers, dim) sum over the embeddings of each speaker.
            clips: (speakers,) how many they are.
        """
        return (total + self.center.to(total.dtype)) / (clips[:, None] + 1)

    def offset_in_batch(self, embedding: Tensor, speakers: Tensor) -> Tensor:
        """(batch, dim) what is to be subtracted from (batch, dim) embeddings of (batch,) speakers in training.

        With several processes the means are over the batch of all of them, which must call this together.

        Args:
            embedding: of the batch, of which gradients flow through the means too.
            speakers: (batch,) numbers, equal where the speaker is the same, in every process.
        """
        (everyone,) = whole_batch(speakers)
        earliest = (everyone[:, None] == everyone).int().argmax(dim=1)
        heard = everyone[earliest.unique()]  # each once, in the order of the batch
        member = speakers[:, None] == heard
        total = sum_with_gradient(member.to(embedding.dtype).T @ embedding)
        clips = (everyone[:, None] == heard).sum(dim=0)
        offset = self.offset(total, clips)
        if self.training:
            mean = (total / clips[:, None]).mean(dim=0).detach()
            self.center.lerp_(mean.to(self.center.dtype), MOMENTUM)
        return offset[member.int().argmax(dim=1)]


class RelativeHead(nn.Module):
    """A classifier that helps in training: it reads embeddings less the mean of their speaker's in the batch."""

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        """Set it up.

        Args:
            dim: width of an embedding.
            num_classes: declared emotions.
            dropout: before the linear layer.
        """
        super().__init__()
        self.speakers = SpeakerNormalization(dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, embedding: Tensor, speakers: Tensor) -> Tensor:
        """(batch, classes) logits of (batch, dim) embeddings of (batch,) speakers, equal numbers for the same one."""
        relative = embedding - self.speakers.offset_in_batch(embedding, speakers)
        logits: Tensor = self.classifier(self.dropout(relative))
        return logits
