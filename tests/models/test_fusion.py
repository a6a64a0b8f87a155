"""Fusions of text and speech against their equations typed out."""

import pytest
import torch

from ser_cli.errors import UsageError
from ser_cli.models.fusion import FUSIONS, AttentionFusion, Concatenation
from ser_cli.models.pooling import POOLINGS, FirstFrame, MeanPooling
from ser_cli.models.text import TextStates

TEXT_DIM, DIM = 6, 8


def some_inputs(dtype=torch.float64):
    """States of two texts of 4 and 2 tokens, frames of two clips of 3 and 5."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4, TEXT_DIM, generator=generator, dtype=dtype)
    frames = torch.randn(2, 5, DIM, generator=generator, dtype=dtype)
    token_mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    frame_mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    return TextStates(states, token_mask), frames, frame_mask


def attention_fusion() -> AttentionFusion:
    torch.manual_seed(1)
    fusion = AttentionFusion(TEXT_DIM, DIM, 2).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(0, 0.5)
    return fusion


def normalised(x, layer):
    centered = x - x.mean()
    return centered / (x.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def by_hand(fusion, states, frames):
    """What the attention gives for one text and one clip without padding: (tokens + frames, dim)."""
    projected = [fusion.text_projection.weight @ s + fusion.text_projection.bias for s in states]
    joint = [normalised(p, fusion.text_norm) for p in projected] + [normalised(f, fusion.frame_norm) for f in frames]
    attention, half = fusion.self_attention, DIM // 2
    parts = attention.in_proj_weight.split(DIM), attention.in_proj_bias.split(DIM)
    queries, keys, values = ([w @ x + b for x in joint] for w, b in zip(*parts, strict=True))
    rows = []
    for at, query in enumerate(queries):
        heads = []
        for head in (slice(0, half), slice(half, DIM)):
            scores = torch.stack([query[head] @ key[head] / half**0.5 for key in keys]).exp()
            heads.append(sum(s / scores.sum() * v[head] for s, v in zip(scores, values, strict=True)))
        attended = attention.out_proj.weight @ torch.cat(heads) + attention.out_proj.bias
        rows.append(normalised(joint[at] + attended, fusion.norm))
    return torch.stack(rows)


def test_concatenation_puts_the_projected_first_token_before_the_pooled_frames():
    torch.manual_seed(1)
    fusion = Concatenation(TEXT_DIM, DIM).double()
    text, frames, mask = some_inputs()
    fused = fusion(text, frames, mask, MeanPooling())
    for row in range(2):
        said = fusion.text_projection.weight @ text.states[row, 0] + fusion.text_projection.bias
        heard = frames[row][mask[row]].mean(dim=0)
        torch.testing.assert_close(fused.embedding[row], torch.cat([said, heard]))
    assert fused.frames is frames
    assert fused.embedding.shape[1] == DIM + fusion.text_values


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_attention_equals_its_equation_typed_out(pooling):
    fusion = attention_fusion()
    text, frames, mask = some_inputs()
    fused = fusion(text, frames, mask, {"mean": MeanPooling(), "first": FirstFrame()}[pooling])
    for row in range(2):
        expected = by_hand(fusion, text.states[row][text.mask[row]], frames[row][mask[row]])
        pooled = expected.mean(dim=0) if pooling == "mean" else expected[0]
        torch.testing.assert_close(fused.embedding[row], pooled)
        torch.testing.assert_close(fused.frames[row][mask[row]], expected[text.mask[row].sum() :])


def test_attention_of_frames_and_tokens_together_is_1_and_0_on_padding():
    fusion = attention_fusion()
    text, frames, mask = some_inputs()
    fused = fusion(text, frames, mask, MeanPooling())
    assert fused.attention.shape == mask.shape
    assert not fused.attention[~mask].any()
    torch.testing.assert_close(fused.attention.sum(dim=1), torch.tensor([3 / 7, 5 / 7]))


@pytest.mark.parametrize("name", FUSIONS)
def test_what_stands_on_padding_changes_nothing(name):
    torch.manual_seed(2)
    fusion = FUSIONS[name](TEXT_DIM, DIM, 2).double()
    text, frames, mask = some_inputs()
    before = fusion(text, frames, mask, MeanPooling()).embedding
    states = text.states.masked_fill(~text.mask[..., None], 7.0)
    after = fusion(TextStates(states, text.mask), frames.masked_fill(~mask[..., None], -5.0), mask, MeanPooling())
    torch.testing.assert_close(after.embedding, before)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_of_every_fusion_under_every_pooling_are_those_of_differences(name, pooling):
    torch.manual_seed(2)
    fusion = FUSIONS[name](TEXT_DIM, DIM, 2).double()
    pool = POOLINGS[pooling](DIM, 2, 3).double()
    text, frames, mask = some_inputs()

    def embedding(states, frames):
        return fusion(TextStates(states, text.mask), frames, mask, pool).embedding

    assert torch.autograd.gradcheck(embedding, (text.states.requires_grad_(), frames.requires_grad_()))


@pytest.mark.parametrize("name", FUSIONS)
def test_text_and_speech_both_reach_the_embedding(name):
    torch.manual_seed(2)
    fusion = FUSIONS[name](TEXT_DIM, DIM, 2).double()
    text, frames, mask = some_inputs()
    text.states.requires_grad_()
    frames.requires_grad_()
    fusion(text, frames, mask, MeanPooling()).embedding.square().sum().backward()
    assert text.states.grad[:, 0].abs().min() > 0
    assert frames.grad[mask].abs().min() > 0
    assert all(p.grad is not None and p.grad.any() for p in fusion.parameters())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match=r"text\.heads 3: the encoder's width 8 must be a multiple of it"):
        FUSIONS["attention"](TEXT_DIM, DIM, 3)
