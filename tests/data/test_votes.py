import numpy as np
import pytest

from ser_cli.data.votes import count_votes, format_votes, parse_votes, soft_label


def test_a_rater_who_chose_two_emotions_gives_each_half():
    assert count_votes([["angry"], ["angry", "sad"], ["sad"]]) == {"angry": 1.5, "sad": 1.5}
    assert count_votes([[], ["happy"]]) == {"happy": 1}


def test_votes_are_written_with_the_most_first_and_read_again():
    text = format_votes({"sad": 1, "angry": 2, "no-agreement": 1 / 3})
    assert text == "angry:2 sad:1 no-agreement:0.3333"
    assert parse_votes(text) == {"angry": 2, "sad": 1, "no-agreement": 0.3333}
    assert parse_votes("") == {}


@pytest.mark.parametrize("text", ["angry", "angry:", ":2", "angry:0", "angry:-1", "angry:nan", "angry:inf", "a:1 a:2"])
def test_what_is_no_vote_is_named(text):
    with pytest.raises(ValueError, match="such as angry:2"):
        parse_votes(text)


def test_a_soft_label_is_the_share_of_the_votes_for_the_chosen_labels():
    label_of = {"angry": "angry", "happy": "happy", "excited": "happy"}
    votes = {"happy": 1, "excited": 1, "angry": 1, "frustrated": 5}
    np.testing.assert_allclose(soft_label(votes, label_of, ("angry", "happy")), [1 / 3, 2 / 3], rtol=1e-6)


def test_there_is_no_soft_label_where_nobody_voted_for_a_chosen_label():
    assert soft_label({"frustrated": 3}, {"angry": "angry"}, ("angry", "sad")) is None
    assert soft_label({}, {"angry": "angry"}, ("angry", "sad")) is None
