"""A tokenizer, and a configuration, that ask for more memory than there is are refused before any is taken."""

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from ser_cli.checkpoints import save_model
from ser_cli.errors import EncoderError
from ser_cli.models.building import build_model
from ser_cli.models.pretrained import describe_pretrained, load_pretrained, restore_pretrained
from ser_cli.models.sizes import require_bearable
from ser_cli.models.text import describe_text, load_text_encoder, restore_text_encoder
from ser_cli.models.tokenizer_files import harmless_tokenizer
from ser_cli.recipe import load_recipe
from tests.conftest import TINY
from tests.models.tiny import save_tiny_speech_encoder
from tests.models.tiny_text import save_tiny_bert

PADDING = {
    "strategy": {"Fixed": 2_000_000_000},
    "direction": "Right",
    "pad_to_multiple_of": None,
    **{"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
}
LARGE = {"num_hidden_layers": 24, "hidden_size": 4096, "intermediate_size": 100_000, "num_attention_heads": 16}

LOAD_IN_LITTLE_MEMORY = """
import resource, sys
from ser_cli.errors import SerError
from ser_cli.checkpoints import load_model
from ser_cli.models.pretrained import load_pretrained
from ser_cli.models.text import load_text_encoder
import transformers.models.bert.modeling_bert, transformers.models.wavlm.modeling_wavlm
from pathlib import Path

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)
for kind, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        if kind == "text":
            load_text_encoder(folder, max_tokens=20, frozen=True)
        elif kind == "speech":
            load_pretrained(folder)
        else:
            load_model(Path(folder))
        print("loaded")
    except SerError as error:
        print(str(error).splitlines()[0])
"""


@pytest.fixture
def bert(tmp_path) -> Path:
    return save_tiny_bert(tmp_path / "bert")


def changed(folder: Path, name: str, file: str = "tokenizer.json", **changes) -> Path:
    """A copy of a folder with other values in one of its files."""
    copied = folder.parent / name
    shutil.copytree(folder, copied)
    (copied / file).write_text(json.dumps(json.loads((copied / file).read_text()) | changes))
    return copied


def replaced(times: int, content: str) -> dict:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory and /proc")
def test_files_of_a_few_bytes_take_no_memory_and_do_not_abort_the_process(bert, tmp_path):
    reader = load_text_encoder(str(bert), max_tokens=20, frozen=True)
    speech = save_tiny_speech_encoder(tmp_path / "speech", "wavlm")
    overrides = [value for value in TINY if "conformer." in value]
    overrides += [f"text.encoder={bert}", "text.max_tokens=20", "mixup.method=none"]
    recipe = load_recipe("conformer", overrides)
    model = build_model(recipe, 3)
    save_model(tmp_path / "model", model, model.state_dict(), ("a", "b", "c"), recipe)
    told = json.loads((tmp_path / "model/model.json").read_text())
    # Without its format a description is read as that of an older version, whose hashes nobody compares.
    del told["format"]
    (tmp_path / "model/model.json").write_text(json.dumps(told))
    padded, large = copy.deepcopy(told["text"]), copy.deepcopy(told["text"])
    padded["tokenizer"] = json.dumps(json.loads(reader.tokenizer.to_str()) | {"padding": PADDING})
    large["config"] |= LARGE
    cases = {
        ("text", bert): "loaded",
        ("text", changed(bert, "padded", padding=PADDING)): "loaded",
        ("text", changed(bert, "grown", normalizer=replaced(3, "a" * 2500))): "has 2,500 characters, at most 64",
        ("text", changed(bert, "nested", normalizer=replaced(8, "a" * 60))): "times as long, at most 1,000 is taken",
        ("text", changed(bert, "wide", "config.json", **LARGE)): "the weights beside it have",
        ("speech", changed(speech, "wide-speech", "config.json", **LARGE)): "the weights beside it have",
        ("model", tmp_path / "model"): "loaded",
        ("model", changed(tmp_path / "model", "padded-model", "model.json", text=padded)): "loaded",
        ("model", changed(tmp_path / "model", "large-model", "model.json", text=large)): "the weights beside it have",
    }
    arguments = [str(part) for case in cases for part in case]
    done = subprocess.run([sys.executable, "-c", LOAD_IN_LITTLE_MEMORY, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for line, (case, expected) in zip(done.stdout.splitlines(), cases.items(), strict=True):
        assert expected in line, case


def test_what_is_told_of_an_encoder_is_not_built_beyond_its_weights(bert, tmp_path):
    speech = save_tiny_speech_encoder(tmp_path / "speech", "hubert")
    told = describe_pretrained(load_pretrained(str(speech)))
    told["config"] |= LARGE
    with pytest.raises(EncoderError, match=r"model of [\d,]+ values, and the weights beside it have 5,000 bytes"):
        restore_pretrained(told, weights_bytes=5_000)
    text = describe_text(load_text_encoder(str(bert), max_tokens=20, frozen=True))
    text["config"] |= LARGE
    with pytest.raises(EncoderError, match=r"model of [\d,]+ values, and the weights beside it have 5,000 bytes"):
        restore_text_encoder(text, max_tokens=20, frozen=True, weights_bytes=5_000)


def test_looking_at_the_size_of_a_model_draws_no_random_number(tmp_path):
    config = transformers.AutoConfig.from_pretrained(save_tiny_speech_encoder(tmp_path / "speech", "wavlm"))
    before = torch.get_rng_state()
    require_bearable("it", lambda: transformers.AutoModel.from_config(config), 1 << 20)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"normalizer": {"type": "Evil"}}, "normalizer 'Evil' is none of BertNormalizer, "),
        ({"normalizer": ["x"]}, "normalizer 'None' is none of"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 1}}, "pre_tokenizer 'FixedLength' is none of"),
        ({"post_processor": {"type": "Evil"}}, "post_processor 'Evil' is none of"),
        ({"model": {"type": "Evil"}}, "model 'Evil' is none of BPE, "),
        ({"model": None}, "model is none of BPE, "),
        ({"normalizer": replaced(17, "b")}, "normalizer has 18 steps, at most 16 are taken"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 65}}, "normalizer: prepend has 65 characters"),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Removed"}},
            "the regular expression '(a+)+b' is none of",
        ),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 10}}, "1,024 times as long"),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Replace", "pattern": {"String": ""}, "content": "a" * 60},
                        {"type": "NFKD"},
                    ],
                }
            },
            "1,098 times as long",
        ),
        (
            {
                "normalizer": {
                    "type": "Precompiled",
                    "precompiled_charsmap": base64.b64encode(bytes(4) + b"x" * 1_001 + b"\0").decode(),
                }
            },
            "1,001 times as long",
        ),
        ({"post_processor": {"type": "TemplateProcessing", "single": [{}] * 65}}, "single has 65 items, at most 64"),
        (
            {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 10**7], "cls": ["[CLS]", 2]}},
            "sep is 1e+07, at most 1,000,000",
        ),
    ],
)
def test_steps_that_berts_kin_do_not_use_are_refused_by_name(bert, changes, told):
    path = bert / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(EncoderError, match=re.escape(told)) as error:
        load_text_encoder(str(bert), max_tokens=20, frozen=True)
    assert str(error.value).startswith(f"text.encoder {bert}: tokenizer.json, ")


@pytest.mark.parametrize(("key", "value"), [("max_input_chars_per_word", 100_000), ("dropout", 0.1)])
def test_a_model_of_words_that_takes_long_or_draws_by_chance_is_refused(bert, key, value):
    path = bert / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"][key] = value
    path.write_text(json.dumps(told))
    with pytest.raises(EncoderError, match=f"model: {key}"):
        load_text_encoder(str(bert), max_tokens=20, frozen=True)


def test_as_many_added_tokens_as_are_read_leave_no_place_for_the_text(bert):
    with pytest.raises(EncoderError, match=r"adds 2 tokens to each text, and text\.max_tokens is 2\n.*max_tokens=3"):
        load_text_encoder(str(bert), max_tokens=2, frozen=True)


SPECIAL = [("<s>", 0), ("</s>", 2)]


def roberta() -> Tokenizer:
    made = Tokenizer(tokenizers.models.BPE({"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5}, [("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.decoder = tokenizers.decoders.ByteLevel()
    return made


def albert() -> Tokenizer:
    """As the library converts ALBERT's, each step of it."""
    pieces = [("<s>", 0.0), ("<unk>", 0.0), ("</s>", 0.0), ("▁ab", -1.0), ("a", -2.0), ("b", -2.0), ("▁", -3.0)]
    made = Tokenizer(tokenizers.models.Unigram(pieces, 1))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=SPECIAL)
    return made


@pytest.mark.parametrize("made", [roberta(), albert()], ids=["RoBERTa", "ALBERT"])
def test_what_is_left_of_a_tokenizer_cuts_texts_as_the_whole_one(made):
    left = Tokenizer.from_str(harmless_tokenizer(made.to_str(), "it"))
    for text in ("ab", "a  b", "Ab``é", "", "ﷺ"):
        assert left.encode(text).tokens == made.encode(text).tokens


def test_the_tokenizers_that_the_library_makes_for_kin_of_bert_are_taken(bert):
    for name in ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"):
        made = getattr(transformers, name, None)
        if made is None or not hasattr(tokenizer := made.from_pretrained(bert), "backend_tokenizer"):
            continue
        text = tokenizer.backend_tokenizer.to_str()
        assert json.loads(harmless_tokenizer(text, name))["model"]["vocab"]
