"""Steps of learning: numbers that go wrong stop a fold, clips that are strange do not."""

import math
import re
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
from ser_cli.recipe import Recipe, load_recipe
from ser_cli.training.learner import Learner, NotFiniteError
from ser_cli.training.setup import EPOCH, derive_seed, plan_training_epoch, set_up_learner
from tests.conftest import TINY
from tests.data.stored import stored_corpus

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
    recipe = load_recipe("conformer", settings, {"encoder.name": name, "training.batch_size": 6})
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


def test_a_loss_that_cannot_be_measured_is_named(tmp_path, monkeypatch):
    from ser_cli.losses import MultiLoss

    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 4_000 for n in range(6)})
    each = MultiLoss.each
    monkeypatch.setattr(MultiLoss, "each", lambda *a: {**each(*a), "supcon": torch.tensor(float("inf"))})
    with pytest.raises(NotFiniteError, match="the loss supcon is inf\n  clips of the batch: clip-"):
        learner_of(corpus, load_recipe("conformer", [*TINY_SETTINGS, "losses.weighting=auto"]))


def test_losses_are_measured_as_the_first_steps_meet_them(tmp_path):
    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 16_000 + 100 * n for n in range(12)})
    weights = [f"losses.{name}=1" for name in ("kl", "focal", "center", "supcon", "speaker_relative")]
    recipe = load_recipe("conformer", [*TINY_SETTINGS, "losses.weighting=auto", *weights])
    learner, fold = learner_of(corpus, recipe)
    fixed, _ = learner_of(corpus, load_recipe("conformer", [*TINY_SETTINGS, *weights]))
    for name, value in learner.model.named_buffers():
        assert torch.equal(value, fixed.model.get_buffer(name)), name  # measuring moved no running mean
    found: dict[str, float] = {}
    for epoch in range(1, 5):
        seed = derive_seed(recipe, fold, EPOCH, epoch)
        fixed.begin_epoch(seed)
        for batch in BatchLoader(corpus, plan_training_epoch(corpus, fold, recipe, seed)):
            for name, value in fixed.learn([batch], 0.0).items():  # at the start of warming up nothing is learnt yet
                found[name] = max(value, found.get(name, 1.0))
    chosen = learner.criterion.weights.as_dict()
    assert {name: weight * found[name] for name, weight in chosen.items()} == pytest.approx(
        dict.fromkeys(chosen, 1), rel=0.15
    )


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
    assert learner.learning_rates == pytest.approx([0.5e-3, 0.5e-3, 2.5e-3])


def test_a_loss_that_is_no_number_is_named_with_the_clips_and_nothing_is_learnt(small, monkeypatch):
    learner, batch = small
    before = learner.tested_weights()
    each = learner.criterion.each

    def broken(output, targets, task_targets):
        losses = each(output, targets, task_targets)
        return {**losses, "focal": losses["focal"] * float("inf")}

    monkeypatch.setattr(learner.criterion, "each", broken)
    with pytest.raises(NotFiniteError, match=r"the loss focal is inf\n  clips of the batch: clip-0, clip-1") as caught:
        learner.learn([batch], 0.0)
    assert "clip-5" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in learner.tested_weights().items())


def test_activations_that_overflow_leave_no_trace_in_running_means(small):
    learner, batch = small
    learner.learn([batch], 0.0)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    overflow = learner.model.encoder.blocks[0].register_forward_hook(
        lambda *told: (told[-1][0] * float("inf"), told[-1][1])
    )
    with pytest.raises(NotFiniteError):
        learner.learn([batch], 0.0)
    overflow.remove()
    after = learner.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any("running_mean" in name for name in before)
    learner.learn([batch], 0.0)


def test_a_gradient_that_is_no_number_is_traced_to_its_loss(small, monkeypatch):
    learner, batch = small
    each = learner.criterion.each

    def broken(output, targets, task_targets):
        losses = each(output, targets, task_targets)
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
    assert "the weights of the step before are kept" in result.stderr
    assert sorted(path.name for path in Path("run/fold-1/checkpoints").glob("step-*"))[-1] == "step-000003"
    assert "goes on from its checkpoint: epoch 1, after step 3" in ser(*command).stderr


def test_gradients_of_several_batches_make_the_step_of_one(small):
    learner, batch = small
    halves = batch.parted(2)
    assert [part.ids for part in halves] == [batch.ids[:3], batch.ids[3:]]
    assert halves[0].waveforms.shape[1] == int(halves[0].lengths.max()) < batch.waveforms.shape[1]
    learner.model.eval()  # batch normalisation would see the halves
    learner.criterion.each = lambda output, targets, _: {"kl": learner.criterion.kl(output.logits, targets)}
    before = learner.state()
    learner.augmentation = None
    whole = learner._add_gradients([batch])
    gradients = {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}
    parted = learner._add_gradients(halves)
    assert parted == pytest.approx(whole, rel=1e-5)
    for name, parameter in learner.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4)
    assert before.facts["parts"] == 1


def test_accumulated_batches_make_fewer_steps(ser, tones, monkeypatch):
    from ser_cli.commands.training_view import TrainingView

    told = []
    monkeypatch.setattr(TrainingView, "step_done", lambda self, step, steps: told.append((step, steps)))
    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 4, "--epochs", 1]
    result = ser(*command, "--set", "training.accumulate=2", "--output", "run")
    assert result.exit_code == 0, result.stderr
    assert told == [(1, 3), (2, 3), (3, 3)]  # 18 clips: 5 batches of 4, 4, 4, 4 and 2


class Full:
    """A device whose memory holds so many clips."""

    def __init__(self, monkeypatch, clips: int) -> None:
        self.seen: list[int] = []
        losses = Learner._losses

        def limited(learner, batch):
            self.seen.append(len(batch.ids))
            if len(batch.ids) > clips:
                raise torch.OutOfMemoryError(FULL)
            return losses(learner, batch)

        monkeypatch.setattr(Learner, "_losses", limited)


FULL = "CUDA out of memory. Tried to allocate 20.00 GiB"


@pytest.mark.parametrize("place", ["a batch", "the first step", "validation"])
def test_full_memory_says_which_settings_to_lower(ser, tones, monkeypatch, place):
    def full(*arguments, **named):
        raise torch.OutOfMemoryError(FULL)

    if place == "a batch":
        Full(monkeypatch, 3)
    elif place == "the first step":
        monkeypatch.setattr(torch.optim.AdamW, "step", full)
    else:
        monkeypatch.setattr("ser_cli.training.fold.predict_stored", full)
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 8, "--output", "run")
    assert result.exit_code == 1
    assert f"the memory of cpu is full: {FULL}\n" in result.stderr
    assert "lower training.batch_size (8; raise training.accumulate with it)" in result.stderr
    assert "training.retry_smaller=true" in result.stderr
    assert "checkpoint_activations" not in result.stderr  # the built-in encoder has none


def test_full_memory_is_tried_in_halves_only_when_asked(ser, tones, monkeypatch):
    full = Full(monkeypatch, 3)
    result = ser(
        *("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 8, "--output", "run"),
        *("--set", "training.retry_smaller=true"),
    )
    assert result.exit_code == 0, result.stderr
    assert full.seen[:5] == [8, 4, 2, 2, 2]


def test_in_parts_every_clip_of_a_batch_counts_as_in_the_whole(small):
    learner, batch = small
    (parameter, *_) = learner.model.head.parameters()
    learner._losses = lambda part: {"kl": part.lengths.double().mean() + 0 * parameter.sum()}
    odd, rest = batch._rows(0, 5), batch._rows(3, 6)
    mean = (odd.lengths.double().mean() + rest.lengths.double().mean()) / 2
    for parts in (1, 2, 4):
        learner._parts = parts
        assert learner.learn([odd, rest], 1.0)["kl"] == pytest.approx(float(mean), rel=1e-12)


def test_a_frozen_encoder_is_computed_once_for_each_clip(tmp_path, wavlm):
    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 4_000 + 100 * n for n in range(6)})
    settings = ["mixup.method=none", "encoder.frozen=everything", "training.weight_average=0.9"]
    recipe = load_recipe("mll", settings, {"encoder.name": str(wavlm), "training.batch_size": 3})
    learner, fold = learner_of(corpus, recipe)
    before = {name: value.clone() for name, value in learner.model.encoder.state_dict().items()}
    for epoch in (1, 2, 3):
        seed = derive_seed(recipe, fold, EPOCH, epoch)
        learner.begin_epoch(seed)
        assert not learner.model.encoder.training
        for batch in BatchLoader(corpus, plan_training_epoch(corpus, fold, recipe, seed)):
            learner.learn([batch], epoch - 1)
    assert learner.model._frozen.computed == 6
    assert all(torch.equal(value, before[name]) for name, value in learner.model.encoder.state_dict().items())
    assert not any(parameter.grad is not None for parameter in learner.model.encoder.parameters())
    # What is kept is what the encoder gives.
    learner.model.eval()
    clip = torch.from_numpy(corpus.waveform("clip-0").copy())[None]
    kept = learner.model(clip, torch.tensor([clip.shape[1]])).embedding
    learner.model._frozen = None
    torch.testing.assert_close(learner.model(clip, torch.tensor([clip.shape[1]])).embedding, kept)


def test_kept_frames_stay_within_their_memory(wavlm):
    from ser_cli.models.frozen import FrozenFrames
    from ser_cli.models.pretrained import load_pretrained

    encoder = load_pretrained(str(wavlm)).eval()
    frames = FrozenFrames(encoder, 10_000)
    for seed in range(20):
        frames.of(torch.randn(1, 4_000, generator=torch.Generator().manual_seed(seed)), torch.tensor([4_000]))
        assert sum(kept.nbytes for kept in frames._kept.values()) <= 10_000
    assert frames._kept


def test_frozen_convolutions_and_checkpointed_activations_train_the_rest(tmp_path, wavlm):
    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 4_000 + 100 * n for n in range(6)})
    found = {}
    for option in ("encoder.checkpoint_activations=false", "encoder.checkpoint_activations=true"):
        changes = {"encoder.name": str(wavlm), "training.batch_size": 6}
        recipe = load_recipe("mll", ["encoder.frozen=convolutions", option], changes)
        learner, fold = learner_of(corpus, recipe)
        learner.begin_epoch(3)
        for batch in BatchLoader(corpus, plan_training_epoch(corpus, fold, recipe, 3)):
            learner.learn([batch], 0.0)
        inner = learner.model.encoder.model
        assert all(parameter.grad is None for parameter in inner.feature_extractor.parameters())
        assert all(parameter.grad is not None for parameter in inner.encoder.layers[0].attention.q_proj.parameters())
        found[option] = learner.tested_weights()
    one, other = found.values()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("encoder.frozen=everything", "the built-in encoder has none"),
        ("encoder.checkpoint_activations=true", "is for the layers of a pre-trained encoder"),
        ("training.compile=true", "is for the layers of a pre-trained encoder"),
    ],
)
def test_what_the_built_in_encoder_has_not_is_refused(ser, tones, setting, reason):
    result = ser("train", "--manifest", tones, *TINY, "--set", setting)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_a_share_of_a_batch_leaves_no_process_without_a_clip():
    from ser_cli.data.batch_plans import share_of_process
    from ser_cli.errors import UsageError

    def batch(*names: str) -> PlannedBatch:
        return PlannedBatch(tuple(PlannedClip(Window(name, 0, 10)) for name in names))

    plan = (batch("a"), batch("b", "c", "d", "e"), batch("f"))
    shares = [share_of_process(plan, rank, 2) for rank in (0, 1)]
    assert [[b.ids for b in share] for share in shares] == [[("a", "c", "e")], [("b", "d", "f")]]
    shares = [share_of_process(plan, rank, 2, neighbours=True) for rank in (0, 1)]
    assert [[b.ids for b in share] for share in shares] == [[("a", "b", "c")], [("d", "e", "f")]]
    assert share_of_process(plan, 0, 1) == share_of_process(plan, 0, 1, neighbours=True) == plan
    with pytest.raises(UsageError, match="9 processes cannot share 6 training clips"):
        share_of_process(plan, 0, 9)


@pytest.mark.parametrize(("size", "processes"), [(4, 8), (2, 4), (3, 4), (5, 8), (16, 8), (1, 3)])
def test_small_batches_join_until_there_is_a_clip_for_each_process_and_no_further(size, processes):
    from ser_cli.data.batch_plans import share_of_process

    clips = [PlannedClip(Window(f"clip-{n}", 0, 10)) for n in range(1_000)]
    plan = [PlannedBatch(tuple(clips[n : n + size])) for n in range(0, 1_000, size)]
    shares = [share_of_process(plan, rank, processes) for rank in range(processes)]
    steps = len(shares[0])
    assert {len(share) for share in shares} == {steps}
    together = -(-processes // size)  # batches that have as many clips as there are processes
    assert steps == len(plan) // together
    for batches in list(zip(*shares, strict=True))[:-1]:  # the last takes what is left
        assert sum(len(b.clips) for b in batches) == together * size
    assert sorted(i for share in shares for b in share for i in b.ids) == sorted(c.window.id for c in clips)


def test_kept_frames_are_those_that_come_again(wavlm):
    from ser_cli.models.frozen import FrozenFrames
    from ser_cli.models.pretrained import load_pretrained

    def clip(seed: int) -> torch.Tensor:
        return torch.randn(1, 4_000, generator=torch.Generator().manual_seed(seed))

    encoder, length = load_pretrained(str(wavlm)).eval(), torch.tensor([4_000])
    one = FrozenFrames(encoder, 10**9)
    one.of(clip(0), length)
    room_for_three = FrozenFrames(encoder, 3 * next(iter(one._kept.values())).nbytes)
    for epoch in range(4):
        for seed in range(5):
            room_for_three.of(clip(seed), length)
        room_for_three.of(clip(100 + epoch), length, torch.tensor([False]))  # a mixture: never the same again
    assert room_for_three.computed == 5 + 3 * 2 + 4  # of the five, two find no room and are computed each time


def test_a_loaded_model_keeps_no_frames(ser, tones, wavlm):
    from ser_cli.checkpoints import load_model

    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, "--encoder", wavlm, "--epochs", 1]
    result = ser(*command, "--set", "encoder.frozen=everything", "--output", "run")
    assert result.exit_code == 0, result.stderr
    model = load_model(Path("run/fold-1")).model.eval()
    for seed in range(3):
        waveform = torch.randn(1, 4_000, generator=torch.Generator().manual_seed(seed))
        model(waveform, torch.tensor([4_000]))
    assert model._frozen.computed == 3
    assert not model._frozen._kept


@pytest.mark.parametrize(("then", "now"), [("convolutions", "nothing"), ("nothing", "convolutions")])
def test_moments_stay_with_their_weights_when_others_are_trained_from_then_on(tmp_path, wavlm, then, now):
    corpus = stored_corpus(tmp_path / "small", {f"clip-{n}": 4_000 + 100 * n for n in range(6)})

    def made(frozen: str) -> Learner:
        changes = {"encoder.name": str(wavlm), "training.batch_size": 6}
        learner, _ = learner_of(corpus, load_recipe("mll", [f"encoder.frozen={frozen}", "mixup.method=none"], changes))
        return learner

    def moments(learner: Learner) -> dict[str, torch.Tensor]:
        return {
            n: v for n, v in learner.state().tensors.items() if n.startswith("optimizer.") and n.endswith("exp_avg")
        }

    clips = tuple(PlannedClip(Window(u.id, 0, corpus.length(u.id))) for u in corpus.utterances)
    batch = make_batch(corpus, PlannedBatch(clips))
    first = made(then)
    first.begin_epoch(1)
    first.learn([batch], 0.0)
    second = made(now)
    second.restore(first.state())
    before, after = moments(first), moments(second)
    assert set(after) == {name for name in before if now == "nothing" or ".feature_extractor." not in name}
    assert any(".feature_extractor." in name for name in before) == (then == "nothing")
    assert all(torch.equal(before[name], after[name]) for name in after)
    second.learn([batch], 0.1)
    assert moments(second).keys() == set(moments(made_one_step(made(now), batch)))


def made_one_step(learner: Learner, batch) -> Learner:
    learner.begin_epoch(1)
    learner.learn([batch], 0.0)
    return learner


def test_what_was_learnt_until_the_memory_was_full_is_kept(ser, tones, monkeypatch):
    losses, calls = Learner._losses, []

    def fifth_is_too_much(learner, batch):
        calls.append(batch.ids)
        if len(calls) == 5:
            raise torch.OutOfMemoryError(FULL)
        return losses(learner, batch)

    command = ("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 8, "--output")
    assert ser(*command, "whole").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_losses", fifth_is_too_much)
        assert ser(*command, "run").exit_code == 1
    result = ser(*command, "run")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"goes on from its checkpoint: epoch \d+, after step \d+", result.stderr)
    assert len(calls) == 5
    weights = [Path(name, "fold-1/model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]  # the step that failed drew what it draws now


def test_weights_in_the_middle_of_a_step_are_never_saved(ser, tones, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def fifth_breaks_off(optimizer, *arguments, **named):
        calls.append(1)
        if len(calls) == 5:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].add_(1.0)  # some weights have moved and others have not
            raise torch.OutOfMemoryError(FULL)
        return step(optimizer, *arguments, **named)

    command = ("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--batch-size", 8, "--output")
    assert ser(*command, "whole").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", fifth_breaks_off)
        assert ser(*command, "run").exit_code == 1
    result = ser(*command, "run")
    assert result.exit_code == 0, result.stderr
    weights = [Path(name, "fold-1/model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("recipe", "settings", "processes", "told", "untold"),
    [
        ("mll", [], 1, ["set training.max_batch_s", "checkpoint_activations=true", "retry_smaller=true"], ["(0)"]),
        ("mll", ["training.max_batch_s=20"], 1, ["lower training.max_batch_s (20)"], ["set training.max_batch_s"]),
        ("mll", ["encoder.frozen=everything"], 1, ["retry_smaller=true"], ["checkpoint_activations"]),
        ("server", [], 1, ["retry_smaller=true"], ["checkpoint_activations"]),
        ("mll", [], 2, ["checkpoint_activations=true"], ["retry_smaller"]),
    ],
)
def test_only_settings_that_are_read_are_advised_when_the_memory_is_full(
    monkeypatch, recipe, settings, processes, told, untold
):
    from ser_cli.training import device_memory

    monkeypatch.setattr(device_memory, "number_of_processes", lambda: processes)
    with (
        pytest.raises(device_memory.MemoryFullError) as refused,
        device_memory.advising_when_memory_is_full(torch.device("cpu"), load_recipe(recipe, settings)),
    ):
        raise torch.OutOfMemoryError(FULL)
    assert all(text in str(refused.value) for text in [*told, "--resume-anyway", "--force"])
    assert not any(text in str(refused.value) for text in untold)


@pytest.mark.slow
def test_layers_are_compiled_or_run_as_they_are(ser, tones, wavlm):
    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, "--encoder", wavlm, "--epochs", 1]
    assert ser(*command, "--output", "plain").exit_code == 0
    result = ser(*command, "--output", "compiled", "--set", "training.compile=true")
    assert result.exit_code == 0, result.stderr
    assert "Traceback" not in result.stderr
