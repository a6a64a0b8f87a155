"""Self-attention with a gated relative position bias, one block of the scores at a time.

For one head, with queries q, keys k, values v (frames, dim), a gate g (frames,) and a bias b by distance,

    scores[i, j] = q[i] . k[j] / sqrt(dim) + g[i] b[j - i],    output = dropout(softmax(scores)) v.

No more than one block of scores exists at a time and none is kept: the backward pass computes it again, which costs
one matrix product and saves the trips through memory of all that would be kept (Rabe and Staats 2021,
"Self-attention does not need O(n^2) memory"; gradients as in Dao et al. 2022, "FlashAttention", appendix B).

Queries are walked from the last to the first, w = frames - 1 - i. The bias of query w and key j then stands at w + j
of the table of biases: a block of biases is a view into the table, and its gradient the sums over anti-diagonals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ser_cli.models.attention_dropout import AttentionDropout, largest_dropped, mix

BLOCK_SCORES = 1_200_000
"""Of one block: 4.8 MB, so that a block stays in the caches from its first pass to its last.

Smaller ones are no faster, and slower on a busy machine, where threads that wait for each other cost most.
"""

BLOCK_QUERIES = 384
"""Of one head: fewer make slow matrix products, more make the anti-diagonals of a block longer than its rows."""

Block = tuple[slice, slice]
"""Heads and queries."""


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    table: Tensor,
    valid: Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """Self-attention with a gated relative position bias, in memory that grows with the frames, not their square.

    Computes in single precision at least, under autocast too.

    Args:
        query: (batch, heads, frames, dim), as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        gate: (batch, heads, frames), by which the biases of a query are multiplied.
        table: (heads, 2 frames - 1), the biases of the distances 1 - frames to frames - 1 from query to key.
        valid: (batch, frames), true for frames that are attended to; all of them if None.
        dropout: of the attention probabilities.

    Returns:
        (batch, heads, frames, dim), 0 for a clip without a valid frame.
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        tensors = (tensor.to(precise) for tensor in (query, key, value, gate, table))
        attended: Tensor = _BlockedAttention.apply(*tensors, valid, dropout)
    return attended.to(query.dtype)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, valid, dropout = arguments
        batch, heads, frames, dim = tensors[0].shape
        # Heads of a frame stand side by side, as the projection that follows wants them.
        output = tensors[0].new_zeros(batch, frames, heads, dim).transpose(1, 2)
        for clip in _clips(tensors, valid, dropout):
            attended = torch.empty_like(clip.query)
            space = clip.space()
            for block in _blocks(clip):
                probabilities = _probabilities(clip, block, space)
                if clip.dropped_by is not None:
                    probabilities.mul_(_kept(clip, block, torch.empty_like(probabilities)))
                attended[block] = torch.bmm(probabilities, clip.value[block[0]])
            output[clip.index] = attended.flip(1)
        ctx.save_for_backward(*tensors, valid, output)
        ctx.dropout = dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, valid, output = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in tensors]
        with torch.autocast(grad_output.device.type, enabled=False):
            for clip in _clips(tensors, valid, ctx.dropout):
                _backward_of_clip(clip, grad_output[clip.index], output[clip.index], grads)
        return (*grads, None, None)


@dataclass(frozen=True)
class _Clip:
    """One clip of a batch, with its queries from the last to the first and its keys up to the last valid one."""

    index: int
    query: Tensor
    """(heads, frames, dim), divided by the root of dim."""
    key: Tensor
    """(heads, keys, dim)."""
    value: Tensor
    """(heads, keys, dim), what dropout leaves scaled up."""
    gate: Tensor
    """(heads, frames)."""
    bias: Tensor
    """(heads, frames, keys), a view."""
    masked: Tensor | None
    """(keys,), true for keys that are not attended to, None where there are none."""
    kept_share: float
    """Of the probabilities, by dropout."""
    dropped_by: tuple[Tensor, Tensor, int] | None
    """Numbers of the queries (heads, frames) and the keys (keys,), and the largest mixed one that is dropped."""

    def space(self) -> Tensor:
        """Memory for the scores of a block."""
        heads, queries = _block_shape(self.query.shape[0], self.query.shape[1], self.key.shape[1])
        return self.query.new_empty(heads * queries * self.key.shape[1])


def _clips(tensors: list[Tensor], valid: Tensor | None, dropout: AttentionDropout | None) -> Iterator[_Clip]:
    query, key, value, gate, table = tensors
    batch, _, frames, dim = query.shape
    for index in range(batch):
        keys, masked = frames, None
        if valid is not None:
            attended_to = valid[index].nonzero()
            keys = int(attended_to.max()) + 1 if len(attended_to) else 0
            if len(attended_to) < keys:
                masked = ~valid[index, :keys]
        if not keys:
            continue
        kept_share = 1.0 if dropout is None else 1 - dropout.share
        yield _Clip(
            index,
            query[index].flip(1).mul_(dim**-0.5),
            key[index, :, :keys],
            value[index, :, :keys] / kept_share if dropout else value[index, :, :keys],
            gate[index].flip(1),
            table.unfold(1, frames, 1)[..., :keys],
            masked,
            kept_share,
            dropout
            and (dropout.queries[index].flip(1), dropout.keys[index, None, :keys], largest_dropped(dropout.share)),
        )


def _block_shape(heads: int, queries: int, keys: int) -> tuple[int, int]:
    """Heads and queries of a block, so that blocks are of like size and none has much more than BLOCK_SCORES."""
    most = max(1, min(queries, BLOCK_QUERIES, BLOCK_SCORES // keys))
    per_block = -(-queries // -(-queries // most))
    return max(1, min(heads, BLOCK_SCORES // (per_block * keys))), per_block


def _blocks(clip: _Clip) -> Iterator[Block]:
    heads, queries, _ = clip.query.shape
    heads_at_once, queries_at_once = _block_shape(heads, queries, clip.key.shape[1])
    for head in range(0, heads, heads_at_once):
        for first in range(0, queries, queries_at_once):
            yield slice(head, head + heads_at_once), slice(first, min(first + queries_at_once, queries))


def _probabilities(clip: _Clip, block: Block, space: Tensor) -> Tensor:
    """Softmax of a block's scores (heads, queries, keys), in the memory of `space`."""
    query, key = clip.query[block], clip.key[block[0]]
    shape = (*query.shape[:2], key.shape[1])
    scores = space[: shape[0] * shape[1] * shape[2]].view(shape)
    torch.bmm(query, key.transpose(1, 2), out=scores)
    scores.addcmul_(clip.gate[block].unsqueeze(2), clip.bias[block])
    if clip.masked is not None:
        scores.masked_fill_(clip.masked, -torch.inf)
    return torch.softmax(scores, dim=-1, out=scores)


def _kept(clip: _Clip, block: Block, out: Tensor) -> Tensor:
    """1 for the probabilities of a block that dropout keeps, else 0, in `out` (heads, queries, keys)."""
    assert clip.dropped_by is not None
    queries, keys, limit = clip.dropped_by
    return torch.gt(mix(queries[block].unsqueeze(2), keys.unsqueeze(1)), limit, out=out)


def _backward_of_clip(clip: _Clip, grad_output: Tensor, output: Tensor, grads: list[Tensor]) -> None:
    """Add a clip's share to the gradients of query, key, value, gate and table.

    With P the probabilities and M what dropout kept, 0 or 1 / (1 - share), the output is (P M) v. Hence the
    gradients dv = (P M)^T do; dP = M (do v^T); dS = P (dP - sum over keys of P dP), and that sum is do . output.
    """
    grad_query, grad_key, grad_value, grad_gate, grad_table = grads
    keys = clip.key.shape[1]
    grad_key, grad_value = grad_key[clip.index, :, :keys], grad_value[clip.index, :, :keys]
    expected = (grad_output * output).sum(dim=-1, keepdim=True).flip(1)
    grad_output = grad_output.flip(1)
    grad_query_from_last, grad_gate_from_last = torch.empty_like(clip.query), torch.empty_like(clip.gate)
    space, scratch, skewed = clip.space(), clip.space(), _skewed_space(clip)
    for block in _blocks(clip):
        heads, queries = block
        probabilities = _probabilities(clip, block, space)
        spare = scratch[: probabilities.numel()].view_as(probabilities)
        kept = None if clip.dropped_by is None else _kept(clip, block, torch.empty_like(probabilities))
        left = probabilities if kept is None else torch.mul(probabilities, kept, out=spare)
        grad_value[heads].baddbmm_(left.transpose(1, 2), grad_output[block], alpha=1 / clip.kept_share)
        rows = skewed[: len(probabilities), : queries.stop - queries.start]
        grad_scores = torch.bmm(grad_output[block], clip.value[heads].transpose(1, 2), out=rows[..., :keys])
        if kept is not None:
            grad_scores.mul_(kept)
        grad_scores.sub_(expected[block]).mul_(probabilities)
        grad_query_from_last[block] = torch.bmm(grad_scores, clip.key[heads])
        grad_key[heads].baddbmm_(grad_scores.transpose(1, 2), clip.query[block])
        grad_gate_from_last[block] = torch.mul(grad_scores, clip.bias[block], out=spare).sum(dim=-1)
        _add_diagonals(rows, keys, clip.gate[block], grad_table[heads, queries.start :])
    grad_query[clip.index] = grad_query_from_last.flip(1).mul_(clip.query.shape[2] ** -0.5)
    grad_gate[clip.index] = grad_gate_from_last.flip(1)


def _skewed_space(clip: _Clip) -> Tensor:
    """(heads, queries, keys + queries) of zeros: a block, and behind each row as many zeros as there are rows."""
    keys = clip.key.shape[1]
    heads, queries = _block_shape(clip.query.shape[0], clip.query.shape[1], keys)
    return clip.query.new_zeros(heads, queries, keys + queries)


def _add_diagonals(rows: Tensor, keys: int, gate: Tensor, grad_table: Tensor) -> None:
    """Add the sums over anti-diagonals, each row times its gate, to the first columns of `grad_table` (heads, any).

    Read one number short of their width, the rows of a skewed space shift by one each: what stood on an
    anti-diagonal stands in a column.
    """
    heads, queries, width = rows.shape
    columns = keys + queries - 1
    shifted = rows.as_strided((heads, queries, columns), (rows.stride(0), width - 1, 1))
    grad_table[:, :columns] += torch.bmm(gate.unsqueeze(1), shifted).squeeze(1)
