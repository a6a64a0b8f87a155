import copy

import numpy as np
import pytest
import torch
import transformers

from ser_cli.errors import EncoderError
from ser_cli.models.layers import FusedEncoder, WeightedSum, keep_first_layers
from ser_cli.models.pretrained import PretrainedEncoder, load_pretrained
from tests.models.tiny import LENGTHS, padded, save_tiny_speech_encoder, some_clips

KINDS = ("wavlm", "hubert", "wav2vec2")


def some_encoder(folder, kind: str = "wavlm", layers: int = 3, **changes) -> PretrainedEncoder:
    path = save_tiny_speech_encoder(folder / kind, kind, num_hidden_layers=layers, **changes)
    return load_pretrained(str(path)).eval()


def unequal(fused: FusedEncoder) -> FusedEncoder:
    """With weights that are not all alike, where a layer in the wrong place would hide."""
    with torch.no_grad():
        fused.fusion.logits.copy_(torch.linspace(-1, 2, len(fused.fusion.logits)))
    return fused.eval()


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layers_give_what_transformers_gives_where_it_loads_as_many(kind, norm, tmp_path):
    encoder = some_encoder(tmp_path, kind, norm=norm)
    whole = encoder(*padded(some_clips()))[0]
    keep_first_layers(encoder, 2, "tiny")
    expected = load_pretrained(str(tmp_path / kind))
    expected.model = type(encoder.model).from_pretrained(tmp_path / kind, num_hidden_layers=2)
    frames, counts = encoder(*padded(some_clips()))
    torch.testing.assert_close(frames, expected.eval()(*padded(some_clips()))[0], rtol=0, atol=1e-5)
    assert counts.tolist() == [(n - 400) // 320 + 1 for n in LENGTHS]
    assert (frames - whole).abs().max() > 1e-2


def test_dropped_layers_are_gone_from_the_weights_and_never_run(tmp_path):
    encoder = some_encoder(tmp_path)
    layers = list(encoder.model.encoder.layers)
    before = sum(p.numel() for p in encoder.parameters())
    keep_first_layers(encoder, 1, "tiny")
    dropped = sum(p.numel() for layer in layers[1:] for p in layer.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == before - dropped
    assert not [name for name in encoder.state_dict() if "encoder.layers." in name and ".layers.0." not in name]
    ran = []
    for position, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, position=position: ran.append(position))
    encoder(*padded(some_clips()))
    assert ran == [0]


def test_as_many_layers_as_there_are_change_nothing(tmp_path):
    encoder = some_encoder(tmp_path)
    whole = encoder(*padded(some_clips()))[0]
    keep_first_layers(encoder, 3, "tiny")
    assert torch.equal(encoder(*padded(some_clips()))[0], whole)


def test_more_layers_than_there_are_is_refused(tmp_path):
    with pytest.raises(EncoderError) as caught:
        keep_first_layers(some_encoder(tmp_path), 22, "some/encoder")
    assert str(caught.value) == (
        "encoder.layers 22: encoder some/encoder has 3 transformer layers\n"
        "  give at most as many, or 0 for all: --set encoder.layers=0"
    )


@pytest.mark.parametrize("refused", [lambda e: keep_first_layers(e, 1, "sew"), lambda e: FusedEncoder(e, "sew")])
def test_an_encoder_whose_layers_cannot_be_told_apart_is_refused(refused, tmp_path):
    encoder = some_encoder(tmp_path)
    config = transformers.SEWDConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, feat_extract_norm="layer"
    )
    encoder.model = transformers.SEWDModel(config)
    with pytest.raises(EncoderError) as caught:
        refused(encoder)
    assert str(caught.value) == (
        "encoder sew: the layers of a SEWDModel cannot be told apart\n"
        "  encoder.layers and encoder.fusion need WavLM, HuBERT or wav2vec 2.0; leave them out for this encoder"
    )


def test_an_encoder_that_changes_the_length_of_what_its_layers_give_is_refused(tmp_path):
    encoder = some_encoder(tmp_path)
    config = transformers.SEWConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 13,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        squeeze_factor=2,
    )
    encoder.model = transformers.SEWModel(config).eval()
    encoder.feature_extractor.do_normalize = False
    with pytest.raises(EncoderError) as caught:
        FusedEncoder(encoder, "sew").eval()(*padded(some_clips()[:1]))
    assert str(caught.value) == (
        "encoder sew: its layers give 9 frames of width 16 and the encoder itself 19 frames of width 16, which cannot"
        " be added up\n  take its last layer: --set encoder.fusion=last"
    )


def sum_typed_out(logits: np.ndarray, sequences: np.ndarray) -> np.ndarray:
    """Sum of sequences (layers, …) with softmax weights."""
    exponentials = [np.exp(a) for a in logits]
    total = np.zeros_like(sequences[0])
    for e, sequence in zip(exponentials, sequences, strict=True):
        total = total + e / sum(exponentials) * sequence
    return total


def test_the_weighted_sum_is_the_equation():
    rng = np.random.default_rng(0)
    sequences, logits = rng.normal(size=(4, 2, 3, 5)), rng.normal(size=4)
    module = WeightedSum(4).double()
    with torch.no_grad():
        module.logits.copy_(torch.tensor(logits))
    result = module([torch.tensor(s) for s in sequences]).detach()
    np.testing.assert_allclose(result, sum_typed_out(logits, sequences), rtol=1e-12)
    assert module.weights.sum().item() == pytest.approx(1, rel=1e-12)


def test_the_weighted_sum_starts_from_the_mean():
    sequences = [torch.full((2, 3, 4), float(k)) for k in range(5)]
    assert WeightedSum(5)(sequences).tolist() == torch.full((2, 3, 4), 2.0).tolist()


def test_the_gradient_of_the_weighted_sum_is_right():
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randn(3, 2, 2, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    logits = torch.randn(3, dtype=torch.float64, generator=generator, requires_grad=True)
    module = WeightedSum(3).double()

    def summed(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"logits": a}, (list(x),))

    assert torch.autograd.gradcheck(summed, (sequences, logits))


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_summed_in_their_order(kind, norm, tmp_path):
    encoder = some_encoder(tmp_path, kind, norm=norm)
    waveforms, lengths = padded(some_clips()[:1])
    with torch.inference_mode():
        fused = unequal(FusedEncoder(encoder, "tiny"))(waveforms, lengths)[0]
        if encoder.feature_extractor.do_normalize:
            waveforms = (waveforms - waveforms.mean()) / (waveforms.var(correction=0) + 1e-7).sqrt()
        told = encoder.model(waveforms, output_hidden_states=True)
    # transformers tells what goes into the first layer and what comes out of each; the last is what it returns, which
    # in these models' large kind has been through one more normalisation.
    states = [*told.hidden_states[:-1], told.last_hidden_state]
    assert len(states) == 4
    expected = sum_typed_out(np.linspace(-1, 2, 4), np.stack([s.double().numpy() for s in states]))
    np.testing.assert_allclose(fused, expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_summed_layers_of_a_padded_batch_are_those_of_its_clips_alone(kind, tmp_path):
    fused = unequal(FusedEncoder(some_encoder(tmp_path, kind), "tiny"))
    assert fused.exact_under_padding
    clips = some_clips()
    with torch.inference_mode():
        together, counts = fused(*padded(clips))
        for row, clip in enumerate(clips):
            alone = fused(*padded([clip]))[0]
            torch.testing.assert_close(together[row, : counts[row]], alone[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_layerdrop_leaves_out_passes_on_what_it_got(kind, tmp_path, monkeypatch):
    changes = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
    encoder = some_encoder(tmp_path, kind, layerdrop=0.5, mask_time_prob=0.0, **dict.fromkeys(changes, 0.0))
    fused = unequal(FusedEncoder(encoder, "tiny")).train()
    batch = padded(some_clips()[:1])
    # Draws below 0.5 leave a layer out: the second of three is.
    draws = iter([0.9, 0.1, 0.9] if kind != "wavlm" else [0.1, 0.9])
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(next(draws)))
    dropping = fused(*batch)[0]
    without = copy.deepcopy(encoder).eval()
    del without.model.encoder.layers[1]
    states = unequal(FusedEncoder(without, "tiny"))
    # Of the two that are left: before both, after the first (once more for the layer between), after the last.
    logits = torch.linspace(-1, 2, 4)
    shares = logits.softmax(dim=0)
    with torch.no_grad():
        states.fusion.logits.copy_(torch.stack([shares[0], shares[1] + shares[2], shares[3]]).log())
        torch.testing.assert_close(dropping, states(*batch)[0], rtol=0, atol=1e-5)


def test_where_layerdrop_leaves_out_every_layer_the_frames_stand_for_all(tmp_path, monkeypatch):
    encoder = some_encoder(tmp_path, "hubert", layerdrop=0.5, mask_time_prob=0.0).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.1))
    batch = padded(some_clips()[:1])
    torch.testing.assert_close(unequal(FusedEncoder(encoder, "tiny")).train()(*batch)[0], encoder(*batch)[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_layers_weight_and_parameters_learn(checkpointing, tmp_path):
    encoder = some_encoder(tmp_path, layerdrop=0.0, mask_time_prob=0.0)
    fused = unequal(FusedEncoder(encoder, "tiny")).train()
    if checkpointing:
        encoder.model.activation_checkpointing_enable()
    fused(*padded(some_clips()))[0].square().mean().backward()
    for name, parameter in fused.fusion.named_parameters():
        assert (parameter.grad.abs() > 0).all(), name
    for layer in encoder.model.encoder.layers:
        assert layer.feed_forward.output_dense.weight.grad.abs().max() > 0


def test_a_copy_of_a_fused_encoder_sums_its_own_layers(tmp_path):
    fused = unequal(FusedEncoder(some_encoder(tmp_path), "tiny"))
    batch = padded(some_clips())
    before = fused(*batch)[0]
    twin = copy.deepcopy(fused)
    with torch.no_grad():
        for parameter in fused.encoder.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(*batch)[0], before, rtol=0, atol=0)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in twin.encoder.model.encoder.layers)


@pytest.mark.slow
def test_a_fused_encoder_can_be_exported(tmp_path):
    fused = unequal(FusedEncoder(some_encoder(tmp_path), "tiny"))
    free = torch.export.Dim.DYNAMIC
    batch = padded(some_clips())
    program = torch.export.export(fused, batch, dynamic_shapes=({0: free, 1: free}, {0: free}), strict=False)
    other = padded(some_clips((4000, 5001)))
    torch.testing.assert_close(program.module()(*other)[0], fused(*other)[0], rtol=0, atol=1e-5)
