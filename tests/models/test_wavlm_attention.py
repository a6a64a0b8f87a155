"""WavLM's attention without its large tensors: the numbers of transformers, its names, less memory."""

import copy
import pickle

import pytest
import torch
import transformers
from torch.nn.attention import flex_attention as flex
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from ser_cli.models import blocked_attention, wavlm_attention
from ser_cli.models.attention_dropout import AttentionDropout, largest_dropped, mix
from ser_cli.models.blocked_attention import attend_in_blocks
from ser_cli.models.pretrained import describe_pretrained, load_pretrained, restore_pretrained
from ser_cli.models.wavlm_attention import StreamedWavLMAttention, attend_by_flex, stream_attention
from tests.benchmarks.attention import measure_layer
from tests.models.tiny import save_tiny_speech_encoder

CPU = torch.device("cpu")
LENGTHS = torch.tensor([9_000, 4_321, 7_000])


def tiny_wavlm(large: bool = True, **changes) -> transformers.WavLMModel:
    """A model like WavLM-Base or WavLM-Large whose gates and biases are not at their start."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
        "conv_dim": (16, 16), "conv_stride": (10, 16), "conv_kernel": (20, 20), "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer" if large else "group", "do_stable_layer_norm": large, "conv_bias": large,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "num_buckets": 32,
        "max_bucket_distance": 40, "initializer_range": 0.3, "attention_dropout": 0.0, "hidden_dropout": 0.0,
        "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0, "mask_time_prob": 0.0,
    }  # fmt: skip
    model = transformers.WavLMModel(transformers.WavLMConfig(**settings | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_attn_embed" in name or "gru_rel_pos" in name:
                parameter.normal_()
    # In training it would ask for the gradient of its input by itself, which fails where the caller has asked.
    model.feature_extractor._requires_grad = False
    return model


def streamed(model: transformers.WavLMModel) -> transformers.WavLMModel:
    ours = copy.deepcopy(model)
    assert stream_attention(ours)
    assert sum(type(module) is StreamedWavLMAttention for module in ours.modules()) == 3
    return ours


def step(model: torch.nn.Module, masked: bool = True, **settings) -> dict[str, torch.Tensor]:
    """Frames of a batch, and the gradients of its waveforms and of every parameter."""
    generator = torch.Generator().manual_seed(1)
    waveforms = torch.randn(3, 9_000, generator=generator).requires_grad_()
    mask = (torch.arange(9_000) < LENGTHS.unsqueeze(1)).long() if masked else None
    model.zero_grad()
    frames = model(waveforms, attention_mask=mask, **settings).last_hidden_state
    (frames * torch.randn(frames.shape, generator=generator)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"frames": frames.detach(), "waveforms": waveforms.grad, **gradients}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        difference = (ours[name] - expected).abs().max() / expected.abs().max().clamp(min=1)
        assert difference <= tolerance, (name, float(difference))


def some_tensors(
    batch: int = 3, heads: int = 4, frames: int = 23, dim: int = 8, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Query, key, value, gate and table."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(batch, heads, frames, dim)] * 3 + [(batch, heads, frames), (heads, 2 * frames - 1)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def by_the_equation(query, key, value, gate, table, valid=None, dropout=None) -> torch.Tensor:
    frames = query.shape[2]
    bias = torch.stack([table[:, frames - 1 - i : 2 * frames - 1 - i] for i in range(frames)], dim=1)
    scores = query @ key.mT / query.shape[3] ** 0.5 + gate.unsqueeze(-1) * bias
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if dropout is not None:
        kept = mix(dropout.queries.unsqueeze(-1), dropout.keys[:, None, None]) > largest_dropped(dropout.share)
        probabilities = probabilities * kept / (1 - dropout.share)
    return probabilities @ value


def results(work, tensors, *arguments) -> list[torch.Tensor]:
    """Output and gradients."""
    output = work(*tensors, *arguments)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(4), dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), tensors)]


def prefixes(*counts: int, frames: int = 23) -> torch.Tensor:
    return torch.arange(frames) < torch.tensor(counts).unsqueeze(1)


def with_holes() -> torch.Tensor:
    valid = prefixes(23, 11, 1)
    valid[0, 3] = valid[1, 0] = False
    return valid


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_frames_and_all_gradients_are_those_of_transformers(large, training, masked):
    model = tiny_wavlm(large).train(training)
    theirs = step(model, masked)
    assert_equal(step(streamed(model), masked), theirs)
    biases = [name for name in theirs if "rel_attn_embed" in name or "gru_rel_pos" in name]
    assert len(biases) == 10
    assert all(theirs[name].abs().max() > 1e-3 for name in biases)  # else nothing would be seen of them


@pytest.mark.parametrize("scores", [100, 1_000, 600_000])
@pytest.mark.parametrize("queries", [1, 7, 384])
@pytest.mark.parametrize("valid", [None, prefixes(23, 11, 1), with_holes()], ids=["whole", "padded", "holes"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_any_blocks_give_the_equation_and_its_gradients(scores, queries, valid, share, monkeypatch):
    monkeypatch.setattr(blocked_attention, "BLOCK_SCORES", scores)
    monkeypatch.setattr(blocked_attention, "BLOCK_QUERIES", queries)
    torch.manual_seed(0)
    dropout = AttentionDropout.draw(share, 3, 4, 23, CPU) if share else None
    ours = results(attend_in_blocks, some_tensors(), valid, dropout)
    for one, expected in zip(ours, results(by_the_equation, some_tensors(), valid, dropout), strict=True):
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("valid", [None, prefixes(23, 11, 1), with_holes()], ids=["whole", "padded", "holes"])
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_equation_and_its_gradients(valid, share, monkeypatch):
    # It refuses a backward pass on a CPU as no kernel was written for one; what it runs uncompiled has one.
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    torch.manual_seed(0)
    dropout = AttentionDropout.draw(share, 3, 4, 23, CPU) if share else None
    tensors = some_tensors(dtype=torch.float32)

    def by_flex(*arguments):
        return attend_by_flex(flex.flex_attention, *arguments)

    ours = results(by_flex, tensors, valid, dropout)
    for one, expected in zip(ours, results(by_the_equation, tensors, valid, dropout), strict=True):
        torch.testing.assert_close(one, expected, atol=2e-5, rtol=1e-4)


def test_a_clip_without_a_valid_frame_gives_zeros_and_no_gradient():
    valid = prefixes(23, 0, 11)
    output, *gradients = results(attend_in_blocks, some_tensors(), valid)
    assert not output[1].any()
    assert output[[0, 2]].abs().min() > 0
    for gradient in gradients:
        assert gradient.isfinite().all()
        if gradient.shape[0] == 3:
            assert not gradient[1].any()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_attention_probabilities_are_dropped_independently_and_at_their_share(share):
    torch.manual_seed(0)
    dropout = AttentionDropout.draw(share, 2, 3, 400, CPU)
    dropped = mix(dropout.queries.unsqueeze(-1), dropout.keys[:, None, None]) <= largest_dropped(share)
    dropped = dropped.double() - share  # of mean 0 where the share is right
    deviation = (share * (1 - share)) ** 0.5

    def sigmas(numbers: torch.Tensor, spread: float) -> float:
        return float(numbers.mean().abs() / spread * numbers.numel() ** 0.5)

    assert sigmas(dropped, deviation) < 4
    # Neighbours of a row, of a column and of a head; and four pairs of two queries with two keys.
    for one, other in (
        (dropped[..., 1:], dropped[..., :-1]),
        (dropped[..., 1:, :], dropped[..., :-1, :]),
        (dropped[:, 1:], dropped[:, :-1]),
    ):
        assert sigmas(one * other, deviation**2) < 4
    squares = dropped[..., 1:, 1:] * dropped[..., :-1, 1:] * dropped[..., 1:, :-1] * dropped[..., :-1, :-1]
    assert sigmas(squares, deviation**4) < 4


def test_dropout_leaves_the_mean_of_the_output_as_it_is():
    tensors = [tensor.detach() for tensor in some_tensors(batch=1, frames=9)]
    expected = attend_in_blocks(*tensors)
    torch.manual_seed(0)
    draws = torch.stack(
        [attend_in_blocks(*tensors, None, AttentionDropout.draw(0.2, 1, 4, 9, CPU)) for _ in range(1_000)]
    )
    error = (draws.mean(dim=0) - expected).abs() / (draws.std(dim=0) / len(draws) ** 0.5)
    assert draws.std(dim=0).min() > 0
    assert error.max() < 5


def test_the_seed_decides_what_is_dropped_with_and_without_gradient_checkpointing():
    model = streamed(tiny_wavlm(attention_dropout=0.2)).train()
    outcomes = []
    for seed, checkpointing in ((7, False), (7, True), (8, False)):
        model.gradient_checkpointing_enable() if checkpointing else model.gradient_checkpointing_disable()
        torch.manual_seed(seed)
        outcomes.append(step(model))
    assert_equal(outcomes[1], outcomes[0], tolerance=1e-6)
    assert (outcomes[2]["frames"] - outcomes[0]["frames"]).abs().max() > 0.01
    assert (step(model.eval())["frames"] - outcomes[0]["frames"]).abs().max() > 0.01


def test_a_frozen_model_needs_no_gradient():
    model = tiny_wavlm().requires_grad_(False).eval()
    torch.testing.assert_close(step(streamed(model)), step(model), atol=1e-4, rtol=1e-4)


def test_under_bf16_autocast_frames_are_those_of_transformers_but_for_its_precision():
    model = tiny_wavlm().eval()
    exact = step(model)["frames"]
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = (step(some)["frames"].float() for some in (model, streamed(model)))
    assert (theirs - exact).abs().mean() > 1e-3
    assert (ours - exact).abs().mean() <= 1.2 * (theirs - exact).abs().mean()


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        given = function(*arguments, **settings or {})
        for tensor in given if isinstance(given, tuple | list) else [given]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return given


def largest_of_a_step(attention: torch.nn.Module, frames: int) -> int:
    hidden = torch.randn(2, frames, 32, requires_grad=True)
    with LargestTensor() as largest:
        attention(hidden, attention_mask=torch.ones(2, frames).bool())[0].sum().backward()
    return largest.numbers


def test_no_tensor_of_heads_times_frames_times_frames_exists_forward_or_backward(monkeypatch):
    monkeypatch.setattr(blocked_attention, "BLOCK_SCORES", 6_000)
    attention = WavLMAttention(32, 4, dropout=0.1)
    assert largest_of_a_step(attention, 300) >= 2 * 4 * 300**2  # the measure sees those of transformers
    attention.__class__ = StreamedWavLMAttention
    sizes = [largest_of_a_step(attention, frames) for frames in (150, 300, 600)]
    assert sizes[1] < 300**2 / 2
    assert sizes[2] <= 2.2 * sizes[1] <= 2.2**2 * sizes[0]


def test_names_and_files_stay_as_transformers_has_them(tmp_path):
    model = tiny_wavlm().eval()
    ours = streamed(model)
    assert list(ours.state_dict()) == list(model.state_dict())
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in model.named_modules()]
    ours.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert not any(isinstance(module, StreamedWavLMAttention) for module in again.modules())
    assert torch.equal(step(again)["frames"], step(model)["frames"])
    assert torch.equal(step(copy.deepcopy(ours))["frames"], step(ours)["frames"])
    hidden, attention = torch.randn(1, 9, 32), ours.encoder.layers[0].attention
    assert torch.equal(pickle.loads(pickle.dumps(attention))(hidden)[0], attention(hidden)[0])


def test_attention_weights_that_are_asked_for_are_those_of_transformers():
    model = tiny_wavlm().eval()
    waveforms = torch.randn(2, 5_000)
    with torch.no_grad():
        ours = streamed(model)(waveforms, output_attentions=True).attentions
        theirs = model(waveforms, output_attentions=True).attentions
    assert len(ours) == len(theirs) == 3
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    model.config.output_attentions = True
    assert not stream_attention(model)


@pytest.mark.parametrize("kind", ["another result", "another signature"])
def test_an_attention_that_is_not_the_known_one_is_left_alone(kind, monkeypatch):
    known = WavLMAttention.forward

    def other(self, hidden_states, *arguments, **settings):
        output, *rest = known(self, hidden_states, *arguments, **settings)
        return 1.01 * output, *rest

    monkeypatch.setattr(WavLMAttention, "forward", other if kind == "another result" else lambda self, frames: frames)
    wavlm_attention._is_known.cache_clear()
    try:
        model = tiny_wavlm()
        assert not stream_attention(model)
        assert all(type(layer.attention) is WavLMAttention for layer in model.encoder.layers)
    finally:
        wavlm_attention._is_known.cache_clear()


def test_the_trial_of_the_library_leaves_the_random_numbers_alone():
    wavlm_attention._is_known.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert wavlm_attention._is_known()
    assert torch.equal(torch.rand(3), expected)


def test_loaded_and_restored_encoders_have_the_fast_attention_of_their_kind(tmp_path):
    for kind in ("wavlm", "hubert", "wav2vec2"):
        encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / kind, kind)))
        for some in (encoder, restore_pretrained(describe_pretrained(encoder), weights_bytes=1 << 20)):
            if kind == "wavlm":
                assert [type(layer.attention) for layer in some.model.encoder.layers] == [StreamedWavLMAttention] * 2
            else:
                assert some.model.config._attn_implementation == "sdpa"


def test_the_benchmark_runs_at_toy_size():
    for whose in ("ours", "library"):
        told = measure_layer(whose, "cpu", clips=2, seconds=1, dropout=0.1, width=128)
        assert told["layer_s"] > 0
        assert told["layer_mb"] >= 0
