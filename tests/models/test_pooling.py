import math

import numpy as np
import pytest
import torch

from ser_cli.errors import UsageError
from ser_cli.models.masks import frame_mask
from ser_cli.models.pooling import (
    POOLINGS,
    AttentiveStatistics,
    FirstFrame,
    FrameLevelAttention,
    MaxPooling,
    MeanPooling,
    Pooling,
)

LENGTHS = torch.tensor([5, 2, 1])
MASK = frame_mask(LENGTHS, 5)


def some_frames(dim: int = 8) -> torch.Tensor:
    return torch.randn(3, 5, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def some_attention(dim: int = 8, heads: int = 4) -> FrameLevelAttention:
    torch.manual_seed(0)
    module = FrameLevelAttention(dim, heads).double()
    with torch.no_grad():
        module.frame_weight.normal_()
        module.self_attention.in_proj_bias.normal_()
        module.self_attention.out_proj.bias.normal_()
    return module


def some_statistics(dim: int = 8, attention_dim: int = 6) -> AttentiveStatistics:
    torch.manual_seed(0)
    return AttentiveStatistics(dim, attention_dim).double()


def some_pooling(name: str) -> Pooling:
    torch.manual_seed(0)
    return some_attention() if name == "flam" else POOLINGS[name](8, 4, 6).double()


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def flam_typed_out(module: FrameLevelAttention, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 5 of one clip without padding: embedding, F' and alpha."""
    parameters = {name: value.detach().numpy() for name, value in module.named_parameters()}
    weight, bias = parameters["self_attention.in_proj_weight"], parameters["self_attention.in_proj_bias"]
    dim, heads = clip.shape[1], module.self_attention.num_heads
    width = dim // heads
    query, key, value = (clip @ weight[k * dim : (k + 1) * dim].T + bias[k * dim : (k + 1) * dim] for k in range(3))
    joined = np.zeros_like(clip)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(clip)):
            scores = [float(query[t, part] @ key[m, part]) / math.sqrt(width) for m in range(len(clip))]
            for share, m in zip(softmax(scores), range(len(clip)), strict=True):
                joined[t, part] += share * value[m, part]
    out = joined @ parameters["self_attention.out_proj.weight"].T + parameters["self_attention.out_proj.bias"]
    frames = clip + out
    alpha = np.array(softmax([float(frame @ parameters["frame_weight"]) for frame in frames]))
    return sum(a * frame for a, frame in zip(alpha, frames, strict=True)), frames, alpha


def test_flam_is_the_equation_over_the_real_frames_of_each_clip():
    module, frames = some_attention(), some_frames()
    pooled = module(frames, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        embedding, changed, alpha = flam_typed_out(module, frames[row, :length].numpy())
        np.testing.assert_allclose(pooled.embedding[row].detach(), embedding, rtol=1e-9)
        np.testing.assert_allclose(pooled.frames[row, :length].detach(), changed, rtol=1e-9)
        np.testing.assert_allclose(pooled.attention[row, :length].detach(), alpha, rtol=1e-9)


def test_flam_starts_from_the_mean_of_its_frames():
    torch.manual_seed(0)
    pooled = FrameLevelAttention(8, 2).double()(some_frames(), MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        mean = pooled.frames[row, :length].mean(dim=0)
        torch.testing.assert_close(pooled.embedding[row], mean)
        assert pooled.attention[row, :length].tolist() == pytest.approx([1 / length] * length)


@pytest.mark.parametrize("name", POOLINGS)
def test_attention_sums_to_1_and_is_0_on_padding(name):
    attention = some_pooling(name)(some_frames(), MASK).attention
    assert attention.shape == MASK.shape
    assert attention.sum(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert (attention[~MASK] == 0).all()
    assert (attention >= 0).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_what_lies_on_padding_changes_nothing(name):
    module = some_pooling(name)
    frames, other = some_frames(), some_frames()
    other[~MASK] = 1e3
    one, two = module(frames, MASK), module(other, MASK)
    torch.testing.assert_close(one.embedding, two.embedding, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.frames[MASK], two.frames[MASK], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.attention, two.attention, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_clip_in_a_padded_batch_is_pooled_as_it_is_alone(name):
    module, frames = some_pooling(name), some_frames()
    together = module(frames, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = module(frames[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together.embedding[row], alone.embedding[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.frames[row, :length], alone.frames[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.attention[row, :length], alone.attention[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_embedding_is_as_wide_as_the_pooling_says(name):
    module = some_pooling(name)
    assert module(some_frames(), MASK).embedding.shape == (3, 8 * module.values_per_feature)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_gradient_of_a_pooling_is_right(name):
    module = some_pooling(name)
    # A clip of one frame has no deviation, and the square root no derivative there: it is pooled apart.
    frames = some_frames()[:2].requires_grad_()
    parameters = tuple(module.parameters())

    def pooled(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = module(x, MASK[:2])
        return result.embedding, result.frames[MASK[:2]]

    assert torch.autograd.gradcheck(pooled, (frames, *parameters))


def test_mean_pooling_is_the_mean_of_the_real_frames():
    frames = some_frames()
    embedding = MeanPooling()(frames, MASK).embedding
    for row, length in enumerate(LENGTHS.tolist()):
        np.testing.assert_allclose(embedding[row], frames[row, :length].numpy().mean(axis=0), rtol=1e-6)


def test_max_pooling_is_the_maximum_of_the_real_frames():
    frames = some_frames() - 10
    pooled = MaxPooling()(frames, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        clip = frames[row, :length].numpy()
        np.testing.assert_array_equal(pooled.embedding[row], clip.max(axis=0))
        wins = np.bincount(clip.argmax(axis=0), minlength=5) / 8
        np.testing.assert_allclose(pooled.attention[row], wins, rtol=1e-6)


def test_first_frame_pooling_is_the_first_frame():
    frames = some_frames()
    pooled = FirstFrame()(frames, MASK)
    np.testing.assert_array_equal(pooled.embedding, [clip[0] for clip in frames.numpy()])
    np.testing.assert_array_equal(pooled.attention, [[1, 0, 0, 0, 0]] * 3)
    assert pooled.frames is frames


def statistics_typed_out(module: AttentiveStatistics, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 3-6 of Okabe et al. of one clip without padding: mean, deviation and alpha."""
    parameters = {name: value.detach().numpy() for name, value in module.named_parameters()}
    scores = []
    for frame in clip:
        hidden = [
            math.tanh(float(row @ frame) + b)
            for row, b in zip(parameters["hidden.weight"], parameters["hidden.bias"], strict=True)
        ]
        scores.append(sum(v * h for v, h in zip(parameters["score.weight"][0], hidden, strict=True)))
    alpha = softmax(scores)
    mean = sum(a * frame for a, frame in zip(alpha, clip, strict=True))
    square = sum(a * frame * frame for a, frame in zip(alpha, clip, strict=True))
    return mean, np.sqrt(np.maximum(square - mean * mean, 0)), np.array(alpha)


def test_attentive_statistics_are_the_equations_over_the_real_frames_of_each_clip():
    module, frames = some_statistics(), some_frames()
    pooled = module(frames, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        mean, deviation, alpha = statistics_typed_out(module, frames[row, :length].numpy())
        np.testing.assert_allclose(pooled.embedding[row, :8].detach(), mean, rtol=1e-9)
        # A clip of one frame: its deviation is 0, held at the root of the smallest variance.
        np.testing.assert_allclose(pooled.embedding[row, 8:].detach(), deviation, rtol=1e-9, atol=1.1e-6)
        np.testing.assert_allclose(pooled.attention[row, :length].detach(), alpha, rtol=1e-9)
    assert torch.equal(pooled.frames, frames)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_deviation_of_frames_that_are_alike_has_a_finite_gradient(dtype):
    module = some_statistics().to(dtype)
    frames = torch.full((2, 5, 8), 3.0, dtype=dtype, requires_grad=True)
    embedding = module(frames, MASK[:2]).embedding
    embedding.sum().backward()
    assert embedding[:, 8:].tolist() == pytest.approx(np.full((2, 8), 1e-6), abs=1e-6)
    assert frames.grad.isfinite().all()


def test_statistics_are_taken_in_single_precision_where_the_model_runs_in_half():
    module, frames = some_statistics().float(), some_frames().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = module(frames, MASK).embedding
    assert embedding.dtype == torch.float32
    mean, deviation, _ = statistics_typed_out(module.double(), frames[0].double().numpy())
    # The scores come from half precision; with shares and sums in it as well, these would be ten times as far off.
    np.testing.assert_allclose(embedding[0].detach(), np.concatenate([mean, deviation]), atol=4e-3)


def test_the_deviation_keeps_its_digits_far_from_the_origin():
    # The difference of the mean square and the squared mean would leave none of them in single precision.
    frames = (1e4 + some_frames()).float()
    exact = statistics_typed_out(some_statistics().float(), frames[0].double().numpy())[1]
    result = some_statistics().float()(frames, MASK).embedding[0, 8:]
    np.testing.assert_allclose(result.detach(), exact, rtol=2e-3)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(UsageError) as caught:
        POOLINGS["flam"](10, 4, 64)
    assert str(caught.value) == (
        "pooling.heads 4: the encoder's width 10 must be a multiple of it\n  set it to a divisor: --set pooling.heads=N"
    )


def test_a_mask_is_true_on_as_many_frames_as_a_clip_has():
    assert frame_mask(torch.tensor([3, 0, 1]), 3).tolist() == [
        [True, True, True],
        [False, False, False],
        [True, False, False],
    ]
