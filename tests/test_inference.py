import subprocess
import sys
import threading
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_cli.data.folds import Fold
from ser_cli.errors import UsageError
from ser_cli.inference import classify_stored, predict_stored
from ser_cli.training.embedding import embed_fold
from tests.data.stored import LABELS, stored_corpus
from tests.models.tiny import tiny_classifier, tiny_conformer

RATE = 16_000
LENGTHS = {"a": 16_001, "b": 4_000, "c": 6_400, "d": 9_000, "e": 3_300, "f": 5_000}
"""Of the clips; with windows of at most 0.4 s, a has three and d two."""
EDGES = {"a": (0, 5333, 10667, 16001), "d": (0, 4500, 9000)}


@pytest.fixture
def corpus(tmp_path: Path):
    return stored_corpus(tmp_path / "noise", LENGTHS)


@pytest.fixture
def model():
    return tiny_classifier(tiny_conformer()).eval()


def alone(model, wave: np.ndarray):
    """What the model makes of one waveform by itself."""
    with torch.inference_mode():
        return model(torch.from_numpy(wave.copy())[None], torch.tensor([len(wave)]))


def windows(corpus, identity: str) -> list[np.ndarray]:
    edges = EDGES.get(identity, (0, LENGTHS[identity]))
    wave = corpus.waveform(identity)
    return [wave[start:stop] for start, stop in pairwise(edges)]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_long_clip_has_the_mean_of_its_windows_weighted_by_their_lengths(model, corpus, batch_size):
    found = classify_stored(model, corpus, list(LENGTHS), batch_size, max_clip_s=0.4)
    for row, identity in zip(found, LENGTHS, strict=True):
        parts = windows(corpus, identity)
        each = [alone(model, part).logits.double().softmax(dim=-1)[0].numpy() for part in parts]
        expected = sum(len(part) * p for part, p in zip(parts, each, strict=True)) / LENGTHS[identity]
        np.testing.assert_allclose(row, expected, atol=1e-6)
        assert row.sum() == pytest.approx(1)


def test_predictions_come_in_the_order_of_the_ids_with_the_likeliest_label(model, corpus):
    ids = ["c", "a", "f"]
    assert predict_stored(model, corpus, [], 2, 16) == ()
    predictions = predict_stored(model, corpus, ids, 2, 16, max_clip_s=0.4)
    assert [p.id for p in predictions] == ids
    rows = classify_stored(model, corpus, ids, 16, max_clip_s=0.4)
    for prediction, row in zip(predictions, rows, strict=True):
        assert prediction.probabilities == tuple(row.tolist())
        assert prediction.predicted == LABELS[int(np.argmax(prediction.probabilities))]
        assert prediction.truth == corpus.by_id[prediction.id].emotion
        assert prediction.fold == 2


def test_a_limit_that_no_clip_exceeds_changes_no_bit(model, corpus):
    assert predict_stored(model, corpus, list(LENGTHS), 1, 4) == predict_stored(
        model, corpus, list(LENGTHS), 1, 4, max_clip_s=15.0, max_batch_s=60.0
    )


class Watched:
    """Notes the sizes of the batches that a model gets."""

    def __init__(self, model) -> None:
        self.shapes: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(lambda _, inputs: self.shapes.append(tuple(inputs[0].shape)))


def test_an_encoder_that_is_not_exact_under_padding_gets_one_window_at_a_time(model, corpus):
    model.encoder.exact_under_padding = False
    watched = Watched(model)
    classify_stored(model, corpus, list(LENGTHS), 16, max_clip_s=0.4)
    assert len(watched.shapes) == 4 + 3 + 2
    assert {rows for rows, _ in watched.shapes} == {1}


def test_no_batch_of_windows_is_longer_than_the_limit(model, corpus):
    watched = Watched(model)
    classify_stored(model, corpus, list(LENGTHS), 16, max_clip_s=0.4, max_batch_s=0.8)
    assert max(rows * samples for rows, samples in watched.shapes) <= 0.8 * RATE
    assert max(rows for rows, _ in watched.shapes) > 1
    with pytest.raises(UsageError, match=r"clip a: its 1\.00006 s do not fit into a batch of at most 0\.8 s"):
        classify_stored(model, corpus, list(LENGTHS), 16, max_batch_s=0.8)


def test_a_clip_counts_as_done_with_the_last_of_its_windows(model, corpus):
    told: list[int] = []
    classify_stored(model, corpus, list(LENGTHS), 2, max_clip_s=0.4, progress=told.append)
    # Pairs, the longest first: c and a, a and a, f and d, d and b, then e.
    assert told == [1, 2, 3, 5, 6]


def test_leaving_from_within_the_progress_leaves_no_thread_behind(model, corpus):
    def leave(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_stored(model, corpus, list(LENGTHS), 1, 2, progress=leave)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_embeddings_of_a_long_clip_are_the_weighted_mean_of_its_windows(model, corpus):
    fold = Fold(1, train=("b", "c", "d"), validation=(), test=("a", "e", "f"))
    found = embed_fold(model, corpus, fold, 4, max_clip_s=0.4)
    assert found.ids == ("b", "c", "d", "a", "e", "f")
    for row, identity in zip(found.embedding, found.ids, strict=True):
        parts = windows(corpus, identity)
        outputs = [alone(model, part) for part in parts]
        expected = sum(len(p) * o.embedding[0].numpy() for p, o in zip(parts, outputs, strict=True))
        np.testing.assert_allclose(row, expected / LENGTHS[identity], atol=1e-5)
        if identity in fold.test:
            shares = [len(p) * o.attention[0].numpy() for p, o in zip(parts, outputs, strict=True)]
            attention = found.attention[identity]
            np.testing.assert_allclose(attention.share, np.concatenate(shares) / LENGTHS[identity], atol=1e-6)
            assert attention.share.sum() == pytest.approx(1, abs=1e-5)
            assert (np.diff(attention.times_s) > 0).all()
            assert 0 < attention.times_s[0] < attention.times_s[-1] < LENGTHS[identity] / RATE
    assert set(found.attention) == set(fold.test)


def test_whole_clips_have_the_same_embeddings_with_and_without_a_limit(model, corpus):
    fold = Fold(1, train=("b", "c"), validation=(), test=("e", "f"))
    plain, limited = embed_fold(model, corpus, fold, 4), embed_fold(model, corpus, fold, 4, max_clip_s=15.0)
    np.testing.assert_array_equal(plain.embedding, limited.embedding)
    frames: dict[str, list[np.ndarray]] = defaultdict(list)
    for found in (plain, limited):
        for identity, attention in found.attention.items():
            frames[identity].append(np.stack([attention.times_s, attention.share]))
    assert all(np.array_equal(*both) for both in frames.values())


LONG_CLIPS = """
import resource, sys
from functools import partial
from pathlib import Path
import numpy as np, torch
from ser_cli.data.batch_plans import plan_epoch
from ser_cli.data.batches import BatchLoader
from ser_cli.data.folds import Fold
from ser_cli.data.mixup import plan_mixtures
from ser_cli.training.embedding import embed_fold
from ser_cli.inference import classify_stored
from ser_cli.models.building import build_model
from ser_cli.recipe import load_recipe
from tests.data.stored import stored_corpus

torch.set_num_threads(1)
hours, minutes = 3 * 3600 * 16_000, 305 * 16_000
lengths = {"hours": hours, "minutes": minutes, **{f"short-{number}": 48_000 for number in range(30)}}
corpus = stored_corpus(Path(sys.argv[1]), lengths)
recipe = load_recipe("conformer")
model, limits = build_model(recipe, 3), {"max_clip_s": recipe.training.max_clip_s}
ids, rng = list(lengths), np.random.default_rng(0)
draw = partial(plan_mixtures, method="lam", share=1.0)
model.train()
for batch in BatchLoader(corpus, plan_epoch(ids, corpus.length, rng, batch_size=16, draw_mixtures=draw, **limits)):
    output = model(batch.waveforms, batch.lengths, torch.Generator().manual_seed(0))
    (output.logits.square().mean() + output.projected_frames.square().mean()).backward()
assert np.isfinite(classify_stored(model, corpus, ids, 16, **limits)).all()
found = embed_fold(model, corpus, Fold(1, tuple(ids[2:]), (), ("hours", "minutes")), 16, **limits)
assert np.isfinite(found.embedding).all() and len(found.attention["hours"].share) > 100_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_corpus_with_a_clip_of_three_hours_is_learnt_and_tested_in_less_than_two_gigabytes(tmp_path):
    command = [sys.executable, "-c", LONG_CLIPS, str(tmp_path / "long")]
    root = Path(__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2000, f"{result.stdout} MiB"
