"""A folder or repository of a model never runs code: no pickle, no code of its own, no kernel."""

import json
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

from ser_cli.errors import EncoderError
from ser_cli.models.folders import require_harmless_config
from ser_cli.models.pretrained import load_pretrained
from tests.models.tiny import save_tiny_speech_encoder


class Payload:
    """A pickle of this makes a file as soon as it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def write_pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "payload": Payload()}, path)


OPENED: list[str] = []
_listening = [False]


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _listening[0] and event == "open":
        OPENED.append(str(arguments[0]))


@pytest.fixture
def opened():
    """Every path that Python opens meanwhile."""
    if not getattr(sys, "_ser_test_hook", False):
        sys.addaudithook(_note)  # cannot be removed again
        sys._ser_test_hook = True
    OPENED.clear()
    _listening[0] = True
    yield OPENED
    _listening[0] = False


@pytest.fixture
def encoder(tmp_path) -> Path:
    return save_tiny_speech_encoder(tmp_path / "wavlm", "wavlm")


def test_the_payload_of_these_tests_works_and_the_listener_hears_it(opened):
    write_pickle(Path("x.bin"))
    torch.load("x.bin", weights_only=False)
    assert Path("was-run").is_dir()
    assert "x.bin" in opened


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "pytorch_model-00001-of-00002.bin"])
def test_an_encoder_that_has_only_a_pickle_is_refused_by_name_and_the_pickle_is_never_opened(encoder, opened, name):
    (encoder / "model.safetensors").unlink()
    write_pickle(encoder / name)
    opened.clear()
    with pytest.raises(EncoderError, match=f"{name} is a pickle.*it was not opened") as error:
        load_pretrained(str(encoder))
    assert "save_pretrained('DIR')" in str(error.value)
    assert not [path for path in opened if name in path]
    assert not Path("was-run").exists()


def test_a_pickle_beside_safetensors_is_left_alone(encoder, opened):
    write_pickle(encoder / "pytorch_model.bin")
    opened.clear()
    load_pretrained(str(encoder))
    assert any("config.json" in path for path in opened)
    assert not [path for path in opened if "pytorch_model.bin" in path]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "zip"])
def test_a_pickle_under_the_name_of_safetensors_is_refused_and_not_run(encoder, protocol):
    weights = encoder / "model.safetensors"
    write_pickle(weights) if protocol == "zip" else weights.write_bytes(pickle.dumps(Payload(), protocol))
    with pytest.raises(EncoderError, match=r"model\.safetensors is a pickle by its first bytes"):
        load_pretrained(str(encoder))
    assert not Path("was-run").exists()


def test_a_pickle_of_text_under_that_name_is_refused_and_not_run(encoder):
    (encoder / "model.safetensors").write_bytes(pickle.dumps(Payload(), 0))
    with pytest.raises(EncoderError, match="no usable configuration and weights"):
        load_pretrained(str(encoder))
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    "shard",
    ["pytorch_model-1.bin", "../outside.safetensors", "/etc/passwd", "C:\\x.safetensors", "a/b.safetensors", "x\0y"],
)
def test_an_index_that_leads_to_pickles_or_elsewhere_is_refused(encoder, opened, shard):
    (encoder / "model.safetensors").unlink()
    write_pickle(encoder / "pytorch_model-1.bin")
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    opened.clear()
    with pytest.raises(EncoderError, match=r"index\.json: the weights .* are not opened: the name"):
        load_pretrained(str(encoder))
    assert not [path for path in opened if "pytorch_model" in path or "passwd" in path]
    assert not Path("was-run").exists()


def test_weights_in_shards_are_loaded(encoder):
    (encoder / "model.safetensors").rename(encoder / "model-00001-of-00001.safetensors")
    from safetensors import safe_open

    with safe_open(encoder / "model-00001-of-00001.safetensors", "pt") as file:
        names = dict.fromkeys(file.keys(), "model-00001-of-00001.safetensors")
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert load_pretrained(str(encoder)).dim == 16


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_of_a_folder_is_never_run(encoder, opened, file):
    (encoder / "evil.py").write_text("import os; os.mkdir('was-run')\nclass Evil: pass\n")
    values = json.loads((encoder / file).read_text())
    evil = dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor"), "evil.Evil")
    (encoder / file).write_text(json.dumps(values | {"auto_map": evil, "model_type": "evil"}))
    opened.clear()
    with pytest.raises(EncoderError, match=f"{file}: auto_map asks for code of its own"):
        load_pretrained(str(encoder))
    assert not [path for path in opened if "evil.py" in path]
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attn_implementation": "someone/kernel"}, "attn_implementation asks for a compiled kernel"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config asks for a quantised model"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights names its weights itself"),
        ({"configuration_files": ["config.9.json"]}, "configuration_files names other"),
        ({"inner": {"deeper": [{"auto_map": {"a": "b"}}]}}, "auto_map asks for code"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1e+09, at most 1,000"),
        ({"hidden_size": 10**12}, "hidden_size is 1e+12, at most 1,000,000"),
    ],
)
def test_a_configuration_that_asks_for_more_than_a_model_is_refused(change, told):
    with pytest.raises(EncoderError, match=re.escape(told)):
        require_harmless_config("config.json", {"model_type": "wavlm", **change})


def test_a_pickle_on_the_hub_is_named_with_the_way_to_convert_it(monkeypatch, tmp_path, opened):
    # As the cache of the hub keeps a repository: blobs, snapshots of links, refs.

    cache = tmp_path / "cache"
    snapshot = cache / "models--a--wav/snapshots/0123456789012345678901234567890123456789"
    save_tiny_speech_encoder(snapshot, "wavlm")
    (snapshot / "model.safetensors").unlink()
    write_pickle(snapshot / "pytorch_model.bin")
    (cache / "models--a--wav/refs").mkdir()
    (cache / "models--a--wav/refs/main").write_text(snapshot.name)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "transformers.utils.hub"):
        for constant in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(sys.modules.get(module), constant):
                monkeypatch.setattr(sys.modules[module], constant, str(cache))
    opened.clear()
    with pytest.raises(EncoderError, match=r"encoder a/wav: its weights are published as a pickle alone") as error:
        load_pretrained("a/wav")
    assert "from_pretrained('a/wav')" in str(error.value)
    assert not [path for path in opened if "pytorch_model.bin" in path]
