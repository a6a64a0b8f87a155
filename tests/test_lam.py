"""Recipe `lam`: the label-adaptive mixup paper's system, and the faults of public code that it does not repeat."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ser_cli.ablation.grids import load_grid
from ser_cli.data.batch_plans import PlannedBatch, PlannedClip, Window
from ser_cli.data.batches import make_batch
from ser_cli.data.mixup import MixPlan
from ser_cli.losses.center import center_loss
from ser_cli.models.building import build_model
from ser_cli.recipe import load_recipe
from ser_cli.training.fold import _FoldTraining
from ser_cli.training.optimization import learning_rate_factor
from tests.conftest import TINY
from tests.data.stored import stored_corpus
from tests.models.tiny import save_tiny_speech_encoder
from tests.running import read_csv, results, stop_after


def test_the_recipe_is_the_papers():
    recipe = load_recipe("lam")
    assert (recipe.encoder.name, recipe.encoder.layers) == ("facebook/hubert-large-ll60k", 22)
    assert (recipe.encoder.projection_dropout, recipe.encoder.frozen) == (0.4, "convolutions")
    assert (recipe.mixup.method, recipe.mixup.lam_lambda) == ("lam", 0.5)
    assert (recipe.pooling.name, recipe.head.hidden_dim) == ("first", 64)
    assert {name: weight for name, weight in recipe.losses.weights.items() if weight} == {"kl": 1, "center": 0.002}
    assert (recipe.losses.weighting, recipe.losses.center_reads) == ("fixed", "classifier_input")
    assert (recipe.optimizer.learning_rate, recipe.optimizer.center_learning_rate) == (1e-4, 1e-3)
    assert recipe.optimizer.weight_decay == 0
    assert (recipe.selection.by, recipe.selection.validation_share, recipe.selection.patience) == (
        "validation",
        0.1,
        10,
    )


@pytest.mark.parametrize("epochs_done", [0, 1, 19, 20, 21, 60])
def test_both_learning_rates_are_divided_by_1_25_each_epoch_until_the_20th(epochs_done):
    recipe = load_recipe("lam")
    factor = learning_rate_factor(epochs_done, recipe.training.epochs, recipe.optimizer)
    assert factor == pytest.approx(1 / 1.25 ** min(epochs_done, 20))


@pytest.mark.parametrize("name", ["lam-dropout", "lam-layers"])
def test_what_the_paper_chose_first_is_trained_for_exactly_5_epochs_with_nothing_held_out(name):
    for cell in load_grid(name).cells:
        assert (cell.recipe.training.epochs, cell.recipe.selection.by) == (5, "last")
        assert (cell.recipe.mixup.method, cell.recipe.losses.center) == ("none", 0)


def test_rows_that_stand_in_two_tables_of_the_paper_are_the_same_model_with_the_same_figures():
    of_dropout = next(cell for cell in load_grid("lam-dropout").cells if cell.name == "dropout-0.4")
    first = next(cell for cell in load_grid("lam-table2").cells if cell.name == "first")
    same = ("encoder", "mixup", "pooling", "head", "losses", "optimizer")
    assert all(getattr(of_dropout.recipe, section) == getattr(first.recipe, section) for section in same)
    assert of_dropout.paper == first.paper == {"wa": "70.99", "ua": "72.83"}


def test_the_whole_system_is_the_last_row_of_its_ablation_and_the_model_of_paper_as_baseline():
    recipe = load_recipe("lam")
    assert load_grid("lam-table2").cells[-1].recipe.hash == recipe.hash
    baseline = load_grid("paper-a").reference.recipe
    for section in ("encoder", "mixup", "pooling", "head", "losses", "optimizer"):
        assert getattr(baseline, section) == getattr(recipe, section), section


@pytest.fixture
def noise(tmp_path):
    """clip-0 and clip-3 are sad, clip-1 is happy, clip-2 angry."""
    return stored_corpus(tmp_path / "noise", {"clip-0": 3000, "clip-1": 4000, "clip-2": 9000, "clip-3": 5000})


def lam_row(corpus, one: str, other: str) -> PlannedClip:
    """A clip mixed with another, both whole."""
    length = min(corpus.length(one), corpus.length(other))
    windows = [Window(identity, 0, corpus.length(identity)) for identity in (one, other)]
    return PlannedClip(windows[0], MixPlan("lam", one, other, 0, 0, length, share=0.5), windows[1])


def test_two_clips_of_one_emotion_give_that_emotion_weight_1(noise):
    batch = make_batch(noise, PlannedBatch((lam_row(noise, "clip-0", "clip-3"), lam_row(noise, "clip-3", "clip-0"))))
    assert noise.labels[0] == "sad"
    torch.testing.assert_close(batch.targets, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))
    # Public code lets the second clip's share overwrite the first's, and draws such a row to a center by what is left.
    rows, centers = torch.randn(2, 4), torch.randn(3, 4)
    expected = (rows - centers[0]).square().sum(dim=1).mean()
    torch.testing.assert_close(center_loss(rows, batch.targets, centers), expected)


def test_padding_is_not_mixed_in_as_signal(noise):
    mixture, longer = lam_row(noise, "clip-0", "clip-1"), PlannedClip(Window("clip-2", 0, 9000))
    batch = make_batch(noise, PlannedBatch((mixture, longer)))
    first, second = (torch.from_numpy(noise.waveform(name).copy()) for name in ("clip-0", "clip-1"))
    torch.testing.assert_close(batch.waveforms[0, :3000], 0.5 * first + 0.5 * second[:3000])
    torch.testing.assert_close(batch.waveforms[0, 3000:4000], 0.5 * second[3000:])
    assert not batch.waveforms[0, 4000:].any()
    assert batch.lengths.tolist() == [4000, 9000]
    # The labels follow the lengths of the clips, not of what they are padded to.
    torch.testing.assert_close(batch.targets[0], torch.tensor([3000 / 7000, 4000 / 7000, 0]))


def test_a_mixture_gives_in_a_padded_batch_what_it_gives_alone(noise, tmp_path):
    encoder = save_tiny_speech_encoder(tmp_path / "hubert", "hubert")
    model = build_model(load_recipe("lam", ["encoder.layers=2"], {"encoder.name": str(encoder)}), 3).eval()
    mixture, longer = lam_row(noise, "clip-0", "clip-1"), PlannedClip(Window("clip-2", 0, 9000))
    together, alone = (make_batch(noise, PlannedBatch(rows)) for rows in ((mixture, longer), (mixture,)))
    logits = model(together.waveforms, together.lengths).logits[0]
    torch.testing.assert_close(logits, model(alone.waveforms, alone.lengths).logits[0], atol=1e-5, rtol=1e-4)


def test_the_weights_of_the_best_epoch_are_the_ones_tested(ser, tones, monkeypatch):
    judged = [0.3, 0.9, 0.5, 0.4]
    original = _FoldTraining._judge

    def judge(self):
        scores, nats = original(self)
        return replace(scores, ua=judged[self.progress.epoch - 1]), nats

    monkeypatch.setattr(_FoldTraining, "_judge", judge)
    command = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY]
    command += ["--set", "optimizer.schedule=exponential"]  # its rates do not look at the number of epochs
    for epochs in (4, 2, 1):
        assert ser(*command, "--epochs", epochs, "--output", f"of-{epochs}").exit_code == 0
    facts, weights, predicted = [], [], []
    for epochs in (4, 2, 1):
        fold = Path(f"of-{epochs}/fold-1")
        facts.append(json.loads((fold / "done.json").read_text())["epoch"])
        weights.append(safetensors.torch.load_file(fold / "model.safetensors"))
        predicted.append((fold / "predictions.csv").read_text())
    assert facts == [2, 2, 1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert predicted[0] == predicted[1] != predicted[2]


def test_a_share_of_clips_that_chooses_the_epoch_is_said_and_recorded(ser, tones):
    command = ["train", "--manifest", tones, "--folds", 2, *TINY, "--epochs", 1, "--output", "run"]
    result = ser(*command, "--set", "selection.validation_share=0.2")
    assert result.exit_code == 0, result.stderr
    rows = read_csv(Path("run/folds.csv"))
    for fold in "12":
        held = [row for row in rows if row["fold"] == fold and row["side"] == "validation"]
        trained = {row["speaker"] for row in rows if row["fold"] == fold and row["side"] == "train"}
        assert Counter(row["emotion"] for row in held) == {"angry": 2, "happy": 2, "sad": 2}  # of 9 each
        assert {row["speaker"] for row in held} <= trained
    evaluated = ser("evaluate", "run", "--json")
    assert json.loads(evaluated.stdout)["selected_by"] == "validation_clips"
    assert "of speakers who are heard in training too, which flatters the choice of the epoch" in evaluated.stderr
    told = " ".join(Path("run/report.md").read_text().split())
    assert "chosen on clips held out of its training side" in told
    assert "validation clips are of speakers heard in training, which flatters the choice of the epoch" in told
    other = ser(*command, "--set", "selection.validation_share=0.3", "--resume-anyway")
    assert other.exit_code == 1
    assert "folds_hash" in other.stderr


@pytest.mark.slow
def test_the_recipe_trains_resumes_to_the_same_bits_and_evaluates(ser, tones, tmp_path, monkeypatch):
    encoder = save_tiny_speech_encoder(tmp_path / "hubert", "hubert", num_hidden_layers=3)
    command = ["train", "--manifest", tones, "--folds", 2, "--recipe", "lam", "--encoder", encoder, "--epochs", 3]
    command += ["--device", "cpu", "--batch-size", 6, "--set", "encoder.layers=2"]
    assert ser(*command, "--output", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert ser(*command, "--output", "run").exit_code == 143
    result = ser(*command, "--output", "run")
    assert "goes on from its checkpoint" in result.stderr
    assert results("run") == results("whole")
    weights = safetensors.torch.load_file("run/fold-1/model.safetensors")
    assert weights["head.hidden.weight"].shape == (64, 16)
    published = safetensors.torch.load_file(encoder / "model.safetensors")
    prefix = "encoder.model."
    unchanged = {name for name, value in published.items() if torch.equal(weights.get(prefix + name, value[:0]), value)}
    convolutions = {name for name in published if name.startswith("feature_extractor.")}
    dropped = {name for name in published if name.startswith("encoder.layers.2.")}
    assert convolutions
    assert convolutions <= unchanged
    assert dropped
    assert not any(prefix + name in weights for name in dropped)
    assert not any(name.startswith("encoder.layers.") for name in unchanged)
    history = read_csv(Path("run/fold-2/history.csv"))
    assert {"kl", "center"} <= set(history[0])
    assert not {"focal", "supcon"} & set(history[0])
    scores = json.loads(ser("evaluate", "run", "--json").stdout)
    assert [fold["n"] for fold in scores["folds"]] == [27, 27]
    assert scores["selected_by"] == "validation_clips"
