"""The multi-task paper's head: a branch for emotion and one for each task beside it, fused by co-attention."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.models.heads import Head, HeadOutput
from ser_cli.tasks.outputs import TaskOutputs


class Features(nn.Module):
    """The first layer of a branch: what the branches exchange."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to (…, hidden_dim)."""
        result: Tensor = self.dropout(F.relu(self.norm(self.linear(x))))
        return result


class ClipBranch(nn.Module):
    """A task with one label per clip: two linear layers, section 2.2 of the multi-task paper.

    The paper has layer normalisation, ReLU and dropout in "each layer". They stand behind the first one alone here:
    behind the second, ReLU would take the negative side of the logits away.
    """

    def __init__(self, dim: int, hidden_dim: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.features = Features(dim, hidden_dim, dropout)
        self.logits = nn.Linear(hidden_dim, outputs)

    def forward(self, embedding: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, hidden_dim) and logits (batch, outputs) of embeddings (batch, dim)."""
        features = self.features(embedding)
        return features, self.logits(features)


class CharacterBranch(nn.Module):
    """Characters for each frame: an LSTM, then the two linear layers of `ClipBranch`.

    The paper does not say which way its LSTM reads. It reads forward here, so that padding, which stands behind a
    clip's end, reaches none of its frames; the encoder has looked both ways already.
    """

    def __init__(self, dim: int, lstm_dim: int, hidden_dim: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, lstm_dim, batch_first=True)
        self.features = Features(lstm_dim, hidden_dim, dropout)
        self.logits = nn.Linear(hidden_dim, outputs)

    def forward(self, embedding: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, frames, hidden_dim) and logits (batch, frames, outputs) of frames (batch, frames, dim)."""
        read = _as_one_node(self.lstm, frames) if torch.compiler.is_exporting() else self.lstm(frames)[0]
        features = self.features(read)
        return features, self.logits(features)


def _as_one_node(lstm: nn.LSTM, frames: Tensor) -> Tensor:
    """(batch, frames, lstm_dim) of (batch, frames, dim) as the LSTM of ONNX, for graphs that are exported.

    Left to the exporter, each frame of its example becomes nodes of its own, which takes minutes.
    """
    weights, recurrence, bias, recurrent_bias = (_in_order_of_onnx(p).unsqueeze(0) for p in lstm.all_weights[0])
    sequence = frames.transpose(0, 1)
    read: Tensor = torch.onnx.ops.symbolic(
        "LSTM",
        (sequence, weights, recurrence, torch.cat([bias, recurrent_bias], dim=1)),
        {"hidden_size": lstm.hidden_size},
        dtype=frames.dtype,
        shape=(sequence.shape[0], 1, sequence.shape[1], lstm.hidden_size),
    )
    return read.squeeze(1).transpose(0, 1)


def _in_order_of_onnx(parameter: Tensor) -> Tensor:
    """Input, output, forget and cell gate, where PyTorch has input, forget, cell and output."""
    entering, forget, cell, leaving = parameter.chunk(4)
    return torch.cat([entering, leaving, forget, cell])


class CoAttention(nn.Module):
    """Adds to the emotion feature what it attends to in the features of the other tasks, section 2.3 of that paper.

    With e the emotion feature, x_k that of task k and d their width:

        q = W_q e,  x'_k = W_k x_k                                   "maps the features from each branch to the same
                                                                     dimension using a linear projection"
        a = softmax over k of q.x'_k / sqrt(d)                       "dot-product attention … Softmax normalization"
        e' = e + sum_k a_k x'_k                                      "combined with the original emotional features"

    The paper gives no equations; this is one reading of its text. The feature of the characters is a sequence with a
    vector per frame. Frames and tasks are not weighed in one softmax, where hundreds of frames would leave gender and
    speaker no share: the sequence has an attention of its own first, x'_characters = sum_t b_t W x_t with
    b = softmax over the frames of q.(W x_t) / sqrt(d), padding left out ("separate attention score matrices"). The
    division by sqrt(d), on which the paper is silent, is that of Vaswani et al. 2017, and "combined" is a sum.

    With a single task a is 1: its projected feature is added as it is.
    """

    def __init__(self, dim: int, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.projections = nn.ModuleDict({task: nn.Linear(dim, dim) for task in tasks})
        self.scale = 1 / math.sqrt(dim)

    def forward(self, emotion: Tensor, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Fuse features.

        Args:
            emotion: (batch, dim).
            features: (batch, dim) of each task, or (batch, frames, dim).
            mask: (batch, frames), True where a frame is no padding.
        """
        query = self.query(emotion)
        vectors = []
        for task, projection in self.projections.items():
            projected = projection(features[task])
            if projected.ndim == 3:
                projected = self._attend(query, projected, mask)
            vectors.append(projected)
        return emotion + self._attend(query, torch.stack(vectors, dim=1))

    def _attend(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, dim) of keys (batch, number, dim)."""
        scores = torch.einsum("bd,bnd->bn", query, keys) * self.scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.einsum("bn,bnd->bd", scores.softmax(dim=-1).to(keys.dtype), keys)


class MultiTaskHead(Head):
    """Emotion and the tasks beside it, section 2.2 of the multi-task paper.

    Emotion, gender and speaker read the pooled embedding; characters read the frames. What the emotions' logits are
    made of, and a center loss reads, is the emotion branch's feature behind the fusion.
    """

    def __init__(
        self,
        embedding_dim: int,
        frame_dim: int,
        num_classes: int,
        outputs: TaskOutputs,
        *,
        hidden_dim: int,
        lstm_dim: int,
        branch_dropout: float,
        co_attention: bool,
        dropout: float = 0.0,
    ) -> None:
        """Set the branches up.

        Args:
            embedding_dim: width of the embedding.
            frame_dim: width of a frame.
            num_classes: declared emotions.
            outputs: of the tasks that are learnt; may be none.
            hidden_dim: width of each branch's first layer.
            lstm_dim: of the characters branch.
            branch_dropout: of each branch's first layer.
            co_attention: fuse the tasks' features into that of emotion; without tasks there is nothing to fuse.
            dropout: before the layer that gives the logits.
        """
        super().__init__()
        self.outputs = outputs
        self.classifier_input_dim = hidden_dim
        self.emotion = Features(embedding_dim, hidden_dim, branch_dropout)
        self.branches = nn.ModuleDict()
        for task in outputs.learnt:
            number = outputs.number(task)
            self.branches[task] = (
                CharacterBranch(frame_dim, lstm_dim, hidden_dim, number, branch_dropout)
                if task == "characters"
                else ClipBranch(embedding_dim, hidden_dim, number, branch_dropout)
            )
        fuses = co_attention and bool(outputs.learnt)
        self.fusion = CoAttention(hidden_dim, outputs.learnt) if fuses else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, embedding: Tensor, frames: Tensor, mask: Tensor) -> HeadOutput:
        """Classify embeddings (batch, embedding_dim) of frames (batch, frames, frame_dim) under a mask."""
        emotion = self.emotion(embedding)
        needed = self.fusion is not None or not torch.compiler.is_exporting()  # a graph for emotion needs no other task
        found = {task: branch(embedding, frames) for task, branch in self.branches.items()} if needed else {}
        if self.fusion is not None:
            emotion = self.fusion(emotion, {task: features for task, (features, _) in found.items()}, mask)
        logits = self.classifier(self.dropout(emotion))
        return HeadOutput(logits, emotion, {task: logits for task, (_, logits) in found.items()})
