"""From an embedding to logits: what stands between pooling and the losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class HeadOutput:
    """What a head makes of a batch."""

    logits: Tensor
    """(batch, classes) of the emotions."""
    classifier_input: Tensor
    """(batch, dim): what the layer that gives the logits reads, before dropout."""
    tasks: Mapping[str, Tensor] = field(default_factory=dict)
    """What the branches of further tasks give, by the name of the task."""


class Head(nn.Module):
    """Embeddings (batch, dim) and frames (batch, frames, dim) under a mask, True where no padding, to `HeadOutput`."""

    classifier_input_dim: int
    """Width of what the layer that gives the logits reads."""


class LinearHead(Head):
    """One linear layer, or two as in the label-adaptive mixup paper: softmax(f1(f0(F))), eq. 4 and 5.

    Its center loss reads f0's output. No activation stands between the two: the equations have none.
    """

    def __init__(self, dim: int, num_classes: int, *, hidden_dim: int = 0, dropout: float = 0.0) -> None:
        """Set the layers up.

        Args:
            dim: width of the embedding.
            num_classes: declared emotions.
            hidden_dim: width between the two layers; 0 takes one layer alone.
            dropout: before the layer that gives the logits.
        """
        super().__init__()
        self.classifier_input_dim = hidden_dim or dim
        self.hidden = nn.Linear(dim, hidden_dim) if hidden_dim else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.classifier_input_dim, num_classes)

    def forward(self, embedding: Tensor, frames: Tensor, mask: Tensor) -> HeadOutput:
        """Classify embeddings (batch, dim); frames and mask are for heads that read more."""
        hidden = self.hidden(embedding)
        return HeadOutput(self.classifier(self.dropout(hidden)), hidden)
