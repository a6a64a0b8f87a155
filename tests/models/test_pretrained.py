import json
import os
import shutil
import socket

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from ser_cli.errors import EncoderError
from ser_cli.models.pretrained import describe_pretrained, load_pretrained, restore_pretrained
from tests.models.tiny import LENGTHS, padded, save_tiny_speech_encoder, some_clips

KINDS = ("wavlm", "hubert", "wav2vec2")


class Spy:
    """Stands before the inner model and notes what it is given."""

    def __init__(self, encoder, monkeypatch) -> None:
        self.calls = []
        inner = encoder.model.forward

        def forward(waveforms, **settings):
            self.calls.append((waveforms, settings))
            return inner(waveforms, **settings)

        monkeypatch.setattr(encoder.model, "forward", forward)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_layer_normalisation_is_given_the_mask_of_its_clips(kind, tmp_path, monkeypatch):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / kind, kind))).eval()
    spy = Spy(encoder, monkeypatch)
    encoder(*padded(some_clips()))
    mask = spy.calls[0][1]["attention_mask"]
    assert mask.sum(dim=1).tolist() == list(LENGTHS)
    assert all(row[:n].all() for row, n in zip(mask, LENGTHS, strict=True))
    assert encoder.exact_under_padding


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_group_normalisation_is_never_given_a_mask(kind, tmp_path, monkeypatch):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / kind, kind, norm="group"))).eval()
    spy = Spy(encoder, monkeypatch)
    encoder(*padded(some_clips()))
    encoder(*padded(some_clips()[:1]))
    assert len(spy.calls) == 2
    assert all(settings.get("attention_mask") is None for _, settings in spy.calls)
    assert not encoder.exact_under_padding


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_waveforms_are_normalised_as_the_feature_extractor_does_it(norm, tmp_path, monkeypatch):
    folder = save_tiny_speech_encoder(tmp_path / "w", "wavlm", norm=norm)
    encoder = load_pretrained(str(folder)).eval()
    spy = Spy(encoder, monkeypatch)
    clips = [0.3 + clip for clip in some_clips()]
    encoder(*padded(clips))
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    for row, clip in zip(spy.calls[0][0], clips, strict=True):
        # One clip at a time: the reference, free of what the extractor does with padding.
        expected = extractor(clip.numpy(), sampling_rate=16_000).input_values[0]
        np.testing.assert_allclose(row[: len(clip)].numpy(), expected, atol=1e-5)
        assert not row[len(clip) :].any()


def test_waveforms_are_left_alone_where_the_feature_extractor_leaves_them(tmp_path, monkeypatch):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / "h", "hubert", normalize=False))).eval()
    spy = Spy(encoder, monkeypatch)
    waveforms, lengths = padded(some_clips())
    encoder(waveforms, lengths)
    assert torch.equal(spy.calls[0][0], waveforms)


@pytest.mark.parametrize("samples", [400, 719, 720, 5555])
def test_frame_counts_are_those_of_the_models_real_output(samples, tmp_path):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / "w", "wavlm"))).eval()
    frames, counts = encoder(*padded(some_clips((samples, 6400))))
    # Window of 400 samples, step of 320: 20 ms at 16 kHz.
    assert counts.tolist() == [(samples - 400) // 320 + 1, (6400 - 400) // 320 + 1]
    assert frames.shape[1] == counts[1]
    alone = encoder(*padded(some_clips((samples,))))[0]
    assert alone.shape == (1, int(counts[0]), encoder.dim)


def test_the_generator_decides_what_the_model_masks_in_training(tmp_path):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / "w", "wavlm", mask_time_prob=0.3, layerdrop=0)))
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in encoder.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(layer, name, None), float):
                setattr(layer, name, 0.0)
    batch = padded(some_clips((16_000, 16_000)))
    one, again, other = (encoder(*batch, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_batch_of_very_short_clips_can_be_masked(kind, tmp_path):
    # 0.1 s are 4 frames; the stretches that transformers masks in training are 10 frames long.
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / kind, kind, mask_time_prob=0.05))).train()
    frames, counts = encoder(*padded(some_clips((1600, 1500))), torch.Generator().manual_seed(0))
    assert counts.tolist() == [4, 4]
    assert frames.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_described_encoder_is_restored_with_neither_folder_nor_network(kind, norm, tmp_path, monkeypatch):
    def no_network(*_):
        raise AssertionError("a connection was opened")

    folder = save_tiny_speech_encoder(tmp_path / kind, kind, norm=norm, normalize=kind != "hubert")
    encoder = load_pretrained(str(folder)).eval()
    shutil.rmtree(folder)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    description = json.loads(json.dumps(describe_pretrained(encoder)))
    restored = restore_pretrained(description, weights_bytes=1 << 20).eval()
    batch = padded(some_clips())
    assert not torch.equal(restored(*batch)[0], encoder(*batch)[0])
    restored.load_state_dict(encoder.state_dict())
    for one, two in zip(restored(*batch), encoder(*batch), strict=True):
        assert torch.equal(one, two)
    assert restored.feature_extractor.to_dict() == encoder.feature_extractor.to_dict()
    assert restored.exact_under_padding == encoder.exact_under_padding


def message_of(name: object) -> str:
    with pytest.raises(EncoderError) as caught:
        load_pretrained(str(name))
    return str(caught.value)


ADVICE = (
    "  either download them where there is a network and give their folder: --encoder DIR\n"
    "  or train the built-in encoder, which needs none: --encoder conformer"
)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    expected = (
        f"encoder {tmp_path / 'w'}: the folder holds no config.json\n"
        "  give a folder written by save_pretrained, with config.json, preprocessor_config.json and"
        " model.safetensors"
    )
    (tmp_path / "w").mkdir()
    assert message_of(tmp_path / "w") == expected
    save_tiny_speech_encoder(tmp_path / "w", "wavlm")
    (tmp_path / "w" / "config.json").unlink()
    assert message_of(tmp_path / "w") == expected


def test_a_path_where_nothing_is_or_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for name in (tmp_path / "absent", tmp_path / "file", "./absent", "a/b/c", "~/absent-encoder"):
        assert message_of(name) == (
            f"encoder {name}: no such folder\n  give a folder written by save_pretrained, or a hub id"
        )


def test_a_hub_id_that_is_not_in_the_cache_is_refused_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    message = message_of("nobody/such-an-encoder")
    assert message.startswith(
        "encoder nobody/such-an-encoder: no usable configuration and weights were found in the local cache"
        " and on the Hugging Face hub ("
    )
    assert message.endswith(f")\n{ADVICE}")


def test_a_text_model_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    assert message_of(tmp_path / "bert") == (
        f"encoder {tmp_path / 'bert'}: a bert model, which is no encoder of speech waveforms\n"
        "  choose one such as WavLM, HuBERT or wav2vec 2.0"
    )


def test_an_encoder_of_another_sample_rate_is_refused(tmp_path):
    folder = save_tiny_speech_encoder(tmp_path / "w", "wavlm")
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    assert message_of(folder) == (
        f"encoder {folder}: its feature extractor is a Wav2Vec2FeatureExtractor at 8000 Hz; expected"
        " Wav2Vec2FeatureExtractor at 16000 Hz\n"
        "  choose an encoder of waveforms such as WavLM, HuBERT or wav2vec 2.0"
    )


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def without_feature_extractor(folder):
    (folder / "preprocessor_config.json").unlink()


def with_truncated_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])


def with_broken_configuration(folder):
    (folder / "config.json").write_text("{")


def with_unknown_model_type(folder):
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')


@pytest.mark.parametrize(
    "damage",
    [
        without_weights,
        without_feature_extractor,
        with_truncated_weights,
        with_broken_configuration,
        with_unknown_model_type,
    ],
)
def test_a_damaged_folder_is_refused_with_advice(damage, tmp_path):
    folder = save_tiny_speech_encoder(tmp_path / "w", "wavlm")
    damage(folder)
    message = message_of(folder)
    assert message.startswith(f"encoder {folder}: no usable configuration and weights were found in that folder (")
    assert message.endswith(f")\n{ADVICE}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_too_short_for_a_frame_counts_with_the_silence_behind_it(kind, tmp_path):
    encoder = load_pretrained(str(save_tiny_speech_encoder(tmp_path / kind, kind))).eval()
    click = torch.tensor([0.25])
    alone, lengths = encoder(*padded([click]))
    assert lengths.tolist() == [1]
    assert alone.isfinite().all()
    beside, lengths = encoder(*padded([some_clips()[0], click]))
    assert lengths[1] == 1
    torch.testing.assert_close(beside[1, :1], alone[0], atol=1e-5, rtol=1e-5)


def test_an_encoder_whose_weights_are_no_numbers_is_refused_by_name(tmp_path):
    folder = save_tiny_speech_encoder(tmp_path / "w", "wavlm")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["encoder.layers.0.attention.q_proj.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"its weight encoder\.layers\.0\.attention\.q_proj\.weight holds values"):
        load_pretrained(str(folder))
