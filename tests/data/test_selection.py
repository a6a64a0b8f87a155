from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ser_cli.corpora.corpus import keep
from ser_cli.data.manifest import Utterance
from ser_cli.data.selection import count_labels, select
from ser_cli.data.store import Preparation, PreparedCorpus, StoredAudio
from ser_cli.errors import CorpusError, UnknownNameError, UsageError

SETS = (
    keep("2", "angry", "happy", happy="excited", source="the papers"),
    keep("3", "angry", "happy", "excited"),
)


def utterance(identity: str, emotion: str, speaker: str = "01F", votes: str = "", **extra: str) -> Utterance:
    columns = tuple({**({"votes": votes} if votes else {}), **extra}.items())
    return Utterance(
        identity, f"/x/{identity}.wav", emotion, speaker, "01", duration_s=float(len(identity)), extra=columns
    )


def corpus(*utterances: Utterance, label_set: str = "2") -> PreparedCorpus:
    labels = ("angry", "happy") if label_set else ("angry", "happy", "excited")
    preparation = Preparation(2, "mine", "mine", labels, label_set, "/x", "", "f", "h", len(utterances), 0, 0, "0")
    audio = tuple(StoredAudio(u.id, 0, 400, f"sha-{u.id}", 16_000, 1) for u in utterances)
    return PreparedCorpus(None, preparation, tuple(utterances), audio)


WHOLE = corpus(
    utterance("a", "angry", scenario="improvised", votes="angry:2 happy:1"),
    utterance("bb", "happy", scenario="scripted", votes="happy:3", valence="4.5"),
    utterance("ccc", "excited", "01M", scenario="improvised", votes="excited:1 angry:1 sad:7", valence="2"),
    utterance("dddd", "no-agreement", "01M", scenario="scripted"),
)


def labels_of(selected: PreparedCorpus) -> dict[str, str]:
    return {u.id: u.emotion for u in selected.utterances}


def test_the_standard_set_merges_and_leaves_out():
    selected = select(WHOLE, SETS)
    assert labels_of(selected) == {"a": "angry", "bb": "happy", "ccc": "happy"}
    assert selected.labels == ("angry", "happy")
    assert [entry.id for entry in selected.audio] == ["a", "bb", "ccc"]
    assert count_labels(WHOLE, SETS) == {"angry": 1, "happy": 2}


def test_another_set_is_chosen_by_name():
    assert labels_of(select(WHOLE, SETS, labels="3")) == {"a": "angry", "bb": "happy", "ccc": "excited"}


def test_a_list_of_emotions_is_a_set_of_its_own():
    selected = select(WHOLE, SETS, labels="excited, angry+no-agreement")
    assert selected.labels == ("excited", "angry")
    assert labels_of(selected) == {"a": "angry", "ccc": "excited", "dddd": "angry"}
    assert selected.preparation.label_set == "excited, angry+no-agreement"


def test_a_users_own_manifest_keeps_its_labels():
    selected = select(corpus(*WHOLE.utterances[:3], label_set=""), ())
    assert selected.labels == ("angry", "happy", "excited")
    assert len(selected.utterances) == 3


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["scenario=improvised"], "a ccc"),
        (["scenario!=improvised"], "bb"),
        (["speaker=01F,01M", "scenario = scripted"], "bb"),
        (["emotion=excited"], "ccc"),
        (["duration_s<=2"], "a bb"),
        (["duration_s>2"], "ccc"),
        (["valence>=2"], "bb ccc"),
        (["valence<4.5"], "ccc"),
    ],
)
def test_conditions_keep_what_fulfils_them_all(where, left):
    assert " ".join(labels_of(select(WHOLE, SETS, where=where))) == left


@pytest.mark.parametrize(
    ("labels", "where", "kind", "told"),
    [
        ("4", [], UnknownNameError, "unknown label set '4'"),
        ("4", [], UnknownNameError, "or list emotions, such as angry,excited,happy"),
        ("angry,hapy", [], UsageError, "mine has no emotion 'hapy'; did you mean happy?"),
        ("angry,angry", [], UsageError, "at least two labels are needed"),
        ("angry+happy,happy", [], UsageError, "each emotion is named once"),
        ("angry,happy,angry+excited", [], UsageError, "each emotion is named once"),
        ("angry+happy", [], UsageError, "at least two labels are needed"),
        ("angry,", [], UsageError, "has no emotion ''"),
        (None, ["scenario"], UsageError, "expected COLUMN=VALUE"),
        (None, ["scenari=improvised"], UnknownNameError, "did you mean scenario?"),
        (None, ["scenario=improvized"], UsageError, "did you mean improvised?"),
        (None, ["scenario=improvized"], UsageError, "there are: improvised, scripted"),
        (None, ["valence<high"], UsageError, "'high' is not a number to compare valence with"),
        (None, ["emotion=no-agreement"], CorpusError, "no utterance is left by --labels 2 and --where"),
    ],
)
def test_a_choice_that_cannot_be_is_told(labels, where, kind, told):
    with pytest.raises(kind) as error:
        select(WHOLE, SETS, labels=labels, where=where)
    assert told in str(error.value)


def test_values_and_emotions_with_signs_of_their_own_are_chosen_as_they_are():
    mine = corpus(
        utterance("a", "fear+anger", tag="a,b"),
        utterance("bb", "happy", tag="a"),
        utterance("ccc", "sad"),
        label_set="",
    )
    assert list(labels_of(select(mine, (), labels="fear+anger,happy+sad"))) == ["a", "bb", "ccc"]
    assert set(labels_of(select(mine, (), labels="fear+anger,happy+sad")).values()) == {"fear+anger", "happy"}
    assert list(labels_of(select(mine, (), labels="fear+anger,happy,sad", where=["tag=a,b"]))) == ["a"]
    assert list(labels_of(select(mine, (), labels="fear+anger,happy,sad", where=["tag!=a,b"]))) == ["bb", "ccc"]


def test_soft_labels_are_shares_of_votes_and_the_verdict_where_nobody_voted():
    no_votes = replace(WHOLE.utterances[1], extra=())
    selected = select(corpus(WHOLE.utterances[0], no_votes, WHOLE.utterances[2]), SETS, soft=True)
    np.testing.assert_allclose(selected.target("a"), [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(selected.target("bb"), [0, 1])
    np.testing.assert_allclose(selected.target("ccc"), [1 / 2, 1 / 2], rtol=1e-6)
    np.testing.assert_array_equal(select(WHOLE, SETS).target("a"), [1, 0])


def test_a_corpus_without_votes_has_no_soft_labels():
    with pytest.raises(CorpusError, match="has a vote for any of angry, happy"):
        select(corpus(utterance("a", "angry"), utterance("b", "happy")), SETS, soft=True)


def test_the_hash_follows_what_was_chosen():
    hashes = Counter(
        select(WHOLE, SETS, labels=labels, where=where).preparation.manifest_hash
        for labels, where in [(None, []), ("2", []), ("3", []), (None, ["speaker=01F"])]
    )
    assert sorted(hashes.values()) == [1, 1, 2]
