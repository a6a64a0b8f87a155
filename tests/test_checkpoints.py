"""Models that travel: what stands beside the weights, and what is refused."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ser_cli.checkpoints import load_model, save_model
from ser_cli.errors import RunError
from ser_cli.models.building import build_model
from ser_cli.provenance import Provenance, speakers_trained_on
from ser_cli.recipe import load_recipe
from tests.conftest import TINY

TOLD = Provenance(
    dataset="calls", corpus="manifest", licence="CC BY 4.0", label_set="sad,calm", where=("gender=female",),
    protocol="seeded", protocol_hash="f00", fold=2, train_speakers=("a", "c"), validation_speakers=("b",),
)  # fmt: skip


@pytest.fixture
def folder() -> Path:
    """A model with random weights."""
    overrides = [value for value in TINY if "conformer." in value]
    recipe = load_recipe("conformer", overrides)
    torch.manual_seed(0)
    model = build_model(recipe, 2)
    save_model(Path("model"), model, model.state_dict(), ("sad", "calm"), recipe, TOLD)
    return Path("model")


def test_a_folder_gives_back_weights_labels_and_provenance(folder):
    loaded = load_model(folder)
    assert loaded.labels == ("sad", "calm")
    assert loaded.provenance == TOLD
    assert loaded.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert not loaded.model.training


def test_the_description_says_what_the_model_hears(folder):
    told = json.loads((folder / "model.json").read_text())
    assert told["preprocessing"]["sample_rate_hz"] == 16_000
    assert told["preprocessing"]["features"]["mel_bands"] == 16
    assert told["preprocessing"]["features"]["trim_db"] == 40
    assert told["preprocessing"]["features"]["trim_over_noise_db"] == 6
    assert told["provenance"]["licence"] == "CC BY 4.0"


def test_a_folder_loads_where_nothing_of_training_is_imported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    code = f"""
import sys
from pathlib import Path
from ser_cli.checkpoints import load_model
print(load_model(Path({str(tmp_path / "elsewhere")!r})).labels)
own = {{name.removeprefix("ser_cli.").split(".")[0] for name in sys.modules if name.startswith("ser_cli.")}}
print(sorted(own & {{"training", "cross_validation", "losses", "evaluation", "preparation", "commands", "corpora"}}))
print([name for name in ("accelerate", "transformers", "sklearn", "soundfile") if name in sys.modules])
print([name for name in sys.modules if name == "ser_cli.data.mixup"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["('sad', 'calm')", "[]", "[]", "[]"]


def test_training_leaves_what_a_fold_was_trained_on(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run")
    assert result.exit_code == 0, result.stderr
    told = load_model(Path("run/fold-1")).provenance
    sides: dict[str, set[str]] = {}
    for line in Path("run/folds.csv").read_text().splitlines()[1:]:
        fold, side, _, speaker, *_ = line.split(",")
        if fold == "1":
            sides.setdefault(side, set()).add(speaker)
    assert set(told.train_speakers) == sides["train"]
    assert set(told.validation_speakers) == sides["validation"]
    assert told.protocol_hash == json.loads(Path("run/run.json").read_text())["protocol_hash"]
    assert (told.dataset, told.fold, told.licence) == ("tones", 1, "not stated: the user's own recordings")
    heard = tuple(sorted(sides["train"] | sides["validation"]))
    assert speakers_trained_on(Path("run/fold-1")) == speakers_trained_on(Path("run")) == heard
    assert not set(heard) & sides["test"]


def test_speakers_of_a_folder_without_a_model_are_refused():
    with pytest.raises(RunError, match=r"holds no trained model: no model\.json"):
        speakers_trained_on(Path())


class Bomb:
    def __reduce__(self):
        return (Path("opened").touch, ())


def replace_by_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))


def replace_by_torch_save(folder: Path) -> None:
    torch.save({"bomb": Bomb()}, folder / "model.safetensors")


def put_pickle_beside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"bomb": Bomb()}, folder / "model.pt")


def cut(name: str):
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def flip_a_weight(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def swap_labels(folder: Path) -> None:
    told = json.loads((folder / "model.json").read_text())
    told["labels"].reverse()
    (folder / "model.json").write_text(json.dumps(told))


def make_newer(folder: Path) -> None:
    told = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**told, "format": 99}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (cut("model.json"), "the file is damaged"),
        (cut("model.safetensors"), "truncated or was changed after training"),
        (flip_a_weight, "model/model.safetensors is truncated or was changed"),
        (swap_labels, "model/model.json is truncated or was changed"),
        (lambda folder: (folder / "model.json").write_text("[]"), "the file is no description of one"),
        (make_newer, "written by a newer version of ser (format 99"),
        (replace_by_pickle, "model/model.safetensors is a pickle"),
        (replace_by_torch_save, "model/model.safetensors is a pickle"),
        (put_pickle_beside, "model/model.pt is a pickle"),
    ],
)
def test_what_is_missing_truncated_changed_or_a_pickle_is_refused(ser, folder, change, sentence):
    change(folder)
    with pytest.raises(RunError):
        load_model(folder)
    result = ser("predict", "--model", folder, "a.wav")
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert not Path("opened").exists()


def test_a_model_of_an_older_version_still_loads_and_a_cut_one_is_refused(folder):
    told = json.loads((folder / "model.json").read_text())
    for key in ("format", "sha256", "weights_sha256", "provenance", "preprocessing"):
        del told[key]
    (folder / "model.json").write_text(json.dumps(told))
    assert load_model(folder).provenance is None
    assert speakers_trained_on(folder) == ()
    cut("model.safetensors")(folder)
    with pytest.raises(RunError, match="do not fit together or are truncated"):
        load_model(folder)


def test_a_model_of_the_format_before_heads_had_names_gives_the_same(folder):
    loaded = load_model(folder)
    weights = loaded.model.state_dict()
    older = {name.removeprefix("head."): value.contiguous() for name, value in weights.items()}
    assert set(older) - set(weights) == {"classifier.weight", "classifier.bias"}
    content = safetensors.torch.save(older)
    (folder / "model.safetensors").write_bytes(content)
    told = json.loads((folder / "model.json").read_text())
    del told["sha256"], told["recipe"]["head"], told["recipe"]["losses"]["center_reads"]
    told |= {"format": 2, "weights_sha256": hashlib.sha256(content).hexdigest()}
    told["sha256"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(told))
    assert all(torch.equal(value, weights[name]) for name, value in load_model(folder).model.state_dict().items())


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("noise_db", [-20, -60])
def test_models_of_earlier_versions_hear_as_much_of_a_clip_as_they_were_trained_on(folder, version, noise_db):
    told = json.loads((folder / "model.json").read_text())
    del told["sha256"]
    told["format"] = version
    since = {"mixstyle_share": 6, "trim_over_noise_db": 5, "background_share": 5, "trim_db": 4, "trim_jitter_db": 4}
    for key in (key for key, first in since.items() if version < first):
        del told["recipe"]["conformer"][key]
    told["sha256"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(told))
    tone = torch.sin(torch.arange(16_000) * 0.2)
    wave = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0)) * 10 ** (noise_db / 20) / 2**0.5
    wave[0, 16_000:32_000] += tone
    loaded = load_model(folder)
    # Nothing says that backgrounds were laid, or styles mixed, before.
    assert loaded.recipe.conformer.background_share == (0.5 if version >= 5 else 0)
    assert loaded.recipe.conformer.mixstyle_share == (0.5 if version == 6 else 0)
    start, samples = loaded.model.encoder.spans(wave, torch.tensor([48_000]))
    is_cut = version >= 5 or (version == 4 and noise_db == -60)  # 40 dB under the tone is silence since format 4
    expected = (16_000 - 512, 16_000 + 1_024) if is_cut else (0, 48_000)
    # The first and the last block that hold some of the tone may be any that reach into it.
    assert abs(int(start) - expected[0]) <= 256
    assert abs(int(samples) - expected[1]) <= 512


def test_weights_that_are_no_numbers_are_named(folder):
    loaded = load_model(folder)
    weights = loaded.model.state_dict()
    weights["head.classifier.weight"][0, 0] = float("inf")
    save_model(folder, loaded.model, weights, loaded.labels, loaded.recipe, TOLD)
    with pytest.raises(RunError, match=r"model\.safetensors: head\.classifier\.weight holds values that are NaN"):
        load_model(folder)
