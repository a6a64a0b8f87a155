"""`ser predict` through the command line: what is printed, in which order, and what becomes of bad input."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertForSequenceClassification, HubertModel, Wav2Vec2FeatureExtractor

from ser_cli.checkpoints import load_model
from ser_cli.data.audio import read_recording
from ser_cli.data.streaming import read_windows
from ser_cli.prediction.recordings import Missing, Shard, list_recordings
from ser_cli.prediction.streams import predict_recordings
from tests.conftest import TINY, write_tone, write_tone_corpus
from tests.data.test_audio import write_video

LABELS = ["angry", "happy", "sad"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of two folds on tones, trained once."""
    from typer.testing import CliRunner

    from ser_cli.cli import app

    folder = tmp_path_factory.mktemp("trained")
    manifest = write_tone_corpus(folder / "tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        command = ["train", "--manifest", manifest, "--folds", 2, *TINY, "--output", folder / "run"]
        result = CliRunner().invoke(app, list(map(str, command)), prog_name="ser")
    assert result.exit_code == 0, result.stderr
    return folder / "run"


@pytest.fixture
def clips() -> list[str]:
    """Seven tones of different length, in the working folder."""
    names = [f"clips/{number}.wav" for number in range(7)]
    for number, name in enumerate(names):
        write_tone(Path(name), 300 + 150 * number, 0.3 + 0.17 * ((number * 3) % 7), seed=number)
    return names


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_each_recording_gets_a_line_with_label_and_probabilities(ser, run_folder, clips):
    result = ser("predict", "--model", run_folder, *clips)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [row[0] for row in rows(result.stdout)] == clips
    for _, label, *numbers in rows(result.stdout):
        values = [float(number) for number in numbers]
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert label == LABELS[int(np.argmax(values))]


def by_hand(folder: Path, clip: str) -> np.ndarray:
    """Probabilities of one clip alone, from the model itself."""
    waveform, _ = soundfile.read(clip, dtype="float32")
    with torch.inference_mode():
        logits = load_model(folder).model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).logits
    return np.exp(logits[0].double().numpy()) / np.exp(logits[0].double().numpy()).sum()


def test_folds_are_averaged_or_chosen_and_a_clip_in_a_batch_gives_what_it_gives_alone(ser, run_folder, clips):
    each = [np.array([by_hand(run_folder / f"fold-{fold}", clip) for clip in clips]) for fold in (1, 2)]

    def told(*options):
        return np.array([row[2:] for row in rows(ser("predict", *options, *clips).stdout)], dtype=float)

    np.testing.assert_allclose(told("--model", run_folder), (each[0] + each[1]) / 2, atol=1e-4)
    np.testing.assert_allclose(told("--model", run_folder, "--fold", 2), each[1], atol=1e-4)
    np.testing.assert_allclose(told("--model", run_folder / "fold-1", "--batch-size", 3), each[0], atol=1e-4)
    np.testing.assert_allclose(told("--model", run_folder / "fold-1", "--batch-size", 1), each[0], atol=1e-4)


def test_json_lines_name_the_labels(ser, run_folder, clips):
    result = ser("predict", "--model", run_folder, "--json", *clips[:2], "nothing.wav")
    first, _, broken = map(json.loads, result.stdout.splitlines())
    assert list(first) == ["path", "label", "probabilities"]
    assert list(first["probabilities"]) == LABELS
    assert broken == {"path": "nothing.wav", "error": "cannot be decoded (No such file or directory)"}


def test_header_names_the_columns(ser, run_folder, clips):
    shown = rows(ser("predict", "--model", run_folder, "--header", clips[0]).stdout)
    assert shown[0] == ["path", "label", *LABELS]
    shown = rows(ser("predict", "--model", run_folder, "--header", "--window", 0.1, clips[0]).stdout)
    assert shown[0] == ["path", "start_s", "end_s", "label", *LABELS]
    assert {len(row) for row in shown} == {7}


def test_what_cannot_be_read_becomes_a_line_and_the_rest_goes_on(ser, run_folder, clips):
    Path("empty.wav").touch()
    Path("text.wav").write_text("no audio at all")
    soundfile.write("silent.wav", np.zeros(8000), 16_000)
    soundfile.write("short.wav", np.full(100, 0.1), 16_000)
    Path("nobody").mkdir()
    names = [clips[0], "empty.wav", "text.wav", "silent.wav", "short.wav", "nobody", "calls/*.wav", clips[1]]
    result = ser("predict", "--model", run_folder, *names)
    assert result.exit_code == 1
    shown = rows(result.stdout)
    assert [row[0] for row in shown] == names
    assert [row[1] == "error" for row in shown] == [False, *[True] * 6, False]
    reasons = [row[2] for row in shown[1:-1]]
    assert reasons[0] == "cannot be decoded (the file is empty)"
    assert reasons[1].startswith("cannot be decoded (")
    assert reasons[2:] == [
        "holds only silence, every sample is 0",
        "lasts 6.2 ms; at least 25 ms are needed",
        "the folder holds no recording",
        "the pattern matches no file",
    ]
    assert result.stderr == "error: 6 of 8 recordings could not be classified; their lines say `error` and why\n"


def test_any_rate_and_channels_give_the_answer_of_16_khz_mono(ser, run_folder):
    time = np.arange(48_000) / 48_000
    tone = 0.4 * np.sin(2 * np.pi * 440 * time)
    soundfile.write("wide.flac", np.stack([tone, tone], axis=1), 48_000)
    soundfile.write("plain.wav", tone[::3], 16_000)
    first, second = rows(ser("predict", "--model", run_folder, "wide.flac", "plain.wav").stdout)
    np.testing.assert_allclose(np.array(first[2:], float), np.array(second[2:], float), atol=0.02)


def test_folders_patterns_and_standard_input_lead_to_the_same_list(ser, run_folder, clips, monkeypatch):
    expected = ser("predict", "--model", run_folder, *clips).stdout
    write_tone(Path("clips/.hidden.wav"), 500)
    Path("clips/notes.txt").write_text("")
    assert ser("predict", "--model", run_folder, "clips").stdout == expected
    Path("clips/.hidden.wav").unlink()
    assert ser("predict", "--model", run_folder, "clips/*.wav").stdout == expected
    command = [sys.executable, "-m", "ser_cli", "predict", "--model", run_folder, "-"]
    piped = subprocess.run(command, input="\n".join(clips) + "\n", capture_output=True, text=True)
    assert [row[:2] for row in rows(piped.stdout)] == [row[:2] for row in rows(expected)]


def test_answers_come_while_the_list_is_still_being_written(run_folder, clips):
    command = [sys.executable, "-m", "ser_cli", "predict", "--model", run_folder, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(f"{clips[0]}\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(clips[0])  # before the list has ended
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_shards_concatenate_to_the_whole(count):
    names = [f"{number}.wav" for number in range(7)]
    stream = io.StringIO("\n".join(names) + "\n")
    whole = list(list_recordings(["-"], stdin=stream))
    parts = []
    for index in range(1, count + 1):
        stream.seek(0)
        parts += list(list_recordings(["-"], Shard(index, count), stdin=stream))
    assert parts == whole == names


def test_shards_of_a_command_concatenate_to_its_output(ser, run_folder, clips):
    whole = ser("predict", "--model", run_folder, "--batch-size", 1, "clips").stdout
    shards = [
        ser("predict", "--model", run_folder, "--batch-size", 1, "--shard", f"{i}/3", "clips").stdout for i in (1, 2, 3)
    ]
    assert all(shards)
    assert "".join(shards) == whole


@pytest.mark.parametrize("cut", ["line", "middle", "nothing"])
@pytest.mark.parametrize("options", [(), ("--json",), ("--header",), ("--window", 0.2, "--hop", 0.1)], ids=str)
def test_an_output_file_goes_on_where_it_stopped(ser, run_folder, clips, cut, options):
    command = ("predict", "--model", run_folder, *options, "--batch-size", 1, *clips[:2], "no.wav", *clips[2:])
    result = ser(*command, "--output", "whole.tsv")
    assert (result.exit_code, result.stdout) == (1, "whole.tsv\n")
    whole = Path("whole.tsv").read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = {"line": b"".join(lines[:5]), "middle": b"".join(lines[:5]) + lines[5][:9], "nothing": b""}[cut]
    Path("part.tsv").write_bytes(kept)
    Path("part.tsv.model.json").write_bytes(Path("whole.tsv.model.json").read_bytes())
    again = ser(*command, "--output", "part.tsv")
    assert Path("part.tsv").read_bytes() == whole
    assert "1 of 8 recordings could not be classified" in again.stderr
    if cut != "nothing":
        assert "already; going on after them" in again.stderr


def test_an_output_file_of_another_model_list_or_maker_is_refused(ser, run_folder, clips):
    ser("predict", "--model", run_folder, "--fold", 1, *clips, "--output", "out.tsv")
    before = Path("out.tsv").read_bytes()
    other_model = ser("predict", "--model", run_folder, *clips, "--output", "out.tsv")
    assert other_model.exit_code == 1
    assert "out.tsv was made otherwise: model" in other_model.stderr
    assert "--force" in other_model.stderr
    other_list = ser("predict", "--model", run_folder, "--fold", 1, *clips[::-1], "--output", "out.tsv")
    assert "line 1 answers clips/0.wav, and the list has clips/6.wav there" in other_list.stderr
    assert Path("out.tsv").read_bytes() == before
    Path("out.tsv.model.json").unlink()
    unknown = ser("predict", "--model", run_folder, "--fold", 1, *clips, "--output", "out.tsv")
    assert "does not say which model made it" in unknown.stderr
    assert Path("out.tsv").read_bytes() == before
    forced = ser("predict", "--model", run_folder, *clips, "--output", "out.tsv", "--force")
    assert forced.exit_code == 0
    assert len(Path("out.tsv").read_text().splitlines()) == 7


@pytest.mark.parametrize("options", [(), ("--json",), ("--header",), ("--window", 0.2, "--hop", 0.1)], ids=str)
def test_what_was_mended_is_tried_again_by_the_same_command_and_the_rest_is_kept(ser, run_folder, clips, options):
    command = ("predict", "--model", run_folder, "--device", "cpu", *options, "--batch-size", 1)
    names = [clips[0], "late.wav", *clips[1:3], "cut.wav", "never.wav", clips[3]]
    write_tone(Path("cut.wav"), 500, 2.0)
    whole = Path("cut.wav").read_bytes()
    Path("cut.wav").write_bytes(whole[:30_000])
    first = ser(*command, *names, "--output", "out.tsv")
    assert "3 of 7 recordings could not be classified" in first.stderr
    assert first.stderr.endswith("\n  the same command tries them again\n")
    before = Path("out.tsv").read_bytes()
    assert ser(*command, *names, "--output", "out.tsv").exit_code == 1  # nothing was mended
    assert Path("out.tsv").read_bytes() == before
    write_tone(Path("late.wav"), 900, 0.7)
    Path("cut.wav").write_bytes(whole)
    again = ser(*command, *names, clips[4], "--output", "out.tsv")
    assert again.exit_code == 1
    assert "trying 3 recordings again that could not be classified before" in again.stderr
    assert "1 of 8 recordings could not be classified" in again.stderr
    assert ser(*command, *names, clips[4], "--output", "anew.tsv").exit_code == 1
    assert Path("out.tsv").read_bytes() == Path("anew.tsv").read_bytes()
    write_tone(Path("never.wav"), 900, 0.7)
    last = ser(*command, *names, clips[4], "--output", "out.tsv")
    assert last.exit_code == 0
    assert b"error" not in Path("out.tsv").read_bytes()
    assert {path.name for path in Path().glob(".out*")} <= {".out.tsv.lock"}


def test_a_retry_that_is_stopped_leaves_the_file_as_it_was(ser, run_folder, clips, monkeypatch):
    Path("link.tsv").symlink_to("out.tsv")
    command = ("predict", "--model", run_folder, clips[0], "a.wav", "b.wav", clips[1], "--output", "link.tsv")
    assert ser(*command).exit_code == 1
    before = Path("out.tsv").read_bytes()
    write_tone(Path("a.wav"), 500)
    write_tone(Path("b.wav"), 500)
    with monkeypatch.context() as patch:
        patch.setattr("ser_cli.prediction.streams._classify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert ser(*command).exit_code == 130
    assert Path("out.tsv").read_bytes() == before
    assert ser(*command).exit_code == 0
    assert [row[0] for row in rows(Path("out.tsv").read_text())] == [clips[0], "a.wav", "b.wav", clips[1]]
    assert Path("link.tsv").is_symlink()


def test_the_line_that_answers_another_list_is_named_as_an_editor_counts_it(ser, run_folder, clips):
    command = ("predict", "--model", run_folder, "--header", "--window", 0.1, "--output", "out.tsv")
    assert ser(*command, *clips[:3]).exit_code == 0
    refused = ser(*command, *clips[:2], clips[5])
    lines = Path("out.tsv").read_text().splitlines()
    number = next(number for number, line in enumerate(lines, start=1) if line.startswith(clips[2]))
    assert f"line {number} answers {clips[2]}, and the list has {clips[5]} there" in refused.stderr


def test_a_hop_above_the_window_says_what_it_leaves_out(ser, run_folder, clips):
    result = ser("predict", "--model", run_folder, "--window", 0.1, "--hop", 0.25, clips[0])
    assert result.stderr == "warning: --hop 0.25 is above --window 0.1: of each 0.25 s, 0.15 s are not heard\n"
    assert result.exit_code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the names of files are no bytes")
def test_names_that_the_locale_cannot_read_or_write_are_told_and_the_rest_of_the_list_is_labelled(run_folder, clips):
    command = [sys.executable, "-m", "ser_cli", "predict", "--model", run_folder, "-q", "чай.wav", "-"]
    result = subprocess.run(
        command,
        input=b"clips/caf\xe9.wav\n" + "чай.wav".encode() + b"\n" + clips[1].encode() + b"\n",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )
    assert result.returncode == 1
    assert result.stderr == b"error: 3 of 4 recordings could not be classified; their lines say `error` and why\n"
    told = [line.split("\t")[:2] for line in result.stdout.decode("ascii").splitlines()]
    tea = "\\u0447\\u0430\\u0439.wav"
    assert told[:3] == [[tea, "error"], ["clips/caf\\xe9.wav", "error"], [tea, "error"]]
    assert told[3][0] == clips[1]
    assert told[3][1] in LABELS


@pytest.mark.parametrize("shard", [None, Shard(1, 1)])
def test_a_list_may_hold_names_that_are_no_utf_8(shard):
    stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9.wav\nb.wav\n"), encoding="utf-8", errors="strict")
    assert list(map(os.fsencode, list_recordings(["-"], shard, stdin=stream))) == [b"caf\xe9.wav", b"b.wav"]


@pytest.mark.parametrize(
    ("duration_s", "window_s", "hop_s", "expected"),
    [
        (10.0, 4, 1, [(k, k + 4) for k in range(7)]),
        (9.5, 4, 4, [(0, 4), (4, 8), (8, 9.5)]),
        (3.0, 4, 1, [(0, 3)]),
        (10.5, 4, 1, [*((k, k + 4) for k in range(7)), (7, 10.5)]),
        (12.0, 2, 5, [(0, 2), (5, 7), (10, 12)]),
        (8.01, 4, 4, [(0, 4), (4, 8)]),
        (11.0, 7, 6, [(0, 7), (6, 11)]),
    ],
)
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_windows_cover_a_recording_to_its_end(duration_s, window_s, hop_s, expected, rate):
    write_tone(Path("long.wav"), 440, duration_s, rate)
    pieces = list(read_windows(Path("long.wav"), window_s, hop_s))
    assert [(piece.start_s, piece.end_s) for piece in pieces] == [pytest.approx(e, abs=1e-4) for e in expected]
    for piece in pieces:
        assert len(piece.waveform) == round((piece.end_s - piece.start_s) * 16_000)
    if rate == 16_000:
        whole, _ = soundfile.read("long.wav", dtype="float32")
        for piece in pieces:
            start = round(piece.start_s * 16_000)
            np.testing.assert_array_equal(piece.waveform, whole[start : start + len(piece.waveform)])


def test_a_timeline_has_a_line_per_window(ser, run_folder):
    write_tone(Path("long.wav"), 440, 1.0)
    shown = rows(ser("predict", "--model", run_folder, "--window", 0.4, "--hop", 0.2, "long.wav", "no.wav").stdout)
    assert [row[:3] for row in shown[:-1]] == [["long.wav", f"{0.2 * k:.3f}", f"{0.2 * k + 0.4:.3f}"] for k in range(4)]
    assert shown[-1] == ["no.wav", "", "", "error", "cannot be decoded (No such file or directory)"]
    value = json.loads(
        ser("predict", "--model", run_folder, "--window", 0.4, "--json", "long.wav").stdout.split("\n")[1]
    )
    assert (value["start_s"], value["end_s"]) == (0.4, 0.8)


def test_a_timeline_of_a_truncated_recording_says_where_it_ends(ser, run_folder):
    for name in ("long.flac", "long.wav"):
        write_tone(Path(name), 440, 4.0)
        Path(name).write_bytes(Path(name).read_bytes()[:60_000])
        result = ser("predict", "--model", run_folder, "--window", 0.5, name)
        shown = rows(result.stdout)
        assert result.exit_code == 1
        assert len(shown) > 1
        assert shown[-1][:4] == [name, "", "", "error"]
        assert "1 of 1 recording could not be classified" in result.stderr
    assert shown[-1][4] == "is truncated, its header promises 4.00 s and 1.87 s are there"


def test_silence_is_an_error_in_windows_too_and_a_pause_is_none(ser, run_folder):
    soundfile.write("silent.wav", np.zeros(32_000), 16_000)
    tone = 0.3 * np.sin(np.arange(16_000) / 5)
    soundfile.write("late.wav", np.concatenate([np.zeros(16_000), tone, np.zeros(8_000)]), 16_000)
    result = ser("predict", "--model", run_folder, "--window", 0.5, "--json", "silent.wav", "late.wav")
    assert result.exit_code == 1
    first, *others = map(json.loads, result.stdout.splitlines())
    assert first == {"path": "silent.wav", "error": "holds only silence, every sample is 0"}
    assert [(row["path"], row["start_s"]) for row in others] == [("late.wav", 0.5 * n) for n in range(5)]
    assert all("label" in row for row in others)
    # The voice lies where no window hears: that is no silence.
    apart = ser("predict", "--model", run_folder, "--window", 0.5, "--hop", 2.2, "--json", "late.wav")
    assert [("label" in json.loads(line)) for line in apart.stdout.splitlines()] == [True] * 2


def test_linked_folders_are_searched_and_a_loop_of_links_ends(ser, run_folder, tmp_path):
    write_tone(tmp_path / "elsewhere/one.wav", 440)
    write_tone(tmp_path / "calls/real/two.wav", 440)
    (tmp_path / "calls/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "calls")
    result = ser("predict", "--model", run_folder, tmp_path / "calls")
    assert result.exit_code == 0, result.stderr
    found = [Path(line.split("\t")[0]).relative_to(tmp_path) for line in result.stdout.splitlines()]
    assert found == [Path("calls/linked/one.wav"), Path("calls/real/two.wav")]


def test_a_folder_that_cannot_be_read_is_told(monkeypatch, tmp_path):
    write_tone(tmp_path / "calls/a/one.wav", 440)
    (tmp_path / "calls/b").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(list_recordings([str(tmp_path / "calls")]))
    told = Missing(str(tmp_path / "calls/b"), "the folder cannot be read (Permission denied)")
    assert found == [str(tmp_path / "calls/a/one.wav"), told]


def test_a_file_of_windows_with_errors_is_gone_on_with(ser, run_folder):
    soundfile.write("silent.wav", np.zeros(32_000), 16_000)
    write_tone(Path("long.wav"), 440, 1.0)
    command = ("predict", "--model", run_folder, "--window", 0.5, "--header", "--output", "out.tsv", "silent.wav")
    assert ser(*command).exit_code == 1
    write_tone(Path("silent.wav"), 300, 1.0)
    assert ser(*command, "long.wav").exit_code == 0
    written = rows(Path("out.tsv").read_text())
    assert [row[:3] for row in written[1:]] == [
        [name, start, end]
        for name in ("silent.wav", "long.wav")
        for start, end in (("0.000", "0.500"), ("0.500", "1.000"))
    ]


def test_a_recording_too_long_for_the_model_is_told_of_windows(ser, run_folder):
    write_tone(Path("long.flac"), 440, 121)
    result = ser("predict", "--model", run_folder, "long.flac")
    assert result.exit_code == 1
    assert rows(result.stdout)[0][1:] == [
        "error",
        "lasts 121 s, at most 120 s are classified as a whole; cut it into windows: --window 4 --hop 1",
    ]


def test_the_list_is_taken_no_faster_than_it_is_classified(run_folder, clips):
    class Counting:
        labels = ("a", "b")
        exact_under_padding = True

        def probabilities(self, waveforms, texts, offsets):
            return np.tile([0.25, 0.75], (len(waveforms), 1))

    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield clips[0]

    answers = predict_recordings(Counting(), endless(), batch_size=2)
    for told in range(1, 200):
        next(answers)
        assert taken <= told + 3 * 4 * 2 + 2
    answers.close()


def test_answers_keep_the_order_of_the_list_whatever_the_lengths(clips):
    class Length:
        labels = ("short", "long")
        exact_under_padding = True

        def probabilities(self, waveforms, texts, offsets):
            assert len(waveforms) <= 4
            return np.array([[1 - len(w) / 1e6, len(w) / 1e6] for w in waveforms])

    names = [clips[(5 * k) % 7] for k in range(40)]
    answers = list(predict_recordings(Length(), [*names, Missing("x", "none")], batch_size=4))
    assert [answer.path for answer in answers] == [*names, "x"]
    for answer in answers[:-1]:
        assert answer.probabilities[1] == pytest.approx(soundfile.info(answer.path).frames / 1e6)


def test_paths_with_tabs_and_foreign_bytes_stay_one_line(ser, run_folder):
    write_tone(Path("a\tb.wav"), 440)
    result = ser("predict", "--model", run_folder, "a\tb.wav")
    assert rows(result.stdout)[0][0] == "a\\tb.wav"


def test_half_a_reader_ends_the_command_without_a_traceback(run_folder, clips):
    predict = f"{sys.executable} -m ser_cli predict --model {run_folder} {' '.join(clips * 30)}"
    command = f"{predict} | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""
    assert result.returncode == 141  # as of any program that writes to nobody


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("to", "code", "said"),
    [
        (">/dev/full", 1, "error: cannot write to standard output: No space left on device\n"),
        (">&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_streams_that_take_nothing_end_in_a_sentence_or_in_nothing(run_folder, clips, to, code, said):
    command = f"{sys.executable} -m ser_cli predict --model {run_folder} --fold 1 {clips[0]} {to}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (code, said)


def test_an_empty_list_is_told(ser, run_folder):
    result = ser("predict", "--model", run_folder, "-")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no recording was named" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no AUDIO: name files, folders or patterns"),
        (["--hop", "1", "a.wav"], "--hop 1.0: belongs to --window"),
        (["--output", "a.WAV", "--force", "a.wav"], "--output a.WAV: that is the name of a recording"),
        (["--window", "0", "a.wav"], "--window 0.0: expected seconds from 0.025 to 120"),
        (["--window", "4", "--hop", "-1", "a.wav"], "--hop -1.0: expected seconds"),
        (["--shard", "0/3", "a.wav"], "--shard 0/3: expected I/N with I from 1 to N"),
        (["--shard", "4/3", "a.wav"], "--shard 4/3: expected I/N with I from 1 to N"),
        (["--shard", "third", "a.wav"], "--shard third: expected I/N"),
        (["--fold", "3", "a.wav"], "run has folds 1 to 2; done are: 1, 2"),
        (["--output", ".", "a.wav"], "--output .: is a folder"),
        (["--export", "onnx"], "--export needs a file to write"),
        (["--export", "onnx", "--output", "m.onnx"], "this run has 2; choose one: --fold 1"),
        (["--export", "onnx", "--output", "m.onnx", "a.wav"], "takes no AUDIO"),
        (["--export", "onnx", "--output", "m", "--device", "cpu"], "--device would change nothing"),
        (
            ["--export", "onnx", "--output", "m", "--json", "--header", "--window", "4", "--batch-size", "1"],
            "--export writes the model, and --window, --batch-size, --json, --header would change nothing; leave",
        ),
        (
            ["--export", "onnx", "--output", "m", "--texts", "t", "--speakers", "all", "--shard", "1/2", "--hop", "1"],
            "--export writes the model, and --hop, --texts, --speakers, --shard would change nothing; leave it out",
        ),
        (["--force", "a.wav"], "--force writes --output anew, and no file is named; give --output FILE, or leave"),
        (["--header", "--json", "a.wav"], "--header names columns, and each line of --json names what it tells"),
        (["--device", "cuda:99", "a.wav"], "--device cuda:99: not on this machine"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused(ser, run_folder, arguments, sentence):
    result = ser("predict", "--model", run_folder, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./nowhere", "--model ./nowhere: no such folder"),
        ("file.pt", "--model file.pt: a file, not a folder"),
        ("empty", "empty: no usable model, model.json is missing"),
        ("pickled", "pickled/pytorch_model.bin is a pickle"),
        ("somebody/something", "no usable audio classifier with safetensors weights was found"),
    ],
)
def test_what_is_no_model_is_refused(ser, clips, name, sentence):
    Path("file.pt").touch()
    Path("empty").mkdir()
    Path("pickled").mkdir()
    Path("pickled/pytorch_model.bin").write_bytes(b"\x80\x02never opened")
    Path("pickled/config.json").write_text("{}")
    result = ser("predict", "--model", name, *clips)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr


def test_folds_belong_to_runs_alone(ser, run_folder, clips):
    result = ser("predict", "--model", run_folder / "fold-1", "--fold", 1, *clips)
    assert result.exit_code == 2
    assert "is no run with folds" in result.stderr


def tiny_hubert() -> HubertConfig:
    return HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16),
        conv_stride=(16, 20), conv_kernel=(16, 20), num_feat_extract_layers=2, feat_extract_norm="layer",
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_labels=2, classifier_proj_size=16,
        id2label={0: "calm", 1: "loud"}, label2id={"calm": 0, "loud": 1},
    )  # fmt: skip


def test_a_published_classifier_answers_with_its_own_labels(ser, run_folder, clips):
    torch.manual_seed(0)
    model = HubertForSequenceClassification(tiny_hubert()).eval()
    model.save_pretrained("published")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained("published")
    result = ser("predict", "--model", "published", "--batch-size", 3, *clips)
    assert (result.exit_code, result.stderr) == (0, "")
    for clip, (path, label, *numbers) in zip(clips, rows(result.stdout), strict=True):
        waveform, _ = soundfile.read(clip, dtype="float32")
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            expected = model(inputs["input_values"]).logits[0].softmax(-1).numpy()
        assert path == clip
        np.testing.assert_allclose(np.array(numbers, float), expected, atol=1e-4)
        assert label == ("calm", "loud")[int(expected.argmax())]
    averaged = ser("predict", "--model", run_folder, "--model", "published", *clips)
    assert (averaged.exit_code, averaged.stdout) == (2, "")
    assert "--model published: a published classifier is not averaged with other models" in averaged.stderr


def test_an_encoder_without_a_trained_head_is_refused(ser, clips):
    HubertModel(tiny_hubert()).save_pretrained("encoder")
    Wav2Vec2FeatureExtractor().save_pretrained("encoder")
    result = ser("predict", "--model", "encoder", *clips)
    assert result.exit_code == 1
    assert "of the classifier are missing, such as classifier." in result.stderr
    assert result.stdout == ""


def test_a_published_classifier_with_a_weight_that_is_no_number_is_refused(ser, clips):
    torch.manual_seed(0)
    model = HubertForSequenceClassification(tiny_hubert())
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    model.save_pretrained("damaged")
    Wav2Vec2FeatureExtractor().save_pretrained("damaged")
    result = ser("predict", "--model", "damaged", *clips)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: model damaged: its weight classifier.weight holds values that are NaN or infinite" in result.stderr


@pytest.mark.slow
def test_the_first_answer_comes_within_twice_the_time_of_importing_torch(run_folder, clips):
    from time import perf_counter

    def seconds(*command) -> float:
        began = perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return perf_counter() - began

    pairs = [
        (seconds("-c", "import torch"), seconds("-m", "ser_cli", "predict", "--model", run_folder, clips[0]))
        for _ in range(5)
    ]
    bare, ours = np.median(pairs, axis=0)
    assert ours < 2 * bare


@pytest.mark.slow
def test_three_hours_take_no_more_memory_than_ten_minutes(run_folder):
    code = (
        "import resource, sys; from ser_cli.cli import app;"
        "app(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    peak = {}
    block = (0.3 * np.sin(np.arange(16_000 * 60) / 20)).astype(np.float32)
    for minutes in (10, 180):
        with soundfile.SoundFile("long.flac", "w", 16_000, 1) as file:
            for _ in range(minutes):
                file.write(block)
        command = [sys.executable, "-c", code, "predict", "--model", run_folder, "--window", "4", "--hop", "4"]
        result = subprocess.run([*command, "long.flac"], capture_output=True, text=True, check=True)
        assert len(result.stdout.splitlines()) == minutes * 15
        peak[minutes] = int(result.stderr.splitlines()[-1])
    assert peak[180] < peak[10] + 100_000  # kilobytes; decoded, three hours are 691,000


@pytest.mark.parametrize("name", ["call.m4a", "call.mp4"])
def test_the_sound_of_phones_and_videos_is_cut_into_windows_too(name):
    write_video(Path(name), "mono", 0)
    pieces = list(read_windows(Path(name), 0.2, 0.2))
    assert [round(piece.start_s, 1) for piece in pieces] == [0.0, 0.2, 0.4]
    whole = read_recording(Path(name)).waveform
    np.testing.assert_allclose(
        np.concatenate([p.waveform for p in pieces]), whole[: 3200 * 2 + len(pieces[2].waveform)]
    )
