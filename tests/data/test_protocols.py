"""The shipped protocols: their groups as published, their hashes, and folds made of them that cannot leak."""

from collections import Counter
from dataclasses import replace

import pytest

from ser_cli.corpora import CORPORA
from ser_cli.data.folds import caveats, check_folds, hash_folds, make_folds
from ser_cli.data.manifest import Utterance
from ser_cli.data.protocols import Protocol, choose_protocol, shipped_protocols
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import FoldError, UsageError
from tests.data.test_folds import corpus

LABELS = ("angry", "sad")


def dialogues(sessions: int, name: str = "iemocap") -> PreparedCorpus:
    """Two speakers in each session, who share its dialogues; speakers are called as in the corpus of that name."""
    rows = []
    for number in range(1, sessions + 1):
        session = f"{number:02d}"
        for letter, gender in (("F", "female"), ("M", "male")):
            speaker = session + letter if name == "iemocap" else letter + session
            for emotion in LABELS:
                rows += [
                    Utterance(f"{speaker}-{emotion}-{n}", "", emotion, speaker, session, gender,
                              extra=(("dialog", f"{session}-d{n}"),))
                    for n in range(3)
                ]  # fmt: skip
    return corpus(rows, name, LABELS)


def sides(fold, of: PreparedCorpus, column: str) -> list[set[str]]:
    return [{getattr(of.by_id[i], column) for i in ids} for _, ids in fold.sides]


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_every_known_corpus_has_a_standard_protocol(name):
    protocols = shipped_protocols(name)
    assert protocols
    for protocol in protocols:
        tested = [group for fold in protocol.test for group in fold]
        assert len(tested) == len(set(tested))
        for further in (protocol.validation, protocol.left_out):
            assert len(further) in (0, len(protocol.test))
            for fold, groups in zip(protocol.test, further, strict=False):
                assert not set(fold) & set(groups)
        assert protocol.source
        assert protocol.rule


def test_published_hashes_never_change():
    hashes = {p.name: p.hash[:12] for name in sorted(CORPORA) for p in shipped_protocols(name)}
    assert hashes == PUBLISHED


PUBLISHED = {
    "crema-d-5-speaker-block": "b442fe144f48",
    "demo-2": "ef8920758d80",
    "emodb-10-speaker": "869a63877586",
    "esd-5-emobox": "e916c21a6f76",
    "iemocap-5-session": "bdc892494ca9",
    "iemocap-10-speaker": "5b0b00fa808b",
    "meld-official": "fee2982d19a8",
    "msp-improv-6-session": "4222bbfd2b71",
    "msp-improv-12-speaker": "1153889a509a",
    "msp-podcast-official": "eb9a391c645f",
    "msp-podcast-test2": "72a2b3da2198",
    "ravdess-6-emobox": "e58e41122e84",
    "ravdess-6-balanced": "5b87bb6f3de6",
    "savee-4-speaker": "ad6c894745d7",
    "tess-2-speaker": "3d15d6ed976d",
}


@pytest.mark.parametrize(
    ("name", "folds", "chosen"),
    [
        ("iemocap", None, "iemocap-5-session"),
        ("iemocap", 10, "iemocap-10-speaker"),
        ("msp-improv", 6, "msp-improv-6-session"),
        ("msp-improv", 12, "msp-improv-12-speaker"),
    ],
)
def test_a_number_of_folds_picks_the_standard_protocol(name, folds, chosen):
    of = dialogues(5 if name == "iemocap" else 6, name)
    assert choose_protocol(of, None, folds, 0).name == chosen


@pytest.mark.parametrize(("name", "sessions", "folds"), [("iemocap", 5, 10), ("msp-improv", 6, 12)])
def test_by_speaker_the_partner_of_the_same_dialogues_stands_on_no_side(name, sessions, folds):
    of = dialogues(sessions, name)
    protocol = choose_protocol(of, None, folds, 0)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    for fold in made:
        (tested,) = sides(fold, of, "speaker")[2]
        by_session = sides(fold, of, "session")
        assert not by_session[2] & (by_session[0] | by_session[1])
        assert len(sides(fold, of, "speaker")[0]) + len(sides(fold, of, "speaker")[1]) == 2 * (sessions - 1)
        assert tested in {u.speaker for u in of.utterances}
    assert sorted(next(iter(sides(f, of, "speaker")[2])) for f in made) == sorted({u.speaker for u in of.utterances})


def test_by_session_fold_k_tests_session_k_and_validates_on_a_whole_session():
    of = dialogues(5)
    protocol = choose_protocol(of, None, 5, 0)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    assert [sides(fold, of, "session")[2] for fold in made] == [{f"{k:02d}"} for k in range(1, 6)]
    assert all([len(side) for side in sides(fold, of, "session")] == [3, 1, 1] for fold in made)


def test_dialogues_are_dealt_by_session_where_no_protocol_ships():
    of = dialogues(5)
    protocol = choose_protocol(of, None, 3, 0)
    assert protocol.name == "seeded-3-of-5-sessions-seed-0"
    check_folds(make_folds(protocol, of, validation_speakers=2, seed=0), of, protocol)
    with pytest.raises(UsageError, match="the corpus has 5 sessions"):
        choose_protocol(of, None, 7, 0)


def test_speakers_dealt_apart_from_their_partners_are_refused_with_the_pairs():
    of = dialogues(5)
    protocol = choose_protocol(of, "seeded", 5, 0)
    with pytest.raises(FoldError) as error:
        check_folds(make_folds(protocol, of, validation_speakers=2, seed=0), of, protocol)
    first, *more, advice = str(error.value).split("\n  ")
    assert first.startswith("fold 1 has session ")
    assert "-angry-0 and " in first
    assert all("has session " in line or line.endswith("more") for line in more)
    assert "--protocol seeded-sessions" in advice


def test_a_dialogue_on_both_sides_is_refused():
    rows = [
        Utterance(f"{speaker}-{emotion}", "", emotion, speaker, "", "", extra=(("dialog", "d1"),))
        for speaker in ("p1", "p2")
        for emotion in LABELS
    ]
    of = corpus(rows, labels=LABELS)
    protocol = Protocol("x", 1, "speaker", "", (("p1",),))
    with pytest.raises(FoldError, match="fold 1 has dialog d1 in both train and test: p2-angry and p1-angry"):
        check_folds(make_folds(protocol, of, validation_speakers=0, seed=0), of, protocol)


def savee() -> PreparedCorpus:
    labels = ("angry", "neutral")
    rows = [
        Utterance(f"{speaker}_{emotion}{take}", "", emotion, speaker, "", "male")
        for speaker in ("DC", "JE", "JK", "KL")
        for emotion, takes in (("angry", 15), ("neutral", 30))
        for take in range(takes)
    ]
    return corpus(rows, "savee", labels)


def test_savee_tests_unheard_speakers_and_holds_out_a_fifth_of_each_heard_ones_clips():
    of = savee()
    protocol = choose_protocol(of, None, 4, 0)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    assert [sides(fold, of, "speaker")[2] for fold in made] == [{"JE"}, {"KL"}, {"DC"}, {"JK"}]
    for fold in made:
        held = Counter((of.by_id[i].speaker, of.by_id[i].emotion) for i in fold.validation)
        assert set(held.values()) == {3, 6}
        assert len(held) == 6
        assert len(fold.train) == 3 * 45 - len(fold.validation)
    assert "20 % of the clips of each training speaker" in protocol.rule
    again = make_folds(protocol, of, validation_speakers=2, seed=1)
    assert again[0].validation != made[0].validation
    assert not make_folds(protocol, of, validation_speakers=0, seed=0)[0].validation


def test_recordings_under_several_names_are_held_out_together():
    of = savee()
    twins = tuple(
        replace(entry, sha256=f"twin of {entry.id[:-1]}" if entry.id.startswith("KL_angry") else entry.sha256)
        for entry in of.audio
    )
    of = replace(of, audio=twins)
    protocol = choose_protocol(of, None, 4, 0)
    for seed in range(10):
        check_folds(make_folds(protocol, of, validation_speakers=2, seed=seed), of, protocol)


def test_recordings_on_both_sides_under_two_names_are_refused():
    of = savee()
    twins = tuple(
        replace(entry, sha256="same" if entry.id in ("KL_angry1", "JE_angry1") else entry.sha256) for entry in of.audio
    )
    of = replace(of, audio=twins)
    protocol = choose_protocol(of, None, 4, 0)
    with pytest.raises(FoldError, match="fold 1 has the same recording, KL_angry1 and JE_angry1, in both"):
        check_folds(make_folds(protocol, of, validation_speakers=0, seed=0), of, protocol)


def test_an_emotion_that_a_tested_speaker_never_shows_is_let_be_where_the_protocol_says_so():
    emotions = ("angry", "disgust")
    speakers = ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    rows = [
        Utterance(f"{s}-{e}", "", e, s, "", "male" if int(s) % 2 else "female")
        for s in speakers
        for e in emotions
        if (s, e) != ("08", "disgust")
    ]
    of = corpus(rows, "emodb", emotions)
    protocol = choose_protocol(of, None, 10, 0)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    assert [fold.lacking for fold in made] == [(), ("disgust",), *[()] * 8]
    assert "never shows disgust" in protocol.rule


def partitioned(name: str, partitions: tuple[str, ...], speaker_of) -> PreparedCorpus:
    rows = [
        Utterance(f"{part}-{emotion}-{n}", "", emotion, speaker_of(part, n), extra=(("partition", part),))
        for part in partitions
        for emotion in LABELS
        for n in range(3)
    ]
    return corpus(rows, name, LABELS)


def test_the_official_partition_of_msp_podcast_is_one_fold_without_test2():
    parts = ("Train", "Development", "Test1", "Test2")
    of = partitioned("msp-podcast", parts, lambda part, n: f"{part}{n}")
    protocol = choose_protocol(of, None, None, 0)
    assert (protocol.name, choose_protocol(of, None, 1, 0)) == ("msp-podcast-official", protocol)
    (fold,) = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds([fold], of, protocol)
    assert [{i.split("-")[0] for i in ids} for _, ids in fold.sides] == [{"Train"}, {"Development"}, {"Test1"}]


def test_an_unknown_speaker_on_both_sides_is_refused():
    of = partitioned("msp-podcast", ("Train", "Development", "Test1"), lambda part, n: "unknown" if n else f"{part}{n}")
    protocol = choose_protocol(of, None, None, 0)
    with pytest.raises(FoldError, match="speaker unknown in both") as error:
        check_folds(make_folds(protocol, of, validation_speakers=2, seed=0), of, protocol)
    assert "--where" in str(error.value)


def test_unknown_speakers_in_training_are_told_and_never_dealt():
    parts = ("Train", "Development", "Test1")
    of = partitioned("msp-podcast", parts, lambda part, n: "unknown" if (part, n) == ("Train", 0) else f"{part}{n}")
    protocol = choose_protocol(of, None, None, 0)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    (told,) = caveats(made, of)
    assert told.startswith("2 training clips are of unknown speakers")
    with pytest.raises(FoldError, match="leave them out: --where speaker!=unknown"):
        choose_protocol(of, "seeded", 3, 0)


def test_clips_without_a_partition_are_refused():
    of = partitioned("msp-podcast", ("Train", "Development", "Test1", ""), lambda part, n: f"{part}{n}")
    protocol = choose_protocol(of, None, None, 0)
    with pytest.raises(FoldError, match="6 utterances of msp-podcast, such as -angry-0, have no partition") as error:
        make_folds(protocol, of, validation_speakers=2, seed=0)
    assert "--where partition!=" in str(error.value)


def test_the_hash_of_folds_follows_who_stands_where():
    parts = ("Train", "Development", "Test1")
    of = partitioned("msp-podcast", parts, lambda part, n: f"{part}{n}")
    moved = replace(of.utterances[0], extra=(("partition", "Test1"),))
    other = replace(of, utterances=(moved, *of.utterances[1:]))
    hashes = [
        hash_folds(make_folds(choose_protocol(c, None, None, 0), c, validation_speakers=2, seed=0))
        for c in (of, of, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_melds_cast_stands_on_both_sides_as_its_publisher_has_it_and_the_rule_says_so():
    of = partitioned("meld", ("Train", "Development", "Test"), lambda part, n: f"Ross{n}")
    protocol = choose_protocol(of, None, None, 0)
    check_folds(make_folds(protocol, of, validation_speakers=2, seed=0), of, protocol)
    assert "each speaker stand on both sides" in protocol.rule
    assert "unheard" not in protocol.rule


def test_crema_d_tests_blocks_of_actors_and_validates_on_the_next():
    (protocol,) = shipped_protocols("crema-d")
    blocks = [(1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091)]
    actors = [tuple(str(a) for a in range(first, last + 1)) for first, last in blocks]
    assert list(protocol.test) == actors
    assert list(protocol.validation) == [*actors[1:], actors[0]]


def test_esds_folds_are_those_of_emobox():
    (protocol,) = shipped_protocols("esd")
    published = [(5, 11, 16, 18), (12, 14, 15, 19), (3, 4, 6, 9), (7, 8, 13, 20), (1, 2, 10, 17)]
    assert [tuple(map(int, fold)) for fold in protocol.test] == published
