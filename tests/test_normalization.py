"""`--normalize speaker`: how clips are heard against others of their speaker, and that every report says so."""

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_cli.checkpoints import load_model
from ser_cli.data.folds import Fold
from ser_cli.data.store import open_corpus
from ser_cli.home import corpus_folder
from ser_cli.inference import classify_stored, speaker_offsets
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.training.embedding import embed_fold
from tests.conftest import TINY, TINY_CELLS, TONES_HZ, write_tone
from tests.data.stored import stored_corpus
from tests.models.tiny import tiny_conformer
from tests.running import results, run_process, stop_after, torchrun
from tests.runs_on_disk import some_rows, write_run

SAID = (
    "Normalised by speaker: from each clip's embedding the mean over all clips of its speaker is taken, for tested"
    " speakers over their own unlabelled clips."
)
LENGTHS = {"a": 16_001, "b": 4_000, "c": 6_400, "d": 9_000, "e": 3_300, "f": 5_000}
WHO = {"a": "p0", "b": "p1", "c": "p0", "d": "unknown", "e": "p1", "f": "unknown"}
WINDOWS = {"a": (0, 5333, 10667, 16001), "d": (0, 4500, 9000)}
"""Of at most 0.4 s."""


@pytest.fixture
def corpus(tmp_path: Path):
    made = stored_corpus(tmp_path / "noise", LENGTHS)
    return replace(made, utterances=tuple(replace(u, speaker=WHO[u.id]) for u in made.utterances))


@pytest.fixture
def model() -> EmotionClassifier:
    torch.manual_seed(3)
    made = EmotionClassifier(tiny_conformer(), 3, pooling_heads=4, projection_dim=8, normalize_by_speaker=True)
    made.speakers.center.normal_()
    return made.eval()


def embedding(model, wave: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.embed(torch.from_numpy(wave.copy())[None], torch.tensor([len(wave)]))[0].double()


def embedding_of_windows(model, corpus, identity: str) -> torch.Tensor:
    """The mean over the windows of a clip, weighted by their lengths."""
    wave, edges = corpus.waveform(identity), WINDOWS.get(identity, (0, LENGTHS[identity]))
    parts = [wave[start:stop] for start, stop in pairwise(edges)]
    return sum(len(part) * embedding(model, part) for part in parts) / len(wave)


def test_what_is_subtracted_is_over_all_clips_of_the_speaker_also_those_that_are_not_asked_for(model, corpus):
    found = speaker_offsets(model, corpus, ["a", "b", "d"], 2, max_clip_s=0.4)
    center = model.speakers.center.double()
    f = {identity: embedding_of_windows(model, corpus, identity) for identity in LENGTHS}
    expected = [(f["a"] + f["c"] + center) / 3, (f["b"] + f["e"] + center) / 3, (f["d"] + center) / 2]
    torch.testing.assert_close(found.of(["a", "b", "d"]).double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_clips_of_unknown_speakers_are_alone_of_their_own(model, corpus):
    found = speaker_offsets(model, corpus, ["d", "f"], 16)
    center = model.speakers.center.double()
    expected = [(embedding(model, corpus.waveform(identity)) + center) / 2 for identity in ("d", "f")]
    torch.testing.assert_close(found.of(["d", "f"]).double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_mixtures_are_heard_only_where_a_speaker_has_nothing_else(model, corpus):
    mixed = {"source_a": "a", "source_b": "b"}
    changed = tuple(replace(u, extra=tuple(mixed.items())) if u.id in ("c", "b", "e") else u for u in corpus.utterances)
    found = speaker_offsets(model, replace(corpus, utterances=changed), ["a", "b", "c"], 16)
    center = model.speakers.center.double()
    f = {identity: embedding(model, corpus.waveform(identity)) for identity in "abe"}
    expected = [(f["a"] + center) / 2, (f["b"] + f["e"] + center) / 3, (f["a"] + center) / 2]
    torch.testing.assert_close(found.of(["a", "b", "c"]).double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_probabilities_are_those_of_what_is_left_whatever_the_batches_and_the_labels(model, corpus):
    found = classify_stored(model, corpus, list(LENGTHS), 4)
    center = model.speakers.center.double()
    f = {identity: embedding(model, corpus.waveform(identity)) for identity in LENGTHS}
    offset = {"a": (f["a"] + f["c"] + center) / 3, "f": (f["f"] + center) / 2}
    for identity, row in offset.items():
        layer = model.head.classifier
        logits = (f[identity] - row) @ layer.weight.double().T + layer.bias.double()
        expected = logits.softmax(dim=0).detach().numpy()
        np.testing.assert_allclose(found[list(LENGTHS).index(identity)], expected, atol=1e-5)
    others = replace(corpus, utterances=tuple(replace(u, emotion="sad") for u in corpus.utterances))
    np.testing.assert_array_equal(classify_stored(model, others, list(LENGTHS), 4), found)
    np.testing.assert_allclose(classify_stored(model, corpus, ["c", "a"], 1)[1], found[0], atol=1e-6)


def test_the_stored_embedding_is_what_is_left(model, corpus):
    found = embed_fold(model, corpus, Fold(1, train=("a", "c"), validation=(), test=("b",)), 4)
    f = {identity: embedding(model, corpus.waveform(identity)) for identity in "be"}
    expected = f["b"] - (f["b"] + f["e"] + model.speakers.center.double()) / 3
    np.testing.assert_allclose(found.embedding[found.ids.index("b")], expected.numpy(), atol=1e-5)


def test_frames_stand_where_the_sound_is_and_not_in_the_silence_around_it(corpus):
    torch.manual_seed(0)
    encoder = tiny_conformer()
    encoder.log_mel.trim_db = 40.0
    heard = EmotionClassifier(encoder, 3, pooling_heads=4, projection_dim=8).eval()
    second, sound = np.zeros(16_000, np.float32), corpus.waveform("c")
    quiet = np.concatenate([second, sound, second])
    times = {}
    for wave in (quiet, sound):
        wrapped = _OneClip(corpus, "c", wave)
        times[len(wave)] = embed_fold(heard, wrapped, Fold(1, ("a",), (), ("c",)), 4).attention["c"]
    around = times[len(quiet)]
    assert 1 - 0.05 < around.times_s[0] < around.times_s[-1] < 1 + len(sound) / 16_000 + 0.05
    assert around.duration_s == pytest.approx(len(quiet) / 16_000)
    margin_s = 3 * 0.0125  # two blocks of one hop on both sides, and most of the first one that holds some sound
    assert np.ptp(around.times_s) == pytest.approx(np.ptp(times[len(sound)].times_s), abs=2 * margin_s + 0.0125)


class _OneClip:
    """A corpus of which one clip sounds otherwise."""

    def __init__(self, corpus, identity: str, wave: np.ndarray) -> None:
        self._corpus, self._identity, self._wave = corpus, identity, wave

    def __getattr__(self, name: str):
        return getattr(self._corpus, name)

    def waveform(self, identity: str) -> np.ndarray:
        return self._wave if identity == self._identity else self._corpus.waveform(identity)

    def length(self, identity: str) -> int:
        return len(self.waveform(identity))


def command(manifest: Path, *more: object) -> tuple[object, ...]:
    return ("train", "--manifest", manifest, "--folds", 2, *TINY, "--normalize", "speaker", "--batch-size", 8, *more)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Tones, 0.1 s to 0.6 s, of four speakers and of two who have one clip each."""
    folder = tmp_path / "few"
    folder.mkdir()
    rows = [("path", "emotion", "speaker")]
    clips = [(f"p{speaker}", emotion, 0.2 + 0.1 * speaker) for speaker in range(4) for emotion in TONES_HZ]
    clips += [("once", "sad", 0.2), ("twice-no", "happy", 0.1)]
    for number, (speaker, emotion, duration_s) in enumerate(clips):
        name = f"{number}.wav"
        write_tone(folder / name, TONES_HZ[emotion], duration_s, seed=number)
        rows.append((name, emotion, speaker))
    path = folder / "few.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_study_says_it_with_the_scores_of_each_fold(ser, few):
    cells = "".join(f'[[cells]]\nname = "{name}"\nchanges.pooling.name = "{name}"\n' for name in ("mean", "max"))
    Path("poolings.toml").write_text(f'title = "two"\nrecipe = "conformer"\nreference = "mean"\n{cells}')
    options = ("--folds", 2, "--fold", 1, *TINY_CELLS, "--batch-size", 8)
    changes = ("--set", "normalization.by=speaker", "--set", "selection.by=last")
    grid = ("--grid", "poolings.toml", "--cells", "max", "--output", "study")
    done = ser("ablate", "--manifest", few, *options, *grid, *changes)
    assert done.exit_code == 0, done.stderr
    assert "cell 2 (max), seed 0: fold 1/2 tested with epoch 2, normalised by speaker: WA" in done.stderr


def test_a_run_says_in_every_report_that_clips_are_normalised_by_speaker(ser, few):
    done = ser(*command(few, "--epochs", 1, "--select", "last", "--output", "run"))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "run\n"
    assert done.stderr.count(SAID) == 1
    assert "mean over 2 folds, normalised by speaker: WA" in done.stderr
    lone = "2 tested speakers have one clip; it is then heard half way against the mean of training."
    assert done.stderr.count(lone) == 1
    for fold in (1, 2):
        assert f"fold {fold}/2 tested with epoch 1, normalised by speaker: WA" in done.stderr
        assert json.loads(Path(f"run/fold-{fold}/done.json").read_text())["normalized_by"] == "speaker"
        told = json.loads(Path(f"run/fold-{fold}/model.json").read_text())
        assert told["preprocessing"]["normalization"]["by"] == "speaker"
    evaluated = ser("evaluate", "run", "--json")
    assert evaluated.stderr.count(SAID) == evaluated.stderr.count(lone) == 1
    found = json.loads(evaluated.stdout)
    assert (found["normalized_by"], found["speakers_with_one_clip"]) == ("speaker", 2)
    written = json.loads(Path("run/scores.json").read_text())
    assert (written["normalized_by"], written["speakers_with_one_clip"]) == ("speaker", 2)
    for name in ("report.md", "report.html"):
        text = Path(f"run/{name}").read_text().replace("&#x27;", "'")
        assert text.count(SAID) == text.count(lone) == 1
    for name in ("scores", "intervals", "recall", "speakers"):
        assert "; normalised by speaker; needs" in Path(f"run/tables/{name}.tex").read_text()
    assert "normalised" not in Path("run/tables/confusion.tex").read_text()
    elsewhere = ser("evaluate", "run", "--manifest", few, "--output", "there", "--json", "--no-figures")
    said = "is taken, here over the speaker's unlabelled clips in few."
    assert said in elsewhere.stderr and lone in elsewhere.stderr
    assert json.loads(elsewhere.stdout)["speakers_with_one_clip"] == 2
    assert json.loads(elsewhere.stdout)["normalized_by"] == "speaker"
    assert said in Path("there/report.md").read_text()


def test_a_run_that_hears_each_clip_on_its_own_says_nothing_of_speakers(ser, tones):
    done = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--epochs", 1, "--output", "run")
    assert done.exit_code == 0
    assert "ormalised by speaker" not in done.stderr
    found = json.loads(ser("evaluate", "run", "--json", "--no-figures").stdout)
    assert (found["normalized_by"], found["speakers_with_one_clip"]) == ("clip", 0)
    assert "ormalised" not in Path("run/report.md").read_text()
    told = json.loads(Path("run/fold-1/model.json").read_text())
    assert told["preprocessing"]["normalization"] == {"by": "clip"}


def test_a_run_of_an_earlier_version_tells_it_by_its_models(ser, tmp_path):
    run = write_run(tmp_path / "run", [some_rows(["a"]), some_rows(["b"])])
    ask = ("evaluate", run, "--json", "--no-figures")
    assert json.loads(ser(*ask).stdout)["normalized_by"] == "clip"
    (run / "fold-2/model.json").write_text(json.dumps({"recipe": {"normalization": {"by": "speaker"}}}))
    assert json.loads(ser(*ask).stdout)["normalized_by"] == "speaker"
    (run / "fold-2/done.json").write_text('{"epoch": 1, "selected_by": "last", "normalized_by": "voice"}')
    damaged = ser("evaluate", run)
    assert damaged.exit_code == 1
    assert "normalized_by is none of clip, speaker" in damaged.stderr


def write_two_runs(folder: Path, *by: str) -> list[Path]:
    runs = []
    for name, how in zip(("first", "second"), by, strict=True):
        run = write_run(folder / name, [some_rows(["a"], ["a-sad-0"]), some_rows(["b"])])
        for done in run.glob("fold-*/done.json"):
            done.write_text(json.dumps({"epoch": 1, "selected_by": "last", "normalized_by": how}))
        runs.append(run)
    return runs


def test_a_comparison_says_loudly_that_one_run_knows_more(ser, tmp_path):
    runs = write_two_runs(tmp_path, "clip", "speaker")
    compared = ser("evaluate", *runs, "--output", "report", "--no-figures")
    assert compared.exit_code == 0, compared.stderr
    said = (
        "second is normalised by speaker and first is not: it hears each tested clip against all unlabelled clips of"
        " its speaker, the other hears each clip on its own. They do not have the same information, so the difference"
        " is no merit of the model alone."
    )
    assert said in compared.stderr
    assert f"**{said}**" in Path("report/report.md").read_text()
    told = json.loads(Path("report/scores.json").read_text())["runs"]
    assert [run["normalized_by"] for run in told] == ["clip", "speaker"]


def test_a_comparison_of_two_runs_that_know_the_same_says_it_once(ser, tmp_path):
    compared = ser("evaluate", *write_two_runs(tmp_path, "speaker", "speaker"))
    assert compared.stderr.count(SAID) == 1
    assert "same information" not in compared.stderr


@pytest.mark.parametrize("steps", [1, 3])
def test_a_stopped_run_ends_as_if_nothing_had_happened(ser, tones, monkeypatch, steps):
    assert ser(*command(tones, "--fold", 1, "--output", "whole")).exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert ser(*command(tones, "--fold", 1, "--output", "run")).exit_code == 143
    resumed = ser(*command(tones, "--fold", 1, "--output", "run"))
    assert "goes on from its checkpoint" in resumed.stderr
    assert results("run") == results("whole")


def test_silent_short_long_and_single_clips_get_numbers(model, tmp_path):
    lengths = {"silent": 9_600, "short": 3_200, "long": 300 * 16_000, "single": 16_000, "sounding": 16_000}
    who = {"silent": "q", "short": "q", "long": "l", "single": "s", "sounding": "q"}
    made = stored_corpus(tmp_path / "strange", lengths)
    corpus = replace(made, utterances=tuple(replace(u, speaker=who[u.id]) for u in made.utterances))
    quiet = _OneClip(corpus, "silent", np.zeros(9_600, np.float32))
    quiet.by_id = corpus.by_id
    model.encoder.log_mel.trim_db = 40.0
    found = classify_stored(model, quiet, list(lengths), 4, max_clip_s=15.0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_speakers_of_one_clip_can_be_learnt_and_tested(ser, tmp_path):
    folder = tmp_path / "lone"
    folder.mkdir()
    rows = ["path,emotion,speaker"]
    for number in range(12):
        emotion = sorted(TONES_HZ)[number % 3]
        write_tone(folder / f"{number}.wav", TONES_HZ[emotion], 0.2, seed=number)
        rows.append(f"{number}.wav,{emotion},p{number}")
    (folder / "lone.csv").write_text("\n".join(rows) + "\n")
    done = ser(*command(folder / "lone.csv", "--epochs", 1, "--select", "last", "--output", "run"))
    assert done.exit_code == 0, done.stderr
    assert "12 tested speakers have one clip" in done.stderr
    weights = load_model(Path("run/fold-1")).model.state_dict()
    assert all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


GRID = """
title = "what clips are heard against"
recipe = "conformer"
reference = "clip"
components = [{ title = "normalised", setting = "normalization.by", shown = true }]
[[cells]]
name = "clip"
[[cells]]
name = "speaker"
changes.normalization.by = "speaker"
"""


def studying(tones) -> tuple[object, ...]:
    options = ("--folds", 2, "--fold", 1, *TINY_CELLS, "--epochs", 1, "--grid", "rules.toml")
    return ("ablate", "--manifest", tones, *options)


def test_a_study_says_which_cells_know_more(ser, tones):
    Path("rules.toml").write_text(GRID)
    asked = studying(tones)
    done = ser(*asked, "--output", "study")
    assert done.exit_code == 0, done.stderr
    said = "Cell 2: n" + SAID[1:]
    warned = (
        "Normalised by speaker is cell 2 alone, which hears tested clips against all unlabelled clips of their"
        " speaker. The other cells do not have this information, so a difference to them is no merit of the model"
        " alone."
    )
    text = Path("study/report.md").read_text()
    assert text.count(said) == 1 and f"**{warned}**" in text
    assert said in done.stderr and warned in done.stderr
    for name in ("ablation", "differences"):
        assert "; cell 2 normalised by speaker; needs" in Path(f"study/tables/{name}.tex").read_text()
    cells = json.loads(Path("study/scores.json").read_text())["cells"]
    assert [cell["normalized_by"] for cell in cells] == ["clip", "speaker"]


def test_all_cells_of_a_study_are_normalised_where_that_is_set_for_all(ser, tones):
    Path("rules.toml").write_text(GRID.replace('changes.normalization.by = "speaker"', "changes.mixup.share = 0.25"))
    asked = studying(tones)
    done = ser(*asked, "--set", "normalization.by=speaker", "--cells", 1, "--output", "study")
    assert done.exit_code == 0, done.stderr
    assert Path("study/report.md").read_text().count(SAID) == 1
    assert "this information" not in Path("study/report.md").read_text()
    assert "; normalised by speaker; needs" in Path("study/tables/ablation.tex").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_learn_and_test_by_speaker(tones):
    arguments = torchrun(*map(str, command(tones, "--fold", 1, "--output", "run")))
    run_process(arguments)
    scores = json.loads(Path("run/fold-1/done.json").read_text())
    assert (scores["processes"], scores["normalized_by"]) == (2, "speaker")
    # What both processes heard together is what one of them hears with the stored model.
    trained = load_model(Path("run/fold-1"))
    corpus = open_corpus(corpus_folder("tones"))
    with Path("run/fold-1/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    again = classify_stored(trained.model, corpus, [row["id"] for row in rows], 8)
    told = [[float(row[f"probability_{label}"]) for label in trained.labels] for row in rows]
    np.testing.assert_allclose(again, told, atol=1e-4)


def test_the_second_classifier_learns_in_groups_of_one_speaker_and_is_not_asked_in_the_test(ser, tones):
    options = ("--folds", 2, *TINY, "--fold", 1, "--set", "losses.speaker_relative=1")
    trained = ser("train", "--manifest", tones, *options, "--output", "run")
    assert trained.exit_code == 0, trained.stderr
    with Path("run/fold-1/history.csv").open(newline="") as file:
        values = [float(row["speaker_relative"]) for row in csv.DictReader(file)]
    assert all(0.3 < value < 2.5 for value in values)  # about log 3 before much is learnt
    facts = json.loads(Path("run/fold-1/done.json").read_text())
    assert facts["normalized_by"] == "clip"
    model = load_model(Path("run/fold-1")).model
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    before = model(waveforms, lengths).logits
    with torch.no_grad():
        model.relative.classifier.weight.zero_()
    torch.testing.assert_close(model(waveforms, lengths).logits, before)
