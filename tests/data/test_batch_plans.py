from functools import partial
from itertools import combinations

import numpy as np
import pytest

from ser_cli.data.batch_plans import Window, padding_share, plan_epoch, plan_evaluation
from ser_cli.data.mixup import plan_mixtures
from ser_cli.errors import ProblemsError, UsageError
from ser_cli.recipe import load_recipe
from tests.data.durations import iemocap_like_lengths, ravdess_lengths

RATE = 16_000


def corpus_of(lengths):
    """Ids in an order that says nothing of length, and a function that tells their lengths."""
    order = np.random.default_rng(9).permutation(len(lengths))
    by_id = {f"clip-{number:05d}": int(lengths[position]) for number, position in enumerate(order)}
    return list(by_id), by_id.__getitem__


def epoch(ids, length_of, seed=0, **settings):
    plain = {"batch_size": 16, "max_clip_s": 15.0, **settings}
    return plan_epoch(ids, length_of, np.random.default_rng(seed), **plain)


def mixed(method):
    return partial(plan_mixtures, method=method, share=0.5)


def pairs_of(batches):
    return {pair for batch in batches for pair in combinations(sorted(batch.ids), 2)}


@pytest.mark.parametrize("lengths", [ravdess_lengths(), iemocap_like_lengths()], ids=["ravdess", "iemocap-like"])
@pytest.mark.parametrize("method", ["eam", "lam"])
def test_padding_is_below_five_percent_in_every_epoch(lengths, method):
    ids, length_of = corpus_of(lengths)
    for seed in range(8):
        assert padding_share(epoch(ids, length_of, seed, draw_mixtures=mixed(method))) < 0.05
    assert padding_share(epoch(ids, length_of, group_by_length=False, draw_mixtures=mixed(method))) > 0.1


def test_the_iemocap_like_corpus_is_as_long_as_is_published():
    seconds = np.array(iemocap_like_lengths()) / RATE
    figures = (seconds.mean(), np.median(seconds), np.percentile(seconds, 95), seconds.max())
    assert figures == pytest.approx((4.5, 3.6, 11.1, 34.1), rel=0.05)


def test_padding_is_what_is_added_to_reach_the_longest():
    ids, length_of = corpus_of([100, 300])
    assert padding_share(epoch(ids, length_of)) == pytest.approx(200 / 600)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("max_batch_s", [0.0, 40.0])
def test_every_clip_occurs_once_per_epoch(grouped, max_batch_s):
    ids, length_of = corpus_of(iemocap_like_lengths()[::7])
    batches = epoch(ids, length_of, group_by_length=grouped, max_batch_s=max_batch_s)
    assert sorted(identity for batch in batches for identity in batch.ids) == sorted(ids)


def test_the_same_generator_draws_the_same_epoch_and_another_one_another():
    ids, length_of = corpus_of(ravdess_lengths())
    assert epoch(ids, length_of, 4, draw_mixtures=mixed("eam")) == epoch(ids, length_of, 4, draw_mixtures=mixed("eam"))
    assert epoch(ids, length_of, 4) != epoch(ids, length_of, 5)


def test_clips_that_share_a_batch_mostly_part_in_the_next_epoch():
    ids, length_of = corpus_of(ravdess_lengths())
    first, second = (pairs_of(epoch(ids, length_of, seed)) for seed in (0, 1))
    assert len(first & second) / len(first) < 0.2


def test_any_two_clips_can_meet_however_unlike_their_lengths():
    ids, length_of = corpus_of([RATE * (1 + number) for number in range(14)])
    met = set()
    for seed in range(300):
        met |= pairs_of(epoch(ids, length_of, seed, batch_size=4))
    assert met == set(combinations(sorted(ids), 2))


def test_grouped_batches_come_in_no_order_of_length():
    ids, length_of = corpus_of(ravdess_lengths())
    longest = [max(map(length_of, batch.ids)) for batch in epoch(ids, length_of)]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.4
    assert longest.index(max(longest)) not in {0, len(longest) - 1}


def test_of_a_long_clip_a_stretch_is_taken_at_places_all_over_it():
    ids, length_of = corpus_of([600 * RATE, 15 * RATE, 3 * RATE, 2 * RATE])
    long = max(ids, key=length_of)
    starts = []
    for seed in range(200):
        clips = {clip.window.id: clip.window for batch in epoch(ids, length_of, seed) for clip in batch.clips}
        assert clips[long].samples == 15 * RATE
        starts.append(clips[long].start)
        assert all(window == Window(i, 0, length_of(i)) for i, window in clips.items() if i != long)
    assert min(starts) >= 0
    assert max(starts) <= 585 * RATE
    assert np.histogram(starts, 5, (0, 585 * RATE))[0].min() > 20


@pytest.mark.parametrize("method", ["eam", "lam", "mixup"])
def test_mixtures_are_drawn_as_if_the_stretch_were_the_clip(method):
    ids, length_of = corpus_of([600 * RATE] * 20 + [3 * RATE] * 20)
    batches = epoch(ids, length_of, draw_mixtures=mixed(method))
    clips = [clip for batch in batches for clip in batch.clips if clip.mixture]
    assert {length_of(clip.partner.id) for clip in clips} == {600 * RATE, 3 * RATE}
    for clip in clips:
        plan, partner = clip.mixture, clip.partner
        assert (plan.dominant, plan.interfering) == (clip.window.id, partner.id)
        assert partner.samples == min(length_of(partner.id), 15 * RATE)
        assert 0 <= partner.start <= length_of(partner.id) - partner.samples
        assert plan.dominant_start + plan.length <= clip.window.samples
        assert plan.interfering_start + plan.length <= partner.samples
        longest = clip.window.samples if method == "eam" else max(clip.window.samples, partner.samples)
        assert clip.samples == longest
    assert any(clip.partner.start > 0 for clip in clips)


def test_a_long_clip_in_the_corpus_shifts_no_other_clips_draws():
    ids, length_of = corpus_of([RATE * (2 + number) for number in range(12)])
    longer = {identity: 20 * RATE if length_of(identity) == 13 * RATE else length_of(identity) for identity in ids}
    settings = {"group_by_length": False, "draw_mixtures": mixed("mixup"), "max_clip_s": 13.0}
    assert [batch.ids for batch in epoch(ids, length_of, **settings)] == [
        batch.ids for batch in epoch(ids, longer.__getitem__, **settings)
    ]
    plans, plans_longer = (
        [clip.mixture for batch in epoch(ids, of, **settings) for clip in batch.clips]
        for of in (length_of, longer.__getitem__)
    )
    assert plans == plans_longer


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("max_batch_s", [15.0, 20.0, 31.0, 60.0, 100.0])
def test_no_batch_is_longer_than_the_limit(grouped, max_batch_s):
    ids, length_of = corpus_of(iemocap_like_lengths()[::11])
    batches = epoch(ids, length_of, group_by_length=grouped, max_batch_s=max_batch_s, draw_mixtures=mixed("lam"))
    for batch in batches:
        assert len(batch.clips) * max(clip.samples for clip in batch.clips) <= max_batch_s * RATE
        assert batch.padded_samples <= max_batch_s * RATE
    assert max(batch.padded_samples for batch in batches) > 0.9 * max_batch_s * RATE


def test_without_a_limit_in_seconds_no_training_batch_holds_a_single_clip():
    for clips in range(2, 60):
        ids, length_of = corpus_of([RATE + number for number in range(clips)])
        for batch_size in range(2, 20):
            for grouped in (False, True):
                batches = epoch(ids, length_of, batch_size=batch_size, group_by_length=grouped)
                sizes = [len(batch.clips) for batch in batches]
                assert min(sizes) >= 2
                assert max(sizes) <= batch_size + 1
                assert sum(sizes) == clips


def test_a_clip_stands_alone_only_where_every_other_batch_is_a_pair():
    alone = 0
    for clips in range(2, 60):
        ids, length_of = corpus_of(iemocap_like_lengths()[:: 5531 // clips])
        for grouped in (False, True):
            batches = epoch(ids, length_of, max_batch_s=30.0, group_by_length=grouped, batch_size=3)
            sizes = sorted(len(batch.clips) for batch in batches)
            assert sizes[0] == 2 or set(sizes[1:]) <= {2}
            assert sizes[1:2] != [1]
            assert sum(sizes) == len(ids)
            alone += sizes[0] == 1
    assert alone < 10


def test_sizes_of_batches_worked_by_hand():
    def sizes(seconds, **settings):
        ids = [str(number) for number in range(len(seconds))]
        length_of = dict(zip(ids, (RATE * s for s in seconds), strict=True)).__getitem__
        return [len(batch.clips) for batch in epoch(ids, length_of, group_by_length=False, **settings)]

    assert sizes([1] * 9, batch_size=4) == [4, 5]
    assert sizes([1] * 8, batch_size=4) == [4, 4]
    assert sizes([1] * 10, batch_size=4) == [4, 4, 2]
    assert sizes([1], batch_size=4) == [1]
    # 8 s hold two clips of 4 s; the fifth finds no third place, and would leave one alone.
    assert sizes([4] * 5, max_batch_s=8, max_clip_s=4) == [2, 2, 1]
    # 12 s hold three; the fourth clip takes the third to itself.
    assert sizes([4] * 4, max_batch_s=12, max_clip_s=4) == [2, 2]
    assert sizes([4] * 3, max_batch_s=7, max_clip_s=4) == [1, 1, 1]


def test_a_limit_smaller_than_one_clip_is_refused_with_the_clip():
    with pytest.raises(UsageError) as caught:
        epoch(["short", "long"], {"short": RATE, "long": 12 * RATE}.__getitem__, max_batch_s=10.0)
    assert str(caught.value) == (
        "clip long: its 12 s do not fit into a batch of at most 10 s\n"
        "  raise training.max_batch_s, or lower training.max_clip_s to take less of a clip"
    )


def test_a_recipe_whose_longest_batch_is_shorter_than_its_longest_clip_is_refused():
    with pytest.raises(ProblemsError) as caught:
        load_recipe("mll", ["training.max_batch_s=10"])
    assert "training: max_batch_s 10 is less than one clip of max_clip_s 15; raise it, or lower max_clip_s" in str(
        caught.value
    )
    assert load_recipe("mll", ["training.max_batch_s=10", "training.max_clip_s=10"]).training.max_batch_s == 10


def test_the_built_in_encoders_recipes_keep_the_batches_that_they_were_measured_with():
    grouped = {name: load_recipe(name).training.group_by_length for name in ("mll", "conformer", "demo")}
    assert grouped == {"mll": True, "conformer": False, "demo": False}


def test_long_clips_are_tested_in_windows_that_tile_them():
    lengths = {"hours": 3 * 3600 * RATE + 1, "short": 15 * RATE, "tiny": 400}
    batches = plan_evaluation(list(lengths), lengths.__getitem__, batch_size=16, max_clip_s=15.0)
    windows = sorted((clip.window for batch in batches for clip in batch.clips), key=lambda w: (w.id, w.start))
    of_hours = [window for window in windows if window.id == "hours"]
    assert len(of_hours) == 721
    assert [w.start for w in of_hours] == [0, *(w.start + w.samples for w in of_hours[:-1])]
    assert sum(w.samples for w in of_hours) == lengths["hours"]
    assert {w.samples for w in of_hours} <= {lengths["hours"] // 721, lengths["hours"] // 721 + 1}
    assert windows[-2:] == [Window("short", 0, 15 * RATE), Window("tiny", 0, 400)]
    assert not any(clip.mixture for batch in batches for clip in batch.clips)


def test_batches_for_testing_come_longest_first_and_within_their_limits():
    ids, length_of = corpus_of(iemocap_like_lengths()[::18])
    batches = plan_evaluation(ids, length_of, batch_size=16, max_clip_s=15.0, max_batch_s=100.0)
    padded = [batch.padded_samples for batch in batches]
    assert max(padded) <= 100 * RATE
    assert max(len(batch.clips) for batch in batches) == 16
    longest = [batch.clips[0].samples for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert padding_share(batches) < 0.05


def test_one_at_a_time_means_one_at_a_time_for_testing():
    ids, length_of = corpus_of([RATE, 2 * RATE, 40 * RATE])
    assert [len(b.clips) for b in plan_evaluation(ids, length_of, batch_size=1, max_clip_s=15.0)] == [1] * 5


@pytest.mark.parametrize(("seed", "longest_s"), [(29, 9.0), (44, 8.0), (52, 8.0), (63, 9.0), (145, 9.0)])
def test_a_clip_that_would_stand_alone_finds_company_before_or_after_it(seed, longest_s):
    """Of lengths among which one clip finds room behind it alone."""
    lengths = np.random.default_rng(seed).integers(RATE, 5 * RATE, size=40).tolist()
    ids, length_of = corpus_of(lengths)
    batches = epoch(ids, length_of, seed, group_by_length=False, max_batch_s=longest_s, max_clip_s=5.0)
    sizes = [len(batch.clips) for batch in batches]
    for place, batch in enumerate(batches):
        if sizes[place] > 1:
            continue
        for other in (*batches[:place], *batches[place + 1 :]):
            both = max(clip.samples for clip in (*batch.clips, *other.clips))
            assert both * (len(other.clips) + 1) > longest_s * RATE
