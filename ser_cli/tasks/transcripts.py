"""Transcripts as characters, and characters as transcripts: what the characters branch learns and what it says."""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

BLANK = 0
"""The output of "no character" that CTC needs; characters are counted from 1."""

APOSTROPHES = "'’‘ʼ`´"

ZERO_WIDTH_SPACE = "\u200b"
"""Of the characters that cannot be seen, the one that parts words."""


def normalised(text: str) -> str:
    """A transcript in lower case, with letters, digits, apostrophes and single spaces alone.

    Letters are those of any alphabet, with their marks: the vowel signs of Indic scripts are marks of several
    categories, and joiners that are no sound of their own stand between them. An apostrophe stays inside words;
    everything else parts words.
    """
    heard = "".join(c for c in text if unicodedata.category(c) != "Cf" or c == ZERO_WIDTH_SPACE)
    kept = [" "]
    for c in unicodedata.normalize("NFC", heard).lower():
        is_mark = unicodedata.category(c).startswith("M") and kept[-1] not in " '"
        kept.append("'" if c in APOSTROPHES else c if c.isalnum() or is_mark else " ")
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


def characters_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Every character of some transcripts, in the order of their code points; the space comes first."""
    return tuple(sorted({character for text in texts for character in normalised(text)}))


def encode(text: str, characters: Sequence[str]) -> list[int]:
    """The outputs that a transcript asks for; characters that no training clip had are dropped."""
    number = {character: position for position, character in enumerate(characters, start=1)}
    return [number[character] for character in normalised(text) if character in number]


def frames_needed(outputs: Sequence[int]) -> int:
    """The fewest frames in which CTC can say a sequence: one for each, and a blank between two that are equal."""
    return len(outputs) + sum(a == b for a, b in pairwise(outputs))


def decode(best: Iterable[int], characters: Sequence[str]) -> str:
    """The transcript of the best output of each frame: repetitions are one character, then blanks go (greedy CTC).

    Graves et al. 2006, section 3.2: the collapsed best path. No language model has a say.
    """
    collapsed = "".join(characters[output - 1] for output, _ in groupby(best) if output != BLANK)
    return " ".join(collapsed.split())
