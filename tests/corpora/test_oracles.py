"""What ships of the corpora, their counts and their folds, against tables that others computed from the originals."""

import json
import os
from pathlib import Path

import pytest

from ser_cli.corpora.corpus import expected_counts
from ser_cli.data.protocols import shipped_protocols

pytestmark = pytest.mark.corpus

WORDS = {
    **{"ang": "angry", "exc": "excited", "hap": "happy", "neu": "neutral", "fru": "frustrated", "sur": "surprised"},
    **{"fea": "fearful", "dis": "disgust", "oth": "other", "xxx": "no-agreement", "surprise": "surprised"},
    **{"a": "angry", "d": "disgust", "f": "fearful", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprised"},
    **{"anger": "angry", "boredem": "bored", "fear": "fearful", "joy": "happy", "sadness": "sad"},
}


@pytest.fixture(scope="module")
def oracles() -> dict:
    return json.loads((Path(os.environ["SER_TEST_DATA"]).parent / "oracles.json").read_text())


def in_words(table: dict[str, int]) -> dict[str, int]:
    return {WORDS.get(code.lower(), code.lower()): number for code, number in table.items()}


@pytest.mark.parametrize(
    ("corpus", "key", "total", "per_class"),
    [
        ("ravdess", "ravdess", "speech", "per_class"),
        ("iemocap", "iemocap", None, "all10039"),
        ("savee", "savee", "total", "per_class"),
        ("crema-d", "cremad", None, "per_class"),
        ("emodb", "emodb", "total", "per_class"),
        ("meld", "meld", None, "per_class"),
    ],
)
def test_counts_are_those_of_the_oracle(oracles, corpus, key, total, per_class):
    counts, oracle = expected_counts(corpus), oracles[key]
    expected = in_words(oracle[per_class])
    if corpus == "crema-d":
        expected["sad"] -= 1  # 1076_MTI_SAD_XX has no signal
    assert dict(counts.emotion) == expected
    assert counts.utterances == sum(expected.values())
    if total:
        assert counts.utterances == oracle[total]


def test_speakers_and_sessions_are_those_of_the_oracle(oracles):
    iemocap = expected_counts("iemocap")
    assert iemocap.session == oracles["iemocap"]["all_per_session"]
    assert iemocap.speaker == oracles["iemocap"]["all_per_speaker"]
    emodb = oracles["emodb"]["per_speaker"]
    assert expected_counts("emodb").speaker == {speaker: sum(table.values()) for speaker, table in emodb.items()}
    assert set(expected_counts("savee").speaker.values()) == {oracles["savee"]["per_speaker"]}
    assert set(expected_counts("ravdess").speaker.values()) == {oracles["ravdess"]["per_actor"]}
    esd = expected_counts("esd")
    assert (esd.utterances, len(esd.speaker)) == (oracles["esd"]["total"], 20)
    assert set(esd.speaker.values()) == {5 * oracles["esd"]["per_speaker_per_class"]}
    tess = expected_counts("tess")
    assert (tess.utterances, tess.speaker) == (oracles["tess"]["total"], {"OAF": 1400, "YAF": 1400})
    improv, published = expected_counts("msp-improv"), oracles["msp_improv"]
    assert improv.utterances == published["published_total"]
    four = {word: improv.emotion[word] for word in ("angry", "happy", "neutral", "sad")}
    assert four == in_words(dict(zip(("ang", "hap", "neu", "sad"), (792, 2644, 3477, 885), strict=True)))
    assert sum(four.values()) == published["four_class_total"]
    assert improv.session["05"] == published["nkululeko_full"]["session05"]
    assert improv.session["06"] == published["nkululeko_full"]["session06"]


@pytest.mark.parametrize(("corpus", "key"), [("ravdess", "emobox_test_actors"), ("savee", "emobox_test_speaker")])
def test_folds_are_those_of_emobox(oracles, corpus, key):
    folds = oracles[corpus][key]
    expected = [[f"{group:02d}" if isinstance(group, int) else group for group in folds[k]] for k in sorted(folds)]
    assert [list(fold) for fold in shipped_protocols(corpus)[0].test] == expected


def test_the_folds_of_esd_and_crema_d_are_the_published_ones(oracles):
    folds = oracles["esd"]["emobox_test_speakers"]
    assert [list(fold) for fold in shipped_protocols("esd")[0].test] == [folds[k] for k in sorted(folds)]
    blocks = oracles["cremad"]["emosuperb_folds"]
    (protocol,) = shipped_protocols("crema-d")
    for index, (test, validation) in enumerate(zip(protocol.test, protocol.validation, strict=True), start=1):
        for groups, side in ((test, "Test"), (validation, "Development")):
            first, last, number = blocks[str(index)][side]
            assert (groups[0], groups[-1], len(groups)) == (first, last, number)
