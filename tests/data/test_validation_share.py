"""Clips of heard speakers that choose the epoch, as `selection.validation_share` asks for them."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from ser_cli.data.folds import check_folds, hash_folds, make_folds, validates_on_heard
from ser_cli.data.manifest import Utterance
from ser_cli.data.protocols import Protocol, choose_protocol
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import FoldError, ProblemsError
from ser_cli.recipe import load_recipe
from ser_cli.training.cross_validation import plan_cross_validation
from tests.data.test_folds import corpus, mixture, people, ravdess
from tests.data.test_protocols import dialogues, savee

TAKES = {"happy": 25, "sad": 41}


def talkers(speakers: int = 6) -> PreparedCorpus:
    """Each speaker has 25 happy and 41 sad clips."""
    return corpus(
        [
            Utterance(f"p{n}-{emotion}-{take:02d}", "", emotion, f"p{n}", "", "male" if n % 2 else "female")
            for n in range(1, speakers + 1)
            for emotion, takes in TAKES.items()
            for take in range(takes)
        ]
    )


def folds_of(of: PreparedCorpus, share: float, *, seed: int = 0, folds: int | None = 3):
    settings = [f"selection.validation_share={share}"]
    return plan_cross_validation(of, load_recipe("mll", settings, {"seed": seed}), "mll", folds=folds)


def test_the_share_is_drawn_from_each_emotion_of_the_training_side_and_from_nobody_who_is_tested():
    of = talkers()
    plan = folds_of(of, 0.1)
    for fold in plan.folds:
        counted = Counter(of.by_id[i].emotion for i in fold.validation)
        assert counted == {"happy": round(0.1 * 4 * 25), "sad": round(0.1 * 4 * 41)}
        assert sorted((*fold.train, *fold.validation, *fold.test)) == sorted(of.by_id)
        heard = {of.by_id[i].speaker for i in (*fold.train, *fold.validation)}
        assert len(heard) == 4
        assert not heard & {of.by_id[i].speaker for i in fold.test}
        assert validates_on_heard(fold, of)
    everybody = {of.by_id[i].speaker for fold in plan.folds for i in fold.validation}
    assert len(everybody) == 6


def test_an_emotion_with_a_single_recording_to_train_on_is_refused():
    once = {"p2-happy-00", "p3-happy-00"}  # of the three folds, the one that tests either has the other alone
    of = corpus([u for u in talkers(3).utterances if u.emotion == "sad" or u.id in once])
    with pytest.raises(FoldError, match=r"only one recording of happy to train on(.|\n)*selection\.validation_share=0"):
        folds_of(of, 0.1)


def test_it_is_drawn_by_the_seed_anew_in_each_fold():
    of = talkers()
    protocol = replace(choose_protocol(of, "seeded", 3, 0), validation_share=0.1)
    drawn = [make_folds(protocol, of, validation_speakers=2, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert all(one.validation != other.validation for one, other in zip(drawn[0], drawn[2], strict=True))
    first, second, _ = drawn[0]
    of_both = {*first.train, *first.validation} & {*second.train, *second.validation}
    assert of_both & set(first.validation) != of_both & set(second.validation)


def test_0_changes_no_fold_of_any_corpus():
    # Of the version before there was such a setting.
    known = {"ravdess": "e8f30c4baa3f31ed", "savee": "7b0b04e097b23e76", "iemocap": "54778e234c5e33a5"}
    for of, folds in ((ravdess(), 6), (savee(), 4), (dialogues(5), 5)):
        plan = folds_of(of, 0, folds=folds)
        assert hash_folds(plan.folds)[:16] == plan.identity.folds_hash[:16] == known[of.name]
    assert [validates_on_heard(folds_of(of, 0, folds=None).folds[0], of) for of in (ravdess(), savee())] == [
        False,
        True,
    ]


def test_the_folds_have_another_hash_and_the_protocol_that_tells_who_is_tested_keeps_its_own():
    of = talkers()
    plans = [folds_of(of, share) for share in (0, 0.1, 0.2)]
    assert len({plan.identity.folds_hash for plan in plans}) == 3
    assert len({plan.default_folder for plan in plans}) == 3
    assert len({plan.protocol.hash for plan in plans}) == 1
    assert len({tuple(fold.test for fold in plan.folds) for plan in plans}) == 1


def test_the_rule_says_that_heard_voices_flatter_the_choice():
    plan = folds_of(talkers(), 0.1)
    assert plan.protocol.rule == (
        "each fold tests unheard speakers; 10 % of the training clips, drawn among those of each emotion, choose the"
        " epoch: validation clips are of speakers heard in training, which flatters the choice of the epoch"
    )
    assert plan.protocol.as_json()["validation_share"] == 0.1
    last = plan_cross_validation(
        talkers(), load_recipe("mll", ["selection.validation_share=0.1", "selection.by=last"]), "mll", folds=3
    )
    assert last.protocol.rule == "each fold tests unheard speakers"  # the report says that nothing was chosen
    assert not any(fold.validation for fold in last.folds)


def test_dialogues_whose_other_turns_are_trained_on_may_choose_the_epoch_and_never_be_tested():
    of = dialogues(5)
    plan = folds_of(of, 0.2, folds=None)
    for fold in plan.folds:
        dialogs = [{dict(of.by_id[i].extra)["dialog"] for i in ids} for _, ids in fold.sides]
        assert dialogs[1] & dialogs[0]
        assert not (dialogs[0] | dialogs[1]) & dialogs[2]


def test_it_stands_in_the_place_of_a_protocols_own_fifth():
    of = savee()
    plan = folds_of(of, 0.1, folds=4)
    assert "10 % of the training clips" in plan.protocol.rule
    assert "20 %" not in plan.protocol.rule
    for fold in plan.folds:
        counted = Counter(of.by_id[i].emotion for i in fold.validation)
        assert counted == {"angry": round(0.1 * 45), "neutral": round(0.1 * 90)}


def test_a_protocol_that_fixes_who_chooses_the_epoch_keeps_them_and_says_so():
    of = corpus(people(6))
    groups = (("p01",), ("p02",))
    protocol = Protocol("fixed", 1, "speaker", "", groups, validation=(("p03",), ("p04",)), validation_share=0.1)
    made = make_folds(protocol, of, validation_speakers=2, seed=0)
    check_folds(made, of, protocol)
    assert [{of.by_id[i].speaker for i in fold.validation} for fold in made] == [{"p03"}, {"p04"}]
    assert "are fixed, whatever share of the clips the recipe would have drawn" in protocol.rule
    assert "speakers that are fixed to choose the epoch are left unused" in replace(protocol, chooses=False).rule


def test_recordings_under_several_names_are_drawn_together():
    of = talkers()
    twins = tuple(replace(a, sha256=a.sha256[:-1]) for a in of.audio)  # of takes 10 to 19 and so on: ten and ten
    of = replace(of, audio=twins)
    for seed in range(5):
        folds = folds_of(of, 0.3, seed=seed).folds
        sides = [{of.audio_hash(i) for i in side} for fold in folds for side in (fold.train, fold.validation)]
        assert all(not train & held for train, held in zip(sides[::2], sides[1::2], strict=True))


def test_a_rare_emotion_gives_one_clip_at_least():
    plan = folds_of(corpus(people(6)), 0.1)  # 4 happy and 4 sad clips to train on: a tenth would be none
    assert [len(fold.validation) for fold in plan.folds] == [2, 2, 2]


def test_a_mixture_of_a_drawn_clip_is_not_trained_on():
    recordings = list(talkers(3).utterances)
    mixed = [mixture(a, b) for a, b in pairwise(recordings) if a.speaker == b.speaker]
    of = corpus([*recordings, *mixed])
    for fold in folds_of(of, 0.2).folds:
        held = set(fold.validation)
        kept = [of.by_id[i] for i in fold.train if i.startswith("mix-")]
        sources = [{dict(m.extra)["source_a"], dict(m.extra)["source_b"]} for m in kept]
        assert kept
        assert not any(held & pair for pair in sources)


@pytest.mark.parametrize("share", ["-0.1", "0.6", "nan"])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(ProblemsError, match=r"selection\.validation_share: must be"):
        load_recipe("mll", [f"selection.validation_share={share}"])
