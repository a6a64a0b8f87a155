"""Pre-trained text encoders of `transformers`, such as BERT, by hub id or local folder."""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ser_cli.errors import EncoderError
from ser_cli.files import read_text
from ser_cli.models.folders import (
    ask_hub_for,
    file_on_hub,
    refuse_pickle_on_hub,
    require_folder_or_id,
    require_harmless_config,
    require_harmless_folder,
    require_harmless_on_hub,
)
from ser_cli.models.pretrained import load_weights, quieten_off_a_terminal
from ser_cli.models.sizes import require_bearable
from ser_cli.models.tokenizer_files import harmless_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CLASS = "AutoTokenizer"
"""What of transformers writes it."""

MAX_TOKENIZER_BYTES = 8 << 20
"""BERT's takes half a megabyte, RoBERTa's three; it travels in the description of every model that reads text."""


@dataclass(frozen=True)
class TextStates:
    """What a text encoder makes of the texts of a batch."""

    states: Tensor
    """(batch, tokens, dim); the first is that of the token that opens every text, BERT's [CLS]."""
    mask: Tensor
    """(batch, tokens), True where a token is no padding."""


class TextEncoder(nn.Module):
    """Texts to the states of their tokens."""

    def __init__(self, model: nn.Module, tokenizer: "Tokenizer", *, frozen: bool) -> None:
        """Put the parts together.

        Args:
            model: of `transformers`, a BERT or its kin.
            tokenizer: cuts a text that is too long, and pads.
            frozen: the model is not trained, and has no dropout.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.frozen = frozen
        if frozen:
            model.requires_grad_(False).eval()

    @property
    def dim(self) -> int:
        """Width of a token's state."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def train(self, mode: bool = True) -> "TextEncoder":
        """Training or evaluation mode; a model that is frozen stays in the latter."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, texts: Sequence[str]) -> TextStates:
        """States of the tokens of (batch,) texts, padded to the longest of them."""
        device = next(self.model.parameters()).device
        encoded = self.tokenizer.encode_batch(list(texts))
        tokens = torch.tensor([text.ids for text in encoded], device=device)
        mask = torch.tensor([text.attention_mask for text in encoded], device=device)
        with torch.no_grad() if self.frozen else nullcontext():
            states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return TextStates(states, mask.bool())


def load_text_encoder(name: str, *, max_tokens: int, frozen: bool) -> TextEncoder:
    """Load a text encoder with its weights and its tokenizer.

    The tokenizer is read from `tokenizer.json` alone, which is data: nothing else of a folder tells how to cut a text.

    Args:
        name: hub id such as `google-bert/bert-base-uncased`, or a folder written by `save_pretrained`.
        max_tokens: longer texts are cut.
        frozen: it is not trained.

    Raises:
        EncoderError: weights or tokenizer cannot be had, or the model is no encoder of text.
    """
    from transformers import AutoConfig

    quieten_off_a_terminal()
    require_folder_or_id("text.encoder", name, TOKENIZER_NAME)
    try:
        if Path(name).is_dir():
            require_harmless_folder(name, TOKENIZER_CLASS)
        else:
            ask_hub_for(name)
            require_harmless_on_hub(name)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        _require_text_encoder(name, config)
        tokenizer = _load_tokenizer(name, config, max_tokens)
        model = load_weights(name, config, **_without_pooler(config))
        _require_fitting(name, model, tokenizer, max_tokens)
    except EncoderError:
        raise
    except Exception as error:  # transformers raises nearly anything at values that it does not expect
        if not Path(name).is_dir():
            refuse_pickle_on_hub(name, TOKENIZER_CLASS)
        looked = "in that folder" if Path(name).is_dir() else "in the local cache and on the Hugging Face hub"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"text.encoder {name}: no usable configuration, tokenizer and weights were found {looked} ({reason})\n"
            f"  download them where there is a network and give their folder, with config.json, {TOKENIZER_NAME} and"
            f" model.safetensors: --set text.encoder=DIR"
        ) from error
    return TextEncoder(model, tokenizer, frozen=frozen)


def describe_text(encoder: TextEncoder) -> dict[str, Any]:
    """What `restore_text_encoder` needs besides the weights."""
    model: Any = encoder.model
    return {"config": model.config.to_dict(), "tokenizer": encoder.tokenizer.to_str()}


def restore_text_encoder(
    description: dict[str, Any], *, max_tokens: int, frozen: bool, weights_bytes: int
) -> TextEncoder:
    """A text encoder with random weights, of the shape that `describe_text` told; needs no network.

    Args:
        description: of it.
        max_tokens: longer texts are cut.
        frozen: it is not trained.
        weights_bytes: of the file that its weights will come from; what is larger is not built.

    Raises:
        EncoderError: the description asks for more than a model of the library, or its parts do not fit together.
        ValueError: the tokenizer is damaged.
    """
    from transformers import AutoConfig, AutoModel

    values = dict(description["config"])
    require_harmless_config("the text encoder's configuration", values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    _require_text_encoder("of the model", config)
    tokenizer = _ready_tokenizer(str(description["tokenizer"]), "of the model", config, max_tokens)

    def build() -> nn.Module:
        made: nn.Module = AutoModel.from_config(config, trust_remote_code=False, **_without_pooler(config))
        return made

    require_bearable("the text encoder's configuration", build, weights_bytes)
    model = build()
    _require_fitting("of the model", model, tokenizer, max_tokens)
    return TextEncoder(model, tokenizer, frozen=frozen)


def _require_text_encoder(name: str, config: Any) -> None:
    """See that a model belongs to those that are trained to fill in masked words, as BERT and its kin are."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise EncoderError(
            f"text.encoder {name}: a {config.model_type} model, which is no encoder of text in the way of BERT\n"
            f"  choose one such as BERT, RoBERTa or DistilBERT"
        )


def _without_pooler(config: Any) -> dict[str, bool]:
    """The argument that leaves out the layer behind [CLS], which nothing here reads; nothing where there is none."""
    from transformers import MODEL_MAPPING

    known = inspect.signature(MODEL_MAPPING[type(config)]).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


def _load_tokenizer(name: str, config: Any, max_tokens: int) -> "Tokenizer":
    path = Path(name) / TOKENIZER_NAME if Path(name).is_dir() else file_on_hub(name, TOKENIZER_NAME)
    if path is None or not path.is_file():
        raise EncoderError(
            f"text.encoder {name}: it has no {TOKENIZER_NAME}\n"
            f"  write one, in Python: import transformers as t; [c.from_pretrained({name!r}).save_pretrained('DIR')"
            f" for c in (t.AutoModel, t.AutoTokenizer)]; then give DIR: --set text.encoder=DIR"
        )
    return _ready_tokenizer(read_text(path, MAX_TOKENIZER_BYTES), name, config, max_tokens)


def _ready_tokenizer(text: str, name: str, config: Any, max_tokens: int) -> "Tokenizer":
    """A tokenizer from its JSON that cuts and pads, tried on two texts.

    Raises:
        EncoderError: it asks for more than it may, has no token that stands for a text, or adds too many.
        Exception: it is damaged; the library has no kind of its own for that.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(harmless_tokenizer(text, name))
        tokenizer.encode_batch(["a text", ""])
    except BaseException as error:
        # What is written in Rust panics at some damages, with an exception that is no `Exception`.
        if type(error).__name__ == "PanicException":
            raise ValueError(f"its tokenizer is damaged: {error}") from None
        raise
    if tokenizer.num_special_tokens_to_add(is_pair=False) < 1:
        raise EncoderError(
            f"text.encoder {name}: its tokenizer puts no token such as [CLS] before a text, whose state would stand for"
            f" it\n  choose an encoder such as BERT, RoBERTa or DistilBERT"
        )
    if (added := tokenizer.num_special_tokens_to_add(is_pair=False)) >= max_tokens:
        raise EncoderError(
            f"text.encoder {name}: its tokenizer adds {added:,} tokens to each text, and text.max_tokens is"
            f" {max_tokens:,}\n  raise it: --set text.max_tokens={added + 1}"
        )
    tokenizer.enable_truncation(max_tokens)
    padding = config.pad_token_id or 0
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding) or "[PAD]")
    return tokenizer


@torch.no_grad()
def _require_fitting(name: str, model: nn.Module, tokenizer: "Tokenizer", max_tokens: int) -> None:
    """See that the model knows all tokens and reads as many as are asked for, by having it read them.

    What a model can read stands in configurations under many names.
    """
    padding = (tokenizer.padding or {}).get("pad_id", 0)
    last = max([padding, *tokenizer.encode("").ids, *tokenizer.get_vocab().values()])
    try:
        model.eval()(input_ids=torch.full((1, max_tokens), last), attention_mask=torch.ones(1, max_tokens).long())
    except (IndexError, RuntimeError, ValueError) as error:
        raise EncoderError(
            f"text.encoder {name}: it cannot read {max_tokens:,} tokens of a vocabulary of {last + 1:,}"
            f" ({str(error).strip().splitlines()[0]})\n"
            f"  lower text.max_tokens, 512 is what BERT reads at most; or the tokenizer belongs to another model"
        ) from None
