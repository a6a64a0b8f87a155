import threading
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_cli.data import batches
from ser_cli.data.batch_plans import PlannedBatch, PlannedClip, Window, plan_epoch
from ser_cli.data.batches import BatchLoader, make_batch
from ser_cli.data.mixup import MixPlan, mix, mix_targets, plan_mixtures
from ser_cli.data.store import PreparedCorpus
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
from tests.data.stored import stored_corpus

CLIPS = {
    # name: emotion, samples, Hz
    "one": ("sad", 4000, 200),
    "two": ("angry", 6400, 900),
    "three": ("happy", 3200, 500),
    "four": ("angry", 5000, 1000),
    "five": ("sad", 4000, 250),
}
LABELS = ("sad", "happy", "angry")


def tone(name: str) -> np.ndarray:
    _, samples, hz = CLIPS[name]
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / 16_000) + 0.01
    return wave.astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedCorpus:
    monkeypatch.setenv("SER_HOME", str(tmp_path / "home"))
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = ["path,emotion,speaker,text"]
    for name, (emotion, _, _) in CLIPS.items():
        soundfile.write(folder / f"{name}.wav", tone(name), 16_000, subtype="FLOAT")
        rows.append(f"{name}.wav,{emotion},speaker-of-{name},{'' if name == 'two' else f'say {name}'}")
    manifest = folder / "few.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return prepare(list_manifest(manifest, labels=LABELS)).corpus


def whole(name: str) -> Window:
    return Window(name, 0, CLIPS[name][1])


def batch_of(corpus, *names: str):
    return make_batch(corpus, PlannedBatch(tuple(PlannedClip(whole(name)) for name in names)))


def test_a_batch_holds_each_clip_in_its_row_and_zeros_behind_its_end(corpus):
    ids = ["three", "two", "one"]
    batch = batch_of(corpus, *ids)
    assert batch.ids == ("three", "two", "one")
    assert batch.lengths.tolist() == [3200, 6400, 4000]
    assert batch.waveforms.shape == (3, 6400)
    assert batch.waveforms.dtype == torch.float32
    for row, name in zip(batch.waveforms.numpy(), ids, strict=True):
        samples = CLIPS[name][1]
        np.testing.assert_array_equal(row[:samples], tone(name))
        assert not row[samples:].any()


def test_targets_are_one_hot_in_the_declared_order_of_the_labels(corpus):
    batch = batch_of(corpus, "one", "two", "three")
    assert batch.targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert batch.targets.dtype == torch.float32
    assert corpus.target("four").tolist() == [0, 0, 1]


def test_a_planned_clip_is_mixed_and_its_label_follows(corpus):
    plan = MixPlan("eam", "one", "two", dominant_start=100, interfering_start=700, length=1000, snr_db=4.0)
    planned = PlannedBatch((PlannedClip(whole("three")), PlannedClip(whole("one"), plan, whole("two"))))
    batch = make_batch(corpus, planned)
    mixed, dominant = batch.waveforms[1].numpy().astype(np.float64), tone("one").astype(np.float64)
    added = mixed[100:1100] - dominant[100:1100]
    snr_db = 10 * np.log10((dominant[100:1100] ** 2).sum() / (added**2).sum())
    assert snr_db == pytest.approx(4.0, abs=0.1)
    gain = added @ tone("two")[700:1700] / (added @ added)
    np.testing.assert_allclose(gain * added, tone("two")[700:1700], atol=1e-5)
    np.testing.assert_array_equal(mixed[1100:4000], dominant[1100:])
    weight = 1 / (1 + 10**0.4) * 1000 / 4000
    assert batch.targets[1].tolist() == pytest.approx([1 - weight, 0, weight], abs=1e-6)
    np.testing.assert_array_equal(batch.waveforms[0, :3200], tone("three"))
    assert batch.targets[0].tolist() == [0, 1, 0]


def test_a_batch_tells_transcripts_and_which_rows_are_clips_as_they_are(corpus):
    plan = MixPlan("eam", "one", "two", dominant_start=100, interfering_start=700, length=1000, snr_db=4.0)
    clips = [PlannedClip(whole("two")), PlannedClip(whole("one"), plan, whole("two")), PlannedClip(whole("three"))]
    batch = make_batch(corpus, PlannedBatch((*clips, PlannedClip(Window("one", 5, 2000)))))
    assert batch.texts == ("", "say one", "say three", "say one")
    assert batch.untouched.tolist() == [True, False, True, False]
    assert batch.unmixed.tolist() == [True, False, True, True]
    first, second = batch.parted(2)
    assert (first.texts, second.texts) == (("", "say one"), ("say three", "say one"))
    assert (first.untouched.tolist(), second.untouched.tolist()) == ([True, False], [True, False])
    assert (first.unmixed.tolist(), second.unmixed.tolist()) == ([True, False], [True, True])


@pytest.mark.parametrize(
    ("method", "share", "leading"),
    [("lam", 0.5, "two"), ("lam", 0.7, "one"), ("mixup", 0.4, "two"), ("mixup", 0.6, "one"), ("eam", 1.0, "one")],
)
def test_a_mixture_is_of_the_speaker_whose_clip_carries_most_of_its_label(corpus, method, share, leading):
    # Clip two is 1.6 times as long as clip one: of lam, (1 - lambda) 6400 : lambda 4000.
    plan = MixPlan(method, "one", "two", 0, 0, 2000, snr_db=-5.0, share=share)
    mixed = PlannedClip(whole("one"), plan, whole("two"))
    batch = make_batch(corpus, PlannedBatch((mixed, PlannedClip(whole("one")), PlannedClip(whole("two")))))
    sad, angry = float(batch.targets[0, LABELS.index("sad")]), float(batch.targets[0, LABELS.index("angry")])
    assert (sad > angry) == (leading == "one")
    speakers = dict(zip(("mixture", "one", "two"), batch.speakers.tolist(), strict=True))
    assert speakers["mixture"] == speakers[leading]
    assert speakers["one"] != speakers["two"]


def test_a_mixture_that_lies_in_the_corpus_is_no_recording(corpus):
    first, *others = corpus.utterances
    mixed = replace(corpus, utterances=(replace(first, extra=(("source_a", "x"), ("source_b", "y"))), *others))
    batch = batch_of(mixed, first.id, others[0].id)
    assert (batch.untouched.tolist(), batch.unmixed.tolist()) == ([False, True], [False, True])


def test_of_a_stretch_only_the_stretch_is_read_and_mixed(corpus):
    plan = MixPlan("lam", "one", "two", 0, 0, 1000, share=0.5)
    planned = PlannedClip(Window("one", 1500, 1000), plan, Window("two", 2000, 1600))
    batch = make_batch(corpus, PlannedBatch((planned,)))
    expected = 0.5 * tone("two")[2000:3600]
    expected[:1000] += 0.5 * tone("one")[1500:2500]
    np.testing.assert_allclose(batch.waveforms[0], expected, atol=1e-7)
    assert batch.lengths.tolist() == [1600]
    assert batch.targets[0].tolist() == pytest.approx([1000 / 2600, 0, 1600 / 2600])


def test_mixing_leaves_the_stored_clips_as_they_are(corpus):
    plan = MixPlan("eam", "one", "two", 0, 0, 2000, -5.0)
    make_batch(corpus, PlannedBatch((PlannedClip(whole("one"), plan, whole("two")),)))
    np.testing.assert_array_equal(corpus.waveform("one"), tone("one"))
    np.testing.assert_array_equal(corpus.waveform("two"), tone("two"))


@pytest.fixture
def noise(tmp_path: Path) -> PreparedCorpus:
    """37 clips of 0.1 s to 0.46 s."""
    return stored_corpus(tmp_path / "noise", {f"clip-{number}": 1600 + 160 * (number * 7 % 37) for number in range(37)})


def drawn(corpus: PreparedCorpus, seed: int = 3, method: str = "eam", **settings):
    ids = [utterance.id for utterance in corpus.utterances]
    draw = None if method == "none" else partial(plan_mixtures, method=method, share=0.5)
    rng = np.random.default_rng(seed)
    return plan_epoch(ids, corpus.length, rng, **{"batch_size": 4, "max_clip_s": 15, "draw_mixtures": draw, **settings})


def same(batch, other) -> bool:
    tensors = ("waveforms", "lengths", "targets")
    return batch.ids == other.ids and all(torch.equal(getattr(batch, t), getattr(other, t)) for t in tensors)


@pytest.mark.parametrize("method", ["none", "eam", "lam", "mixup"])
def test_as_shuffled_and_with_short_clips_batches_are_those_of_the_first_rule_to_the_bit(noise, method):
    """The rule by which the recipes of the built-in encoder were measured: order, then mixtures, then every four."""
    ids = [utterance.id for utterance in noise.utterances]
    rng = np.random.default_rng(3)
    order = [ids[position] for position in rng.permutation(len(ids))]
    plans = [None] * len(ids)
    if method != "none":
        plans = plan_mixtures(order, ids, noise.length, rng, method=method, share=0.5)
        assert 0 < sum(plan is None for plan in plans) < len(plans)
    made = list(BatchLoader(noise, drawn(noise, method=method, group_by_length=False)))
    starts = [0, 4, 8, 12, 16, 20, 24, 28, 32]  # the 37th clip joins the last four
    assert [batch.ids for batch in made] == [tuple(order[a:b]) for a, b in zip(starts, [*starts[1:], 37], strict=True)]
    for batch, start in zip(made, starts, strict=True):
        for row, identity in enumerate(batch.ids):
            plan, wave, target = plans[start + row], noise.waveform(identity), noise.target(identity)
            if plan is not None:
                mixture = mix(plan, wave, noise.waveform(plan.interfering))
                wave, target = mixture.waveform, mix_targets(target, noise.target(plan.interfering), mixture.weight)
            assert int(batch.lengths[row]) == len(wave)
            np.testing.assert_array_equal(batch.waveforms[row, : len(wave)], wave)
            assert not batch.waveforms[row, len(wave) :].any()
            np.testing.assert_array_equal(batch.targets[row], target)


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_batches_made_ahead_are_those_made_when_asked_for(noise, ahead):
    plan = drawn(noise)
    alone = list(BatchLoader(noise, plan, ahead=0))
    assert len(alone) == len(plan) == 9
    assert all(map(same, alone, BatchLoader(noise, plan, ahead=ahead)))


def test_training_goes_on_at_a_step_by_leaving_out_the_batches_before_it(noise):
    plan = drawn(noise)
    every = list(BatchLoader(noise, plan))
    rest = list(BatchLoader(noise, drawn(noise)[5:]))
    assert len(rest) == len(every) - 5
    assert all(map(same, every[5:], rest))


def background_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_no_more_batches_are_made_ahead_than_is_said(noise, monkeypatch):
    made = []
    monkeypatch.setattr(batches, "make_batch", lambda corpus, planned: made.append(planned) or planned)
    plan = drawn(noise)
    for position, batch in enumerate(BatchLoader(noise, plan, ahead=2), start=1):
        assert batch == plan[position - 1]
        assert len(made) <= position + 2
    assert made == list(plan)


def test_leaving_the_loop_early_leaves_no_thread_behind(noise):
    for _ in BatchLoader(noise, drawn(noise)):
        assert background_threads()
        break
    assert not background_threads()


def test_an_error_of_the_loop_leaves_no_thread_behind(noise):
    with pytest.raises(KeyboardInterrupt):
        for _ in BatchLoader(noise, drawn(noise)):
            raise KeyboardInterrupt
    assert not background_threads()


def test_what_goes_wrong_in_the_background_is_raised_in_the_loop(noise):
    plan = drawn(noise)
    broken = PlannedBatch((PlannedClip(Window("no such clip", 0, 10)),))
    seen = []
    with pytest.raises(KeyError, match="no such clip"):
        seen.extend(batch.ids for batch in BatchLoader(noise, [*plan[:3], broken, *plan[3:]]))
    assert not background_threads()
    with pytest.raises(KeyError, match="no such clip"):
        list(BatchLoader(noise, [broken], ahead=0))


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_time_that_the_loop_waits_is_added_up(noise, monkeypatch, ahead):
    clock = iter(range(1000))
    monkeypatch.setattr(batches.time, "perf_counter", lambda: float(next(clock)))
    loader = BatchLoader(noise, drawn(noise), ahead=ahead)
    assert loader.waited_s == 0
    assert len(list(loader)) == 9
    assert loader.waited_s == 9.0


@pytest.mark.parametrize("method", ["eam", "lam"])
def test_a_clip_of_three_hours_is_never_copied_whole(tmp_path, method):
    hours = 3 * 3600 * 16_000
    corpus = stored_corpus(tmp_path / "long", {"a": hours, "b": hours, "c": 48_000, "d": 48_000})
    plan = plan_epoch(
        ["a", "b", "c", "d"],
        corpus.length,
        np.random.default_rng(0),
        batch_size=4,
        max_clip_s=15,
        draw_mixtures=partial(plan_mixtures, method=method, share=1.0),
    )
    assert {clip.partner.id for clip in plan[0].clips} & {"a", "b"}
    corpus.waveform("a")
    tracemalloc.start()
    batch = make_batch(corpus, plan[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.waveforms.shape == (4, 240_000)
    assert peak < 4 * batch.waveforms.numel() * 4 < 0.03 * 4 * hours


def test_a_batch_moves_to_a_device_with_everything_it_holds(corpus):
    moved = batch_of(corpus, "one", "two").to(torch.device("meta"))
    assert moved.ids == ("one", "two")
    assert {t.device.type for t in (moved.waveforms, moved.lengths, moved.targets)} == {"meta"}


@pytest.mark.gpu
def test_a_pinned_batch_is_the_same_batch(noise):
    plan = drawn(noise)
    pinned = list(BatchLoader(noise, plan, pin_memory=True))
    assert all(batch.waveforms.is_pinned() and batch.lengths.is_pinned() for batch in pinned)
    assert all(map(same, pinned, BatchLoader(noise, plan)))
