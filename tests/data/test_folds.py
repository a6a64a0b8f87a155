import csv
from collections import Counter
from dataclasses import replace

import pytest

from ser_cli.data.folds import Fold, check_folds, make_folds, repeated_texts, write_folds
from ser_cli.data.manifest import Utterance
from ser_cli.data.protocols import Protocol, choose_protocol, shipped_protocols
from ser_cli.data.store import Preparation, PreparedCorpus, StoredAudio
from ser_cli.errors import FoldError, UnknownNameError, UsageError

LABELS = ("happy", "sad")


def corpus(utterances: list[Utterance], name: str = "mine", labels=LABELS) -> PreparedCorpus:
    """A corpus that has everything but the audio."""
    preparation = Preparation(1, name, name, labels, "", "/x", "", "f", "h", len(utterances), 0, 0, "0")
    audio = tuple(StoredAudio(u.id, 0, 400, f"sha-{u.id}", 16_000, 1) for u in utterances)
    return PreparedCorpus(None, preparation, tuple(utterances), audio)


def people(count: int, session_of=lambda n: "") -> list[Utterance]:
    return [
        Utterance(f"p{n:02d}-{emotion}", "", emotion, f"p{n:02d}", session_of(n), "male" if n % 2 else "female")
        for n in range(1, count + 1)
        for emotion in LABELS
    ]


def ravdess() -> PreparedCorpus:
    labels = ("neutral", "calm")
    rows = [
        Utterance(f"{a:02d}-{e}", "", e, f"{a:02d}", "", "male" if a % 2 else "female")
        for a in range(1, 25)
        for e in labels
    ]
    return corpus(rows, "ravdess", labels)


def speakers(ids, of: PreparedCorpus) -> set[str]:
    return {of.by_id[i].speaker for i in ids}


@pytest.mark.parametrize("folds", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_folds_never_share_a_speaker_and_test_everyone_once(folds, seed):
    people_of = corpus(people(8))
    protocol = choose_protocol(people_of, None, folds, seed)
    made = make_folds(protocol, people_of, validation_speakers=2, seed=seed)
    check_folds(made, people_of, protocol)
    for fold in made:
        sides = [speakers(ids, people_of) for _, ids in fold.sides]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert sorted(i for _, ids in fold.sides for i in ids) == sorted(people_of.by_id)
    assert sorted(i for fold in made for i in fold.test) == sorted(people_of.by_id)


def test_dealt_folds_have_both_genders():
    people_of = corpus(people(8))
    protocol = choose_protocol(people_of, None, 4, 3)
    assert all(Counter(int(s[1:]) % 2 for s in fold) == {0: 1, 1: 1} for fold in protocol.test)


def test_a_seed_deals_the_same_folds_again_and_another_deals_others():
    people_of = corpus(people(12))
    dealt = [choose_protocol(people_of, "seeded", 4, seed) for seed in (1, 1, 2)]
    assert dealt[0] == dealt[1]
    assert dealt[0].test != dealt[2].test
    assert dealt[0].hash != dealt[2].hash


def test_validation_speakers_are_of_both_genders_and_chosen_anew_in_each_fold():
    of = ravdess()
    protocol = choose_protocol(of, None, 6, 0)
    held = [speakers(f.validation, of) for f in make_folds(protocol, of, validation_speakers=2, seed=0)]
    assert all(sorted(int(s) % 2 for s in two) == [0, 1] for two in held)
    assert len(set(map(frozenset, held))) > 1
    again = [speakers(f.validation, of) for f in make_folds(protocol, of, validation_speakers=2, seed=0)]
    assert held == again


def test_at_most_a_third_of_the_training_side_is_held_out():
    of = corpus(people(4))
    protocol = choose_protocol(of, None, 4, 0)
    for fold in make_folds(protocol, of, validation_speakers=2, seed=0):
        assert len(speakers(fold.validation, of)) == 1
        assert len(speakers(fold.train, of)) == 2


def test_two_speakers_leave_none_to_hold_out():
    of = corpus(people(2))
    protocol = choose_protocol(of, None, 2, 0)
    with pytest.raises(FoldError, match="train to the last epoch: --select last"):
        make_folds(protocol, of, validation_speakers=2, seed=0)
    assert all(not fold.validation for fold in make_folds(protocol, of, validation_speakers=0, seed=0))


def test_a_session_protocol_keeps_sessions_together_in_validation_too():
    of = corpus(people(8, lambda n: f"s{(n + 1) // 2}"))
    protocol = Protocol("by-session", 1, "session", "", (("s1",), ("s2",), ("s3",), ("s4",)))
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    for fold in made:
        sides = [{of.by_id[i].session for i in ids} for _, ids in fold.sides]
        assert [len(side) for side in sides] == [2, 1, 1]


def test_the_standard_protocol_is_chosen_by_its_number_of_folds():
    assert choose_protocol(ravdess(), None, 6, 0).name == "ravdess-6-emobox"
    assert choose_protocol(ravdess(), None, None, 0).name == "ravdess-6-emobox"
    assert choose_protocol(ravdess(), "ravdess-6-balanced", None, 0).name == "ravdess-6-balanced"
    assert choose_protocol(ravdess(), None, 4, 0).name == "seeded-4-of-24-speakers-seed-0"
    assert choose_protocol(ravdess(), "seeded", 6, 1).name == "seeded-6-of-24-speakers-seed-1"


def test_published_hashes_never_change():
    assert [p.hash[:16] for p in shipped_protocols("ravdess")] == ["e58e41122e84c693", "5b87bb6f3de62fae"]


@pytest.mark.parametrize(
    ("name", "folds", "kind", "told"),
    [
        (
            None,
            25,
            UsageError,
            "the corpus has 24 speakers, and each fold must test at least one\n  use --folds 24",
        ),
        (None, 1, UsageError, "at least 2 folds are needed"),
        ("ravdess-6-emobox", 5, UsageError, "has 6 folds; leave --folds out"),
        ("ravdess-6-emobx", None, UnknownNameError, "did you mean ravdess-6-emobox"),
    ],
)
def test_folds_that_cannot_be_are_refused(name, folds, kind, told):
    with pytest.raises(kind) as error:
        choose_protocol(ravdess(), name, folds, 0)
    assert told in str(error.value)


def test_sessions_are_dealt_whole():
    of = corpus(people(8, lambda n: f"s{(n + 1) // 2}"))
    protocol = choose_protocol(of, "seeded-sessions", 2, 0)
    assert protocol.name == "seeded-2-of-4-sessions-seed-0"
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    for fold in made:
        sides = [{of.by_id[i].session for i in ids} for _, ids in fold.sides]
        assert sum(len(side) for side in sides) == len(set.union(*sides)) == 4


def test_a_session_on_both_sides_is_named():
    of = corpus(people(4, lambda n: "s1" if n < 4 else "s2"))
    fold = Fold(1, ("p01-happy", "p01-sad"), (), ("p02-happy", "p02-sad"))
    with pytest.raises(FoldError, match="fold 1 has session s1 in both train and test"):
        check_folds([fold], of, Protocol("x", 1, "session", "", ()))


def test_sessions_that_are_not_named_cannot_be_dealt():
    with pytest.raises(FoldError, match="name no session"):
        choose_protocol(corpus(people(4)), "seeded-sessions", 2, 0)


def test_a_part_of_a_corpus_is_told_which_speakers_it_lacks():
    part = corpus([u for u in ravdess().utterances if u.speaker in {"01", "02"}], "ravdess", ("neutral", "calm"))
    with pytest.raises(FoldError, match="tests 22 speakers that the prepared ravdess lacks: 03, 04") as error:
        choose_protocol(part, None, None, 0)
    assert "--protocol seeded" in str(error.value)
    with pytest.raises(FoldError, match="tests 22 speakers"):
        choose_protocol(part, None, 6, 0)
    assert choose_protocol(part, None, 2, 0).name.startswith("seeded-2-of-2")


def test_a_speaker_on_both_sides_is_named_with_the_fold():
    of = corpus(people(4))
    fold = Fold(3, ("p01-happy", "p01-sad", "p02-happy", "p02-sad"), (), ("p02-happy", "p03-sad", "p03-happy"))
    with pytest.raises(FoldError, match="fold 3 has speaker p02 in both train and test"):
        check_folds([fold], of, Protocol("x", 1, "speaker", "", ()))


def test_one_recording_under_two_names_on_both_sides_is_found():
    of = corpus(people(4))
    twin = of.audio[0].sha256
    audio = tuple(replace(a, sha256=twin) if a.id == "p03-sad" else a for a in of.audio)
    of = replace(of, audio=audio)
    protocol = Protocol("x", 1, "speaker", "", (("p03",),))
    with pytest.raises(FoldError, match="the same recording, p01-happy and p03-sad, in both train and test"):
        check_folds(make_folds(protocol, of, validation_speakers=0, seed=0), of, protocol)


@pytest.mark.parametrize("side", ["train", "test"])
def test_an_emotion_that_a_side_lacks_is_named(side):
    keep = {
        "train": lambda u: u.speaker == "p01" or u.emotion == "sad",
        "test": lambda u: u.speaker != "p01" or u.emotion == "sad",
    }
    of = corpus([u for u in people(4) if keep[side](u)])
    protocol = Protocol("x", 1, "speaker", "", (("p01",),))
    with pytest.raises(FoldError, match=f"fold 1: no happy in {side}"):
        check_folds(make_folds(protocol, of, validation_speakers=0, seed=0), of, protocol)


def test_written_folds_name_every_side_of_every_clip(tmp_path):
    of = corpus(people(4))
    protocol = choose_protocol(of, None, 2, 0)
    made = make_folds(protocol, of, validation_speakers=0, seed=0)
    write_folds(tmp_path / "folds.csv", made, of)
    with (tmp_path / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {r["id"] for r in rows if r["fold"] == "1" and r["side"] == "test"} == set(made[0].test)


def test_texts_on_both_sides_of_a_fold_are_counted():
    rows = [
        replace(u, text={"p01": "Kids are talking!", "p02": "kids  are talking", "p03": "Dogs", "p04": ""}[u.speaker])
        for u in people(4)
    ]
    of = corpus(rows)
    protocol = Protocol("x", 1, "speaker", "", (("p01",), ("p03",), ("p04",)))
    found = repeated_texts(make_folds(protocol, of, validation_speakers=0, seed=0), of)
    assert [(f.fold, f.clips, f.tested, f.example) for f in found] == [(1, 2, 2, "Kids are talking!")]


def mixture(first: Utterance, second: Utterance) -> Utterance:
    return replace(
        first,
        id=f"mix-{first.id}-{second.id}",
        extra=(("source_a", first.id), ("source_b", second.id), ("also_speaker", second.speaker)),
    )


def test_a_mixture_is_trained_on_only_where_both_of_its_speakers_are():
    recordings = people(6)
    mixtures = [
        mixture(first, second)
        for first in recordings
        for second in recordings
        if first.speaker < second.speaker and first.emotion == "happy"
    ]
    of = corpus([*recordings, *mixtures])
    protocol = choose_protocol(of, None, 3, 0)
    made = make_folds(protocol, of, validation_speakers=1, seed=0)
    check_folds(made, of, protocol)
    for fold in made:
        assert not any(i.startswith("mix-") for i in (*fold.validation, *fold.test))
        trained = {of.by_id[i].speaker for i in fold.train}
        kept = {i for i in fold.train if i.startswith("mix-")}
        assert kept == {m.id for m in mixtures if {m.speaker, dict(m.extra)["also_speaker"]} <= trained}
        assert 0 < len(kept) < len(mixtures)


def test_a_mixture_that_holds_a_tested_clip_is_refused():
    first, second, *others = people(3)
    of = corpus([first, second, *others, mixture(others[0], first)])
    fold = Fold(1, (others[0].id, others[1].id, f"mix-{others[0].id}-{first.id}"), (), (first.id, second.id))
    protocol = Protocol("x", 1, "speaker", "", (("p01",),))
    with pytest.raises(FoldError, match="fold 1 has speaker p01 in both train and test"):
        check_folds([fold], of, protocol)
    made = make_folds(protocol, of, validation_speakers=0, seed=0)
    assert not any(i.startswith("mix-") for i in made[0].train)


def test_a_mixture_of_a_held_out_clip_of_a_heard_speaker_is_left_out():
    rows = [
        Utterance(f"{speaker}-{emotion}-{take}", "", emotion, speaker)
        for speaker in ("p1", "p2")
        for emotion in LABELS
        for take in range(5)
    ]
    mixtures = [mixture(a, b) for a in rows for b in rows if a.speaker == b.speaker == "p2" and a.id < b.id]
    of = corpus([*rows, *mixtures])
    protocol = Protocol("x", 1, "speaker", "", (("p1",),), validation_by="utterance")
    (fold,) = make_folds(protocol, of, validation_speakers=1, seed=0)
    check_folds([fold], of, protocol)
    held = set(fold.validation)
    assert len(held) == 2
    kept = [of.by_id[i] for i in fold.train if i.startswith("mix-")]
    assert len(kept) == 8 * 7 // 2
    assert not any(held & {dict(m.extra)["source_a"], dict(m.extra)["source_b"]} for m in kept)


def test_a_fixed_validation_side_needs_every_emotion_where_it_chooses_and_only_there():
    rows = [u for u in people(6) if u.id != "p03-sad"]
    groups = (("p01", "p02"), ("p05", "p06"))
    protocol = Protocol("fixed", 1, "speaker", "", groups, validation=(("p03",), ("p03",)))
    of = corpus(rows)
    folds = make_folds(protocol, of, validation_speakers=2, seed=0)
    with pytest.raises(
        FoldError, match=r"no sad in validation \(1 clip\)\n(.|\n)*--select last, which holds nobody out"
    ):
        check_folds(folds, of, protocol)
    check_folds(folds, of, replace(protocol, chooses=False))
    tested = make_folds(replace(protocol, test=(("p03",), ("p05",)), validation=()), of, validation_speakers=1, seed=0)
    with pytest.raises(FoldError, match="no sad in test") as refused:
        check_folds(tested, of, replace(protocol, chooses=False))
    assert "--select last" not in str(refused.value)


def test_one_speaker_alone_cannot_be_dealt_and_no_number_of_folds_is_advised():
    for folds in (None, 2, 5):
        with pytest.raises(
            FoldError, match="mine has 1 speaker, and every fold tests a speaker that was not"
        ) as caught:
            choose_protocol(corpus(people(1)), None, folds, 0)
        assert "--folds" not in str(caught.value)


def test_held_out_speakers_that_lack_an_emotion_are_told_by_the_number_that_was_drawn():
    of = corpus([u for u in people(18) if (u.emotion == LABELS[0]) == (u.speaker < "p10")])
    halves = tuple(tuple(f"p{n:02d}" for n in range(1, 19) if n % 2 == odd) for odd in (0, 1))
    protocol = Protocol("p", 1, "speaker", "", halves)
    told = "in 100 draws no 1 speaker of the training side had every emotion between them; the last lacked (happy|sad)"
    with pytest.raises(FoldError, match=told) as caught:
        make_folds(protocol, of, validation_speakers=1, seed=0)
    assert "  hold out more with --set selection.validation_speakers=N, or hold out clips of all" in str(caught.value)
    assert make_folds(protocol, of, validation_speakers=3, seed=0)
    # A third of the training side is the most: there more cannot be held out.
    few = Protocol("p", 1, "speaker", "", (("p01",), ("p02", "p03", "p04")))
    parted = [u for u in people(4) if u.speaker == "p01" or (u.emotion == LABELS[0]) == (u.speaker == "p02")]
    with pytest.raises(FoldError, match="in 100 draws no 1 speaker") as caught:
        make_folds(few, corpus(parted), validation_speakers=9, seed=0)
    assert "hold out more" not in str(caught.value)
    assert "--set selection.validation_share=0.1, or train to the last epoch: --select last" in str(caught.value)


def test_where_clips_are_held_out_two_of_a_kind_are_parted_and_one_of_each_leaves_nobody_to_choose():
    protocol = Protocol("p", 1, "speaker", "", (("p01",), ("p02",)), validation_by="utterance")
    twice = [replace(u, id=f"{u.id}-{take}") for u in people(2) for take in (1, 2)]
    of = corpus(twice)
    for fold in make_folds(protocol, of, validation_speakers=2, seed=0):
        assert sorted(of.by_id[i].emotion for i in fold.validation) == sorted(LABELS)
        assert sorted(of.by_id[i].emotion for i in fold.train) == sorted(LABELS)
    once = corpus(people(2))
    with pytest.raises(FoldError, match="fold 1: no speaker says anything twice with the same emotion"):
        make_folds(protocol, once, validation_speakers=2, seed=0)
    assert all(not fold.validation for fold in make_folds(protocol, once, validation_speakers=0, seed=0))
