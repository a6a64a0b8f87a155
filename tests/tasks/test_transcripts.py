"""Transcripts as characters and back."""

import pytest

from ser_cli.tasks.transcripts import characters_of, decode, encode, frames_needed, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kids are talking by the door.", "kids are talking by the door"),
        ("It’s eleven o'clock!", "it's eleven o'clock"),
        ("'Well', he said -- \"no\"…", "well he said no"),
        ("Über  15\tMänner,\nsie", "über 15 männer sie"),
        ("re\u0301sume\u0301", "résumé"),
        ("我们, today", "我们 today"),
        ("[laughter] ...", "laughter"),
        (" '' ", ""),
        ("हिन्दी में, नहीं।", "हिन्दी में नहीं"),  # vowel signs are marks with a width of their own
        ("வணக்கம் மக்களே", "வணக்கம் மக்களே"),
        ("க்\u200cஷ soft\u00adly one\u200btwo", "க்ஷ softly one two"),
        ("fine ❤\ufe0f \u0301", "fine"),  # a mark of no letter
    ],
)
def test_texts_keep_letters_digits_apostrophes_and_single_spaces(text, expected):
    assert normalised(text) == expected
    assert normalised(expected) == expected


def test_characters_are_those_of_the_texts_and_are_counted_from_1():
    characters = characters_of(["Dogs!", "a dog's"])
    assert characters == (" ", "'", "a", "d", "g", "o", "s")
    assert encode("God is a dog.", characters) == [5, 6, 4, 1, 7, 1, 3, 1, 4, 6, 5]  # no clip had an i
    assert encode("", characters) == []


def test_a_blank_stands_between_equal_characters():
    assert frames_needed(encode("aab", "ab")) == 4
    assert frames_needed(encode("abab", "ab")) == 4
    assert frames_needed([]) == 0


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([0, 1, 1, 0, 1, 2, 2, 0], "aab"),
        ([1, 1, 1, 1], "a"),
        ([0, 0], ""),
        ([3, 1, 3, 0, 3, 2, 3], "a b"),
    ],
)
def test_decoding_joins_repetitions_and_drops_blanks(best, expected):
    assert decode(best, ("a", "b", " ")) == expected
