from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_cli.data.batches import batch_bounds, evaluation_batches, make_batch, training_batches
from ser_cli.data.mixup import MixPlan
from ser_cli.data.store import PreparedCorpus
from ser_cli.preparation import prepare
from ser_cli.sources import list_manifest

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
    rows = ["path,emotion,speaker"]
    for name, (emotion, _, _) in CLIPS.items():
        soundfile.write(folder / f"{name}.wav", tone(name), 16_000, subtype="FLOAT")
        rows.append(f"{name}.wav,{emotion},speaker-of-{name}")
    manifest = folder / "few.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return prepare(list_manifest(manifest, labels=LABELS)).corpus


def test_a_batch_holds_each_clip_in_its_row_and_zeros_behind_its_end(corpus):
    ids = ["three", "two", "one"]
    batch = make_batch(corpus, ids)
    assert batch.ids == ("three", "two", "one")
    assert batch.lengths.tolist() == [3200, 6400, 4000]
    assert batch.waveforms.shape == (3, 6400)
    assert batch.waveforms.dtype == torch.float32
    for row, name in zip(batch.waveforms.numpy(), ids, strict=True):
        samples = CLIPS[name][1]
        np.testing.assert_array_equal(row[:samples], tone(name))
        assert not row[samples:].any()


def test_targets_are_one_hot_in_the_declared_order_of_the_labels(corpus):
    batch = make_batch(corpus, ["one", "two", "three"])
    assert batch.targets.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert batch.targets.dtype == torch.float32
    assert corpus.target("four").tolist() == [0, 0, 1]


def test_a_planned_clip_is_mixed_and_its_label_follows(corpus):
    plan = MixPlan("eam", "one", "two", dominant_start=100, interfering_start=700, length=1000, snr_db=4.0)
    batch = make_batch(corpus, ["three", "one"], [None, plan])
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


def test_mixing_leaves_the_stored_clips_as_they_are(corpus):
    plan = MixPlan("eam", "one", "two", 0, 0, 2000, -5.0)
    make_batch(corpus, ["one"], [plan])
    np.testing.assert_array_equal(corpus.waveform("one"), tone("one"))
    np.testing.assert_array_equal(corpus.waveform("two"), tone("two"))


def test_plans_must_be_as_many_as_clips(corpus):
    with pytest.raises(ValueError, match="shorter"):
        make_batch(corpus, ["one", "two"], [None])


def test_evaluation_batches_hold_every_clip_once_and_the_longest_first(corpus):
    batches = list(evaluation_batches(corpus, list(CLIPS), 2))
    assert [batch.ids for batch in batches] == [("two", "four"), ("five", "one"), ("three",)]
    assert not any(batch.targets.gt(0).logical_and(batch.targets.lt(1)).any() for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 8])
def test_every_training_clip_occurs_once_per_epoch_in_the_given_order(corpus, batch_size):
    ids = ["four", "one", "three", "five", "two"]
    plan = MixPlan("eam", "five", "two", 0, 0, 2000, 0.0)
    batches = list(training_batches(corpus, ids, [None, None, None, plan, None], batch_size))
    assert [identity for batch in batches for identity in batch.ids] == ids
    mixed = {
        identity
        for batch in batches
        for identity, target in zip(batch.ids, batch.targets, strict=True)
        if target.max() < 1
    }
    assert mixed == {"five"}


def test_no_training_batch_holds_a_single_clip():
    for clips in range(2, 60):
        for batch_size in range(2, 20):
            bounds = batch_bounds(clips, batch_size)
            sizes = [stop - start for start, stop in bounds]
            assert min(sizes) >= 2
            assert max(sizes) <= batch_size + 1
            assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
            assert bounds[-1][1] == clips


def test_batch_bounds_of_cases_worked_by_hand():
    assert batch_bounds(9, 4) == [(0, 4), (4, 9)]
    assert batch_bounds(8, 4) == [(0, 4), (4, 8)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert batch_bounds(1, 4) == [(0, 1)]


def test_a_batch_moves_to_a_device_with_everything_it_holds(corpus):
    moved = make_batch(corpus, ["one", "two"]).to(torch.device("meta"))
    assert moved.ids == ("one", "two")
    assert {t.device.type for t in (moved.waveforms, moved.lengths, moved.targets)} == {"meta"}
