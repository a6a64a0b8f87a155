"""All folds of a run start from the same pre-trained weights, or it is said that they do not."""

import json
from pathlib import Path

import pytest
import safetensors.torch

from ser_cli.runs.initial_weights import differing_weights
from tests.conftest import TINY
from tests.models.tiny import save_tiny_speech_encoder
from tests.running import stop_after
from tests.test_multimodal import networks, train  # noqa: F401


def change(path: Path) -> None:
    """Overwrite weights with others."""
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value + 0.01 for name, value in weights.items()}, path, {"format": "pt"})


def named(networks: list[str], setting: str) -> Path:  # noqa: F811
    """The file of weights that a setting names."""
    path = Path(next(option.partition("=")[2] for option in networks if option.startswith(setting)))
    return path / "model.safetensors" if path.is_dir() else path


def started_from(fold: str) -> dict[str, str]:
    return json.loads(Path(fold, "done.json").read_text())["pretrained_sha256"]


@pytest.mark.parametrize("setting", ["encoder.weights", "text.encoder"])
def test_a_file_that_was_changed_between_two_folds_is_noticed(ser, tones, networks, setting):  # noqa: F811
    arguments = train(tones, networks, "--epochs", 1, "--output", "run", recipe="3m-ser")
    assert ser(*arguments, "--fold", 1).exit_code == 0
    change(named(networks, setting))
    refused = ser(*arguments, "--fold", 2)
    assert refused.exit_code == 1
    assert "run/fold-2 would start from other weights than the folds that are done" in refused.stderr
    assert f"{setting}: the folds started from different weights (SHA-256): fold 1 from " in refused.stderr
    assert "--resume-anyway" in refused.stderr
    assert not Path("run/fold-2/done.json").exists()
    assert ser(*arguments, "--fold", 2, "--resume-anyway").exit_code == 0
    told = ser("evaluate", "run", "--no-figures", "--json")
    assert f"changed while the run went on: {setting}: the folds started from different weights" in told.stderr
    assert any(sentence.startswith(setting) for sentence in json.loads(told.stdout)["changes"])
    assert f"Changed while the run went on: {setting}" in Path("run/report.md").read_text()


def test_folds_that_start_from_the_same_file_are_of_one_model(ser, tones, networks):  # noqa: F811
    assert ser(*train(tones, networks, "--epochs", 1, "--output", "run", recipe="3m-ser")).exit_code == 0
    assert started_from("run/fold-1") == started_from("run/fold-2")
    assert started_from("run/fold-1").keys() == {"encoder.weights", "text.encoder"}
    assert json.loads(ser("evaluate", "run", "--no-figures", "--json").stdout)["changes"] == []


def test_a_fold_that_goes_on_tells_what_it_started_from(ser, tones, networks, monkeypatch):  # noqa: F811
    arguments = train(tones, networks, "--output", "run", "--fold", 1, recipe="3m-ser")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert ser(*arguments).exit_code == 143
    change(named(networks, "encoder.weights"))
    assert ser(*arguments).exit_code == 0
    refused = ser(*arguments[: arguments.index("--fold")], "--fold", 2)
    assert "run/fold-2 would start from other weights" in refused.stderr


def test_the_built_in_encoder_which_each_fold_draws_anew_is_not_compared(ser, tones):
    assert ser("train", "--manifest", tones, "--folds", 2, *TINY, "--epochs", 1, "--output", "run").exit_code == 0
    first, second = (json.loads(Path(f"run/fold-{fold}/done.json").read_text()) for fold in (1, 2))
    assert first["initial_encoder_sha256"] != second["initial_encoder_sha256"]
    assert "pretrained_sha256" not in first


@pytest.mark.slow
def test_a_speech_encoder_is_compared_but_for_what_each_fold_draws(ser, tones, tmp_path):
    encoder = save_tiny_speech_encoder(tmp_path / "wavlm", "wavlm")
    weights = safetensors.torch.load_file(encoder / "model.safetensors")
    assert "masked_spec_embed" in weights
    del weights["masked_spec_embed"]
    safetensors.torch.save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    arguments = ["train", "--manifest", tones, "--folds", 3, "--encoder", encoder, "--epochs", 1, "--output", "run"]
    arguments += ["--set", "encoder.fusion=weighted_sum", "--device", "cpu", "--set", "pooling.heads=4"]
    done = ser(*arguments, "--fold", 1, "--fold", 2)
    assert done.exit_code == 0, done.stderr
    first, second = (json.loads(Path(f"run/fold-{fold}/done.json").read_text()) for fold in (1, 2))
    assert first["initial_encoder_sha256"] != second["initial_encoder_sha256"]
    assert started_from("run/fold-1") == started_from("run/fold-2")
    change(encoder / "model.safetensors")
    assert "encoder.name: the folds started from different" in ser(*arguments, "--fold", 3).stderr


def test_folds_of_a_version_that_did_not_tell_are_not_compared():
    assert differing_weights({1: {}, 2: {"encoder.name": "a" * 64}, 3: {"encoder.name": "a" * 64}}) == []
    assert differing_weights({1: {"encoder.name": "a" * 64}, 2: {"encoder.name": "b" * 64}, 3: {}}) == [
        "encoder.name: the folds started from different weights (SHA-256): fold 1 from aaaaaaaaaaaa…;"
        " fold 2 from bbbbbbbbbbbb…"
    ]
