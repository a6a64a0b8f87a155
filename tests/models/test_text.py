"""Text encoders against the library's own way to read the same folder."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers

from ser_cli.errors import EncoderError
from ser_cli.models.text import describe_text, load_text_encoder, restore_text_encoder
from tests.models.tiny import save_tiny_speech_encoder
from tests.models.tiny_text import WORDS, save_tiny_bert

TEXTS = ["Take 1", "never no takes 3 yes", "strange", ""]


@pytest.fixture
def bert(tmp_path) -> Path:
    return save_tiny_bert(tmp_path / "bert")


def test_states_are_those_that_transformers_gives_for_its_own_tokens(bert):
    encoder = load_text_encoder(str(bert), max_tokens=20, frozen=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    expected = transformers.AutoModel.from_pretrained(bert).eval()(
        **tokenizer(TEXTS, padding=True, return_tensors="pt")
    )
    found = encoder(TEXTS)
    torch.testing.assert_close(found.states, expected.last_hidden_state)
    assert found.mask.sum(dim=1).tolist() == [4, 8, 3, 2]
    assert (found.states[0, 0] - found.states[1, 0]).abs().max() > 1e-2


def test_a_text_in_a_padded_batch_has_the_states_that_it_has_alone(bert):
    encoder = load_text_encoder(str(bert), max_tokens=20, frozen=False).eval()
    together = encoder(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = encoder([text])
        assert alone.mask.all()
        torch.testing.assert_close(together.states[row][together.mask[row]], alone.states[0], rtol=1e-4, atol=1e-5)


def test_a_long_text_is_cut(bert):
    encoder = load_text_encoder(str(bert), max_tokens=6, frozen=False)
    assert encoder.tokenizer.encode("no " * 50).tokens == ["[CLS]", "no", "no", "no", "no", "[SEP]"]


def test_a_frozen_encoder_has_no_dropout_and_no_gradient_and_a_trained_one_has_both(bert):
    frozen = load_text_encoder(str(bert), max_tokens=20, frozen=True).train()
    assert torch.equal(frozen(TEXTS).states, frozen(TEXTS).states)
    assert not frozen(TEXTS).states.requires_grad
    trained = load_text_encoder(str(bert), max_tokens=20, frozen=False).train()
    assert not torch.equal(trained(TEXTS).states, trained(TEXTS).states)
    trained(TEXTS).states.square().sum().backward()
    # No layer behind [CLS] that nothing reads: every weight takes part.
    assert all(p.grad is not None for p in trained.parameters())


@pytest.mark.parametrize("kind", ["Roberta", "DistilBert", "Electra"])
def test_kin_of_bert_are_read_too(bert, tmp_path, kind):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), max_position_embeddings=44, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / kind)
    shutil.copy(bert / "tokenizer.json", tmp_path / kind / "tokenizer.json")
    encoder = load_text_encoder(str(tmp_path / kind), max_tokens=20, frozen=True)
    assert encoder(TEXTS).states.shape == (4, 8, 16)


def test_an_encoder_is_restored_from_what_is_told_of_it(bert):
    encoder = load_text_encoder(str(bert), max_tokens=6, frozen=True)
    told = json.loads(json.dumps(describe_text(encoder)))
    shutil.rmtree(bert)
    restored = restore_text_encoder(told, max_tokens=6, frozen=True, weights_bytes=1 << 20)
    restored.load_state_dict(encoder.state_dict())
    texts = [*TEXTS, "no " * 50]
    assert torch.equal(restored(texts).states, encoder(texts).states)


class Payload:
    """A pickle of this makes a folder as soon as it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


def test_a_pickle_in_the_place_of_the_weights_is_refused_and_not_run(bert):
    (bert / "model.safetensors").unlink()
    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(EncoderError, match=r"pytorch_model.bin is a pickle.*it was not opened") as error:
        load_text_encoder(str(bert), max_tokens=20, frozen=True)
    assert "(t.AutoModel, t.AutoTokenizer)" in str(error.value)
    assert not Path("was-run").exists()


def test_code_of_a_folder_is_never_run(bert):
    (bert / "evil.py").write_text("import os; os.mkdir('was-run')\nclass Evil: pass\n")
    for file in ("tokenizer_config.json", "config.json"):
        values = json.loads((bert / file).read_text())
        evil = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
        (bert / file).write_text(json.dumps(values | {"auto_map": evil}))
        if file == "tokenizer_config.json":  # never read
            load_text_encoder(str(bert), max_tokens=20, frozen=True)
    with pytest.raises(EncoderError, match=r"config\.json: auto_map asks for code of its own"):
        load_text_encoder(str(bert), max_tokens=20, frozen=True)
    assert not Path("was-run").exists()


def break_tokenizer(folder: Path, **changes) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no usable configuration, tokenizer and weights"),
        (lambda f: break_tokenizer(f, post_processor=None), "its tokenizer puts no token such as [CLS] before a text"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x01"), "no usable configuration, tokenizer and weights"),
        (lambda f: (f / "config.json").unlink(), "the folder holds no config.json"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_with_a_sentence(bert, spoil, told):
    spoil(bert)
    with pytest.raises(EncoderError, match=re.escape(told)):
        load_text_encoder(str(bert), max_tokens=20, frozen=True)


def test_a_tokenizer_at_which_its_library_panics_is_refused_with_a_sentence(bert):
    template = json.loads((bert / "tokenizer.json").read_text())["post_processor"]
    template["single"][0]["SpecialToken"]["id"] = "[NONE]"
    break_tokenizer(bert, post_processor=template)
    with pytest.raises(EncoderError, match=r"tokenizer and weights .*its tokenizer is damaged"):
        load_text_encoder(str(bert), max_tokens=20, frozen=True)


@pytest.mark.parametrize("description", [{}, {"config": {}, "tokenizer": ""}, {"config": {"model_type": "bert"}}])
def test_a_description_that_tells_too_little_raises(description):
    with pytest.raises((KeyError, ValueError)):
        restore_text_encoder(description, max_tokens=6, frozen=True, weights_bytes=1 << 20)


def test_a_tokenizer_on_the_hub_is_read_from_its_cache(bert, tmp_path, monkeypatch):
    # As the cache of the hub keeps a repository: snapshots, refs.
    snapshot = tmp_path / "cache/models--a--bert/snapshots/0123456789012345678901234567890123456789"
    snapshot.parent.mkdir(parents=True)
    bert.rename(snapshot)
    refs = tmp_path / "cache/models--a--bert/refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "transformers.utils.hub"):
        for constant in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(sys.modules.get(module), constant):
                monkeypatch.setattr(sys.modules[module], constant, str(tmp_path / "cache"))
    assert load_text_encoder("a/bert", max_tokens=20, frozen=True)(TEXTS).states.shape == (4, 8, 16)
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=r"text\.encoder a/bert: it has no tokenizer\.json"):
        load_text_encoder("a/bert", max_tokens=20, frozen=True)
    with pytest.raises(EncoderError, match="in the local cache and on the Hugging Face hub"):
        load_text_encoder("a/other", max_tokens=20, frozen=True)


def test_more_tokens_than_the_model_has_places_for_are_refused(bert):
    with pytest.raises(EncoderError, match=r"cannot read 41 tokens of a vocabulary of 14 .*\n  lower text.max_tokens"):
        load_text_encoder(str(bert), max_tokens=41, frozen=True)
    load_text_encoder(str(bert), max_tokens=40, frozen=True)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    small = save_tiny_bert(tmp_path / "small", vocab_size=len(WORDS) - 1)
    with pytest.raises(EncoderError, match="the tokenizer belongs to another model"):
        load_text_encoder(str(small), max_tokens=20, frozen=True)


def test_an_encoder_of_speech_reads_no_text(tmp_path):
    speech = save_tiny_speech_encoder(tmp_path / "wavlm", "wavlm")
    with pytest.raises(EncoderError, match="a wavlm model, which is no encoder of text"):
        load_text_encoder(str(speech), max_tokens=20, frozen=True)
