"""What `ser` says and how it exits when something cannot be."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ser_cli import __version__
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
from ser_cli.recipe import load_recipe
from ser_cli.training.cross_validation import plan_cross_validation
from tests.conftest import TINY, training_process, write_tone_corpus


def test_version_is_printed_alone(ser):
    assert ser("--version").stdout == f"ser {__version__}\n"


def test_no_verb_shows_the_help(ser):
    result = ser()
    assert "prepare" in result.stdout + result.stderr
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--dataset", "ravdess", "--encoder", "conformer"], 1, "dataset 'ravdess' is not prepared"),
        (
            ["--dataset", "ravdess", "--encoder", "conformer"],
            1,
            "ser prepare --dataset ravdess --source FOLDER",
        ),
        (["--dataset", "ravdss"], 2, "unknown dataset 'ravdss'; did you mean ravdess?"),
        ([], 2, "give either --dataset NAME or --manifest FILE"),
        (["--dataset", "demo", "--recipe", "mlll"], 2, "unknown recipe 'mlll'; did you mean mll?"),
        (
            ["--dataset", "demo", "--set", "optimizer.learning_rte=1"],
            2,
            "optimizer.learning_rte: unknown; did you mean",
        ),
        (
            ["--dataset", "demo", "--set", "training.epochs=0"],
            2,
            "training.epochs: must be greater than or equal to 1",
        ),
        (["--dataset", "../x"], 2, "cannot name a dataset"),
    ],
)
def test_training_that_cannot_start_is_told_with_what_to_do(ser, arguments, code, told):
    result = ser("train", *arguments)
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert told in result.stderr
    assert result.stdout == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--folds", 7], 2, "the corpus has 6 speakers, and each fold must test at least one"),
        (["--folds", 3, "--fold", 4], 2, "--fold 4: protocol seeded-3-of-6-speakers-seed-0 has folds 1 to 3"),
        (["--protocol", "sedeed"], 2, "unknown protocol 'sedeed'; did you mean seeded?"),
        (["--device", "cuda:9"], 2, "--device cuda:9: not on this machine"),
        (["--device", "gpu"], 2, "--device gpu: not on this machine"),
        (["--set", "training.precision=float16"], 2, "needs a GPU, found cpu; use float32"),
        (["--set", "pooling.heads=5"], 2, "pooling.heads 5: the encoder's width 16 must be a multiple of it"),
        (["--epochs", 5, "--set", "training.epochs=7"], 2, "--set training.epochs=7: an option of its own asks for 5"),
        (["--seed", 1, "--set", "seed=2"], 2, "--set seed=2: an option of its own asks for 1; give one of them"),
        (["--encoder", "no/such/folder"], 1, "encoder no/such/folder: no such folder"),
        (
            ["--encoder", "someone/wavlm"],
            1,
            "either download them where there is a network and give their folder",
        ),
    ],
)
def test_a_run_that_cannot_be_leaves_nothing_behind(ser, tones, arguments, code, told):
    result = ser("train", "--manifest", tones, *TINY, *arguments)
    assert result.exit_code == code
    assert told in result.stderr
    assert result.stdout == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize("verb", ["train", "ablate"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--encoder", "./gone"], "error: encoder ./gone: no such folder\n"),
        (["--encoder", "empty"], "error: encoder empty: the folder holds no config.json\n"),
        (["--set", "text.encoder=./gone"], "error: text.encoder ./gone: no such folder\n"),
        (["--set", "text.encoder=empty"], "with config.json, tokenizer.json and model.safetensors\n"),
    ],
)
def test_a_dry_run_refuses_a_folder_that_holds_no_encoder(ser, tones, verb, arguments, told):
    Path("empty").mkdir()
    Path("two.toml").write_text(
        'title = "two"\nrecipe = "conformer"\nreference = "flam"\n[[cells]]\nname = "flam"\n'
        '[[cells]]\nname = "mean"\nchanges.pooling.name = "mean"\n'
    )
    assert ser("prepare", "--manifest", tones).exit_code == 0
    command = (verb, "--manifest", tones, "--recipe", "conformer", "--folds", 2, "--set", "mixup.method=none")
    grid = ("--grid", "two.toml") if verb == "ablate" else ()
    dry = ser(*command, *grid, *arguments, "--output", "run", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (1, "")
    assert told in dry.stderr
    if verb == "train":
        assert told in ser(*command, *arguments, "--output", "run").stderr
    assert not Path("run").exists()


@pytest.mark.parametrize("verb", ["train", "ablate"])
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--device", "cuda:9"], 2, "--device cuda:9: not on this machine"),
        (["--device", "cpu", "--set", "training.precision=float16"], 2, "needs a GPU, found cpu; use float32"),
        (["--set", "pooling.heads=7"], 2, "pooling.heads 7: the encoder's width 128 must be a multiple of it"),
    ],
)
def test_a_dry_run_refuses_arithmetic_and_widths_that_the_run_would_refuse(ser, tones, verb, arguments, code, told):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    grid = ("--grid", "mixing", "--cells", 1) if verb == "ablate" else ()
    command = (verb, *grid, "--manifest", tones, "--recipe", "conformer", "--folds", 2, *arguments, "--output", "run")
    dry = ser(*command, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (code, "")
    assert told in dry.stderr
    if verb == "train":
        assert ser(*command).stderr.endswith(dry.stderr)
    assert not Path("run").exists()


def test_a_dry_run_refuses_a_folder_that_cannot_be_made(ser, tones):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    Path("file").touch()
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "file/run")
    dry = ser(*command, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (1, "")
    assert "is no folder\n  choose another folder with --output" in dry.stderr
    real = ser(*command)
    assert (real.exit_code, real.stdout) == (1, "")
    assert "file/run" in real.stderr


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_fewer_validation_speakers_than_asked_for_are_told(ser, tones, asked):
    # Six speakers in two folds: one of the three of each training side can be held out. Two is the default, and the
    # lists of --dry-run say what becomes of it.
    assert ser("prepare", "--manifest", tones).exit_code == 0
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, "--set", f"selection.validation_speakers={asked}")
    result = ser(*command, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.count("; validation p") == 2
    told = (
        "warning: selection.validation_speakers = 3: the epoch is chosen on 1 of the 3 speakers of a training side: at"
        " most a third of its speakers is held out, and one at least\n"
    )
    assert (told in result.stderr) == (asked == 3)


def test_a_study_tells_it_of_the_cells_that_ask_for_too_many(ser, tones):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    Path("two.toml").write_text(
        'title = "two"\nrecipe = "conformer"\nreference = "one"\n[[cells]]\nname = "one"\n'
        '[[cells]]\nname = "five"\nchanges.selection.validation_speakers = 5\n'
    )
    command = ("ablate", "--manifest", tones, "--grid", "two.toml", "--folds", 2, "--set", "selection.by=validation")
    told = "warning: selection.validation_speakers = 5: the epoch is chosen on 1 of the 3 speakers"
    for cells, expected in ((1, 0), (2, 1)):
        result = ser(*command, "--cells", cells, "--dry-run")
        assert result.exit_code == 0
        assert result.stderr.count(told) == expected


@pytest.mark.parametrize("instead", [("--set", "selection.validation_share=0.2"), ("--select", "last")])
def test_nothing_is_told_of_validation_speakers_where_none_are_wanted(ser, tones, instead):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, *instead)
    result = ser(*command, "--set", "selection.validation_speakers=3", "--dry-run")
    assert result.exit_code == 0
    assert "validation_speakers = 3: " not in result.stderr


def test_validation_speakers_are_told_to_change_nothing_where_a_protocol_names_them(tones):
    recipe = load_recipe("conformer", ["selection.by=validation", "selection.validation_speakers=3"])
    plan = plan_cross_validation(prepare(list_manifest(tones)).corpus, recipe, "conformer", folds=2)
    of_utterances = replace(plan, protocol=replace(plan.protocol, validation_by="utterance"))
    (told,) = of_utterances.cautions
    assert told.startswith("selection.validation_speakers = 3 changes nothing: protocol seeded-2-of-6-speakers")
    shared = load_recipe("conformer", ["selection.by=validation", "selection.validation_share=0.1"])
    fixed = replace(plan, recipe=shared, protocol=replace(plan.protocol, validation=(("p1",), ("p2",))))
    (told,) = fixed.cautions
    assert told.startswith("selection.validation_share = 0.1 changes nothing: protocol seeded-2-of-6-speakers")
    assert not replace(of_utterances, recipe=shared).cautions  # there it has its way


def test_each_way_to_ask_for_a_run_has_a_folder_of_its_own(ser, tones):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, "--dry-run")
    one, other = ("--where", "duration_s<=100"), ("--where", "duration_s>=0.01")
    asked = [(), one, (*one, *other), (*other, *one), ("--labels", "angry,happy,sad"), ("--labels", "sad,happy,angry")]
    folders = [re.findall("# run folder: (.*)", ser(*command, *options).stdout)[0] for options in asked]
    assert folders[2] == folders[3]  # conditions hold together, in any order
    assert len(set(folders)) == 5 - (folders[0] == folders[4])


def test_a_dry_run_refuses_a_folder_that_the_run_would_refuse(ser, tones):
    command = ("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert ser(*command, "run").exit_code == 0
    for arguments, told in (
        (("mine",), "mine exists and holds no run; choose a new folder with --output"),
        (("mine", "--force"), "mine exists and holds no run; choose a new folder with --output"),
        (("run", "--seed", 5), "seed: 0 there, 5 asked for"),
        (("run", "--seed", 5, "--resume-anyway"), "run holds another run"),
        (("run", "--epochs", 3), "training.epochs: 2 there, 3 asked for"),
    ):
        dry = ser(*command, *arguments, "--dry-run")
        assert (dry.exit_code, dry.stdout) == (1, "")
        assert told in dry.stderr
        assert dry.stderr.splitlines()[-1] == ser(*command, *arguments).stderr.splitlines()[-1]
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    for arguments in (("run",), ("run", "--seed", 5, "--force"), ("run", "--epochs", 3, "--resume-anyway"), ("new",)):
        assert ser(*command, *arguments, "--dry-run").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
    assert Path("mine/thesis.txt").read_text() == "years of work"
    assert not Path("new").exists()


def test_a_dry_run_tells_a_program_folds_and_recipe(ser, tones):
    assert ser("prepare", "--manifest", tones).exit_code == 0
    command = (
        "train",
        "--manifest",
        tones,
        "--folds",
        3,
        "--fold",
        2,
        *TINY,
        "--seed",
        7,
        "--dry-run",
        "--output",
        "x",
    )
    told = json.loads(ser(*command, "--json").stdout)
    assert (told["run"], told["dataset"], told["labels"]) == ("x", "tones", ["angry", "happy", "sad"])
    assert told["protocol"] == "seeded-3-of-6-speakers-seed-7"
    assert (told["recipe"]["seed"], told["recipe"]["training"]["epochs"]) == (7, 2)
    assert [(fold["fold"], fold["wanted"]) for fold in told["folds"]] == [(1, False), (2, True), (3, False)]
    everybody = {f"p{number}" for number in range(1, 7)}
    for fold in told["folds"]:
        sides = [set(fold[side]["speakers"]) for side in ("train", "validation", "test")]
        assert set.union(*sides) == everybody
        assert sum(map(len, sides)) == len(everybody)
        # Nine clips of each speaker.
        assert [fold[side]["clips"] for side in ("train", "validation", "test")] == [9 * len(side) for side in sides]
    text = ser(*command).stdout.splitlines()
    assert f"# fold 2: train {' '.join(told['folds'][1]['train']['speakers'])}; validation " in "\n".join(text)


def test_a_class_missing_from_a_fold_is_named(ser, tmp_path):
    manifest = write_tone_corpus(tmp_path / "few", speakers=4)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(line for line in lines if not line.startswith("p1/sad")) + "\n")
    result = ser("train", "--manifest", manifest, "--folds", 4, *TINY)
    assert result.exit_code == 1
    assert "no sad in test" in result.stderr
    assert "use fewer folds" in result.stderr


def test_a_folder_of_another_run_is_not_overwritten(ser, tones):
    first = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run")
    assert first.exit_code == 0
    refused = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run", "--seed", 5)
    assert refused.exit_code == 1
    assert "run holds another run" in refused.stderr
    assert "seed: 0 there, 5 asked for" in refused.stderr
    Path("run/notes.txt").write_text("mine")
    forced = ser(
        "train",
        "--manifest",
        tones,
        "--folds",
        2,
        "--fold",
        1,
        *TINY,
        "--output",
        "run",
        "--seed",
        5,
        "--force",
    )
    assert forced.exit_code == 0
    assert json.loads(Path("run/run.json").read_text())["seed"] == 5
    assert Path("run/notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_not_touched(ser, tones):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    for more in ([], ["--force"]):
        result = ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "mine", *more)
        assert result.exit_code == 1
        assert "mine exists and holds no run; choose a new folder with --output" in result.stderr
    assert Path("mine/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"a": 1}', '{"labels": 3}'])
def test_a_run_of_another_make_is_told_to_be_one(ser, content):
    Path("run").mkdir()
    Path("run/run.json").write_text(content)
    result = ser("evaluate", "run")
    assert result.exit_code == 1
    assert "run/run.json is damaged or of another version" in result.stderr


def test_a_damaged_done_marker_is_named(ser, tones):
    ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run")
    Path("run/fold-1/done.json").write_text("{")
    result = ser("evaluate", "run")
    assert result.exit_code == 1
    assert "fold-1/done.json is damaged" in result.stderr


def test_scores_are_shown_where_the_run_cannot_be_written(ser, tones, monkeypatch):
    ser("train", "--manifest", tones, "--folds", 2, *TINY, "--output", "run")
    Path("run/scores.json").unlink()
    Path("run/scores.json").mkdir()
    Path("run/scores.json/file").touch()
    result = ser("evaluate", "run")
    assert result.exit_code == 0
    assert result.stdout.startswith("fold\tclips")
    assert "scores.json and report.md are left as they are" in result.stderr


@pytest.mark.parametrize(("folder", "told"), [("none", "none holds no run"), (".", ". holds no run")])
def test_evaluating_what_is_no_run_is_told(ser, folder, told):
    result = ser("evaluate", folder)
    assert result.exit_code == 1
    assert told in result.stderr


def test_force_without_a_folder_to_write_into_is_refused(ser):
    result = ser("evaluate", "run", "--force")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--force writes into an --output folder that holds files; give --output DIR" in result.stderr


def test_evaluating_an_unfinished_run_is_told(ser, tones):
    ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run")
    Path("run/fold-1/done.json").unlink()
    result = ser("evaluate", "run")
    assert result.exit_code == 1
    assert "no fold is done yet" in result.stderr


def test_damaged_predictions_are_named(ser, tones):
    ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run")
    Path("run/fold-1/predictions.csv").write_text("id,fold\nx,1\n")
    result = ser("evaluate", "run")
    assert result.exit_code == 1
    assert "predictions.csv: cannot be read as predictions" in result.stderr


def test_a_loss_that_is_no_number_stops_with_the_clips(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run",
                 "--set", "optimizer.learning_rate=1e30", "--set", "optimizer.gradient_clip=0",
                 "--set", "optimizer.warmup_epochs=0")  # fmt: skip
    assert result.exit_code == 1
    assert "fold 1, epoch " in result.stderr
    assert "clips of the batch: p" in result.stderr
    assert not Path("run/fold-1/done.json").exists()


def test_quiet_training_says_nothing_but_the_folder(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run", "--quiet")
    assert (result.stdout, result.stderr) == ("run\n", "")


def test_verbose_says_where_settings_came_from(ser, tones):
    result = ser("train", "--manifest", tones, "--folds", 2, "--fold", 1, *TINY, "--output", "run", "-v")
    assert "settings: recipe conformer\n" in result.stderr
    assert "  training.epochs = 2, from its option" in result.stderr
    assert "  conformer.dim=16, from --set" in result.stderr
    dry = ser("train", "--dataset", "demo", "--targets", "hard", "--select", "last", "--dry-run", "-v")
    assert "  training.targets = hard, from its option\n  selection.by = last, from its option\n" in dry.stderr
    assert "run folder from --output" in result.stderr
    assert "folds: speakers shuffled by the seed" in result.stderr


def test_ctrl_c_leaves_with_130_and_the_same_command_goes_on(tones, home):
    command = training_process(tones, "run")
    running = subprocess.Popen([*command, "--epochs", "2000"], stderr=subprocess.PIPE, text=True, env=os.environ)
    assert running.stderr is not None
    for line in running.stderr:
        if " epoch 2/" in line:
            break
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    rest = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert rest.count("press it again to leave at once") == 1
    assert rest.splitlines()[-1] == "error: interrupted; what was finished is kept, the same command goes on from there"
    assert "Traceback" not in rest
    assert not Path("run/fold-1/done.json").exists()


def test_a_first_ctrl_c_waits_for_the_step_and_a_second_does_not():
    from ser_cli.commands.interruption import StopSignals

    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signals.finishes_steps = True
        signal.raise_signal(signal.SIGINT)
        assert signals.came == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_before_the_first_step_a_signal_is_obeyed_at_once():
    from ser_cli.commands.interruption import StopSignals

    with StopSignals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    code = "import signal; from ser_cli.commands.interruption import StopSignals\n"
    code += "with StopSignals():\n signal.raise_signal(signal.SIGTERM)\nprint('still here')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_do_not_spin_long_unless_told_to(monkeypatch, given, expected):
    from ser_cli import __main__

    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(__main__, "run_app", lambda: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    __main__.main()
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert seen == [expected]


def test_a_dry_run_tells_a_program_where_the_recordings_will_come_from(ser, home):
    result = ser("prepare", "--dataset", "ravdess", "--download", "--dry-run", "--json", "-q")
    told = json.loads(result.stdout)
    assert result.stderr == ""
    assert (told["dataset"], told["recordings"]) == ("ravdess", "fetched")
    assert told["licence"].startswith("CC BY-NC-SA 4.0")
    assert told["archive"].startswith("https://zenodo.org/")
    assert told["source"] == str(home / "sources" / "ravdess")
    rendered = json.loads(ser("prepare", "--dataset", "demo", "--dry-run", "--json").stdout)
    assert (rendered["dataset"], rendered["recordings"]) == ("demo", "rendered")
    assert "archive" not in rendered
    assert not home.exists()
