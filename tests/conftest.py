"""What tests share: a data home of their own, a corpus of tones, and `ser` as a user runs it."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

# Before anything starts a thread: tiny models are fastest, and repeat exactly, on one.
torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"

TONES_HZ = {"angry": 1200.0, "happy": 700.0, "sad": 250.0}
"""One tone per emotion, so that a tiny model really learns."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data home that no other test sees; the working folder is a new one too."""
    monkeypatch.setenv("SER_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "home"


@pytest.fixture
def ser() -> Callable[..., object]:
    """Run `ser` with arguments; the result has exit_code, stdout and stderr."""
    from ser_cli.cli import app

    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="ser")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def write_tone(path: Path, hz: float, duration_s: float = 0.4, rate: int = 16_000, *, seed: int = 0) -> None:
    """Write a tone with a little noise."""
    time = np.arange(int(duration_s * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hz * time) + noise, rate)


def write_tone_corpus(
    folder: Path, speakers: int = 6, takes: int = 3, emotions: Sequence[str] = tuple(TONES_HZ)
) -> Path:
    """Write tones of some speakers and their manifest; the path of the manifest is returned."""
    lines = ["path,emotion,speaker,gender,text"]
    for speaker in range(1, speakers + 1):
        for emotion in emotions:
            for take in range(takes):
                name = f"p{speaker}/{emotion}-{take}.wav"
                seed = 100 * speaker + take
                duration_s = 0.3 + 0.05 * ((speaker + take) % 4)
                write_tone(folder / name, TONES_HZ[emotion] * (1 + 0.02 * speaker), duration_s, seed=seed)
                lines.append(f"{name},{emotion},p{speaker},{'female' if speaker % 2 else 'male'},take {take}")
    manifest = folder / "tones.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """The manifest of a corpus of tones: 6 speakers, 3 emotions, 54 clips."""
    return write_tone_corpus(tmp_path / "tones")


SMALL = (
    *("--encoder", "conformer", "--recipe", "conformer", "--epochs", "2", "--device", "cpu"),
    *("--set", "conformer.dim=16", "--set", "conformer.layers=1", "--set", "conformer.channels=[4, 4]"),
    *("--set", "conformer.mel_bands=16", "--set", "conformer.feed_forward_dim=16"),
    *("--set", "losses.speaker_relative=0"),
)
"""Options that make the built-in encoder small enough for a test."""

TINY = (*SMALL, "--select", "validation")
"""The same for `ser train`, with held-out speakers who choose the epoch."""

TINY_CELLS = (*SMALL, "--set", "selection.by=validation")
"""The same for `ser ablate`."""


def training_process(manifest: Path, output: str) -> list[str]:
    """The command that trains two folds of a tiny model in a process of its own."""
    command = [sys.executable, "-m", "ser_cli", "train", "--manifest", manifest, "--folds", "2", *TINY]
    return [*map(str, command), "--output", output]


@pytest.fixture
def wavlm(tmp_path) -> Path:
    """A random two-layer WavLM, saved as the hub's are."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 4), conv_kernel=(10, 8, 4), num_feat_extract_layers=3, feat_extract_norm="layer",
        do_stable_layer_norm=True, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        num_buckets=32, max_bucket_distance=64,
    )  # fmt: skip
    WavLMModel(config).save_pretrained(tmp_path / "wavlm")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(tmp_path / "wavlm")
    return tmp_path / "wavlm"


@pytest.fixture
def still_wavlm(wavlm):
    """Without dropout, masking or layers left out at random."""
    path = wavlm / "config.json"
    config = json.loads(path.read_text())
    config |= {key: 0.0 for key in config if "dropout" in key or key == "layerdrop"}
    path.write_text(json.dumps({**config, "apply_spec_augment": False}))
    return wavlm


@pytest.fixture
def few(tmp_path) -> Path:
    """The manifest of 12 tones of 4 speakers."""
    return write_tone_corpus(tmp_path / "few", speakers=4, takes=1)
