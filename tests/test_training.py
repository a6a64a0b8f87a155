"""Steps of learning: numbers that go wrong stop a fold, clips that are strange do not."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ser_cli.data.batch_plans import PlannedBatch, PlannedClip, Window
from ser_cli.data.batches import BatchLoader, make_batch
from ser_cli.data.folds import Fold
from ser_cli.data.store import AUDIO_NAME
from ser_cli.learner import Learner, NotFiniteError
from ser_cli.recipe import Recipe, load_recipe
from ser_cli.training_setup import EPOCH, derive_seed, plan_training_epoch, set_up_learner
from tests.conftest import TINY
from tests.data.stored import stored_corpus
from tests.test_end_to_end import wavlm  # noqa: F401

TINY_SETTINGS = [value for option, value in pairwise(TINY) if option == "--set"]

STRANGE = {
    "silence": np.zeros(8_000),
    "constant": np.full(8_000, 0.5),
    "one-sample": np.array([0.25]),
    "offset": 0.9 + 0.05 * np.sin(np.arange(8_000) / 9),
    "square": np.sign(np.sin(np.arange(8_000) / 20 + 0.1)),
    "faint": 1e-30 * np.sin(np.arange(8_000) / 9),
    "two-samples": np.array([0.1, -0.1]),
    "click": np.eye(1, 8_000, 4_000)[0],
}


def strange_corpus(folder: Path):
    """Every strange clip twice, so that they meet each other and noise."""
    clips = {f"{name}-{take}": wave for name, wave in STRANGE.items() for take in (1, 2)}
    clips |= {f"noise-{take}": np.random.default_rng(take).normal(0, 0.1, 6_000) for take in range(1, 5)}
    corpus = stored_corpus(folder, {name: len(wave) for name, wave in clips.items()})
    waves = [clips[utterance.id].astype("<f4") for utterance in corpus.utterances]
    (folder / AUDIO_NAME).write_bytes(b"".join(wave.tobytes() for wave in waves))
    return corpus


def learner_of(corpus, recipe: Recipe) -> tuple[Learner, Fold]:
    fold = Fold(1, tuple(u.id for u in corpus.utterances), (), ())
    return set_up_learner(corpus, fold, recipe, Accelerator(cpu=True)), fold


@pytest.mark.parametrize("method", ["none", "mixup", "lam", "eam"])
@pytest.mark.parametrize("encoder", ["conformer", "wavlm"])
def test_strange_clips_train_without_nan(tmp_path, request, method, encoder):
    corpus = strange_corpus(tmp_path / "strange")
    name = "conformer" if encoder == "conformer" else str(request.getfixturevalue("wavlm"))
    settings = [*TINY_SETTINGS, f"mixup.method={method}", "mixup.share=1.0", "losses.weighting=auto"]
    recipe = load_recipe("conformer", settings, encoder__name=name, training__batch_size=6)
    learner, fold = learner_of(corpus, recipe)
    seen = set()
    for epoch in (1, 2):
        seed = derive_seed(recipe, fold, EPOCH, epoch)
        learner.begin_epoch(seed)
        for batch in BatchLoader(corpus, plan_training_epoch(corpus, fold, recipe, seed)):
            values = learner.learn([batch], epoch - 1)
            assert all(math.isfinite(value) for value in values.values()), values
            seen |= set(batch.ids)
    assert seen == set(fold.train)
    assert all(weight.isfinite().all() for weight in learner.tested_weights().values())


@pytest.fixture
def small(tmp_path):
    """A learner of the built-in encoder, and a batch."""
    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 4_000 + 100 * n for n in range(6)})
    recipe = load_recipe("conformer", [*TINY_SETTINGS, "training.weight_average=0"])
    learner, fold = learner_of(corpus, recipe)
    batch = make_batch(corpus, PlannedBatch(tuple(PlannedClip(Window(i, 0, corpus.length(i))) for i in fold.train)))
    learner.begin_epoch(1)
    return learner, batch


def test_a_step_takes_the_learning_rate_of_where_training_stands(small):
    learner, batch = small
    learner.learn([batch], 3.0)  # half of the 6 epochs of warming up
    rates = [group["lr"] for group in learner.state().facts["groups"]]
    assert rates == pytest.approx([0.5e-3, 0.5e-3, 2.5e-3])


def test_a_loss_that_is_no_number_is_named_with_the_clips_and_nothing_is_learnt(small, monkeypatch):
    learner, batch = small
    before = learner.tested_weights()
    each = learner.criterion.each

    def broken(output, targets):
        losses = each(output, targets)
        return {**losses, "focal": losses["focal"] * float("inf")}

    monkeypatch.setattr(learner.criterion, "each", broken)
    with pytest.raises(NotFiniteError, match=r"the loss focal is inf\n  clips of the batch: clip-0, clip-1") as caught:
        learner.learn([batch], 0.0)
    assert "clip-5" in str(caught.value)
    assert all(
        torch.equal(value, before[name])
        for name, value in learner.tested_weights().items()
        if "num_batches" not in name and "running" not in name
    )


def test_a_gradient_that_is_no_number_is_traced_to_its_loss(small, monkeypatch):
    learner, batch = small
    each = learner.criterion.each

    def broken(output, targets):
        losses = each(output, targets)
        nothing = losses["center"] * 0
        # The square root has a finite value and an infinite slope at 0.
        return {**losses, "center": losses["center"] + nothing.sqrt()}

    monkeypatch.setattr(learner.criterion, "each", broken)
    with pytest.raises(NotFiniteError, match="the losses are finite, but the gradient of the loss center is not"):
        learner.learn([batch], 0.0)


def test_a_fold_whose_numbers_go_wrong_stops_at_its_step_and_keeps_its_checkpoint(ser, tones, monkeypatch):
    original = Learner._losses
    steps = 0

    def poison(self, batch):
        nonlocal steps
        steps += 1
        losses = original(self, batch)
        return losses if steps < 4 else {**losses, "supcon": losses["supcon"] * float("nan")}

    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 4, "--output", "run"]
    command += ["--checkpoint-every", "1steps"]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_losses", poison)
        result = ser(*command)
    assert result.exit_code == 1
    assert "fold 1, epoch 1, step 4: the loss supcon is nan\n  clips of the batch: p" in result.stderr
    assert "the last checkpoint is from before it" in result.stderr
    assert sorted(path.name for path in Path("run/fold-1/checkpoints").glob("step-*"))[-1] == "step-000003"
    assert "goes on from its checkpoint: epoch 1, after step 3" in ser(*command).stderr
