"""`ser mix`: what is written can be checked, heard, replayed and trained on, and nothing crosses a fold."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.main import get_command

from ser_cli.cli import app
from ser_cli.data.store import open_corpus
from ser_cli.recipe_settings import MixupSettings
from tests.conftest import TINY
from tests.runs_on_disk import LABELS


@pytest.fixture
def corpus(ser, tones, home):
    assert ser("prepare", "--manifest", tones, "-q").exit_code == 0
    return open_corpus(home / "corpora" / "tones")


def mixed(ser, *options: object, output: str = "mixed") -> list[dict[str, str]]:
    result = ser("mix", "--dataset", "tones", "--output", output, "--no-page", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{output}/metadata.csv\n"
    return rows_of(Path(output, "metadata.csv"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_columns_that_scripts_rely_on_are_there(ser, corpus):
    rows = mixed(ser, "--count", 5)
    assert list(rows[0])[:10] == [
        *("file_name", "source_a", "source_b", "start_a_s", "start_b_s", "length_s"),
        *("snr_db", "snr_measured_db", "lambda", "gain_db"),
    ]
    assert [name for name in rows[0] if name.startswith("target_")] == ["target_angry", "target_happy", "target_sad"]
    assert len(rows) == 5
    assert {path.name for path in Path("mixed/audio").iterdir()} == {f"mix-000{n}.flac" for n in range(1, 6)}


def test_each_mixture_is_what_its_row_says(ser, corpus):
    for row in mixed(ser, "--count", 30, "--snr-range", "-3,8"):
        a, b = corpus.waveform(row["source_a"]), corpus.waveform(row["source_b"])
        start_a, start_b, length = (round(float(row[f"{n}_s"]) * 16_000) for n in ("start_a", "start_b", "length"))
        samples, rate = soundfile.read(Path("mixed", row["file_name"]), dtype="float32")
        assert rate == 16_000
        assert len(samples) == len(a)
        gain = 10 ** (float(row["gain_db"]) / 20)
        added = samples / gain - a
        outside = np.ones(len(a), dtype=bool)
        outside[start_a : start_a + length] = False
        np.testing.assert_allclose(added[outside], 0, atol=2 / 32768)
        power_a = np.sum(a[start_a : start_a + length] ** 2.0)
        power_b = np.sum(added[start_a : start_a + length] ** 2.0)
        if length > 200:
            assert 10 * np.log10(power_a / power_b) == pytest.approx(float(row["snr_db"]), abs=0.1)
            segment = b[start_b : start_b + length]
            correlation = np.corrcoef(segment, added[start_a : start_a + length])[0, 1]
            assert correlation > 0.99
        assert float(row["snr_measured_db"]) == pytest.approx(float(row["snr_db"]), abs=0.01)
        weight = 1 / (1 + 10 ** (float(row["snr_db"]) / 10)) * length / len(a)
        assert float(row["lambda"]) == pytest.approx(weight, abs=1e-4)
        target = {name.removeprefix("target_"): float(v) for name, v in row.items() if name.startswith("target_")}
        expected = dict.fromkeys(target, 0.0)
        expected[row["emotion_a"]] += 1 - weight
        expected[row["emotion_b"]] += weight
        assert target == pytest.approx(expected, abs=1e-4)
        assert -3 <= float(row["snr_db"]) <= 8


def test_label_adaptive_and_conventional_mixtures_last_as_long_as_the_longer_clip(ser, corpus):
    for method in ("lam", "mixup"):
        for row in mixed(ser, "--count", 10, "--method", method, output=method):
            a, b = corpus.waveform(row["source_a"]), corpus.waveform(row["source_b"])
            samples, _ = soundfile.read(Path(method, row["file_name"]), dtype="float32")
            assert len(samples) == max(len(a), len(b))
            assert row["snr_db"] == ""
            if method == "lam":
                assert float(row["lambda"]) == pytest.approx(len(b) / (len(a) + len(b)), abs=1e-5)
                both = min(len(a), len(b))
                np.testing.assert_allclose(samples[:both], (a[:both] + b[:both]) / 2, atol=2 / 32768)


def test_a_mixture_that_would_clip_is_lowered_as_a_whole_and_the_gain_recorded(ser, tmp_path):
    lines = ["path,emotion,speaker"]
    time = np.arange(8000) / 16_000
    for number, emotion in enumerate(["happy", "sad"] * 3):
        soundfile.write(tmp_path / f"{number}.wav", 0.9 * np.sin(2 * np.pi * (300 + 40 * number) * time), 16_000)
        lines.append(f"{number}.wav,{emotion},p{number}")
    (tmp_path / "loud.csv").write_text("\n".join(lines) + "\n")
    result = ser("mix", "--manifest", tmp_path / "loud.csv", "--count", 12, "--output", "mixed", "--snr-range", "0,0")
    assert result.exit_code == 0, result.stderr
    lowered = [row for row in rows_of(Path("mixed/metadata.csv")) if float(row["gain_db"]) < 0]
    assert len(lowered) > 6
    assert f"{len(lowered)} would have clipped and were lowered as a whole, by gain_db" in result.stderr
    for row in lowered:
        samples, _ = soundfile.read(Path("mixed", row["file_name"]))
        assert np.abs(samples).max() == pytest.approx(0.999, abs=1e-3)
        # Nothing is flattened: no two samples in a row stand at the peak.
        at_peak = np.abs(samples) > 0.9985
        assert not np.any(at_peak[1:] & at_peak[:-1] & (samples[1:] == samples[:-1]))


def test_a_plan_is_replayed_byte_for_byte(ser, corpus):
    for method in ("eam", "lam", "mixup"):
        mixed(ser, "--count", 6, "--method", method, "--seed", 3, output=method)
        mixed(ser, "--plan", f"{method}/plan.csv", output=f"{method}-again")
        for path in sorted(Path(method).rglob("*.*")):
            assert path.read_bytes() == Path(f"{method}-again", path.relative_to(method)).read_bytes()


def test_a_seed_draws_the_same_and_another_draws_others(ser, corpus):
    drawn = [mixed(ser, "--seed", seed, output=f"m{n}") for n, seed in enumerate([1, 1, 2])]
    assert drawn[0] == drawn[1] != drawn[2]


def test_emotions_are_chosen_for_both_sides_and_each_clip_is_the_first_in_turn(ser, corpus):
    rows = mixed(ser, "--from", "angry", "--into", "sad", "--count", 36)
    assert {(row["emotion_a"], row["emotion_b"]) for row in rows} == {("sad", "angry")}
    firsts = [row["source_a"] for row in rows]
    assert len(set(firsts[:18])) == len(set(firsts[18:])) == 18


def test_chosen_pairs_are_mixed_as_the_file_says(ser, corpus):
    Path("pairs.csv").write_text(
        "source_a,source_b,start_a_s,start_b_s,length_s,snr_db\np1/sad-0,p2/happy-0,0.05,0.1,0.1,3\np3/sad-1,p1/sad-0,,,,\n"
    )
    first, second = mixed(ser, "--pairs", "pairs.csv")
    told = [first[name] for name in ("source_a", "source_b", "start_a_s", "start_b_s", "length_s", "snr_db")]
    assert told == ["p1/sad-0", "p2/happy-0", "0.05", "0.1", "0.1", "3.0"]
    assert float(second["target_sad"]) == 1.0


def test_pairs_that_cannot_be_mixed_are_all_named(ser, corpus):
    Path("pairs.csv").write_text(
        "source_a,source_b,start_a_s,start_b_s,length_s,snr_db\n"
        "p1/sad-0,p1/sad-9,,,,\np1/sad-0,p1/sad-0,,,,\np1/sad-0,p2/sad-0,0.2,0,0.3,\np1/sad-0,p2/sad-0,x,,,\n"
    )
    result = ser("mix", "--dataset", "tones", "--output", "mixed", "--pairs", "pairs.csv")
    assert result.exit_code == 2
    assert "4 problems" in result.stderr
    assert "line 2: p1/sad-9 is no clip of tones; did you mean p1/sad-" in result.stderr
    assert "line 3: p1/sad-0 is to be mixed with itself" in result.stderr
    assert "line 4: p1/sad-0 lasts" in result.stderr
    assert "a segment of 0.300 s from 0.200 s does not lie inside it" in result.stderr
    assert not Path("mixed").exists()


def test_a_side_of_a_fold_is_mixed_and_a_pair_across_it_refused(ser, corpus):
    side = ["--fold", 1, "--folds", 3]
    tested = {row["speaker_a"] for row in mixed(ser, *side, "--split", "test", "--count", 40, output="test")}
    trained = mixed(ser, *side, "--split", "train", "--count", 80, output="train")
    heard = {row[f"speaker_{letter}"] for row in trained for letter in "ab"}
    assert len(tested) == 2
    assert heard
    assert not heard & tested
    one, other = sorted(tested)[0], sorted(heard)[0]
    Path("pairs.csv").write_text(f"source_a,source_b\n{other}/sad-0,{one}/sad-0\n")
    result = ser("mix", "--dataset", "tones", "--output", "x", *side, "--pairs", "pairs.csv")
    assert result.exit_code == 2
    assert f"line 2: {one}/sad-0 is not on the chosen side" in result.stderr


def test_a_mixed_corpus_trains_and_no_mixture_meets_a_tested_speaker(ser, corpus):
    result = ser(
        "mix", "--dataset", "tones", "--output", "mixed", "--count", 60, "--with-originals", "--no-page", "--json"
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["mixtures"], told["originals"], told["manifest"]) == (60, 54, "mixed/manifest.csv")
    line = "ser prepare --manifest mixed/manifest.csv --name mixed, then ser train --dataset mixed --targets soft"
    assert line in result.stderr
    assert ser("prepare", "--manifest", "mixed/manifest.csv", "--name", "mixed", "-q").exit_code == 0
    metadata = {f"{row['source_a']}|{row['source_b']}": row for row in rows_of(Path("mixed/metadata.csv"))}
    manifest = rows_of(Path("mixed/manifest.csv"))
    for row in manifest[54:]:
        votes = dict(part.split(":") for part in row["votes"].split())
        target = metadata[f"{row['source_a']}|{row['source_b']}"]
        for label, share in votes.items():
            assert float(share) == pytest.approx(float(target[f"target_{label}"]), abs=1e-3)
    options = ("--folds", 3, "--targets", "soft", *TINY, "--output", "run")
    trained = ser("train", "--dataset", "mixed", *options)
    assert trained.exit_code == 0, trained.stderr
    by_id = {row["id"]: row for row in manifest}
    sides = rows_of(Path("run/folds.csv"))
    for fold in "123":
        kept = {row["id"]: row["side"] for row in sides if row["fold"] == fold}
        tested = {by_id[i]["speaker"] for i, side in kept.items() if side == "test"}
        mixtures = [i for i in kept if i.startswith("mix-")]
        assert {kept[i] for i in mixtures} == {"train"}
        assert 0 < len(mixtures) < 60
        for identity in mixtures:
            assert not {by_id[identity]["speaker"], by_id[identity]["also_speaker"]} & tested


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--count", "0"], 2, "greater than or equal to 1"),
        (["--snr-range", "10,-5"], 2, "--snr-range 10,-5: the lower end comes first"),
        (["--snr-range", "loud"], 2, "expected two numbers in decibels"),
        (["--snr-range", "nan,3"], 2, "the lower end comes first"),
        (["--max-overlap", "0.8"], 2, "--max-overlap 0.8: must be above 0 and at most 0.5"),
        (["--method", "lam", "--lambda", "1"], 2, "--lambda 1: must be above 0 and below 1"),
        (["--method", "mixup", "--alpha", "0"], 2, "--alpha 0: must be above 0"),
        (["--from", "angr"], 2, "--from angr: not among the labels angry, happy, sad; did you mean angry?"),
        (["--fold", "9", "--folds", "3"], 2, "has folds 1 to 3"),
        (["--split", "test"], 2, "go with --fold"),
        (["--plan", "p.csv", "--pairs", "q.csv"], 2, "give one of them"),
        (["--plan", "p.csv", "--count", "3", "--seed", "9"], 2, "--count, --seed would change nothing; leave out one"),
        (["--pairs", "p.csv", "--from", "sad"], 2, "--pairs names the clips: --from would change nothing"),
        (["--method", "lam", "--snr-range", "0,1"], 2, "of --method eam: --snr-range would change nothing"),
        (["--alpha", "0.3"], 2, "the rule is eam, and of --method mixup: --alpha would change nothing"),
        (["--plan", "none.csv"], 2, "none.csv: cannot be read (No such file or directory)"),
        (["--pairs", "wrong.csv"], 2, "no column 'source_b'; did you mean sourceb?"),
        (["--pairs", "empty.csv"], 2, "empty.csv: no row to mix"),
        (["--pairs", "misspelt.csv"], 2, "misspelt.csv: column 'SNR' is read by nothing; did you mean snr_db?"),
        (["--pairs", "ragged.csv"], 2, "(line 3 has 1 value for 2 columns)"),
    ],
)
def test_what_cannot_be_mixed_is_told(ser, corpus, options, code, told):
    Path("wrong.csv").write_text("source_a,sourceb\np1/sad-0,p2/sad-0\n")
    Path("empty.csv").write_text("source_a,source_b\n")
    Path("misspelt.csv").write_text("source_a,source_b,SNR\np1/sad-0,p2/sad-0,3\n")
    Path("ragged.csv").write_text("source_a,source_b\np1/sad-0,p2/sad-0\np1/sad-1\n")
    result = ser("mix", "--dataset", "tones", "--output", "mixed", *options)
    assert result.exit_code == code
    assert told in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not Path("mixed").exists()


def test_blanks_around_names_and_values_of_pairs_and_notes_of_ones_own_are_no_matter(ser, corpus):
    Path("pairs.csv").write_text("source_a,source_b, snr_db ,remark\np1/sad-0, p2/happy-1 , 3.5,loud\n")
    (row,) = mixed(ser, "--pairs", "pairs.csv")
    assert float(row["snr_db"]) == 3.5


@pytest.mark.parametrize("there", [False, True])
def test_two_that_write_one_folder_at_once_do_not_delete_each_other(ser, corpus, monkeypatch, there):
    from ser_cli.mixtures import writing

    if there:
        mixed(ser, "--count", 2)
    others = []
    write = writing._as_csv

    def written(rows):
        if not others:
            others.append(None)
            others[0] = ser("mix", "--dataset", "tones", "--count", 2, "--output", "mixed", "--force")
        return write(rows)

    monkeypatch.setattr(writing, "_as_csv", written)
    assert len(mixed(ser, "--count", 3, "--force")) == 3
    assert others[0].exit_code == 1
    assert "--output mixed: another process is writing it" in others[0].stderr
    assert not list(Path().glob("**/*.lock"))


def test_what_the_choice_left_out_is_told_as_such(ser, corpus):
    command = ("mix", "--dataset", "tones", "--output", "mixed", "--where")
    refused = ser(*command, "emotion=happy", "--from", "sad")
    assert "no clip of that emotion is left; loosen --where emotion=happy, or choose another --fold" in refused.stderr
    Path("pairs.csv").write_text("source_a,source_b\np1/sad-0,p2/sad-0\n")
    refused = ser(*command, "speaker=p2", "--pairs", "pairs.csv")
    assert "line 2: p1/sad-0 is left out by --labels or --where" in refused.stderr
    Path("pairs.csv").write_text("source_a;source_b\np1/sad-0;p2/sad-0\n")
    refused = ser("mix", "--dataset", "tones", "--output", "mixed", "--pairs", "pairs.csv")
    assert "no column 'source_a'; its columns are separated by ';'; save it with commas\n" in refused.stderr


def test_a_plan_that_does_not_fit_the_corpus_is_told(ser, corpus):
    mixed(ser, "--count", 2)
    text = Path("mixed/plan.csv").read_text()
    for number, (old, new, told) in enumerate(
        [("eam", "eem", "method 'eem' is not among eam, lam, mixup"), ("\neam,p", "\neam,q", "is no clip of tones")]
    ):
        Path(f"{number}.csv").write_text(text.replace(old, new))
        result = ser("mix", "--dataset", "tones", "--output", "again", "--plan", f"{number}.csv")
        assert result.exit_code == 2
        assert told in result.stderr


def test_an_output_folder_is_replaced_only_on_request_and_only_if_it_holds_mixtures(ser, corpus):
    mixed(ser, "--count", 2)
    again = ser("mix", "--dataset", "tones", "--output", "mixed")
    assert again.exit_code == 2
    assert "mixed holds mixtures already; choose another --output, or replace them with --force" in again.stderr
    assert len(mixed(ser, "--count", 3, "--force")) == 3
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").touch()
    refused = ser("mix", "--dataset", "tones", "--output", "thesis", "--force")
    assert refused.exit_code == 2
    assert "thesis exists and holds something else than mixtures" in refused.stderr
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


def test_force_replaces_the_mixtures_and_nothing_that_lies_beside_them(ser, corpus):
    command = ("mix", "--dataset", "tones", "--output", "mixed", "--count")
    assert ser(*command, 12, "--with-originals").exit_code == 0
    mine = ["notes.txt", "audio/my own.flac", "originals/list.txt", "run/recipe.toml", ".kept"]
    for name in mine:
        Path("mixed", name).parent.mkdir(exist_ok=True)
        Path("mixed", name).write_text(f"mine: {name}")
    assert ser(*command, 2, "--no-page", "--force").exit_code == 0
    there = {str(path.relative_to("mixed")) for path in Path("mixed").rglob("*") if path.is_file()}
    assert there == {*mine, "metadata.csv", "plan.csv", "audio/mix-0001.flac", "audio/mix-0002.flac"}
    assert all(Path("mixed", name).read_text() == f"mine: {name}" for name in mine)
    assert [row["file_name"] for row in rows_of(Path("mixed/metadata.csv"))] == [
        f"audio/mix-000{n}.flac" for n in (1, 2)
    ]


def test_force_leaves_a_manifest_and_a_page_of_ones_own(ser, corpus):
    command = ("mix", "--dataset", "tones", "--output", "mixed", "--count", 2)
    mixed(ser, "--count", 2)
    mine = {"manifest.csv": "path,emotion,speaker\na.wav,sad,p1\n", "index.html": "<!doctype html><title>Mine</title>"}
    for name, content in mine.items():
        Path("mixed", name).write_text(content)
    assert ser(*command, "--no-page", "--force").exit_code == 0
    for name, options in {"manifest.csv": ("--no-page", "--with-originals"), "index.html": ()}.items():
        for dry in ((), ("--dry-run",)):
            refused = ser(*command, *options, "--force", *dry)
            assert refused.exit_code == 2
            told = f"mixed/{name} was not written by `ser mix`; move it away, or choose another --output"
            assert told in refused.stderr
    assert {name: Path("mixed", name).read_text() for name in mine} == mine
    for name in mine:
        Path("mixed", name).unlink()
    assert ser(*command, "--with-originals", "--force").exit_code == 0
    assert ser(*command, "--no-page", "--force").exit_code == 0  # these are its own
    assert not Path("mixed/manifest.csv").exists() and not Path("mixed/index.html").exists()


@pytest.mark.parametrize("output", ["my mix", "demo", "tones.d/-x"])
def test_the_commands_that_train_on_mixtures_can_be_run(ser, corpus, output):
    told = ser("mix", "--dataset", "tones", "--output", output, "--count", 9, "--no-page", "--with-originals").stderr
    prepare, train = re.findall(r"train on it: ser (.*), then ser (.*)", told)[0]
    result = ser(*shlex.split(prepare))
    assert result.exit_code == 0, result.stderr
    result = ser(*shlex.split(train), "--folds", 2, "--encoder", "conformer", "--dry-run")
    assert result.exit_code == 0, result.stderr


def test_the_votes_of_originals_and_mixtures_are_those_of_the_raters_where_they_are_asked_for(ser, tones, home):
    lines = tones.read_text().splitlines()
    cast = {"angry": "angry:2 sad:1", "happy": "happy:3", "sad": "sad:1 happy:1"}
    rows = [f"{line},{cast[line.split(',')[1]]}" for line in lines[1:]]
    tones.write_text("\n".join([lines[0] + ",votes", *rows]) + "\n")
    shares = {"angry": {"angry": 2 / 3, "sad": 1 / 3}, "happy": {"happy": 1.0}, "sad": {"sad": 0.5, "happy": 0.5}}
    command = ("mix", "--manifest", tones, "--count", 12, "--no-page", "--with-originals", "--output")
    plain = ser(*command, "plain")
    assert (
        "warning: the raters of 36 clips voted for several emotions, and only their verdict is written" in plain.stderr
    )
    assert {row["votes"] for row in rows_of(Path("plain/manifest.csv")) if row["id"] == "p1/angry-0"} == {"angry:1"}
    result = ser(*command, "soft", "--targets", "soft")
    assert result.exit_code == 0 and "voted for several" not in result.stderr, result.stderr
    told = {row["id"]: row for row in rows_of(Path("soft/manifest.csv"))}
    for row in rows_of(Path("soft/metadata.csv")):
        weight = float(row["lambda"])
        a, b = shares[row["emotion_a"]], shares[row["emotion_b"]]
        for label in LABELS:
            mixed_share = (1 - weight) * a.get(label, 0) + weight * b.get(label, 0)
            assert float(row[f"target_{label}"]) == pytest.approx(mixed_share, abs=1e-5)
    votes = dict(part.split(":") for part in told["p1/angry-0"]["votes"].split())
    assert {label: float(share) for label, share in votes.items()} == pytest.approx({"angry": 0.6667, "sad": 0.3333})
    assert told["p1/sad-0"]["emotion"] == "sad"  # the verdict stands


def test_a_link_among_the_mixtures_is_not_followed_when_they_are_replaced(ser, corpus):
    mixed(ser, "--count", 2)
    Path("mixed/audio").rename("elsewhere")
    Path("mixed/audio").symlink_to("../elsewhere")
    mixed(ser, "--count", 1, "--force")
    assert {path.name for path in Path("elsewhere").iterdir()} == {"mix-0001.flac", "mix-0002.flac"}
    assert not Path("mixed/audio").is_symlink()
    assert {path.name for path in Path("mixed/audio").iterdir()} == {"mix-0001.flac"}


def test_a_call_that_is_stopped_while_it_replaces_is_never_taken_for_a_whole_one(ser, corpus, monkeypatch):
    mixed(ser, "--count", 3)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ser_cli.mixtures.output_folder._delete_old", stop)
        assert ser("mix", "--dataset", "tones", "--output", "mixed", "--seed", 1, "--force").exit_code == 130
    assert not Path("mixed/metadata.csv").exists()
    refused = ser("mix", "--dataset", "tones", "--output", "mixed")
    assert (refused.exit_code, "replace them with --force" in refused.stderr) == (2, True)
    rows = mixed(ser, "--count", 2, "--force")
    assert {path.name for path in Path("mixed").iterdir()} == {"audio", "metadata.csv", "plan.csv"}
    assert {path.name for path in Path("mixed/audio").iterdir()} == {Path(row["file_name"]).name for row in rows}


@pytest.mark.parametrize("output", [".", "../work", "link"])
def test_the_output_may_be_the_working_folder_or_a_link_to_an_empty_one(ser, corpus, output, tmp_path):
    (tmp_path / "empty").mkdir()
    if output == "link":
        Path("link").symlink_to(tmp_path / "empty")
    kept = Path.cwd().stat().st_ino
    for more in ([], ["--force"]):
        result = ser("mix", "--dataset", "tones", "--output", output, "--count", 2, "--no-page", *more)
        assert result.exit_code == 0, result.stderr
    assert Path.cwd().stat().st_ino == kept  # a shell that stands in it stays in it
    folder = tmp_path / "empty" if output == "link" else Path()
    assert {path.name for path in folder.iterdir()} == {"audio", "metadata.csv", "plan.csv"}
    assert len(rows_of(folder / "metadata.csv")) == 2


def test_a_link_that_leads_nowhere_is_refused_before_anything_is_mixed(ser, corpus, monkeypatch):
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    monkeypatch.setattr("ser_cli.mixtures.writing.render", None)
    for name in ("link", "loop"):
        result = ser("mix", "--dataset", "tones", "--output", name, "--count", 2)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: {name} is a link that leads nowhere; choose another --output\n"


def test_an_interrupted_call_leaves_nothing(ser, corpus, monkeypatch):
    def stop(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ser_cli.mixtures.writing.encode_flac", stop)
    result = ser("mix", "--dataset", "tones", "--output", "mixed")
    assert result.exit_code == 1
    assert "cannot write mixed: No space left on device" in result.stderr
    assert not [path for path in Path().iterdir() if "mixed" in path.name]


def test_a_silent_segment_mixes_nothing_and_is_said(ser, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    for name in ("a", "b"):
        half_silent = np.concatenate([noise * (1 if name == "a" else 0.5), np.zeros(8000)])
        soundfile.write(tmp_path / f"{name}.wav", half_silent, 16_000)
    (tmp_path / "half.csv").write_text("path,emotion,speaker\na.wav,happy,p1\nb.wav,sad,p2\n")
    Path("pairs.csv").write_text("source_a,source_b,start_a_s,start_b_s,length_s,snr_db\na,b,0.6,0,0.3,0\n")
    result = ser("mix", "--manifest", tmp_path / "half.csv", "--output", "mixed", "--pairs", "pairs.csv")
    assert result.exit_code == 0
    assert "in 1 a segment is silent, so nothing was mixed and lambda is 0" in result.stderr
    (row,) = rows_of(Path("mixed/metadata.csv"))
    assert (float(row["lambda"]), float(row["target_happy"])) == (0.0, 1.0)


def test_dry_run_writes_nothing(ser, corpus):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    refused = ser("mix", "--dataset", "tones", "--output", "mine", "--dry-run")
    assert (refused.exit_code, "mine exists and holds something else" in refused.stderr) == (2, True)
    result = ser("mix", "--dataset", "tones", "--output", "mixed", "--dry-run")
    assert result.exit_code == 0
    assert "20 mixtures of 54 clips would be written to mixed" in result.stderr
    assert not Path("mixed").exists()


def test_dry_run_tells_a_program_what_would_be_written(ser, corpus):
    result = ser("mix", "--dataset", "tones", "--output", "mixed", "--count", 7, "--from", "sad", "--dry-run", "--json")
    assert json.loads(result.stdout) == {"dataset": "tones", "output": "mixed", "mixtures": 7, "clips": 54}
    assert not Path("mixed").exists()


def test_chosen_pairs_are_mixed_by_the_rules_of_whole_clips_too(ser, corpus):
    Path("pairs.csv").write_text("source_a,source_b\np1/sad-0,p2/happy-1\n")
    long_a, long_b = (corpus.length(identity) for identity in ("p1/sad-0", "p2/happy-1"))
    (row,) = mixed(ser, "--pairs", "pairs.csv", "--method", "lam", "--lambda", 0.3, output="lam")
    weight = 0.7 * long_b / (0.3 * long_a + 0.7 * long_b)  # of the second label, paper of label-adaptive mixup, eq. 2
    assert float(row["lambda"]) == pytest.approx(weight, abs=1e-5)
    assert float(row["target_happy"]) == pytest.approx(weight, abs=1e-5)
    a, b = corpus.waveform("p1/sad-0"), corpus.waveform("p2/happy-1")
    samples, _ = soundfile.read(Path("lam", row["file_name"]), dtype="float32")
    both = min(long_a, long_b)
    np.testing.assert_allclose(samples[:both], 0.3 * a[:both] + 0.7 * b[:both], atol=2 / 32768)
    drawn = {float(mixed(ser, "--pairs", "pairs.csv", "--method", "mixup", "--seed", s, output=f"m{s}")[0]["lambda"])
             for s in range(3)}  # fmt: skip
    assert len(drawn) == 3


def test_an_only_partner_is_never_the_first_and_all_mixtures_that_are_asked_for_are_made(ser, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["path,emotion,speaker"]
    for number, emotion in enumerate(["sad", "happy", "angry"]):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, 8000), 16_000)
        lines.append(f"{number}.wav,{emotion},p{number}")
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n")
    for count in (1, 2, 5):
        result = ser(
            "mix", "--manifest", tmp_path / "few.csv", "--from", "sad", "--count", count, "--output", f"m{count}"
        )
        assert result.exit_code == 0, result.stderr
        rows = rows_of(Path(f"m{count}/metadata.csv"))
        assert len(rows) == count
        assert {row["emotion_b"] for row in rows} == {"sad"}
        assert "sad" not in {row["emotion_a"] for row in rows}
    options = ("--from", "sad", "--into", "sad", "--count", 1, "--output", "none")
    result = ser("mix", "--manifest", tmp_path / "few.csv", *options)
    assert result.exit_code == 2
    assert "nothing to mix: only one clip is left" in result.stderr


@pytest.mark.parametrize("snr_db", ["4000", "-1000", "nan", "inf", "200.5"])
def test_a_ratio_that_nothing_can_have_is_refused(ser, corpus, snr_db):
    Path("pairs.csv").write_text(f"source_a,source_b,snr_db\np1/sad-0,p2/sad-0,{snr_db}\n")
    result = ser("mix", "--dataset", "tones", "--output", "mixed", "--pairs", "pairs.csv")
    assert result.exit_code == 2
    assert "line 2: " in result.stderr
    assert "is not between -200 and 200 dB" in result.stderr or "are not all finite numbers" in result.stderr
    assert not Path("mixed").exists()


def test_a_mixture_is_not_mixed_again_since_its_second_voice_would_be_forgotten(ser, corpus):
    mixed(ser, "--count", 10, "--with-originals", output="once")
    assert ser("prepare", "--manifest", "once/manifest.csv", "--name", "once", "-q").exit_code == 0
    result = ser("mix", "--dataset", "once", "--output", "twice", "--count", 80, "--with-originals", "--no-page")
    assert result.exit_code == 0, result.stderr
    assert "once: 10 clips left out, mixtures already" in result.stderr
    rows = rows_of(Path("twice/metadata.csv"))
    assert len(rows) == 80
    assert not [row for row in rows if "mix-" in row["source_a"] + row["source_b"]]
    assert len(rows_of(Path("twice/manifest.csv"))) == 54 + 80
    Path("pairs.csv").write_text("source_a,source_b\nmix-0001,p2/sad-0\n")
    refused = ser("mix", "--dataset", "once", "--output", "x", "--pairs", "pairs.csv")
    assert refused.exit_code == 2
    assert "line 2: mix-0001 is a mixture already" in refused.stderr
    none = ser("mix", "--dataset", "once", "--where", "source_b!=", "--output", "x")
    assert none.exit_code == 2
    assert "every clip is a mixture already" in none.stderr


def test_clips_of_more_than_full_scale_are_lowered_as_a_whole_and_it_is_said(ser, tmp_path):
    time = np.arange(8000) / 16_000
    lines = ["path,emotion,speaker"]
    for number, (emotion, peak) in enumerate([("happy", 3.0), ("sad", 0.5)]):
        wave = (peak * np.sin(2 * np.pi * (310 + 40 * number) * time)).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        lines.append(f"{number}.wav,{emotion},p{number}")
    (tmp_path / "loud.csv").write_text("\n".join(lines) + "\n")
    options = ("--count", 1, "--with-originals", "--json", "--output", "mixed")
    result = ser("mix", "--manifest", tmp_path / "loud.csv", *options)
    assert result.exit_code == 0, result.stderr
    assert "originals: 1 clip of more than full scale lowered as a whole" in result.stderr
    assert json.loads(result.stdout)["originals_lowered"] == 1
    for number, peak in enumerate((3.0, 0.5)):
        source, _ = soundfile.read(tmp_path / f"{number}.wav")
        written, _ = soundfile.read(f"mixed/originals/{number + 1:06d}.flac")
        np.testing.assert_allclose(written, source * (0.999 / peak if peak > 1 else 1), atol=2 / 32768)


def test_the_help_shows_the_defaults_that_training_has():
    told = {parameter.name: parameter.show_default for parameter in get_command(app).commands["mix"].params}
    settings = MixupSettings()
    assert told["method"] == settings.method
    assert tuple(map(float, told["snr_range"].split(","))) == (settings.snr_min_db, settings.snr_max_db)
    for option, setting in (("max_overlap", "max_overlap"), ("lam_lambda", "lam_lambda"), ("alpha", "mixup_alpha")):
        assert float(told[option]) == getattr(settings, setting)
