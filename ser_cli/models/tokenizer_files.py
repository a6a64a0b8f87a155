"""What may be asked of `tokenizer.json`: the steps that the tokenizers of BERT and its kin consist of, within bounds.

The file is data, but data that says how often a text is rewritten and how long it becomes. The library believes it:
where a step asks for more memory than there is, the whole process is aborted, and no exception tells of it.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ser_cli.errors import EncoderError
from ser_cli.files import parse_json
from ser_cli.models.folders import MAX_SETTING

READ = ("version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
"""What is taken of the file: how much is padded and cut is said elsewhere, and tokens are never turned into text."""

KNOWN = {
    "normalizer": (
        *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"),
        *("Replace", "Sequence", "Strip", "StripAccents"),
    ),
    "pre_tokenizer": (
        *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Sequence"),
        *("Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    ),
    "post_processor": ("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"),
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
}
"""The kinds of each part that are taken."""
REGULAR_EXPRESSIONS = (" {2,}", r"\s+")
"""That BERT's kin use; of others nobody can say how long they would search."""

MAX_STEPS = 16
"""Of one part; the longest of published models has seven."""
MAX_TEXT = 64
"""Characters of a text that a step holds."""
MAX_ITEMS = 64
"""Of a list or table in a step."""
MAX_GROWTH = 1_000
"""Times that a text may become as long; the steps of ALBERT, each at its worst, come to 324."""
MAX_WORD = 1_000
"""Characters of a word that is cut into pieces, which takes the square of it; BERT says 100."""
COMPATIBILITY_GROWTH = 18
"""Characters that Unicode's compatibility forms make of one, at most (U+FDFA)."""


def harmless_tokenizer(text: str, name: str) -> str:
    """The part of a tokenizer's JSON that is read here, found to ask for no more than it may.

    Args:
        text: of `tokenizer.json`.
        name: of the encoder, for the message.

    Raises:
        EncoderError: it has a step of another kind, or asks for too much.
        ValueError: it is no JSON.
    """
    told = parse_json(text)
    if not isinstance(told, dict):
        raise ValueError("the tokenizer is no JSON object")
    told = {key: told[key] for key in READ if key in told}
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        growth *= _require_steps(name, part, told.get(part))
    if growth > MAX_GROWTH:
        raise _refused(
            name, f"its steps make a text up to {growth:,.0f} times as long, at most {MAX_GROWTH:,} is taken"
        )
    _require_model(name, told.get("model"))
    return json.dumps(told, ensure_ascii=False)


def _require_steps(name: str, part: str, told: object) -> float:
    """See that a part has known steps, and few; how many times as long they make a text.

    Raises:
        EncoderError: it has not.
    """
    steps = [step for step in _steps(told) if step is not None]
    if len(steps) > MAX_STEPS:
        raise _refused(name, f"{part} has {len(steps)} steps, at most {MAX_STEPS} are taken")
    growth, compatible = 1.0, False
    for step in steps:
        kind = _require_kind(name, part, step)
        if kind == "Sequence":
            continue
        # One character of its own list may become several, see `_precompiled_growth`.
        _require_small(name, part, {key: value for key, value in step.items() if key != "precompiled_charsmap"})
        growth *= _growth(name, part, step)
        compatible |= kind in ("NFKC", "NFKD")  # once or often is the same
    return growth * (COMPATIBILITY_GROWTH if compatible else 1)


def _steps(told: object) -> Iterator[Any]:
    """A step and all that it consists of; JSON as deep as this would be was refused by its reader."""
    yield told
    if isinstance(told, Mapping) and told.get("type") == "Sequence":
        for key in ("normalizers", "pretokenizers", "processors"):
            inner = told.get(key)
            for step in inner if isinstance(inner, list) else ():
                yield from _steps(step)


def _require_kind(name: str, part: str, step: object) -> str:
    kind = step.get("type") if isinstance(step, Mapping) else None
    if kind not in KNOWN[part]:
        raise _refused(name, f"{part} {str(kind)[:MAX_TEXT]!r} is none of {', '.join(KNOWN[part])}")
    return str(kind)


def _require_small(name: str, part: str, told: object, key: str = "") -> None:
    """See that no text, list or number of a step is larger than such steps need."""
    if isinstance(told, str) and len(told) > MAX_TEXT:
        raise _refused(name, f"{part}: {key} has {len(told):,} characters, at most {MAX_TEXT} are taken")
    if isinstance(told, int | float) and abs(told) > MAX_SETTING:
        raise _refused(name, f"{part}: {key} is {told:.6g}, at most {MAX_SETTING:,} is taken")
    if not isinstance(told, list | Mapping):
        return
    if len(told) > MAX_ITEMS:
        raise _refused(name, f"{part}: {key} has {len(told):,} items, at most {MAX_ITEMS} are taken")
    for inner, value in told.items() if isinstance(told, Mapping) else ((key, value) for value in told):
        _require_small(name, part, inner, "a name")
        _require_small(name, part, value, str(inner))


def _growth(name: str, part: str, step: Mapping[str, Any]) -> float:
    """How many times as long one step makes a text at most, but for what it adds once.

    Raises:
        EncoderError: it searches for a regular expression that nobody knows.
    """
    pattern = step.get("pattern")
    written = pattern.get("String") if isinstance(pattern, Mapping) else None
    expression = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if expression is not None and expression not in REGULAR_EXPRESSIONS:
        raise _refused(
            name,
            f"{part}: the regular expression {expression!r} is none of {', '.join(map(repr, REGULAR_EXPRESSIONS))}",
        )
    if step["type"] == "ByteLevel":
        return 2.0  # bytes from 128 on become a character of two
    if step["type"] == "Precompiled":
        return _precompiled_growth(step.get("precompiled_charsmap"))
    if step["type"] == "Replace":
        content = len(str(step.get("content", "")))
        # What is empty is found before every character, which stays.
        return max(1.0, content / len(written) if written else 1.0 + content if written == "" else content)
    return 1.0


def _precompiled_growth(charsmap: object) -> float:
    """Characters of the longest text that SentencePiece's table puts in the place of another.

    Its first four bytes tell the length of the search tree; behind that stand the texts, each with a zero behind it.

    Raises:
        ValueError: it is no such table.
    """
    content = base64.b64decode(charsmap or "") if isinstance(charsmap, str | None) else b""
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    return max(1.0, *(len(text.decode(errors="replace")) for text in texts.split(b"\0")))


def _require_model(name: str, told: object) -> None:
    """See that what cuts words is of a known kind, cuts short ones alone, and cuts them the same each time."""
    if not isinstance(told, Mapping):
        raise _refused(name, f"model is none of {', '.join(KNOWN['model'])}")
    if "type" in told:  # old files leave it out, and the library tells by the rest
        _require_kind(name, "model", told)
    lists = ("vocab", "merges")
    _require_small(name, "model", {key: value for key, value in told.items() if key not in lists})
    longest = told.get("max_input_chars_per_word", 100)
    if isinstance(longest, int | float) and longest > MAX_WORD:
        raise _refused(name, f"model: max_input_chars_per_word is {longest:,}, at most {MAX_WORD:,} is taken")
    if told.get("dropout"):
        raise _refused(name, f"model: dropout {told['dropout']} cuts a word otherwise each time; null is expected")


def _refused(name: str, fault: str) -> EncoderError:
    return EncoderError(
        f"text.encoder {name}: tokenizer.json, {fault}\n"
        f"  choose an encoder whose tokenizer is in the way of BERT's, RoBERTa's or ALBERT's"
    )
