"""Recipes that read transcripts: `server` and `3m-ser` from the command line, on networks of random weights."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ser_cli.ablation.grids import load_grid
from ser_cli.checkpoints import load_model
from ser_cli.data.manifest import Utterance, hash_with_texts
from ser_cli.data.store import open_corpus
from ser_cli.losses import LOSS_NAMES
from ser_cli.models.fusion import FUSIONS
from ser_cli.models.pooling import POOLINGS
from ser_cli.recipe import load_recipe
from ser_cli.recipe_settings import OptimizerSettings
from ser_cli.training.cross_validation import plan_cross_validation
from ser_cli.training.optimization import learning_rate_factor
from tests.conftest import TINY, write_tone
from tests.models.tiny_text import make_vggish_small, save_tiny_bert, save_tiny_vggish
from tests.running import read_csv, results, run_process, stop_after, torchrun, train_wavlm

RECIPES = ("server", "3m-ser")


@pytest.fixture
def networks(tmp_path, monkeypatch) -> list[str]:
    """The options that name a tiny BERT and a tiny VGGish."""
    make_vggish_small(monkeypatch)
    bert = save_tiny_bert(tmp_path / "networks" / "bert")
    weights = save_tiny_vggish(tmp_path / "networks" / "vggish.safetensors")
    return ["--set", f"encoder.weights={weights}", "--set", f"text.encoder={bert}", "--set", "text.max_tokens=20"]


def train(manifest: Path, networks: list[str], *options: object, recipe: str = "server") -> list[object]:
    arguments = ["train", "--manifest", manifest, "--folds", 2, "--recipe", recipe, *networks, "--device", "cpu"]
    return [*arguments, "--epochs", 2, "--batch-size", 6, *options]


def rewrite_texts(ser, manifest: Path, text_of) -> None:
    """Give each row of a manifest another transcript, and prepare it."""
    rows = read_csv(manifest)
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "text": text_of(row)} for row in rows)
    prepared = ser("prepare", "--manifest", manifest, "--force")
    assert prepared.exit_code == 0, prepared.stderr


@pytest.mark.parametrize("recipe", [pytest.param("server", marks=pytest.mark.slow), "3m-ser"])
def test_a_stopped_run_ends_as_the_whole_one_and_its_model_needs_no_other_file(
    ser, tones, networks, monkeypatch, tmp_path, recipe
):
    # Trained, BERT draws dropout.
    arguments = train(tones, networks, "--set", f"text.frozen={str(recipe == 'server').lower()}", recipe=recipe)
    assert ser(*arguments, "--output", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert ser(*arguments, "--output", "run").exit_code == 143
    resumed = ser(*arguments, "--output", "run")
    assert "goes on from its checkpoint" in resumed.stderr
    assert results("run") == results("whole")

    shutil.rmtree(tmp_path / "networks")
    scores = json.loads(ser("evaluate", "run", "--json", "--no-figures").stdout)
    assert {"wa", "ua"} <= scores["mean"].keys()
    predictions = {row["id"]: row for row in read_csv(Path("run/fold-1/predictions.csv"))}
    corpus = {Path(row["path"]).with_suffix("").as_posix(): row for row in read_csv(tones)}
    tested = [name for name in corpus if name in predictions]
    assert len(tested) == len(predictions)
    with Path("texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        writer.writerows([tones.parent / corpus[name]["path"], corpus[name]["text"]] for name in tested)
    found = ser(
        "predict",
        *("--model", "run", "--fold", 1, "--texts", "texts.csv", "--json", "--device", "cpu"),
        *(tones.parent / corpus[name]["path"] for name in tested),
    )
    assert found.exit_code == 0, found.stderr
    for name, line in zip(tested, found.stdout.splitlines(), strict=True):
        for label, value in json.loads(line)["probabilities"].items():
            assert value == pytest.approx(float(predictions[name][f"probability_{label}"]), abs=1e-4)


@pytest.mark.parametrize(("recipe", "width"), [("server", 32), ("3m-ser", 16)])
def test_a_fold_trains_and_its_losses_read_the_fused_feature(ser, tones, networks, recipe, width):
    result = ser(*train(tones, networks, "--fold", 1, "--epochs", 1, recipe=recipe), "--output", "run")
    assert result.exit_code == 0, result.stderr
    model = load_model(Path("run/fold-1")).model
    assert model.head.classifier_input_dim == width
    loss = "center" if recipe == "server" else "contrastive_center"
    assert float(read_csv(Path("run/fold-1/history.csv"))[0][loss]) > 0
    assert "LOAD REPORT" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_said_alone_can_tell_the_emotion(ser, tones, networks, recipe):
    # Every clip sounds alike: what the text says is all that there is to learn from.
    for seed, path in enumerate(sorted(tones.parent.rglob("*.wav"))):
        write_tone(path, 500, seed=seed)
    words = {"angry": "no", "happy": "yes", "sad": "never"}
    rewrite_texts(ser, tones, lambda row: words[row["emotion"]])
    options = ["--set", "optimizer.learning_rate=1e-2", "--set", "pooling.dropout=0", "--select", "last"]
    options += ["--fold", 1, "--output", "run"]
    assert ser(*train(tones, networks, *options, recipe=recipe), "--epochs", 20).exit_code == 0
    rows = read_csv(Path("run/fold-1/predictions.csv"))
    assert sum(row["truth"] == row["predicted"] for row in rows) / len(rows) > 0.9


def test_the_transcripts_decide_the_identity_of_a_run_that_reads_them_and_of_no_other(ser, tones, home):
    found = []
    for text in ("always", "always", "never"):
        rewrite_texts(ser, tones, lambda row, text=text: text)
        corpus = open_corpus(home / "corpora" / "tones")
        plans = [plan_cross_validation(corpus, load_recipe(name), name, folds=2) for name in ("conformer", "server")]
        found.append([plan.identity.manifest_hash for plan in plans])
        assert found[-1][0] == corpus.preparation.manifest_hash
    assert found[0] == found[1]
    assert found[0][0] == found[2][0]
    assert found[0][1] != found[2][1]


def test_a_hash_with_texts_tells_which_clip_says_what():
    def hashed(*texts: str) -> str:
        return hash_with_texts("abc", [Utterance(str(k), "", "sad", "p", text=text) for k, text in enumerate(texts)])

    assert len({hashed("a", "b"), hashed("b", "a"), hashed("ab", ""), hashed("", "ab"), hashed("a", "c")}) == 5


def test_a_corpus_without_transcripts_is_refused_with_how_many_lack_one(ser, tones, networks):
    rewrite_texts(ser, tones, lambda row: "" if row["speaker"] == "p1" else row["text"])
    some = ser(*train(tones, networks, "--output", "run"))
    assert some.exit_code == 1
    assert "tones: 9 of 54 clips have no transcript (column text of the manifest), such as p1/" in some.stderr
    assert "--where 'text!='" in some.stderr
    assert "# fold 1" in ser(*train(tones, networks, "--where", "text!=", "--dry-run")).stdout
    rewrite_texts(ser, tones, lambda row: "")
    none = ser(*train(tones, networks, "--output", "run"))
    assert none.exit_code == 1
    assert "tones: no clip has a transcript (column text of the manifest)" in none.stderr
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["mixup.method=eam"], "mixup.method eam lays two voices over each other"),
        (["encoder.layers=2"], "layers: for the transformer layers of a pre-trained encoder, and vggish has none"),
        (["encoder.fusion=weighted_sum"], "fusion: for the transformer layers"),
        (["encoder.checkpoint_activations=true"], "checkpoint_activations: for the transformer layers"),
        (["encoder.projection_dropout=0.4"], "projection_dropout: for the transformer layers"),
        (["head.name=branches", "tasks.characters=true"], "tasks.characters tells a character or none in each frame"),
        (["training.compile=true"], "training.compile is for the layers of a pre-trained encoder such as WavLM"),
        (
            ["encoder.name=conformer", "encoder.weights=x.npz"],
            "weights names a file of vggish's, and name is conformer",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_with_the_reason(ser, tones, changes, told):
    sets = [part for change in changes for part in ("--set", change)]
    refused = ser("train", "--manifest", tones, "--recipe", "server", *sets)
    assert refused.exit_code == 2
    assert told in refused.stderr


def test_vggish_without_a_file_is_refused_before_anything_is_written(ser, tones, networks):
    refused = ser(*train(tones, [*networks, "--set", "encoder.weights="], "--output", "run"))
    assert refused.exit_code == 1
    assert "encoder.weights names no file" in refused.stderr
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("", "encoder.weights names no file"),
        ("none.safetensors", "encoder.weights none.safetensors: no such file"),
        ("vggish.pth", "encoder.weights vggish.pth is a pickle"),
        ("vggish.h5", "expected a file that ends in .safetensors or .npz"),
    ],
)
def test_a_dry_run_refuses_weights_that_the_run_would_refuse(ser, tones, networks, weights, told):
    ser("prepare", "--manifest", tones)
    options = train(tones, [*networks, "--set", f"encoder.weights={weights}"], "--output", "out")[1:]
    for command_ in (["train"], ["train", "--dry-run"], ["ablate", "--grid", "server-losses", "--dry-run"]):
        refused = ser(*command_, *options)
        assert refused.exit_code == 1, command_
        assert told in refused.stderr
        assert not Path("out").exists()
    whole = ser("ablate", "--grid", "server-losses", *train(tones, networks)[1:], "--dry-run")
    assert whole.exit_code == 0, whole.stderr
    assert whole.stdout.count("0 of 1 seed done") == len(load_grid("server-losses").cells)


def test_a_run_that_is_done_needs_its_weights_no_more(ser, tones, networks):
    arguments = train(tones, networks, "--fold", 1, "--output", "run", "--epochs", 1)
    assert ser(*arguments).exit_code == 0
    Path(networks[1].partition("=")[2]).unlink()
    assert ser(*arguments, "--dry-run").exit_code == 0
    assert ser(*arguments).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["convolutions", "everything"])
def test_parts_of_vggish_that_are_frozen_keep_their_weights(ser, tones, networks, frozen):
    weights = networks[1].partition("=")[2]
    options = ["--fold", 1, "--output", "run", "--set", f"encoder.frozen={frozen}"]
    assert ser(*train(tones, networks, *options)).exit_code == 0
    before, after = safetensors.torch.load_file(weights), load_model(Path("run/fold-1")).model.encoder.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"embeddings"} if frozen == "convolutions" else set())


@pytest.mark.slow
def test_the_built_in_encoder_reads_texts_too(ser, tones, networks):
    options = [
        *networks[2:],
        "--set",
        "text.fusion=attention",
        "--set",
        "mixup.method=none",
        "--set",
        "pooling.heads=4",
    ]
    arguments = ["train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, *options, "--output", "run"]
    assert ser(*arguments, "--epochs", 1, "--embeddings").exit_code == 0
    assert Path("run/fold-1/embeddings.npz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_any_pooling_and_all_losses_go_with_texts(ser, tones, networks, recipe, pooling):
    options = [option for name in LOSS_NAMES for option in ("--set", f"losses.{name}=1")]
    options += ["--set", f"pooling.name={pooling}", "--set", "pooling.heads=4", "--set", "losses.weighting=auto"]
    result = ser(*train(tones, networks, *options, "--fold", 1, "--output", "run", recipe=recipe), "--embeddings")
    assert result.exit_code == 0, result.stderr
    assert all(float(row[name]) > 0 for row in read_csv(Path("run/fold-1/history.csv")) for name in LOSS_NAMES)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_processes_that_read_learn_what_one_does(tones, still_wavlm, tmp_path, fusion):
    bert = save_tiny_bert(tmp_path / "bert")
    changes = [f"text.encoder={bert}", "text.frozen=true", "text.max_tokens=20", f"text.fusion={fusion}"]
    options = [part for change in [*changes, "text.heads=4", "mixup.method=none"] for part in ("--set", change)]
    run_process([sys.executable, "-m", "ser_cli", *train_wavlm(tones, still_wavlm, "--output", "alone", *options)])
    run_process(torchrun(*train_wavlm(tones, still_wavlm, "--output", "shared", *options)))
    one, two = (read_csv(Path(f"{name}/fold-1/history.csv")) for name in ("alone", "shared"))
    assert len(one) == 2
    for row, other in zip(one, two, strict=True):
        for loss in ("total", "kl", "focal", "center", "supcon"):
            assert float(other[loss]) == pytest.approx(float(row[loss]), rel=1e-5, abs=2e-6), loss


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_branches_of_other_tasks_go_with_texts(ser, tones, networks, recipe):
    tasks = ["head.name=branches", "tasks.gender=true", "tasks.speaker=true", "tasks.fusion=co_attention"]
    options = [part for change in tasks for part in ("--set", change)]
    result = ser(*train(tones, networks, *options, "--fold", 1, "--output", "run", recipe=recipe))
    assert result.exit_code == 0, result.stderr
    assert load_model(Path("run/fold-1")).model.head.classifier_input_dim > 0


@pytest.fixture
def reader(ser, tones, networks) -> Path:
    """The folder of a fold whose model reads texts."""
    assert ser(*train(tones, networks, "--fold", 1, "--output", "run"), "--epochs", 1).exit_code == 0
    return Path("run/fold-1")


def test_predicting_with_a_model_that_reads_asks_for_texts_and_names_those_that_lack(ser, tones, reader):
    clips = [str(tones.parent / f"p1/{emotion}-0.wav") for emotion in ("angry", "sad")]
    without = ser("predict", "--model", reader, *clips)
    assert without.exit_code == 2
    assert (
        "a recording brings no transcript\n  give them as CSV with columns path and text: --texts FILE"
        in without.stderr
    )
    Path("texts.csv").write_text(f"path,text\n{clips[0]},take 1\n")
    some = ser("predict", "--model", reader, "--texts", "texts.csv", *clips)
    assert some.exit_code == 1
    first, second = (line.split("\t") for line in some.stdout.splitlines())
    assert first[1] in ("angry", "happy", "sad")
    assert second[1:] == ["error", "has no text in texts.csv, and the model reads one"]
    Path("texts.csv").write_text("file,words\n")
    wrong = ser("predict", "--model", reader, "--texts", "texts.csv", *clips)
    assert wrong.exit_code == 2
    assert "--texts texts.csv: no column path, text; found: file, words" in wrong.stderr
    missing = ser("predict", "--model", reader, "--texts", "none.csv", *clips)
    assert missing.exit_code == 2
    assert "--texts none.csv: cannot be read" in missing.stderr


def test_each_window_of_a_recording_is_read_with_its_whole_text(ser, tones, reader):
    clip = str(tones.parent / "p1/sad-0.wav")
    for text in ("take 1", "never"):
        Path(f"{text}.csv").write_text(f"path,text\n{clip},{text}\n")
    said = {
        text: ser("predict", "--model", reader, "--texts", f"{text}.csv", "--window", 0.1, "--json", clip)
        for text in ("take 1", "never")
    }
    windows = {text: [json.loads(line) for line in result.stdout.splitlines()] for text, result in said.items()}
    assert len(windows["take 1"]) == len(windows["never"]) >= 3
    for one, other in zip(windows["take 1"], windows["never"], strict=True):
        assert one["start_s"] == other["start_s"]
        assert one["probabilities"] != other["probabilities"]


def test_a_model_that_reads_and_hears_clips_against_their_speakers_says_what_its_run_said(ser, tones, networks):
    trained = ser(*train(tones, networks, "--fold", 1, "--normalize", "speaker", "--output", "run", recipe="3m-ser"))
    assert trained.exit_code == 0, trained.stderr
    texts = {row["path"]: row["text"] for row in read_csv(tones)}
    table = "".join(f"{tones.parent / path},{text}\n" for path, text in texts.items())
    Path("texts.csv").write_text(f"path,text\n{table}")
    said = ser("predict", "--model", "run/fold-1", "--speakers", tones, "--texts", "texts.csv", "--json", tones.parent)
    assert said.exit_code == 0, said.stderr
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    told = {Path(row["path"]).relative_to(tones.parent).with_suffix("").as_posix(): row for row in rows}
    stored = read_csv(Path("run/fold-1/predictions.csv"))
    assert len(stored) >= 18
    for row in stored:
        for label, probability in told[row["id"]]["probabilities"].items():
            assert probability == pytest.approx(float(row[f"probability_{label}"]), abs=1e-4)


def test_a_list_of_answers_is_not_gone_on_with_under_other_texts(ser, tones, reader):
    clip = str(tones.parent / "p1/sad-0.wav")
    for text, code in (("take 1", 0), ("take 1", 0), ("never", 1)):
        Path("texts.csv").write_text(f"path,text\n{clip},{text}\n")
        result = ser("predict", "--model", reader, "--texts", "texts.csv", "--output", "answers.tsv", clip)
        assert result.exit_code == code, result.stderr
    assert "answers.tsv was made otherwise: texts" in result.stderr


def test_a_model_that_reads_is_not_written_as_onnx(ser, reader):
    refused = ser("predict", "--model", reader, "--export", "onnx", "--output", "model.onnx")
    assert refused.exit_code == 1
    assert "this model reads a transcript beside each recording" in refused.stderr
    assert not Path("model.onnx").exists()


def test_vggish_alone_trains_takes_no_texts_and_is_not_written_as_onnx(ser, tones, networks):
    hears = [*networks[:2], "--set", "text.encoder="]
    assert ser(*train(tones, hears, "--fold", 1, "--output", "run"), "--epochs", 1).exit_code == 0
    Path("texts.csv").write_text("path,text\nx.wav,take 1\n")
    given = ser("predict", "--model", "run/fold-1", "--texts", "texts.csv", "x.wav")
    assert given.exit_code == 2
    assert "--texts texts.csv: the model run/fold-1 hears alone and reads no text" in given.stderr
    export = ser("predict", "--model", "run/fold-1", "--export", "onnx", "--output", "model.onnx")
    assert export.exit_code == 1
    assert "VGGish makes a batch of as many patches as its recordings hold" in export.stderr


def test_another_corpus_without_transcripts_is_refused_in_evaluation(ser, tones, reader):
    rewrite_texts(ser, tones, lambda row: "")
    refused = ser("evaluate", reader, "--manifest", tones, "--output", "report")
    assert refused.exit_code == 1
    assert "no clip has a transcript" in refused.stderr


def test_the_learning_rate_falls_in_steps():
    settings = OptimizerSettings(schedule="step", decay=0.1, step_epochs=30)
    expected = {0: 1.0, 0.5: 1.0, 29: 1.0, 29.99: 1.0, 30: 0.1, 45.3: 0.1, 59.9: 0.1, 60: 0.01, 249: 1e-8}
    for epochs_done, factor in expected.items():
        assert learning_rate_factor(epochs_done, 250, settings) == pytest.approx(factor)


@pytest.mark.parametrize("warmup_epochs", [0.001, 0.005, 0.02, 1.0])
def test_no_warming_up_starts_above_the_learning_rate(warmup_epochs):
    settings = OptimizerSettings(schedule="cosine", warmup_epochs=warmup_epochs)
    factors = [learning_rate_factor(step / 100, 5, settings) for step in range(500)]
    assert 0 < factors[0] <= max(factors) <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_hold_what_the_paper_prints(name):
    recipe = load_recipe(name)
    assert (recipe.training.epochs, recipe.optimizer.learning_rate) == (250, 1e-4)
    assert (recipe.optimizer.schedule, recipe.optimizer.decay, recipe.optimizer.step_epochs) == ("step", 0.1, 30)
    assert recipe.text.fusion == {"server": "concatenate", "3m-ser": "attention"}[name]
    assert recipe.losses.contrastive_center_theta == 1.0
    assert recipe.losses.center_reads == "classifier_input"
    assert recipe.head.hidden_dim == 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_the_best_row_of_its_grid(name):
    grid = load_grid(f"{name}-losses")
    best = max(grid.cells, key=lambda cell: float(cell.paper["ua"]))
    assert best.recipe.hash == load_recipe(name).hash
