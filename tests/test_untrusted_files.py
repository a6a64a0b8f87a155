"""Nothing that a user is handed runs code, leaves its folder, hangs, or ends in a traceback."""

import csv
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ser_cli.checkpoints import load_model, save_model
from ser_cli.data.store import open_corpus
from ser_cli.data.user_manifest import read_user_manifest
from ser_cli.errors import EncoderError, ProblemsError, RunError, SerError, UsageError
from ser_cli.files import MAX_DEPTH, parse_json, path_fault, read_bounded, read_json, read_table, read_text
from ser_cli.mixtures.choosing import replay_plans
from ser_cli.models.building import build_model
from ser_cli.models.pretrained import load_pretrained
from ser_cli.preparation.unpacking import require_short_directory
from ser_cli.recipe import load_recipe
from ser_cli.runs.embeddings import read_embeddings
from ser_cli.runs.predictions import read_predictions
from tests.conftest import TINY
from tests.models.test_folders import Payload
from tests.models.tiny import save_tiny_speech_encoder
from tests.runs_on_disk import LABELS, some_rows, write_run


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing", "huge"])
def test_what_is_no_file_of_a_bearable_size_is_refused_without_waiting(kind):
    path = Path("it")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises((OSError, ValueError)):
        read_bounded(path, 1000)


def test_a_device_is_refused():
    with pytest.raises(OSError, match="a pipe or a device"):
        read_text(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands in one object twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[1e999]", "too large"),
        ("[" + "9" * 5000 + "]", "4300"),
        ('"\\ud800"', "surrogates"),
        ("{", "Expecting"),
    ],
)
def test_json_that_no_program_should_take_is_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_json(text)


def test_json_as_people_write_it_is_taken():
    Path("a.json").write_bytes(b"\xef\xbb\xbf" + '{"name": "Zoë 😀 \\ud83d\\ude00", "deep": [[[[1.5e3]]]]}'.encode())
    assert read_json(Path("a.json")) == {"name": "Zoë 😀 😀", "deep": [[[[1500.0]]]]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1\n", "line 2 has 1 values for 2 columns"),
        (b"a,b\n1,\0\n", "NUL byte, in line 2"),
        (b"a,b\n1,\xff\n", "utf-8"),
        (b"a\n" + b"x" * 200_000, "field larger than field limit"),
        (b"," * 1_000_000, "at most 1,000 are read"),
        (b'a\n"x', "unexpected end of data"),
        (b"a\n" + b"1\n" * 1_000_001, "more than 1,000,000 rows"),
    ],
    ids=range(7),
)
def test_tables_that_no_program_should_take_are_refused(content, told):
    Path("t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_table(Path("t.csv"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a/b.wav", ""),
        ("a..b/c", ""),
        ("/etc/passwd", "is absolute"),
        ("C:x", "is absolute"),
        ("\\\\host\\share", "is absolute"),
        ("a\\b", "holds a backslash"),
        ("a/../b", "leads out"),
        ("a\0", "NUL"),
        ("a\x1b", "control"),
    ],
)
def test_paths_that_files_name_are_judged(text, fault):
    assert fault in path_fault(text)
    assert bool(path_fault(text)) == bool(fault)


def _rows(*paths: str) -> Path:
    Path("source").mkdir(exist_ok=True)
    Path("mine.csv").write_text("path,emotion,speaker\n" + "".join(f'"{path}",sad,p1\n' for path in paths))
    return Path("mine.csv")


@pytest.mark.parametrize("path", ["../x.wav", "/etc/passwd", "C:\\x.wav", "a\\..\\b.wav", "link.wav", "out/x", "\x07"])
def test_a_manifest_never_leads_out_of_its_folder(path):
    manifest = _rows(path)
    Path("source/link.wav").symlink_to("/etc/passwd")
    Path("source/out").symlink_to("/usr", target_is_directory=True)
    with pytest.raises(ProblemsError, match="line 2: "):
        read_user_manifest(manifest, Path("source"), None)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "long"])
def test_a_recording_that_would_wait_or_has_no_end_is_refused(kind):
    manifest = _rows("a" * 300 if kind == "long" else "it")
    path = Path("source/it")
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "loop": lambda: path.symlink_to("it")}.get(
        kind, lambda: None
    )()
    with pytest.raises(ProblemsError, match=r"pipe or a device|cannot be followed"):
        read_user_manifest(manifest, Path("source"), None)


def test_links_inside_of_the_folder_are_followed():
    manifest = _rows("link.wav")
    Path("source/real.wav").write_bytes(b"")
    Path("source/link.wav").symlink_to("real.wav")
    assert len(read_user_manifest(manifest, Path("source"), None).utterances) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"path,emotion,speaker\n" + b"x" * 200_000,
        b"path,emotion,speaker\n" + b"a,b,c\n" * 12_000_000,
        b"," * 2_000_000,
        b"\xff\xfe" + "path,emotion,speaker\na,b,c\n".encode("utf-16-le"),
        b"path,emotion,speaker\n" + b"\0" * 1000,
        b"path,emotion,path\n",
    ],
    ids=["one huge field", "72 MB", "two million columns", "UTF-16", "NUL bytes", "a column twice"],
)
def test_a_manifest_of_any_bytes_ends_in_a_sentence(ser, content):
    Path("mine.csv").write_bytes(content)
    result = ser("prepare", "--manifest", "mine.csv")
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: mine.csv")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = " + b"[" * 10_000, "nested too deeply"),
        (b"a = " + b"{a=" * 10_000, "nested too deeply"),
        (b"a" + b".a" * 100_000 + b" = 1", "dots, at most"),
        (b"# " + b"x" * 100_000_000, "bytes are too many"),
        (b"\xff", "utf-8"),
        (b"\0", "NUL byte"),
        (b"seed = 1\nseed = 2\n", "Cannot overwrite"),
        (b"seed = " + b"1" * 5000, "4300"),
    ],
    ids=range(8),
)
def test_a_recipe_of_any_bytes_ends_in_a_sentence(content, told):
    Path("mine.toml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^mine\.toml: cannot be read as TOML \(.*{told}"):
        load_recipe("mine.toml")


def test_a_recipe_that_is_a_pipe_or_a_folder_is_refused():
    os.mkfifo("pipe.toml")
    Path("folder.toml").mkdir()
    for name in ("pipe.toml", "folder.toml", "/dev/zero"):
        with pytest.raises(UsageError, match="not a file"):
            load_recipe(name)


@pytest.mark.parametrize("text", ["[" * 10_000, "1" * 5000])
def test_a_setting_on_the_command_line_may_be_anything_too(text):
    with pytest.raises(UsageError, match="cannot be read as a TOML value"):
        load_recipe("demo", [f"seed={text}"])


@pytest.fixture
def run() -> Path:
    return write_run(Path("run"), [some_rows("ab"), some_rows("cd", wrong=["c-sad-0"])])


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("run.json", {"folds": 10**12}, "run.json is damaged"),
        ("run.json", {"labels": "abc"}, "labels is no list of texts"),
        ("run.json", {"labels": ["a", "a"]}, "stands there twice"),
        ("run.json", {"seed": True}, "seed is no int"),
        ("run.json", {"dataset": ["x"]}, "dataset is no str"),
        ("fold-1/done.json", {"selected_by": "luck"}, "done.json is damaged"),
        ("fold-1/done.json", {"lacking": 3}, "lacking is no list"),
        ("fold-1/done.json", {"epoch": "x"}, "epoch is no number from 1 on"),
        ("fold-1/done.json", {"epoch": None}, "epoch is no number from 1 on"),
        ("fold-1/done.json", {"epoch": True}, "epoch is no number from 1 on"),
        ("fold-1/done.json", {"changes": 5}, "changes is no list of sentences"),
        ("protocol.json", {"caveats": 3}, "protocol.json is missing or damaged"),
    ],
)
def test_json_of_a_run_with_other_kinds_of_values_is_refused(ser, run, file, change, told):
    path = run / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = ser("evaluate", run, "--no-figures")
    assert result.exit_code == 1
    assert told in result.stderr


@pytest.mark.parametrize("file", ["run.json", "protocol.json", "fold-1/done.json"])
@pytest.mark.parametrize("content", [b"[" * 10_000, b"{" * 3, b"\xff", b"[1]", b"", b'{"a":1,"a":2}'])
def test_json_of_a_run_of_any_bytes_is_named(ser, run, file, content):
    (run / file).write_bytes(content)
    result = ser("evaluate", run, "--no-figures")
    assert result.exit_code == 1
    assert f"run/{file} is" in result.stderr


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("0.7", "nan", "a probability lies outside"),
        ("0.7", "0.5", r"its probabilities sum to 0\.8, not 1"),
        (",1,", ",2,", "is of fold 2 and not of fold 1"),
        ("probability_happy", "probability_bored", "not one probability for each of the 3 labels"),
    ],
)
def test_predictions_that_cannot_be_are_refused(run, written, instead, told):
    path = run / "fold-1/predictions.csv"
    path.write_text(path.read_text().replace(written, instead, 1))
    with pytest.raises(RunError, match=told):
        read_predictions(path, LABELS, 1)
    path.write_text(path.read_text() + "x" * 200_000)
    with pytest.raises(RunError, match=r"predictions\.csv: cannot be read"):
        read_predictions(path, LABELS, 1)


def test_probabilities_are_found_by_the_names_of_their_columns(run):
    path = run / "fold-1/predictions.csv"
    before = read_predictions(path, LABELS, 1)
    with path.open(newline="") as file:
        rows = [row[:4] + row[:3:-1] for row in csv.reader(file)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert read_predictions(path, LABELS, 1) == before
    assert rows[0][4] == "probability_sad"


def test_pictures_are_not_written_through_a_link(ser, run, tmp_path):
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "mine.svg").write_text("keep")
    (run / "figures").symlink_to(elsewhere)
    result = ser("evaluate", run)
    assert "figures is a link" in result.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["mine.svg"]


def test_a_bomb_in_the_place_of_embeddings_is_refused():
    with zipfile.ZipFile("e.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ids", "sides", "emotions", "attention_ids", "attention_frames", "attention_times_s"):
            archive.writestr(f"{name}.npy", b"")
        archive.writestr("attention_share.npy", b"")
        archive.writestr("embedding.npy", bytes(200 << 20))
    with pytest.raises(RunError, match=r"bytes would unpack to 209,715,200"):
        read_embeddings(Path("e.npz"))
    np.savez("o.npz", ids=np.array([Payload()], dtype=object))
    with pytest.raises(RunError, match="cannot be read as embeddings"):
        read_embeddings(Path("o.npz"))
    assert not Path("was-run").exists()


def _zip(path: Path, members: int, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(members):
            archive.writestr(f"{number:05d}" + "x" * 4000, b"")
        archive.comment = comment
    return path


@pytest.mark.parametrize("comment", [b"", b"PK\x05\x06 is how it begins"])
def test_an_archive_whose_list_alone_would_fill_the_memory_is_refused_before_it_is_read(comment, monkeypatch):
    require_short_directory(_zip(Path("small.zip"), 3))
    with pytest.raises(zipfile.BadZipFile, match="its list of members takes 28 MB"):
        require_short_directory(_zip(Path("long.zip"), 7000))
    # A large archive (zip64) tells its size elsewhere.
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
        with pytest.raises(zipfile.BadZipFile, match="its list of members takes 28 MB"):
            require_short_directory(_zip(Path("large.zip"), 7000))
    require_short_directory(_zip(Path("commented.zip"), 3, comment))


def test_offsets_that_lie_outside_of_the_stored_audio_are_refused(ser, tones, home):
    ser("prepare", "--manifest", tones)
    folder = home / "corpora/tones"
    text = (folder / "audio.csv").read_text()
    header, first, rest = text.split("\n", 2)
    for offset, samples in ((-4, 8), (0, -1), (10**30, 4)):
        cells = first.split(",")
        cells[1:3] = [str(offset), str(samples)]
        (folder / "audio.csv").write_text("\n".join([header, ",".join(cells), rest]))
        with pytest.raises(SerError, match="do not fit together"):
            open_corpus(folder)


@pytest.mark.parametrize("value", ["9" * 400, "-1", "1e9", "nan", "x"])
def test_numbers_of_a_plan_that_cannot_be_are_named(ser, tones, home, value):
    ser("prepare", "--manifest", tones)
    corpus = open_corpus(home / "corpora/tones")
    a, b = list(corpus.by_id)[:2]
    Path("plan.csv").write_text(
        "method,dominant,interfering,dominant_start,interfering_start,length,snr_db,share\n"
        f"eam,{a},{b},0,0,{value},0,1\n"
    )
    with pytest.raises(ProblemsError, match=r"plan\.csv: 1 problem\n  line 2"):
        replay_plans(corpus, list(corpus.by_id), Path("plan.csv"))


@pytest.fixture
def trained() -> Path:
    overrides = [value for value in TINY if "conformer." in value]
    recipe = load_recipe("conformer", overrides)
    model = build_model(recipe, 3)
    save_model(Path("model"), model, model.state_dict(), ("a", "b", "c"), recipe)
    return Path("model")


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_model_folder_of_pipes_is_refused_without_waiting(trained, file):
    (trained / file).unlink()
    os.mkfifo(trained / file)
    with pytest.raises(RunError, match="no usable model"):
        load_model(trained)


def _mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """One of the faults that files come with."""
    data = bytearray(content)
    kind = rng.integers(7)
    place = int(rng.integers(max(1, len(data))))
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        return bytes(data)
    if kind == 2:
        return bytes(data[:place] + rng.bytes(int(rng.integers(1, 40))) + data[place:])
    if kind == 3:
        return bytes(data[:place] + data[place // 2 :])
    tokens = [
        b"null",
        b"[]",
        b"{}",
        b"-1",
        b"1e308",
        b'"\\ud800"',
        b"9" * 30,
        b"true",
        b'""',
        b"\0",
        b"[" * 2000,
        b"nan",
    ]
    token = tokens[int(rng.integers(len(tokens)))]
    values = list(re.finditer(rb"-?\d+(?:\.\d+)?|\"[^\"\n]*\"|[a-z_]+(?=[,\n])", bytes(data[: 1 << 16])))
    if kind == 4 or not values:
        return bytes(data[:place] + token + data[place:])
    found = values[int(rng.integers(len(values)))]
    return bytes(data[: found.start()] + token + data[found.end() :])


@pytest.mark.slow
def test_no_mutant_of_any_file_ends_in_a_traceback(ser, tones, trained):
    """The `ser` fixture raises whatever is no sentence."""
    ser("prepare", "--manifest", tones)
    whole = Path("whole")
    whole.mkdir()
    shutil.copytree(write_run(Path("run"), [some_rows("ab"), some_rows("cd")]), whole / "run")
    shutil.copytree(trained, whole / "model")
    save_tiny_speech_encoder(whole / "encoder", "wavlm")
    # Without its format a description is read as that of an older version, whose hashes nobody compares.
    told = json.loads((whole / "model/model.json").read_text())
    (whole / "model/model.json").write_text(json.dumps({k: v for k, v in told.items() if k != "format"}, indent=1))
    (whole / "recipe.toml").write_text(load_recipe("conformer").as_toml())
    shutil.copy(tones, tones.parent / "whole.csv")
    clip = next(tones.parent.rglob("*.wav"))
    work = Path("work")
    cases = {
        "run/run.json": ("evaluate", work / "run", "--no-figures"),
        "run/protocol.json": ("evaluate", work / "run", "--no-figures"),
        "run/folds.csv": ("evaluate", work / "run", "--no-figures"),
        "run/fold-1/done.json": ("evaluate", work / "run", "--no-figures"),
        "run/fold-2/predictions.csv": ("evaluate", work / "run", "--no-figures"),
        "model/model.json": ("predict", "--model", work / "model", clip),
        "model/model.safetensors": ("predict", "--model", work / "model", clip),
        "encoder/config.json": None,
        "encoder/preprocessor_config.json": None,
        "encoder/model.safetensors": None,
        "recipe.toml": ("train", "--manifest", tones, "--folds", "2", "--recipe", work / "recipe.toml", "--dry-run"),
        "tones.csv": ("prepare", "--manifest", tones, "--force", "--skip-unreadable"),
    }
    shutil.copytree(whole, work)
    for command in filter(None, cases.values()):
        assert ser(*command).exit_code == 0  # what is refused below is refused for its fault
    rng = np.random.default_rng(8)
    refused = dict.fromkeys(cases, 0)
    for name, command in cases.items():
        content = (tones.parent / "whole.csv" if name == "tones.csv" else whole / name).read_bytes()
        for _ in range(30):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            target = tones if name == "tones.csv" else work / name
            target.write_bytes(_mutant(content, rng))
            if command is None:
                try:
                    load_pretrained(str(work / "encoder"))
                except EncoderError as error:
                    assert "encoder" in str(error)
                    refused[name] += 1
                continue
            result = ser(*command)
            assert result.exit_code in (0, 1, 2), result.stderr
            if result.exit_code:
                refused[name] += 1
                assert result.stderr.splitlines()[-1]
                assert "error: " in result.stderr
                assert "Traceback" not in result.stderr
    # Most mutants are refused; a flipped letter of a name is none that anybody could see.
    assert all(number >= 5 for name, number in refused.items() if name != "model/model.safetensors"), refused
    print(refused)
