"""A tiny BERT and a tiny VGGish, each built in one place."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from ser_cli.models.vggish import VGGish

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "take", "##s", "0", "1", "2", "3", "no", "yes", "never"]

SMALL_VGGISH = {"channels": (4, 4, 6, 8), "hidden_dim": 12, "dim": 16}


def save_tiny_bert(folder: Path, **changes) -> Path:
    """Write a random two-layer BERT that knows `WORDS`, the way that its authors publish theirs."""
    import transformers

    torch.manual_seed(3)
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
    }
    transformers.BertModel(transformers.BertConfig(**{**settings, **changes})).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def make_vggish_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have recipes build VGGish with few channels: the published sizes take 288 MB."""
    monkeypatch.setattr(VGGish.__init__, "__kwdefaults__", dict(SMALL_VGGISH))


def save_tiny_vggish(path: Path) -> Path:
    """Write random weights of a small VGGish, large enough that frames differ."""
    torch.manual_seed(4)
    model = VGGish(**SMALL_VGGISH)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.02, 0.3) if weight.ndim > 1 else weight.normal_(0.1, 0.1)
    safetensors.torch.save_file(model.state_dict(), path)
    return path
