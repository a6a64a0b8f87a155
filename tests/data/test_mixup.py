import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from ser_cli.data.mixup import (
    MixPlan,
    mix,
    mix_energy_adaptive,
    mix_targets,
    mix_whole,
    plan_energy_adaptive,
    plan_mixtures,
)

LAMBDA_BOUND = 0.5 / (1 + 10**-0.5)
"""Half a clip at -5 dB: 0.37988."""


def noise(seed: int, samples: int, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.random.default_rng(seed).normal(size=samples)).astype(np.float32)


def measured_snr_db(mixed: np.ndarray, dominant: np.ndarray, segment: slice) -> float:
    """Level of what was there over level of what was added, both from the waves alone."""
    before = dominant[segment].astype(np.float64)
    added = mixed[segment].astype(np.float64) - before
    return 10 * math.log10(float((before**2).sum() / (added**2).sum()))


@pytest.mark.parametrize("snr_db", [-5.0, -1.3, 0.0, 4.2, 10.0])
@pytest.mark.parametrize("amplitudes", [(0.1, 0.1), (0.9, 1e-4), (1e-4, 0.9), (1e-30, 1e3), (1e3, 1e-30)])
def test_the_mixed_segment_has_the_ratio_that_was_asked_for(snr_db, amplitudes):
    dominant, interfering = noise(1, 9000, amplitudes[0]), noise(2, 7000, amplitudes[1])
    mixed, *_ = mix_energy_adaptive(dominant, interfering, 2000, 500, 4000, snr_db)
    assert np.isfinite(mixed).all()
    assert measured_snr_db(mixed, dominant, slice(2000, 6000)) == pytest.approx(snr_db, abs=0.1)


def test_the_ratio_is_set_by_the_segments_and_not_by_the_clips():
    dominant, interfering = noise(1, 9000), noise(2, 7000)
    dominant[:2000] *= 50
    interfering[5000:] *= 50
    mixed, *_ = mix_energy_adaptive(dominant, interfering, 2000, 500, 4000, 3.0)
    assert measured_snr_db(mixed, dominant, slice(2000, 6000)) == pytest.approx(3.0, abs=0.1)


def test_the_mixture_is_the_equation():
    dominant, interfering, snr_db = noise(1, 90), noise(2, 70), 2.5
    energy_i = sum(float(v) ** 2 for v in dominant[30:70])
    energy_j = sum(float(v) ** 2 for v in interfering[11:51])
    scale = math.sqrt(energy_i / (10 ** (snr_db / 10) * energy_j))
    expected = [float(v) for v in dominant]
    for k in range(40):
        expected[30 + k] += scale * float(interfering[11 + k])
    energy_scaled = sum((scale * float(v)) ** 2 for v in interfering[11:51])
    mixed, weight, _ = mix_energy_adaptive(dominant, interfering, 30, 11, 40, snr_db)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-7)
    assert weight == pytest.approx(energy_scaled / (energy_i + energy_scaled) * 40 / 90, rel=1e-9)
    assert mixed.dtype == np.float32


def test_nothing_changes_outside_the_segment_and_the_inputs_stay():
    dominant, interfering = noise(1, 900), noise(2, 700)
    before = dominant.copy(), interfering.copy()
    mixed, *_ = mix_energy_adaptive(dominant, interfering, 300, 0, 200, 0.0)
    np.testing.assert_array_equal(mixed[:300], dominant[:300])
    np.testing.assert_array_equal(mixed[500:], dominant[500:])
    assert (mixed[300:500] != dominant[300:500]).all()
    np.testing.assert_array_equal(dominant, before[0])
    np.testing.assert_array_equal(interfering, before[1])
    assert not np.shares_memory(mixed, dominant)


def test_a_read_only_clip_can_be_mixed():
    dominant, interfering = noise(1, 900), noise(2, 700)
    dominant.flags.writeable = interfering.flags.writeable = False
    mixed, *_ = mix_energy_adaptive(dominant, interfering, 0, 0, 200, 0.0)
    assert mixed.flags.writeable


@pytest.mark.parametrize("silent", ["dominant", "interfering", "both"])
def test_a_silent_segment_mixes_nothing(silent):
    dominant, interfering = noise(1, 900), noise(2, 700)
    if silent != "interfering":
        dominant[300:500] = 0
    if silent != "dominant":
        interfering[100:300] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed, weight, _ = mix_energy_adaptive(dominant, interfering, 300, 100, 200, -5.0)
    assert weight == 0.0
    np.testing.assert_array_equal(mixed, dominant)
    assert not np.shares_memory(mixed, dominant)


def test_the_mixture_may_leave_the_range_of_a_sound_card():
    dominant = np.full(100, 0.9, dtype=np.float32)
    mixed, *_ = mix_energy_adaptive(dominant, dominant, 0, 0, 50, -5.0)
    assert mixed[0] == pytest.approx(0.9 * (1 + 10**0.25), rel=1e-6)
    assert mixed.max() > 1


def test_the_weight_stays_within_its_bounds_and_vanishes_as_the_ratio_grows():
    dominant, interfering = noise(1, 1000), noise(2, 1000)
    weights = [
        mix_energy_adaptive(dominant, interfering, 0, 0, 500, snr_db)[1]
        for snr_db in (-5.0, 0.0, 5.0, 10.0, 30.0, 90.0)
    ]
    assert weights[0] == pytest.approx(LAMBDA_BOUND, rel=1e-9)
    assert weights[0] < 0.38
    assert weights[1] == pytest.approx(0.25, rel=1e-9)
    assert weights == sorted(weights, reverse=True)
    assert 0 < weights[-1] < 1e-9


def test_every_planned_mixture_keeps_the_dominant_emotion_dominant():
    rng = np.random.default_rng(0)
    lengths = {f"c{k}": int(n) for k, n in enumerate(rng.integers(2, 400, size=40))}
    clips = {identity: noise(k, n) for k, (identity, n) in enumerate(lengths.items())}
    plans = plan_energy_adaptive(list(lengths), list(lengths), lengths.__getitem__, rng, share=1.0)
    for plan in plans:
        _, weight, _ = mix_energy_adaptive(
            clips[plan.dominant],
            clips[plan.interfering],
            plan.dominant_start,
            plan.interfering_start,
            plan.length,
            plan.snr_db,
        )
        assert 0 <= weight < 0.38


def test_the_label_of_a_mixture_is_the_equation_and_sums_to_1():
    y_i, y_j = np.array([0, 1, 0], dtype=np.float32), np.array([0, 0, 1], dtype=np.float32)
    label = mix_targets(y_i, y_j, 0.3)
    np.testing.assert_allclose(label, [0, 0.7, 0.3], rtol=1e-6)
    assert label.dtype == np.float32
    for weight in np.random.default_rng(0).uniform(0, 0.38, size=50):
        assert mix_targets(y_i, y_j, weight).sum() == pytest.approx(1, abs=1e-6)
        assert mix_targets(y_i, y_i, weight).tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert y_i.tolist() == [0, 1, 0]


def test_every_planned_segment_lies_inside_both_clips():
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = {f"c{k}": int(n) for k, n in enumerate(rng.choice([1, 2, 3, 7, 50, 999], size=20))}
        overlap, low = rng.uniform(0.01, 0.5), rng.uniform(-5, 9)
        plans = plan_energy_adaptive(
            list(lengths),
            list(lengths),
            lengths.__getitem__,
            rng,
            share=1.0,
            snr_range_db=(low, low + 1),
            max_overlap=overlap,
        )
        assert None not in plans
        for identity, plan in zip(lengths, plans, strict=True):
            assert plan.dominant == identity
            assert plan.interfering != identity
            assert 1 <= plan.length <= max(1, int(lengths[plan.dominant] * overlap))
            assert plan.length <= lengths[plan.interfering]
            assert 0 <= plan.dominant_start <= lengths[plan.dominant] - plan.length
            assert 0 <= plan.interfering_start <= lengths[plan.interfering] - plan.length
            assert low <= plan.snr_db <= low + 1


MANY = [f"c{k}" for k in range(4000)]


def plan_many(seed: int = 0, **settings):
    return plan_energy_adaptive(MANY, MANY, lambda _: 10_000, np.random.default_rng(seed), **settings)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_mixed_clips_is_the_share_that_was_asked_for(share):
    plans = plan_many(share=share)
    assert len(plans) == len(MANY)
    # Four standard deviations of a binomial of 4000 are at most 0.032.
    assert sum(plan is not None for plan in plans) / len(MANY) == pytest.approx(share, abs=0.032 * (0 < share < 1))


def test_plans_repeat_under_a_seed_and_differ_under_another():
    assert plan_many(seed=3) == plan_many(seed=3)
    assert plan_many(seed=3) != plan_many(seed=4)


def test_one_clips_plan_does_not_shift_anothers():
    def lengths(first: int):
        return lambda identity: first if identity == MANY[0] else 10_000

    one, other = (
        plan_energy_adaptive(MANY[:200], MANY[200:], lengths(first), np.random.default_rng(0), share=share)
        for first, share in ((8, 0.5), (90_000, 0.6))
    )
    both = [(a, b) for a, b in zip(one[1:], other[1:], strict=True) if a and b]
    assert len(both) > 50
    assert all(a == b for a, b in both)


def test_draws_are_spread_evenly_over_their_ranges():
    plans = plan_many(share=1.0)
    uniform = {
        "snr": [(plan.snr_db + 5) / 15 for plan in plans],
        "length": [(plan.length - 1) / 5000 for plan in plans],
        "dominant start": [plan.dominant_start / (10_001 - plan.length) for plan in plans],
        "interfering start": [plan.interfering_start / (10_001 - plan.length) for plan in plans],
        "partner": [MANY.index(plan.interfering) / len(MANY) for plan in plans],
    }
    for name, values in uniform.items():
        counts, _ = np.histogram(values, bins=10, range=(0, 1))
        # 400 expected in each tenth; the standard deviation is 19.
        assert counts.sum() == len(MANY), name
        assert abs(counts - 400).max() < 5 * 19, name
    correlations = np.corrcoef(list(uniform.values())) - np.eye(len(uniform))
    assert abs(correlations).max() < 0.08


def test_the_longest_and_the_shortest_segment_both_occur():
    lengths = {"a": 8, "b": 3}
    drawn = {
        plan.length
        for seed in range(100)
        for plan in plan_energy_adaptive(["a"], ["b"], lengths.get, np.random.default_rng(seed), share=1)
    }
    assert drawn == {1, 2, 3}


def test_a_clip_that_is_its_own_only_partner_is_not_mixed():
    plans = plan_energy_adaptive(["a", "b"], ["a"], lambda _: 100, np.random.default_rng(0), share=1.0)
    assert plans[0] is None
    assert plans[1].interfering == "a"


def test_two_clips_are_mixed_with_each_other():
    for seed in range(20):
        plans = plan_energy_adaptive(["a", "b"], ["a", "b"], lambda _: 100, np.random.default_rng(seed), share=1.0)
        assert [(plan.dominant, plan.interfering) for plan in plans] == [("a", "b"), ("b", "a")]


def test_a_plan_is_a_record_that_cannot_be_changed_by_accident():
    plan = plan_many(share=1.0)[0]
    with pytest.raises(AttributeError):
        plan.length = 1
    assert replace(plan, length=1) != replace(plan, length=2)


def test_the_measured_ratio_is_the_one_that_was_asked_for():
    rng = np.random.default_rng(5)
    dominant, interfering = (rng.normal(0, level, 4000).astype(np.float32) for level in (0.3, 0.01))
    for snr_db in (-5.0, 0.0, 7.3):
        mixture = mix_energy_adaptive(dominant, interfering, 100, 200, 1500, snr_db)
        assert mixture.snr_db == pytest.approx(snr_db, abs=0.01)
        added = mixture.waveform - dominant
        measured = 10 * np.log10(np.sum(dominant[100:1600] ** 2.0) / np.sum(added**2.0))
        assert measured == pytest.approx(snr_db, abs=0.01)


def test_label_adaptive_mixup_is_its_papers_equation():
    x_i, x_j = np.full(300, 0.4, np.float32), np.full(100, -0.2, np.float32)
    mixture = mix_whole(x_i, x_j, 0.5, label_adaptive=True)
    np.testing.assert_allclose(mixture.waveform, [0.5 * 0.4 + 0.5 * -0.2] * 100 + [0.5 * 0.4] * 200, rtol=1e-6)
    assert mixture.weight == pytest.approx(0.5 * 100 / (0.5 * 300 + 0.5 * 100))
    assert mixture.snr_db == pytest.approx(20 * np.log10(0.4 / 0.2), abs=1e-4)
    other = mix_whole(x_j, x_i, 0.3, label_adaptive=True)
    assert other.weight == pytest.approx(0.7 * 300 / (0.3 * 100 + 0.7 * 300))
    assert len(other.waveform) == 300


def test_conventional_mixup_weights_waves_and_labels_alike():
    x_i, x_j = np.full(50, 0.4, np.float32), np.full(80, -0.2, np.float32)
    mixture = mix_whole(x_i, x_j, 0.8, label_adaptive=False)
    np.testing.assert_allclose(mixture.waveform, [0.8 * 0.4 - 0.2 * 0.2] * 50 + [-0.2 * 0.2] * 30, rtol=1e-5)
    assert mixture.weight == pytest.approx(0.2)


@pytest.mark.parametrize("method", ["eam", "lam", "mixup"])
def test_two_clips_of_one_emotion_keep_all_of_it(method):
    x = np.random.default_rng(0).normal(0, 0.1, 400).astype(np.float32)
    plan = MixPlan(method, "i", "j", 0, 0, 150, share=0.4)
    label = np.array([0, 1, 0], np.float32)
    mixture = mix(plan, x, x[:200])
    np.testing.assert_allclose(mix_targets(label, label, mixture.weight), label, rtol=1e-6)


@pytest.mark.parametrize("method", ["lam", "mixup"])
def test_whole_clips_are_planned_with_a_share_and_never_with_themselves(method):
    ids = [f"u{n}" for n in range(400)]
    lengths = {identity: 100 + n for n, identity in enumerate(ids)}
    plans = plan_mixtures(ids, ids, lengths.__getitem__, np.random.default_rng(1), method=method, share=0.5)
    made = [plan for plan in plans if plan]
    assert 160 < len(made) < 240
    assert all(plan.dominant != plan.interfering for plan in made)
    assert all(plan.length == min(lengths[plan.dominant], lengths[plan.interfering]) for plan in made)
    shares = np.array([plan.share for plan in made])
    if method == "lam":
        assert set(shares) == {0.5}
    else:
        # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 alpha + 1)).
        assert shares.mean() == pytest.approx(0.5, abs=0.08)
        assert shares.var() == pytest.approx(1 / (4 * 1.4), abs=0.03)
    again = plan_mixtures(ids, ids, lengths.__getitem__, np.random.default_rng(1), method=method, share=0.5)
    assert plans == again


def test_energy_adaptive_plans_are_the_same_by_either_name():
    ids = [f"u{n}" for n in range(20)]
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    assert plan_mixtures(ids, ids, lambda _: 500, rngs[0]) == plan_energy_adaptive(ids, ids, lambda _: 500, rngs[1])
