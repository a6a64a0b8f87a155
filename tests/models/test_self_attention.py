"""Attention among frames in evaluation: a long clip costs memory by its length, and padding takes no part."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ser_cli.models.building import build_model
from ser_cli.models.fusion import AttentionFusion
from ser_cli.models.masks import frame_mask
from ser_cli.models.pooling import FrameLevelAttention, MeanPooling
from ser_cli.models.self_attention import attend
from ser_cli.models.text import TextStates
from ser_cli.recipe import load_recipe

FRAMES, DIM, HEADS = 1_024, 32, 8
PAIRS_BYTES = 4 * HEADS * FRAMES**2
"""Of every head's weights for every pair of frames."""


def largest_allocation(function) -> int:
    """Bytes of the largest block that one operation asks for."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    return max(event.self_cpu_memory_usage for event in found.events())


@pytest.mark.parametrize("frames", [FRAMES, FRAMES - 100], ids=["no padding", "padding"])
@pytest.mark.parametrize("kind", ["flam", "fusion"])
def test_no_weights_of_all_pairs_of_frames_are_held_in_evaluation(kind, frames):
    hidden, mask = torch.randn(1, FRAMES, DIM), frame_mask(torch.tensor([frames]), FRAMES)
    if kind == "flam":
        flam = FrameLevelAttention(DIM, HEADS).eval()
        largest = largest_allocation(lambda: flam(hidden, mask))
    else:
        fusion = AttentionFusion(16, DIM, HEADS).eval()
        text = TextStates(torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool))
        largest = largest_allocation(lambda: fusion(text, hidden, mask, MeanPooling()))
    assert largest < PAIRS_BYTES / 10


def test_the_built_in_encoder_hears_a_long_clip_without_them():
    model = build_model(load_recipe("conformer"), num_classes=8).eval()
    seconds = 60
    waveform, lengths = torch.randn(1, 16_000 * seconds), torch.tensor([16_000 * seconds])
    frames = int(model.encoder.frames_of(lengths))  # type: ignore[operator]
    pairs = 4 * model.pooling.self_attention.num_heads * frames**2  # type: ignore[union-attr]
    assert largest_allocation(lambda: model(waveform, lengths)) < pairs / 2


@pytest.mark.parametrize("training", [True, False])
def test_it_is_softmax_of_scaled_products_among_the_real_frames(training):
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2).double().train(training)
    frames, lengths = torch.randn(3, 5, 8, dtype=torch.float64), [5, 3, 1]
    attended = attend(attention, frames, frame_mask(torch.tensor(lengths), 5))
    for clip, length, found in zip(frames, lengths, attended, strict=True):
        q, k, v = (clip[:length] @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weights = (q[:, part] @ k[:, part].T / 4**0.5).softmax(dim=1)
            heads.append(weights @ v[:, part])
        expected = torch.cat(heads, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias
        torch.testing.assert_close(found[:length], expected)
