"""Dropout after self-attention: where it stands, what it drops, and what it leaves alone."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from ser_cli.checkpoints import load_model, save_model
from ser_cli.errors import EncoderError, ProblemsError
from ser_cli.models.building import build_model
from ser_cli.models.layers import transformer_layers
from ser_cli.models.pretrained import PretrainedEncoder, load_pretrained
from ser_cli.models.projection_dropout import set_projection_dropout
from ser_cli.recipe import load_recipe
from tests.models.tiny import padded, save_tiny_speech_encoder, some_clips

KINDS = ("wavlm", "hubert", "wav2vec2")
NO_OTHER = {
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
    **{"layerdrop": 0.0, "apply_spec_augment": False},
}
"""Of a configuration: nothing is drawn in training."""


def some_encoder(folder: Path, kind: str, norm: str = "layer", **changes) -> PretrainedEncoder:
    return load_pretrained(str(save_tiny_speech_encoder(folder / kind, kind, norm=norm, **changes)))


def first_of(found):
    """Frames, where WavLM's modules return their position bias as well."""
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_stands_between_self_attention_and_the_sum_before_the_feed_forward_module(tmp_path, kind, norm, probability):
    encoder = some_encoder(tmp_path, kind, norm, **NO_OTHER)
    set_projection_dropout(encoder, probability, "tiny")
    layer = transformer_layers(encoder, "tiny")[0].double().train()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    bias = {"position_bias": None, "index": 0} if kind == "wavlm" else {}

    torch.manual_seed(3)
    found = first_of(layer(x, **bias))

    torch.manual_seed(3)
    keep = F.dropout(torch.ones_like(x), probability, training=True)
    attention = lambda frames: first_of(layer.attention(frames, **bias))  # noqa: E731
    if norm == "layer":  # y = h + F(N2(h)), h = x + keep * A(N1(x))
        inner = x + keep * attention(layer.layer_norm(x))
        expected = inner + layer.feed_forward(layer.final_layer_norm(inner))
    else:  # y = N2(h + F(h)), h = N1(x + keep * A(x))
        inner = layer.layer_norm(x + keep * attention(x))
        expected = layer.final_layer_norm(inner + layer.feed_forward(inner))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert bool((keep == 0).any()) == (probability > 0)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_0_in_training_gives_what_evaluation_gives(tmp_path, kind, norm):
    encoder = some_encoder(tmp_path, kind, norm, **{**NO_OTHER, "hidden_dropout": 0.3}).double()
    waveforms, lengths = padded([clip.double() for clip in some_clips()])
    expected = encoder.eval()(waveforms, lengths)[0]
    set_projection_dropout(encoder, 0.0, "tiny")
    encoder.train()
    for module in encoder.modules():  # the others of `hidden_dropout`
        if isinstance(module, nn.Dropout) and all(module is not layer.dropout for layer in layers_of(encoder)):
            module.p = 0.0
    torch.testing.assert_close(encoder(waveforms, lengths)[0], expected, rtol=1e-9, atol=1e-9)


def layers_of(encoder: PretrainedEncoder) -> nn.ModuleList:
    return transformer_layers(encoder, "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_so_large_a_share_of_each_layers_attention_is_dropped_and_the_rest_made_up_for(tmp_path, kind):
    encoder = some_encoder(tmp_path, kind).train()
    set_projection_dropout(encoder, 0.4, "tiny")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in layers_of(encoder):
        layer.dropout.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    for _ in range(20):
        encoder(*padded(some_clips()))
    numbers = sum(made.numel() for _, made in seen)
    dropped = sum(int((made == 0).sum()) for _, made in seen) / numbers
    assert dropped == pytest.approx(0.4, abs=4 * (0.24 / numbers) ** 0.5)  # four standard errors
    for given, made in seen:
        torch.testing.assert_close(made[made != 0], given[made != 0] / 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_dropout_stays_as_its_checkpoint_has_it(tmp_path, kind):
    own = {"hidden_dropout": 0.11, "attention_dropout": 0.12, "activation_dropout": 0.13, "feat_proj_dropout": 0.14}
    encoder = some_encoder(tmp_path, kind, **own)
    before = {name: m.p for name, m in encoder.named_modules() if isinstance(m, nn.Dropout)}
    set_projection_dropout(encoder, 0.4, "tiny")
    after = {name: m.p for name, m in encoder.named_modules() if isinstance(m, nn.Dropout)}
    changed = {name: p for name, p in after.items() if p != before[name]}
    assert changed == {f"model.encoder.layers.{n}.dropout": 0.4 for n in (0, 1)}
    assert {before[name] for name in changed} == {0.11}
    assert all(layer.attention.dropout == 0.12 for layer in layers_of(encoder))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_silent_in_evaluation(tmp_path, kind):
    encoder = some_encoder(tmp_path, kind).eval()
    before = encoder(*padded(some_clips()))[0]
    set_projection_dropout(encoder, 0.4, "tiny")
    assert torch.equal(encoder(*padded(some_clips()))[0], before)


def test_layers_without_such_a_dropout_are_refused_by_name():
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(4,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm="layer",
    )  # fmt: skip
    encoder = PretrainedEncoder(transformers.Wav2Vec2ConformerModel(config), None)
    with pytest.raises(EncoderError, match="Wav2Vec2ConformerEncoderLayer of encoder some/conformer has no dropout"):
        set_projection_dropout(encoder, 0.4, "some/conformer")


@pytest.mark.parametrize("fusion", ["last", "weighted_sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_has_it_again(tmp_path, kind, fusion):
    path = save_tiny_speech_encoder(tmp_path / kind, kind, num_hidden_layers=3)
    settings = ["encoder.layers=2", f"encoder.fusion={fusion}"]
    recipe = load_recipe("lam", settings, {"encoder.name": str(path)})
    model = build_model(recipe, 3)
    save_model(tmp_path / "saved", model, model.state_dict(), ("a", "b", "c"), recipe)
    (path / "model.safetensors").unlink()  # the saved model must not need it
    loaded = load_model(tmp_path / "saved").model
    for one in (model, loaded):
        encoder = one.encoder.encoder if fusion == "weighted_sum" else one.encoder
        assert [layer.dropout.p for layer in layers_of(encoder)] == [0.4, 0.4]
        assert encoder.model.config.hidden_dropout == 0.1
    waveforms, lengths = padded(some_clips())
    assert torch.equal(loaded(waveforms, lengths).logits, model.eval()(waveforms, lengths).logits)


def test_left_out_it_is_that_of_the_checkpoint_and_stays_out_of_the_resolved_recipe(tmp_path):
    path = save_tiny_speech_encoder(tmp_path / "hubert", "hubert", hidden_dropout=0.23)
    recipe = load_recipe("mll", changes={"encoder.name": str(path)})
    assert [layer.dropout.p for layer in layers_of(build_model(recipe, 3).encoder)] == [0.23, 0.23]
    written = tmp_path / "resolved.toml"
    written.write_text(recipe.as_toml())
    assert "projection_dropout" not in written.read_text()
    assert load_recipe(str(written)) == recipe
    given = load_recipe("mll", ["encoder.projection_dropout=0"], {"encoder.name": str(path)})
    assert "projection_dropout = 0.0" in given.as_toml()
    assert given.hash != recipe.hash


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("conformer", ["encoder.projection_dropout=0.4"], "the built-in one has a setting of its own"),
        ("lam", ["encoder.frozen=everything"], "projection_dropout acts in its training alone"),
        ("lam", ["encoder.projection_dropout=1"], "encoder.projection_dropout: must be less than 1, found 1"),
    ],
)
def test_where_it_cannot_act_it_is_refused(name, settings, told):
    with pytest.raises(ProblemsError) as error:
        load_recipe(name, settings)
    assert told in str(error.value)
