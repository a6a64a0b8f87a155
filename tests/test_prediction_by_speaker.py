"""`ser predict` with a model that hears each recording against others of the same voice."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_cli.checkpoints import load_model, save_model
from ser_cli.data.streaming import read_windows
from ser_cli.models.building import build_model
from ser_cli.recipe import load_recipe
from tests.conftest import TINY, write_tone, write_tone_corpus

LABELS = ("angry", "happy", "sad")

BY_SPEAKER = ("--set", "normalization.by=speaker", "--set", "normalization.group=3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the corpus `tones` and a `run` of two folds that normalises by speaker, trained once."""
    from typer.testing import CliRunner

    from ser_cli.cli import app

    folder = tmp_path_factory.mktemp("by-speaker")
    manifest = write_tone_corpus(folder / "tones", speakers=4, takes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        command = ["train", "--manifest", manifest, "--folds", 2, *TINY, *BY_SPEAKER, "--output", folder / "run"]
        result = CliRunner().invoke(app, list(map(str, command)), prog_name="ser")
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def calls() -> dict[str, list[str]]:
    """Three recordings of Ada and two of Bob, of unlike length, each in the speaker's folder."""
    made = {"ada": (300, 520, 900), "bob": (1200, 250)}
    names: dict[str, list[str]] = {}
    for speaker, tones in made.items():
        names[speaker] = [f"calls/{speaker}/{hz}.wav" for hz in tones]
        for number, (name, hz) in enumerate(zip(names[speaker], tones, strict=True)):
            write_tone(Path(name), hz, 0.3 + 0.17 * number, seed=hz)
    return names


def numbers(text: str) -> dict[str, np.ndarray]:
    """Probabilities by the path of a recording."""
    rows = [line.split("\t") for line in text.splitlines()]
    return {row[0]: np.array(row[-3:], dtype=float) for row in rows if row[1] != "error"}


def embedding(model, waveform: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.embed(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))[0]


def by_hand(fold: Path, clips: list[np.ndarray], total: torch.Tensor, heard: int) -> np.ndarray:
    """softmax(W (f - (total + c) / (heard + 1)) + b) of one clip after the other, from the model itself."""
    model = load_model(fold).model
    offset = (total + model.speakers.center) / (heard + 1)
    with torch.inference_mode():
        logits = [model.head.classifier(embedding(model, clip) - offset).double().numpy() for clip in clips]
    return np.array([np.exp(row) / np.exp(row).sum() for row in logits])


def whole(names: list[str]) -> list[np.ndarray]:
    return [soundfile.read(name, dtype="float32")[0] for name in names]


def alone_in_call(fold: Path, names: list[str]) -> np.ndarray:
    """What is to be said of recordings that are all that there is of one speaker."""
    model = load_model(fold).model
    return by_hand(fold, whole(names), sum(embedding(model, clip) for clip in whole(names)), len(names))


def test_each_recording_is_heard_against_the_mean_of_its_speaker_in_each_fold(ser, trained, calls):
    result = ser("predict", "--model", trained / "run", "--speakers", "folder", "calls")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == (
        "heard 5 recordings of 2 speakers; each answer is relative to the recordings of its own speaker\n"
    )
    told = numbers(result.stdout)
    assert sorted(told) == sorted(calls["ada"] + calls["bob"])
    for names in calls.values():
        folds = [alone_in_call(trained / f"run/fold-{fold}", names) for fold in (1, 2)]
        np.testing.assert_allclose([told[name] for name in names], np.mean(folds, axis=0), atol=2e-5)
    own = ser("predict", "--model", trained / "run/fold-2", "--speakers", "all", "calls/bob")
    expected = alone_in_call(trained / "run/fold-2", calls["bob"])
    np.testing.assert_allclose([numbers(own.stdout)[name] for name in calls["bob"]], expected, atol=2e-5)


def test_a_recording_in_windows_counts_as_so_many_clips_weighted_by_their_lengths(ser, trained, calls):
    fold = trained / "run/fold-1"
    write_tone(Path("calls/ada/long.wav"), 400, 1.1)
    names = [*calls["ada"], "calls/ada/long.wav"]
    result = ser("predict", "--model", fold, "--speakers", "all", "--window", 0.4, "--hop", 0.3, *names)
    assert result.exit_code == 0, result.stderr
    assert "heard 4 recordings of 1 speaker;" in result.stderr
    pieces = [[piece.waveform for piece in read_windows(Path(name), 0.4, 0.3)] for name in names]
    assert [len(windows) for windows in pieces] == [1, 2, 2, 4]
    model, total = load_model(fold).model, 0
    for windows in pieces:
        weighted = sum(len(window) * embedding(model, window) for window in windows)
        total = total + len(windows) * weighted / sum(len(window) for window in windows)
    expected = by_hand(fold, [window for windows in pieces for window in windows], total, 9)
    told = [line.split("\t")[-3:] for line in result.stdout.splitlines()]
    np.testing.assert_allclose(np.array(told, dtype=float), expected, atol=2e-5)


def test_the_clips_of_a_fold_get_what_the_run_said_of_them(ser, trained):
    corpus = trained / "tones"
    result = ser("predict", "--model", trained / "run/fold-1", "--speakers", corpus / "tones.csv", corpus)
    assert result.exit_code == 0, result.stderr
    told = {
        Path(path).relative_to(corpus).with_suffix("").as_posix(): row for path, row in numbers(result.stdout).items()
    }
    with (trained / "run/fold-1/predictions.csv").open(newline="") as file:
        stored = {row["id"]: [float(row[f"probability_{label}"]) for label in LABELS] for row in csv.DictReader(file)}
    assert len(stored) == 12
    np.testing.assert_allclose([told[name] for name in stored], list(stored.values()), atol=1e-4)


def test_order_and_repetition_change_no_answer(ser, trained, calls):
    names = calls["ada"]
    command = ("predict", "--model", trained / "run", "--speakers", "all")
    one = numbers(ser(*command, *names).stdout)
    other = numbers(ser(*command, *names[::-1], f"./{names[0]}", names[1]).stdout)
    assert list(other) == [*names[::-1], f"./{names[0]}"]
    for name in names:
        np.testing.assert_allclose(one[name], other[name], atol=2e-6)


def test_shards_concatenate_to_the_whole_though_a_speaker_is_cut(ser, trained, calls):
    command = ("predict", "--model", trained / "run", "--speakers", "folder", "--batch-size", 1)
    whole = ser(*command, "calls").stdout
    shards = [ser(*command, "--shard", f"{index}/3", "calls") for index in (1, 2, 3)]
    assert "".join(shard.stdout for shard in shards) == whole
    # Of the folders ada (3 recordings) and bob (2), parts of 1, 2 and 2 recordings.
    assert [shard.stderr.split(";")[0] for shard in shards] == [
        "heard 3 recordings of 1 speaker", "heard 3 recordings of 1 speaker", "heard 2 recordings of 1 speaker",
    ]  # fmt: skip


def test_standard_input_is_heard_before_it_is_answered(ser, trained, calls):
    from typer.testing import CliRunner

    from ser_cli.cli import app

    command = ["predict", "--model", str(trained / "run"), "--speakers", "folder"]
    piped = CliRunner().invoke(app, [*command, "-"], input="\n".join(calls["ada"]) + "\n")
    assert piped.stdout == ser(*command, *calls["ada"]).stdout


def test_silence_adds_nothing_and_short_or_single_recordings_get_finite_answers(ser, trained, calls):
    command = ("predict", "--model", trained / "run", "--speakers", "folder")
    Path("calls/eve").mkdir()
    soundfile.write("calls/bob/silent.wav", np.zeros(8000), 16_000)
    write_tone(Path("calls/eve/short.wav"), 600, 0.2)
    Path("calls/bob/broken.wav").write_text("no audio")
    result = ser(*command, "--json", "calls")
    assert result.exit_code == 1
    answers = {value["path"]: value for value in map(json.loads, result.stdout.splitlines())}
    assert answers["calls/bob/silent.wav"]["error"] == "holds only silence, every sample is 0"
    assert answers["calls/bob/broken.wav"]["error"].startswith("cannot be decoded (")
    values = {name: list(answer["probabilities"].values()) for name, answer in answers.items() if "error" not in answer}
    assert len(values) == 6
    assert np.isfinite(list(values.values())).all()
    assert "heard 6 recordings of 3 speakers;" in result.stderr
    assert "warning: 1 speaker with one recording alone: " in result.stderr
    expected = {name: np.mean([alone_in_call(trained / f"run/fold-{k}", [name]) for k in (1, 2)], axis=0)
                for name in ["calls/eve/short.wav"]}  # fmt: skip
    np.testing.assert_allclose(values["calls/eve/short.wav"], expected["calls/eve/short.wav"][0], atol=2e-5)
    without = numbers(ser(*command, *calls["bob"]).stdout)
    np.testing.assert_allclose(
        [values[name] for name in calls["bob"]], [without[name] for name in calls["bob"]], atol=2e-6
    )


def test_nothing_that_can_be_read_gives_errors_alone(ser, trained):
    soundfile.write("silent.wav", np.zeros(8000), 16_000)
    for names in (["silent.wav"], ["none*.wav"]):
        result = ser("predict", "--model", trained / "run", "--speakers", "all", *names)
        assert result.exit_code == 1
        assert result.stdout.split("\t")[:2] == [*names, "error"]
        assert "1 of 1 recording could not be classified" in result.stderr


def test_a_table_names_the_speakers_and_what_it_does_not_name_gets_a_reason(ser, trained, calls):
    command = ("predict", "--model", trained / "run", "--speakers")
    rows = [f"{name},{speaker}" for speaker, names in calls.items() for name in names]
    write_tone(Path("calls/nobody.wav"), 800)
    write_tone(Path("calls/empty.wav"), 700)
    Path("who.csv").write_text("\n".join(["path,speaker", *rows, "calls/empty.wav,"]) + "\n")
    result = ser(*command, "who.csv", "calls")
    assert result.exit_code == 1
    reason = "has no speaker in who.csv, and the model hears each recording against others of the same voice"
    untold = [line for line in result.stdout.splitlines() if "error" in line]
    assert untold == [f"calls/empty.wav\terror\t{reason}", f"calls/nobody.wav\terror\t{reason}"]
    named = [line for line in result.stdout.splitlines() if "error" not in line]
    assert named == ser(*command, "folder", "calls/ada", "calls/bob").stdout.splitlines()


def test_recordings_of_an_unknown_speaker_are_not_one_voice(ser, trained, calls):
    Path("who.csv").write_text("\n".join(["path,speaker", *(f"{name},unknown" for name in calls["ada"])]) + "\n")
    result = ser("predict", "--model", trained / "run/fold-1", "--speakers", "who.csv", *calls["ada"])
    assert "3 speakers with one recording alone" in result.stderr
    expected = [alone_in_call(trained / "run/fold-1", [name])[0] for name in calls["ada"]]
    np.testing.assert_allclose([numbers(result.stdout)[name] for name in calls["ada"]], expected, atol=2e-5)


def test_an_answer_file_goes_on_and_is_not_heard_again_once_it_is_whole(ser, trained, calls):
    command = ("predict", "--model", trained / "run", "--speakers", "folder", "--batch-size", 1, "--output")
    assert ser(*command, "whole.tsv", "calls").exit_code == 0
    whole = Path("whole.tsv").read_bytes()
    Path("part.tsv").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    Path("part.tsv.model.json").write_bytes(Path("whole.tsv.model.json").read_bytes())
    again = ser(*command, "part.tsv", "calls")
    assert Path("part.tsv").read_bytes() == whole
    assert "heard 2 recordings of 1 speaker" in again.stderr  # Ada's are all answered
    done = ser(*command, "part.tsv", "calls")
    assert (done.exit_code, "heard" in done.stderr) == (0, False)


@pytest.mark.parametrize("change", ["another recording", "other speakers"])
def test_an_answer_file_is_not_continued_against_other_recordings_or_speakers(ser, trained, calls, change):
    command = ["predict", "--model", trained / "run", "--output", "out.tsv", "calls", "--speakers"]
    assert ser(*command, "folder").exit_code == 0
    before = Path("out.tsv").read_bytes()
    if change == "another recording":
        write_tone(Path("calls/bob/zz.wav"), 800)
    result = ser(*command, "folder" if change == "another recording" else "all")
    assert result.exit_code == 1
    assert "out.tsv was made otherwise: speakers" in result.stderr
    assert Path("out.tsv").read_bytes() == before


def test_a_model_that_needs_speakers_asks_for_them(ser, trained, calls):
    result = ser("predict", "--model", trained / "run", "calls")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "it hears each recording against others of the same voice, and does not know who speaks" in result.stderr
    assert (
        "say it with --speakers: all where all recordings are one speaker's, folder where those of each folder are,"
        " or a CSV file with columns path and speaker" in result.stderr
    )


def test_a_model_that_hears_each_recording_on_its_own_takes_no_speakers(ser, calls):
    recipe = load_recipe("conformer", changes={"conformer.dim": 16, "conformer.layers": 1})
    model = build_model(recipe, 3)
    save_model(Path("model"), model, model.state_dict(), LABELS, recipe)
    result = ser("predict", "--model", "model", "--speakers", "all", "calls")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--speakers all: the model model hears each recording on its own; leave it out" in result.stderr


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (None, "--speakers who.csv: no such file; expected all where all recordings are one speaker's, folder where"),
        ("path,voice\na.wav,ada\n", "--speakers who.csv: no column speaker; found: path, voice"),
        ("path,speaker\na.wav,ada\n./a.wav,bob\n", "two speakers for ./a.wav: 'ada' and 'bob'"),
        ('path,speaker\n"a.wav', "--speakers who.csv: cannot be read as CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(ser, trained, calls, table, sentence):
    if table is not None:
        Path("who.csv").write_text(table)
    result = ser("predict", "--model", trained / "run", "--speakers", "who.csv", "calls")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_what_failed_beside_other_recordings_of_its_speaker_is_tried_again_only_anew(ser, trained, calls):
    command = ("predict", "--model", trained / "run", "--speakers", "all", "--output", "out.tsv", "calls", "late.wav")
    first = ser(*command)
    assert "1 of 6 recordings could not be classified" in first.stderr
    assert "they are tried again only with --force" in first.stderr
    before = Path("out.tsv").read_bytes()
    write_tone(Path("late.wav"), 800)
    again = ser(*command)
    assert (again.exit_code, Path("out.tsv").read_bytes()) == (1, before)
    assert ser(*command, "--force").exit_code == 0


def test_blanks_in_the_header_of_a_table_are_no_matter_and_other_separators_are_told(ser, trained, calls):
    recordings = [name for names in calls.values() for name in names]
    rows = [(name, Path(name).parent.name) for name in recordings]
    Path("who.csv").write_text("path, speaker\n" + "".join(f"{name},{who}\n" for name, who in rows))
    command = ("predict", "--model", trained / "run", *recordings, "--speakers")
    assert ser(*command, "who.csv").stdout == ser(*command, "folder").stdout
    Path("who.csv").write_text("path;speaker\n" + "".join(f"{name};{who}\n" for name, who in rows))
    refused = ser(*command, "who.csv")
    assert "found: path;speaker; its columns are separated by ';'; save it with commas\n" in refused.stderr
