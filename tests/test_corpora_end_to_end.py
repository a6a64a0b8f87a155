"""Corpora of the papers from their folder to a report, on tones under published names."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY, write_tone
from tests.corpora.test_iemocap import block

QUICK = [*TINY, "--epochs", "1", "-q"]
CODES = {"ang": "Anger", "hap": "Happiness", "exc": "Excited", "sad": "Sadness", "neu": "Neutral", "xxx": "Frustration"}


def seed_of(*name: object) -> int:
    """A seed of a recording's own: equal noise would make two recordings one."""
    return zlib.crc32(repr(name).encode())


def write_iemocap(root: Path) -> Path:
    """Five sessions, each with an improvised and a scripted dialogue of two speakers who show each emotion twice."""
    hz = dict(zip(CODES, (1200, 800, 850, 250, 500, 600), strict=True))
    for session in range(1, 6):
        for dialog in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            folder = root / f"Session{session}"
            text, spoken = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n", ""
            for letter in "FM":
                for number, code in enumerate([*CODES, *CODES]):
                    turn = f"{dialog}_{letter}{number:03d}"
                    text += block(turn, code, (CODES[code], CODES[code], "Neutral"))
                    spoken += f"{turn} [006.2901-008.2357]: Excuse me.\n"
                    path = folder / f"sentences/wav/{dialog}/{turn}.wav"
                    write_tone(path, hz[code] + 5 * session, 0.08, seed=seed_of(*(turn, 1)))
            for kind, content in (("EmoEvaluation", text), ("transcriptions", spoken)):
                path = folder / f"dialog/{kind}/{dialog}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
    return root


@pytest.fixture
def iemocap(tmp_path, ser) -> None:
    source = write_iemocap(tmp_path / "IEMOCAP_full_release")
    assert ser("prepare", "--dataset", "iemocap", "--source", source, "-q").exit_code == 0


def test_iemocap_by_session_with_the_raters_votes(iemocap, ser, home):
    with (home / "corpora/iemocap/manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 240
    votes = {row["code"]: row["votes"] for row in rows}
    assert votes["ang"] == "angry:2 neutral:1"
    assert votes["neu"] == "neutral:3"
    conditions = ["--where", "scenario=improvised"]
    result = ser("train", "--dataset", "iemocap", "--folds", "5", "--targets", "soft", *conditions, *QUICK)
    assert result.exit_code == 0, result.stderr
    run = Path(result.stdout.strip())
    identity = json.loads((run / "run.json").read_text())
    assert identity["label_set"] == "4"
    assert identity["where"] == ["scenario=improvised"]
    assert identity["targets"] == "soft"
    protocol = json.loads((run / "protocol.json").read_text())
    assert protocol["name"] == identity["protocol"] == "iemocap-5-session"
    assert protocol["hash"] == identity["protocol_hash"]
    with (run / "folds.csv").open() as file:
        sides = list(csv.DictReader(file))
    assert {row["session"] for row in sides if row["fold"] == "3" and row["side"] == "test"} == {"03"}
    assert len({row["id"] for row in sides}) == 5 * 2 * 10
    report = (run / "report.md").read_text()
    assert "Labels 4: angry, happy, sad, neutral; only utterances with scenario=improvised; learnt from" in report
    assert "each fold tests unheard sessions" in report
    scores = json.loads(ser("evaluate", run, "--json").stdout)
    assert scores["where"] == ["scenario=improvised"]
    assert scores["pooled"]["n"] == 100


def test_another_choice_goes_to_another_run_folder(iemocap, ser):
    folders = set()
    for further in ([], ["--where", "scenario=scripted"], ["--labels", "4-no-excited"], ["--targets", "soft"]):
        result = ser("train", "--dataset", "iemocap", *further, *TINY, "--dry-run")
        folders.add(result.stdout.splitlines()[0])
    assert len(folders) == 4


def test_iemocap_by_speaker_leaves_the_partner_out(iemocap, ser):
    result = ser("train", "--dataset", "iemocap", "--folds", "10", *TINY, "--dry-run", "--check-text")
    (third,) = [line for line in result.stdout.splitlines() if line.startswith("# fold 3:")]
    assert third.endswith("test 02F")
    assert "02M" not in third
    assert "fold 3: 20 of 20 tested clips say what training clips say, such as 'Excuse me.'" in result.stderr


def test_soft_targets_change_what_is_learnt(iemocap, ser):
    common = ["--dataset", "iemocap", "--fold", "1", *QUICK, "--set", "mixup.method=none"]
    runs = [ser("train", *common, "--targets", targets, "--output", targets) for targets in ("hard", "soft")]
    assert [run.exit_code for run in runs] == [0, 0]
    kl = []
    for targets in ("hard", "soft"):
        with Path(targets, "fold-1/history.csv").open() as file:
            kl.append(float(next(csv.DictReader(file))["kl"]))
    assert kl[0] - kl[1] == pytest.approx(mean_entropy(), abs=0.15)


def mean_entropy() -> float:
    """Of the votes of an epoch: KL falls by it, since an untrained model says about the same to both.

    Anger, sadness and both kinds of happiness have two votes of three, neutral has all; happiness and excitement
    count twice as they are merged.
    """
    two_of_three = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    return 4 / 5 * two_of_three


def test_savee_tells_how_its_epoch_was_chosen(tmp_path, ser):
    for speaker in ("DC", "JE", "JK", "KL"):
        for code, takes, hz in (("a", 15, 1200), ("d", 15, 900), ("f", 15, 700), ("h", 15, 600), ("n", 30, 400),
                                ("sa", 15, 250), ("su", 15, 1500)):  # fmt: skip
            for take in range(1, takes + 1):
                path = tmp_path / f"AudioData/{speaker}/{code}{take:02d}.wav"
                write_tone(path, hz + ord(speaker[0]), 0.06, seed=seed_of(*(speaker, code, take)))
    told = ser("prepare", "--dataset", "savee", "--source", tmp_path)
    assert "480 of 480" in told.stderr
    result = ser("train", "--dataset", "savee", "--folds", "4", *QUICK)
    assert result.exit_code == 0, result.stderr
    report = (Path(result.stdout.strip()) / "report.md").read_text()
    assert "20 % of the clips of each training speaker and emotion choose the epoch: heard voices" in report


def test_a_fold_whose_speaker_lacks_an_emotion_is_scored_over_the_others(tmp_path, ser):
    letters = {"W": 1200, "L": 300, "E": 900, "A": 700, "F": 600, "T": 250, "N": 400}
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"):
        for letter, hz in letters.items():
            for text in ("a01", "b02", "b10"):
                if (speaker, letter) != ("08", "E"):
                    path = tmp_path / f"wav/{speaker}{text}{letter}a.wav"
                    write_tone(path, hz, 0.06, seed=seed_of(*(speaker, letter, text)))
    assert ser("prepare", "--dataset", "emodb", "--source", tmp_path, "-q").exit_code == 0
    result = ser("train", "--dataset", "emodb", "--fold", "2", "--output", "run", *QUICK)
    assert result.exit_code == 0, result.stderr
    scores = json.loads(ser("evaluate", "run", "--json").stdout)
    with Path("run/fold-2/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    recalls = [
        np.mean([row["predicted"] == label for row in rows if row["truth"] == label])
        for label in sorted({row["truth"] for row in rows})
    ]
    assert len(recalls) == 6
    assert scores["folds"][0]["ua"] == pytest.approx(np.mean(recalls))
    assert "never shows disgust" in scores["protocol_rule"]
