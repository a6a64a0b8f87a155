"""Models as ONNX: onnxruntime gives the probabilities of torch."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from ser_cli.checkpoints import load_model, save_model
from ser_cli.models.building import build_model
from ser_cli.provenance import Provenance
from ser_cli.recipe import load_recipe

onnxruntime = pytest.importorskip("onnxruntime")

TOLD = Provenance(
    dataset="calls", corpus="manifest", licence="CC BY 4.0", label_set="sad,calm,glad", where=(), protocol="seeded",
    protocol_hash="f00", fold=2, train_speakers=("a", "c"), validation_speakers=("b",),
)  # fmt: skip

SHAPES = [(1, 16_000), (1, 800), (3, 50_001), (5, 8_001), (2, 33_333)]
"""Clips and samples of the longest."""


def save_encoder(kind: str) -> str:
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": (16, 16), "conv_stride": (16, 20), "conv_kernel": (16, 20), "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer", "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    model = WavLMModel(WavLMConfig(**shape)) if kind == "wavlm" else HubertModel(HubertConfig(**shape))
    model.save_pretrained(kind)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(kind)
    return kind


def save(encoder: str, *overrides: str) -> Path:
    """A model with random weights."""
    torch.manual_seed(0)
    recipe = load_recipe("conformer", overrides, {"encoder.name": encoder})
    model = build_model(recipe, 3)
    with torch.no_grad():  # as after training: statistics of its own, attention that is not flat
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.3)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif name.endswith(("frame_weight", "classifier.weight", "center")):
                value.normal_(0, 1)
    save_model(Path("model"), model, model.state_dict(), ("sad", "calm", "glad"), recipe, TOLD)
    return Path("model")


@pytest.mark.parametrize("kind", ["conformer", "wavlm", "hubert"])
def test_onnxruntime_gives_the_probabilities_of_torch(ser, kind):
    folder = save(kind if kind == "conformer" else save_encoder(kind))
    result = ser("predict", "--model", folder, "--export", "onnx", "--output", "model.onnx")
    assert (result.exit_code, result.stdout) == (0, "model.onnx\n"), result.stderr
    session = onnxruntime.InferenceSession("model.onnx")
    model = load_model(folder).model
    rng = np.random.default_rng(0)
    for clips, samples in SHAPES:
        lengths = rng.integers(samples // 2, samples + 1, clips)
        lengths[-1] = samples
        waveforms = (0.1 * rng.standard_normal((clips, samples))).astype(np.float32)
        waveforms[:, : samples // 2] *= 1e-4  # soft, as between words: there the two spectra differ first
        waveforms[0, : samples // 3] *= 500  # and amid noise that is louder than 40 dB under the voice
        waveforms[np.arange(samples) >= lengths[:, None]] = 0
        (told,) = session.run(None, {"waveforms": waveforms, "lengths": lengths})
        with torch.inference_mode():
            expected = model(torch.from_numpy(waveforms), torch.from_numpy(lengths)).logits.softmax(-1).numpy()
        np.testing.assert_allclose(told, expected, atol=1e-4)
        assert expected.max() - expected.min() > 0.01  # not flat, which would hide differences
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["sad", "calm", "glad"]
    assert json.loads(metadata["preprocessing"])["sample_rate_hz"] == 16_000
    assert json.loads(metadata["speakers"]) == ["a", "b", "c"]
    assert metadata["licence_of_the_recordings"] == "CC BY 4.0"


@pytest.mark.slow
def test_a_model_that_normalises_by_speaker_takes_offsets_and_gives_embeddings(ser):
    small = ("conformer.dim=16", "conformer.layers=1", "pooling.heads=4")
    folder = save("conformer", "normalization.by=speaker", *small)
    result = ser("predict", "--model", folder, "--export", "onnx", "--output", "model.onnx")
    assert (result.exit_code, result.stdout) == (0, "model.onnx\n"), result.stderr
    session = onnxruntime.InferenceSession("model.onnx")
    center = np.array(json.loads(session.get_modelmeta().custom_metadata_map["speaker_center"]), dtype=np.float32)
    rng = np.random.default_rng(0)
    time = np.arange(12_000) / 16_000
    names = []
    for number, samples in enumerate((12_000, 5_000, 8_000)):
        names.append(f"calls/{number}.wav")
        wave = 0.3 * np.sin(2 * np.pi * 300 * (number + 1) * time) + 0.05 * rng.standard_normal(12_000)
        Path("calls").mkdir(exist_ok=True)
        soundfile.write(names[-1], wave[:samples], 16_000)
    heard = [soundfile.read(name, dtype="float32")[0] for name in names]
    waveforms = np.stack([np.pad(wave, (0, 12_000 - len(wave))) for wave in heard])
    inputs = {"waveforms": waveforms, "lengths": np.array([len(wave) for wave in heard])}
    _, embeddings = session.run(None, {**inputs, "offsets": np.zeros((3, 16), np.float32)})
    offset = (embeddings.sum(axis=0) + center) / 4
    told, again = session.run(None, {**inputs, "offsets": np.tile(offset, (3, 1))})
    np.testing.assert_allclose(again, embeddings, atol=1e-4)
    predicted = ser("predict", "--model", folder, "--speakers", "all", *names).stdout
    expected = np.array([line.split("\t")[2:] for line in predicted.splitlines()], dtype=float)
    np.testing.assert_allclose(told, expected, atol=1e-4)
    unmoved, _ = session.run(None, {**inputs, "offsets": np.zeros((3, 16), np.float32)})
    assert abs(unmoved - told).max() > 0.01  # the offsets matter


def test_an_exported_file_is_not_overwritten_unasked(ser):
    Path("model.onnx").write_text("mine")
    result = ser("predict", "--model", save("conformer"), "--export", "onnx", "--output", "model.onnx")
    assert result.exit_code == 1
    assert "--output model.onnx exists" in result.stderr
    assert Path("model.onnx").read_text() == "mine"


def test_a_part_that_cannot_be_exported_is_said_in_a_sentence(ser, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("no decomposition for aten::mystery\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    result = ser("predict", "--model", save("conformer"), "--export", "onnx", "--output", "model.onnx")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "this model cannot be written as ONNX: encoder conformer has a part" in result.stderr
    assert "(no decomposition for aten::mystery)" in result.stderr
    assert not Path("model.onnx").exists()


def test_without_onnxscript_the_extra_is_named(ser, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "onnxscript":
            raise ImportError(name)
        return real(name, *arguments, **options)

    folder = save("conformer")
    monkeypatch.setattr(builtins, "__import__", without)
    result = ser("predict", "--model", folder, "--export", "onnx", "--output", "model.onnx")
    assert result.exit_code == 1
    assert "pip install 'ser-cli[onnx]'" in result.stderr
