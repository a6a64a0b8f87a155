"""WavLM's self-attention as `transformers` computes it, without its tensors of frames times frames.

WavLM adds to the scores of each head a bias by distance times a gate by query.
`transformers` keeps that bias, the scores, the probabilities and their mean over the heads for all heads of all
clips at once. Here no such tensor exists: weights, their names and results stay as they are.

- On a CUDA device the gated bias is the score function of FlexAttention, in a compiled kernel.
- Elsewhere, and where that kernel cannot be compiled, `attend_in_blocks` computes the same block by block.

HuBERT and wav2vec 2.0 have no such bias: `transformers` computes them by `scaled_dot_product_attention` itself.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from ser_cli.models.attention_dropout import AttentionDropout, largest_dropped, mix
from ser_cli.models.blocked_attention import attend_in_blocks

LOGGER = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Up to which the library's attention and this one must agree on an attention of random weights."""

KERNEL_TOLERANCE = 0.05
"""The same for a kernel on a device, which may compute with 8 bits (bf16) or 11 (TF32); a fault shows as more."""


def stream_attention(model: nn.Module) -> bool:
    """Give every WavLM attention of a model the `forward` of this module; nothing else changes.

    Args:
        model: an encoder of `transformers`. Its parameters, their names and `save_pretrained` stay as they are.

    Returns:
        Whether it was done. It is not where this version of `transformers` computes anything else.
    """
    attentions = [module for module in model.modules() if type(module) is WavLMAttention]
    asks_for_weights = getattr(getattr(model, "config", None), "output_attentions", False)
    if not attentions or asks_for_weights or not _is_known():
        return False
    for attention in attentions:
        attention.__class__ = StreamedWavLMAttention
    return True


class StreamedWavLMAttention(WavLMAttention):
    """The library's attention with another inside.

    Between layers travels, in place of the bias of every clip, head, query and key, the table (heads,
    2 frames - 1) of biases by distance.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Attended frames (batch, frames, dim), no weights, and the table of biases for the next layer.

        Args:
            hidden_states: (batch, frames, dim).
            attention_mask: (batch, frames), 1 or true for frames of the clip; all frames if None.
            position_bias: of the layer before.
            settings: what the library passes on.
        """
        # A graph for export holds neither a loop over blocks nor a compiled kernel: it is the library's own.
        if torch.compiler.is_exporting() or settings.get("output_attentions"):
            kept: tuple[Tensor, Tensor | None, Tensor] = super().forward(
                hidden_states, attention_mask=attention_mask, position_bias=position_bias, **settings
            )
            return kept
        batch, frames, _ = hidden_states.shape
        table = self._table(frames) if position_bias is None else position_bias
        query, key, value = (
            projection(hidden_states).view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = None
        if self.training and self.dropout:
            dropout = AttentionDropout.draw(self.dropout, batch, self.num_heads, frames, query.device)
        valid = None if attention_mask is None else attention_mask.eq(1)
        attended = attend(query, key, value, self._gate(hidden_states), table, valid, dropout)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, self.embed_dim)), None, table

    def _table(self, frames: int) -> Tensor:
        """Biases of the distances 1 - frames to frames - 1, (heads, 2 frames - 1)."""
        distances = torch.arange(1 - frames, frames, device=self.rel_attn_embed.weight.device)
        table: Tensor = self.rel_attn_embed(self._relative_positions_bucket(distances))
        return table.T

    def _gate(self, hidden_states: Tensor) -> Tensor:
        """By which the biases of each query are multiplied, (batch, heads, frames)."""
        by_head = hidden_states.view(*hidden_states.shape[:2], self.num_heads, self.head_dim)
        projected = self.gru_rel_pos_linear(by_head).unflatten(-1, (2, 4)).sum(-1)
        update, reset = projected.sigmoid().permute(3, 0, 2, 1)
        return update * (reset * self.gru_rel_pos_const.view(-1, 1) - 1.0) + 2.0


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    table: Tensor,
    valid: Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """Self-attention with a gated bias by distance, by the kernel that suits the device.

    Arguments and result are those of `attend_in_blocks`.
    """
    kind = (query.device, query.dtype, query.shape[1], query.shape[3], dropout is not None)
    if query.device.type == "cuda" and _flex_is_usable(*kind):
        return attend_by_flex(_compiled_flex(), query, key, value, gate, table, valid, dropout)
    return attend_in_blocks(query, key, value, gate, table, valid, dropout)


def attend_by_flex(
    kernel: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor,
    table: Tensor,
    valid: Tensor | None = None,
    dropout: AttentionDropout | None = None,
) -> Tensor:
    """Self-attention with a gated bias by distance as FlexAttention.

    FlexAttention knows no dropout, which falls on the probabilities and not on the scores that it lets change. But
    every key can be given twice: with its value where dropout keeps the pair, with the value 0 where it drops it.
    Each pair then counts once, the softmax divides by all of them, and the sum runs over what was kept: dropout as
    `torch.nn.functional.dropout` defines it, for the price of a second product of queries and keys.

    `kernel` is `flex_attention`, compiled or not; the rest and the result are those of `attend_in_blocks`.
    """
    if valid is None:
        valid = torch.ones(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)
    if dropout is not None:
        key = torch.cat([key, key], dim=2)
        value = torch.cat([value / (1 - dropout.share), torch.zeros_like(value)], dim=2)
    with torch.autocast(query.device.type, enabled=False):
        return kernel(query, key, value, score_mod=gated_bias(gate.float(), table.float(), valid, dropout))


def gated_bias(gate: Tensor, table: Tensor, valid: Tensor, dropout: AttentionDropout | None) -> Callable[..., Tensor]:
    """The score function of FlexAttention, with -inf for the pairs that do not count.

    FlexAttention differentiates by what it captures where each tensor is indexed once. With dropout the keys stand
    there twice, first for the pairs that are kept, then for those that are dropped.
    """
    frames = valid.shape[1]
    copies = 1 if dropout is None else 2
    of_key = torch.arange(frames, device=valid.device).repeat(copies)
    place = of_key + frames - 1
    valid = valid.repeat(1, copies)

    def score_function(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        biased = score + gate[clip, head, query] * table[head, place[key] - query]
        return torch.where(valid[clip, key], biased, -torch.inf)

    if dropout is None:
        return score_function
    share, by_query, by_key = dropout
    by_key = by_key.repeat(1, 2)
    is_kept = torch.arange(2 * frames, device=valid.device) < frames
    # A tensor, as an integer would be taken for a size that may change; by clip, as any captured one is indexed.
    limit = torch.full((len(valid),), largest_dropped(share), dtype=torch.int32, device=valid.device)

    def score_function_with_dropout(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        kept = mix(by_query[clip, head, query], by_key[clip, key]) > limit[clip]
        return torch.where(kept == is_kept[key], score_function(score, clip, head, query, key), -torch.inf)

    return score_function_with_dropout


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    # Clips of a batch are as long as they are: one kernel for all lengths.
    return torch.compile(flex_attention, dynamic=True)


@torch.compiler.assume_constant_result
@functools.cache
def _flex_is_usable(device: torch.device, dtype: torch.dtype, heads: int, dim: int, with_dropout: bool) -> bool:
    """Whether FlexAttention compiles here, backward too, and agrees with `attend_in_blocks`."""
    try:
        if torch._dynamo.config.disable:
            raise RuntimeError("torch.compile is switched off")
        with torch.random.fork_rng([device]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(0)
            for frames in (200, 333):  # the kernel compiled for the first serves the second
                tensors = [
                    torch.randn(shape, device=device, dtype=kind).requires_grad_()
                    for shape, kind in (
                        *[((2, heads, frames, dim), dtype)] * 3,
                        ((2, heads, frames), torch.float32),
                        ((heads, 2 * frames - 1), torch.float32),
                    )
                ]
                valid = torch.arange(frames, device=device) < torch.tensor([[frames], [frames - 60]], device=device)
                dropout = AttentionDropout.draw(0.1, 2, heads, frames, device) if with_dropout else None
                kernels: tuple[Callable[..., Tensor], ...] = (
                    functools.partial(attend_by_flex, _compiled_flex()),
                    attend_in_blocks,
                )
                results = [
                    torch.autograd.grad(kernel(*tensors, valid, dropout).float().square().sum(), tensors)
                    for kernel in kernels
                ]
                if not _agree(results[0], results[1], tolerance=KERNEL_TOLERANCE):
                    raise RuntimeError("its gradients are not those of the equation")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the compiler lets through whatever its many stages raise
        LOGGER.debug("WavLM's attention is computed in blocks on %s, without FlexAttention: %s", device, error)
        return False
    return True


def _agree(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> bool:
    """Whether each tensor is the other's but for a share of its largest number."""
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())
        for one, other in zip(ours, theirs, strict=True)
    )


@functools.cache
def _is_known() -> bool:
    """Whether this version's attention is the one that this module computes, tried on random weights."""
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            torch.manual_seed(0)
            first, second = (
                WavLMAttention(8, 2, num_buckets=8, max_distance=16, has_relative_position_bias=has).eval()
                for has in (True, False)
            )
            for parameter in (*first.parameters(), *second.parameters()):
                parameter.normal_()
            frames = torch.randn(2, 11, 8)
            mask = torch.arange(11) < torch.tensor([[11], [6]])
            results = []
            for kind in (WavLMAttention, StreamedWavLMAttention):
                first.__class__ = second.__class__ = kind
                once, _, bias = first(frames, attention_mask=mask, position_bias=None, index=0)
                twice, _, _ = second(once, attention_mask=mask, position_bias=bias, index=1)
                results.append((once, twice))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        LOGGER.debug("WavLM's attention is left as transformers has it: %s", error)
        return False
    return _agree(results[0], results[1], tolerance=TOLERANCE)
