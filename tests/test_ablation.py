"""`ser ablate`: grids are data, cells are runs, a study is filled in any order, and its report is what it says."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ser_cli.ablation.cells import _train_in_worker, threads_of_each
from ser_cli.ablation.grids import load_grid, shipped_grids
from ser_cli.ablation.scores import cell_differences
from ser_cli.ablation.studies import CellRun
from ser_cli.commands.completion import complete_grid
from ser_cli.errors import RunError
from ser_cli.evaluation.comparison import compare_runs
from ser_cli.evaluation.intervals import Resampled
from ser_cli.evaluation.scores import evaluate_run
from ser_cli.figures.ablation import Row, draw_ablation
from ser_cli.prediction.classifiers import open_model
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
from ser_cli.runs.directory import Run
from ser_cli.runs.locks import hold
from tests.conftest import TINY_CELLS, write_tone_corpus
from tests.runs_on_disk import some_rows, write_run

GRID = """
title = "two mixing rules"
recipe = "conformer"
source = "a paper, Table 9"
reference = "none"
components = [{ title = "EAM", setting = "mixup.method", value = "eam" },
              { title = "center", setting = "losses.center" },
              { title = "share", setting = "mixup.share", shown = true }]
[changes]
losses.center = 0
[[cells]]
name = "none"
changes.mixup.method = "none"
[[cells]]
name = "eam"
changes.mixup = { method = "eam", share = 0.25 }
paper = { wa = "61.5", ua = "62.05" }
"""
OPTIONS = ("--folds", 2, *TINY_CELLS, "--epochs", 1)


def write_grid(text: str = GRID, name: str = "rules.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def ablate(folder: Path, *arguments: object):
    """Run `ser ablate` on the corpus and the data home of a folder."""
    from ser_cli.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        patch.chdir(folder)
        command = ["ablate", "--dataset", "tones", *OPTIONS, *arguments]
        result = CliRunner().invoke(app, list(map(str, command)), prog_name="ser")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder with a corpus and a study of which the second cell alone is trained; and what that said."""
    folder = tmp_path_factory.mktemp("studied")
    write_tone_corpus(folder / "tones", speakers=4, takes=1)
    (folder / "rules.toml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        prepare(list_manifest(folder / "tones/tones.csv"))
    return folder, ablate(folder, "--grid", "rules.toml", "--output", "study", "--cells", 2)


def test_the_rows_of_the_papers_table_have_what_its_text_tells():
    grid = load_grid("paper-a")
    marks = {cell.name: [c.title for c in grid.components if cell.has(c)] for cell in grid.cells}
    assert marks == {
        "baseline": ["HuBERT", "LAM", "KL", "center"],
        "max": ["WavLM", "EAM", "max", "KL", "center"],
        "mean": ["WavLM", "EAM", "mean", "KL", "center"],
        "flam": ["WavLM", "EAM", "FLAM", "KL", "center"],
        "flam-focal": ["WavLM", "EAM", "FLAM", "KL", "center", "focal"],
        "flam-supcon": ["WavLM", "EAM", "FLAM", "KL", "center", "SupCon"],
        "all": ["WavLM", "EAM", "FLAM", "KL", "center", "focal", "SupCon"],
    }
    assert [cell.paper["ua"] for cell in grid.cells] == [
        *("76.04", "77.74", "77.95", "78.10", "78.56", "78.83", "79.14")
    ]
    assert "75.83 / 76.45" in grid.left_out[0]


@pytest.mark.parametrize("name", shipped_grids())
def test_shipped_grids_can_be_read_and_open_with_a_command(name):
    grid = load_grid(name)
    assert shipped_grids()[name].startswith("# ser ablate --dataset ")
    assert f"--grid {name}" in shipped_grids()[name].splitlines()[0]
    assert all(any(cell.has(c) for cell in grid.cells) for c in grid.components if not c.shown)
    assert any(cell.paper["wa"] for cell in grid.cells) == bool(grid.source)
    assert (name, grid.title) in complete_grid("")


def test_what_a_table_on_the_command_line_asks_for_leaks_into_no_other_cell(tmp_path):
    path = tmp_path / "three.toml"
    path.write_text(
        'title = "three"\nrecipe = "lam"\nreference = "a"\n[changes]\nmixup.method = "eam"\n'
        '[[cells]]\nname = "a"\nchanges.mixup = { method = "lam", lam_lambda = 0.7 }\n'
        '[[cells]]\nname = "b"\nchanges.losses.center = 0.5\n'
        '[[cells]]\nname = "c"\nchanges.encoder.projection_dropout = ""\n'
    )
    grid = load_grid(str(path), None, ["mixup={share=0.3}"])
    told = [(cell.recipe.mixup.method, cell.recipe.mixup.lam_lambda, cell.recipe.mixup.share) for cell in grid.cells]
    assert told == [("lam", 0.7, 0.3), ("eam", 0.5, 0.3), ("eam", 0.5, 0.3)]
    assert [cell.recipe.encoder.projection_dropout for cell in grid.cells] == [0.4, 0.4, None]


def test_what_the_command_line_asks_for_comes_between_grid_and_cell():
    path = write_grid()
    grid = load_grid(str(path), None, ["losses.center=0.5", "mixup.share=0.75"], {"training.epochs": 3})
    none, eam = (cell.recipe for cell in grid.cells)
    assert (none.losses.center, none.mixup.share, none.training.epochs) == (0.5, 0.75, 3)
    assert (eam.losses.center, eam.mixup.share, eam.training.epochs) == (0.5, 0.25, 3)


BAD_GRIDS = {
    "mixup.methd": (
        GRID.replace("changes.mixup.method =", "changes.mixup.methd ="),
        "grid bad.toml, cell 1 (none), recipe conformer: 1 problem\n"
        "  mixup.methd: unknown; did you mean method?\n"
        "  mend the grid's changes, or what --recipe, --encoder and --set ask for; all keys: man ser-train",
    ),
    "section": (GRID.replace("changes.mixup.method", "changes.mixups.method"), "mixups: unknown; did you mean mixup?"),
    "value": (GRID.replace('"none"\nchanges.mixup.method = "none"', '"none"\nchanges.mixup.share = 3'), "mixup.share"),
    "seed": (
        GRID.replace('method = "none"', 'method = "none"\nchanges.seed = 1'),
        "cell none: seed must be the same for all cells; give it with --seed",
    ),
    "reference": (GRID.replace('reference = "none"', 'reference = "non"'), "reference: no cell is called 'non'"),
    "twice": (GRID.replace('name = "eam"', 'name = "none"'), "cells: the name none stands there twice"),
    "same": (
        GRID.replace('{ method = "eam", share = 0.25 }', '{ method = "none" }'),
        "cells none and eam come to the same recipe",
    ),
    "component": (
        GRID.replace('"losses.center" }', '"losses.centre" }'),
        "components: losses.centre is no setting of a recipe",
    ),
    "key": (GRID.replace("[changes]", "refrence = 1\n[changes]"), "refrence: unknown"),
    "kind": (
        GRID.replace('method = "none"', "method = [[1]]"),
        "cell none: mixup.method must be text, a number, true, false or a list of these",
    ),
    "paper": (GRID.replace('"62.05"', '"62,1 ± 2"'), "cells.2.paper.ua: must match pattern"),
    "one cell": (GRID[: GRID.rindex("[[cells]]")], "cells: a grid has at least 2 cells"),
    "number for a name": (GRID.replace('name = "eam"', 'name = "1"'), "cells.2.name: must match pattern"),
    "no number": (
        GRID.replace('setting = "mixup.method", value = "eam"', 'setting = "mixup.method"'),
        "components: mixup.method is no number, so it needs `value`, what cells with the component have, or `shown`",
    ),
    "no TOML": ("title = ", "bad.toml: cannot be read as TOML"),
}


@pytest.mark.parametrize("fault", BAD_GRIDS)
def test_a_grid_with_a_fault_is_refused_with_what_to_mend(fault, ser):
    text, sentence = BAD_GRIDS[fault]
    result = ser("ablate", "--dataset", "demo", "--grid", write_grid(text, "bad.toml"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_unknown_grids_and_cells_are_named_with_the_known_ones(ser):
    unknown = ser("ablate", "--dataset", "demo", "--grid", "mixng")
    assert unknown.exit_code == 2
    assert "error: unknown grid 'mixng'; did you mean mixing?\n  known: 3m-ser-losses, " in unknown.stderr
    assert "or the path of a TOML file" in unknown.stderr
    cell = ser("ablate", "--dataset", "demo", "--grid", write_grid(), "--cells", "1,7")
    assert cell.exit_code == 2
    assert cell.stderr == ("error: --cells 1,7: grid rules has no cell '7'\n  cells: 1 none, 2 eam\n")
    assert (
        "--cells ',' names no cell" in ser("ablate", "--dataset", "demo", "--grid", "rules.toml", "--cells", ",").stderr
    )


def test_the_own_faults_of_recipe_and_options_are_not_blamed_on_the_grid(ser):
    grid = write_grid()
    result = ser("ablate", "--dataset", "demo", "--grid", grid, "--set", "optimizer.learning_rte=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: recipe conformer: 1 problem\n  optimizer.learning_rte: unknown")


def test_asking_for_what_each_cell_sets_is_refused_and_for_what_some_set_is_said(ser):
    grid = write_grid()
    result = ser("ablate", "--dataset", "demo", "--grid", grid, "--set", "mixup.method=lam")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: mixup.method is what grid rules varies: each of its cells sets it, so asking for another does nothing\n"
        "  leave it out, or choose cells that do not set it with --cells\n"
    )
    some = ser("ablate", "--dataset", "demo", "--grid", grid, "--set", "mixup.share=0.75", "--dry-run")
    assert "warning: mixup.share: cell 2 sets its own and keeps it\n" in some.stderr


def test_a_study_prints_its_folder_and_shows_what_was_not_run(studied):
    folder, result = studied
    assert (result.exit_code, result.stdout) == (0, "study\n"), result.stderr
    assert (folder / "study/cells/02-eam/seed-0/fold-2/done.json").is_file()
    assert not (folder / "study/cells/01-none").exists()
    assert "cell 2 (eam), seed 0: fold 1/2: train" in result.stderr
    assert "Not done yet: cell 1 (0 of 2 folds); means over other folds or seeds cannot be compared." in result.stderr
    rows = [line.split() for line in result.stderr.splitlines() if line.startswith("  1") or line.startswith("  2")]
    assert rows[0] == ["1", "none", "0.5", "not", "run"]
    assert rows[1][:5] == ["2", "eam", "✓", "0.25", "2/2"]
    assert (rows[1][7], rows[1][10]) == ("61.5", "62.05")
    for name in ("report.md", "report.html", "scores.json", "figures/ablation.png", "tables/differences.tex"):
        assert (folder / "study" / name).stat().st_size > 0


def test_the_report_of_a_study_says_how_its_folds_and_epochs_came_about_and_what_changed(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    report = (folder / "study/report.md").read_text()
    for sentence in (
        "Each fold tests unheard speakers; the epoch is chosen on speakers held out of the training side.",
        "Each fold's epoch was chosen on speakers held out of its training side.",
    ):
        assert sentence in studied[1].stderr and sentence in report
    eam, none = folder / "study/cells/02-eam/seed-0", folder / "study/cells/01-none/seed-0"
    assert ablate(folder, "--grid", "rules.toml", "--output", "study").exit_code == 0
    told = json.loads((eam / "protocol.json").read_text())
    (eam / "protocol.json").write_text(json.dumps({**told, "caveats": ["UA is over six emotions in fold 2"]}))
    (eam / "changes.json").write_text(json.dumps(["torch: 2.13 there, 2.14 now"]))
    for fold in (1, 2):
        path = none / f"fold-{fold}/done.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "selected_by": "test"}))
    result = ablate(folder, "--grid", "rules.toml", "--output", "study")
    assert result.exit_code == 0, result.stderr
    report = (folder / "study/report.md").read_text()
    rule = "Each fold tests unheard speakers; the epoch is chosen on speakers held out of the training side"
    for sentence in (
        f"Cell 1: {rule}.",
        f"Cell 2: {rule}; UA is over six emotions in fold 2.",
        "Cell 2: Each fold's epoch was chosen on speakers held out of its training side.",
        "Cell 1: Each fold's epoch was chosen ON ITS TEST SIDE, as some papers do: these figures are too high",
        "Cell 2 (eam), seed 0 changed while it went on: torch: 2.13 there, 2.14 now.",
    ):
        assert sentence in report
    assert "warning: Cell 2 (eam), seed 0 changed while it went on: torch: 2.13 there, 2.14 now.\n" in result.stderr
    assert "warning: Cell 1: Each fold's epoch was chosen ON ITS TEST SIDE" in result.stderr


def test_a_study_that_is_gone_on_with_trains_only_what_is_missing(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    done = folder / "study/cells/02-eam/seed-0/fold-1/done.json"
    before = done.stat().st_mtime_ns
    result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--json")
    assert result.exit_code == 0, result.stderr
    assert "done already: cell 2 (eam), seed 0" in result.stderr
    assert "cell 2 (eam), seed 0: fold" not in result.stderr
    assert done.stat().st_mtime_ns == before
    values = json.loads(result.stdout)
    assert values == json.loads((folder / "study/scores.json").read_text())
    none, eam = values["cells"]
    assert (none["components"], eam["components"]) == (
        {"EAM": False, "center": False, "share": 0.5},
        {"EAM": True, "center": False, "share": 0.25},
    )
    assert eam["paper_percent"] == {"wa": "61.5", "ua": "62.05"}
    assert none["difference"] == {}
    runs = [Run(folder / "study/cells" / name / "seed-0") for name in ("01-none", "02-eam")]
    compared = compare_runs(*runs).differences["ua"]
    assert eam["difference"]["ua"]["value"] == pytest.approx(compared.value)
    assert eam["difference"]["ua"]["low"] == compared.interval.low
    assert eam["mean"]["ua"] == pytest.approx(evaluate_run(runs[1]).mean["ua"])
    assert "Not done yet" not in result.stderr
    with (folder / "study/tables/ablation.csv").open() as file:
        row = list(csv.DictReader(file))[1]
    assert (row["mixup.method=eam"], row["folds"], row["ua_paper_percent"]) == ("✓", "2/2", "62.05")
    assert float(row["ua"]) == pytest.approx(eam["mean"]["ua"])


def test_a_study_made_with_another_grid_or_protocol_is_refused_with_what_differs(studied):
    folder, _ = studied
    (folder / "other").mkdir(exist_ok=True)
    (folder / "other/rules.toml").write_text(GRID.replace("share = 0.25", "share = 1.0"))
    other = ablate(folder, "--grid", "other/rules.toml", "--output", "study", "--cells", 2)
    assert (other.exit_code, other.stdout) == (1, "")
    assert other.stderr.startswith("error: study holds another study\n  grid_hash: ")
    assert "  cell 02-eam: mixup.share: 0.25 there, 1.0 asked for\n" in other.stderr
    assert other.stderr.endswith("  choose another --output, or delete what is there with --force\n")
    protocol = ablate(folder, "--grid", "rules.toml", "--output", "study", "--folds", 4)
    assert protocol.exit_code == 1
    assert (
        "  protocol: seeded-2-of-4-speakers-seed-0 there, seeded-4-of-4-speakers-seed-0 asked for\n" in protocol.stderr
    )
    assert "  folds: 2 there, 4 asked for\n" in protocol.stderr
    settings = ablate(folder, "--grid", "rules.toml", "--output", "study", "--set", "optimizer.decay=0.5")
    assert "cell 01-none: optimizer.decay: 0.875 there, 0.5 asked for" in settings.stderr
    assert (folder / "study/cells/02-eam/seed-0/fold-1/done.json").is_file()


def test_each_seed_may_be_a_job_of_its_own_and_all_write_one_report(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    jobs = (("--seed", 3, "--fold", 1), ("--seed", 2, "--fold", 2))
    for job in jobs:
        result = ablate(folder, "--grid", "rules.toml", "--output", "each", *job)
        assert result.exit_code == 0, result.stderr
    assert "Done so far: fold 2 of 2 with seed 2; fold 1 of 2 with seed 3." in result.stderr
    assert "Not done yet" not in result.stderr
    scores = json.loads((folder / "each/scores.json").read_text())
    none, eam = scores["cells"]
    assert (scores["seed"], scores["seeds"]) == (2, [2, 3])
    assert [(row["seed"], row["fold"]) for row in none["folds"]] == [(2, 2), (3, 1)]
    by_seed = [[Run(folder / f"each/cells/{name}/seed-{seed}") for seed in (2, 3)] for name in ("01-none", "02-eam")]
    differences = [compare_runs(*runs).differences["ua"].value for runs in zip(*by_seed, strict=True)]
    assert eam["difference"]["ua"]["value"] == pytest.approx(np.mean(differences))
    written = (folder / "each/report.md").read_text()
    for job in jobs:
        told = ablate(folder, "--grid", "rules.toml", "--output", "each", *job, "--json")
        assert json.loads(told.stdout) == scores
        assert (folder / "each/report.md").read_text() == written
    other = ablate(folder, "--grid", "rules.toml", "--output", "each", "--seed", 2, "--set", "optimizer.decay=0.5")
    assert "error: each holds another study\n  grid_hash: " in other.stderr
    assert "seed" not in other.stderr.split("choose another")[0]


def test_a_folder_of_something_else_is_left_alone_and_a_damaged_study_is_told(studied):
    folder, _ = studied
    (folder / "letters").mkdir(exist_ok=True)
    (folder / "letters/letter.txt").write_text("dear")
    result = ablate(folder, "--grid", "rules.toml", "--output", "letters", "--force")
    assert result.stderr == "error: letters exists and holds no study; choose a new folder with --output\n"
    assert [path.name for path in (folder / "letters").iterdir()] == ["letter.txt"]
    (folder / "damaged").mkdir(exist_ok=True)
    (folder / "damaged/study.json").write_text("{")
    damaged = ablate(folder, "--grid", "rules.toml", "--output", "damaged")
    assert "error: damaged/study.json is damaged (" in damaged.stderr
    assert ablate(folder, "--grid", "rules.toml", "--output", "damaged", "--force", "--fold", 1).exit_code == 0
    (folder / "file").write_text("")
    blocked = ablate(folder, "--grid", "rules.toml", "--output", "file")
    assert "error: file: cannot be written to (" in blocked.stderr


def test_force_deletes_the_other_study_and_nothing_beside_it(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    (folder / "study/notes.txt").write_text("mine")
    (folder / "rules.toml").write_text(GRID.replace("share = 0.25", "share = 1.0"))
    result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--force", "--cells", 1, "--fold", 2)
    assert result.exit_code == 0, result.stderr
    assert not (folder / "study/cells/02-eam/seed-0").exists()
    assert (folder / "study/cells/01-none/seed-0/fold-2/done.json").is_file()
    assert not (folder / "study/cells/01-none/seed-0/fold-1").exists()
    assert (folder / "study/notes.txt").read_text() == "mine"
    assert "Not done yet: cell 2 (0 of 1 fold); " in result.stderr


def test_a_dry_run_tells_the_cells_and_writes_nothing(studied):
    folder, _ = studied
    before = sorted(folder.rglob("*"))
    result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--seeds", 2, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "# study folder: study\n" in result.stdout
    assert "1\tnone\tmixup.method = none\t0 of 2 seeds done\n" in result.stdout
    assert "2\team\tmixup.method = eam, mixup.share = 0.25\t1 of 2 seeds done\n" in result.stdout
    unnamed = ablate(folder, "--grid", "rules.toml", "--dry-run")
    assert unnamed.stdout.startswith("# study folder: studies/tones-rules-")
    assert sorted(folder.rglob("*")) == before


def test_a_cell_that_cannot_be_trained_does_not_keep_the_others_from_it(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    (folder / "rules.toml").write_text(
        GRID.replace('method = "none"', 'method = "none"\nchanges.encoder.name = "gone"')
    )
    result = ablate(folder, "--grid", "rules.toml", "--output", "elsewhere", "--fold", 1)
    assert (result.exit_code, result.stdout) == (1, "elsewhere\n")
    assert "error: elsewhere: cell 1 (none), seed 0 could not be trained\n  " in result.stderr
    assert (folder / "elsewhere/cells/02-eam/seed-0/fold-1/done.json").is_file()


def test_of_several_cells_that_fail_each_is_told(studied):
    folder, _ = studied
    bad = GRID.replace('method = "none"', 'method = "none"\nchanges.encoder.name = "gone"')
    bad = bad.replace("[[cells]]", '[[cells]]\nname = "fine"\nchanges.mixup.share = 0.3\n[[cells]]', 1)
    (folder / "bad.toml").write_text(bad.replace("share = 0.25 }", 'share = 0.25 }\nchanges.encoder.name = "gone-too"'))
    result = ablate(folder, "--grid", "bad.toml", "--output", "bad", "--fold", 1)
    assert (result.exit_code, result.stdout) == (1, "bad\n")
    end = result.stderr[result.stderr.index("error: ") :].splitlines()
    assert end[0] == "error: bad: 2 cells could not be trained"
    assert [line.split(":")[0] for line in end[1:3]] == ["  cell 2 (none), seed 0", "  cell 3 (eam), seed 0"]
    assert end[3] == "  the same command again trains what is not done; --cells N shows all of one cell's message"


def test_a_study_whose_cell_is_being_trained_is_not_deleted(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    (folder / "rules.toml").write_text(GRID.replace("share = 0.25", "share = 1.0"))
    with hold(folder / "study/cells/02-eam/seed-0/.fold-1.lock", lambda holder: None):
        result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--force", "--cells", 1)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: study/cells/02-eam/seed-0: it is being trained by process ")
    assert result.stderr.endswith("  stop it before this study is deleted, or choose another --output\n")
    assert (folder / "study/cells/02-eam/seed-0/fold-1/done.json").is_file()


def test_a_cell_that_another_process_trains_is_left_to_it_and_is_no_failure(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    place = folder / "study/cells/01-none/seed-0"
    place.mkdir(parents=True)
    with (
        hold(place / ".fold-1.lock", lambda holder: None),
        hold(place / ".fold-2.lock", lambda holder: None),
    ):
        result = ablate(folder, "--grid", "rules.toml", "--output", "study")
    assert (result.exit_code, result.stdout) == (0, "study\n"), result.stderr
    assert "warning: cell 1 (none), seed 0: left to others; fold 1 is held by process " in result.stderr
    assert "could not be trained" not in result.stderr


def test_another_run_in_the_folder_of_a_cell_is_left_out_of_the_table_and_not_trained_over(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    path = folder / "study/cells/02-eam/seed-0/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "recipe_hash": "0" * 64}))
    result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--cells", 2)
    assert (result.exit_code, result.stdout) == (1, "study\n")
    assert "warning: cell 2 (eam), seed 0 is left out: its folder holds another run.\n" in result.stderr
    assert "error: study: cell 2 (eam), seed 0 could not be trained\n" in result.stderr
    assert "  study/cells/02-eam/seed-0 holds another run\n" in result.stderr
    assert ablate(folder, "--grid", "rules.toml", "--output", "study", "--cells", 2, "--force").exit_code == 0
    assert json.loads(path.read_text())["recipe_hash"] != "0" * 64


def as_cell(folder: Path, seed: int = 0) -> tuple[CellRun, object]:
    return CellRun(None, seed, None, folder), evaluate_run(Run(folder))  # type: ignore[arg-type]


SPEAKERS = (["a", "b"], ["c", "d"])
PEOPLE = {row[0]: row[0][0] for speakers in SPEAKERS for row in some_rows(speakers)}


def test_with_one_seed_the_difference_is_that_of_a_comparison_of_two_runs():
    first = write_run(Path("first"), [some_rows(s, wrong=["a-sad-0", "b-sad-0", "d-sad-0"]) for s in SPEAKERS])
    second = write_run(Path("second"), [some_rows(s, wrong=["a-happy-0"]) for s in SPEAKERS])
    found, drawn = cell_differences([as_cell(first)], [as_cell(second)], ("wa", "ua"), PEOPLE)
    expected = compare_runs(Run(first), Run(second)).differences
    assert drawn == Resampled("speaker", 4)
    for rate in ("wa", "ua"):
        assert found[rate].value == pytest.approx(expected[rate].value)
        assert found[rate].interval.low == pytest.approx(expected[rate].interval.low)
        assert found[rate].interval.high == pytest.approx(expected[rate].interval.high)
        assert found[rate].folds_won == expected[rate].folds_won


def test_a_second_seed_of_the_same_speakers_is_averaged_and_does_not_narrow_the_interval():
    wrong = ["a-sad-0", "b-sad-0", "d-sad-0"]
    first = [write_run(Path(f"first-{n}"), [some_rows(s, wrong=wrong) for s in SPEAKERS]) for n in (0, 1)]
    second = [write_run(Path(f"second-{n}"), [some_rows(s) for s in SPEAKERS]) for n in (0, 1)]
    one, _ = cell_differences([as_cell(first[0])], [as_cell(second[0])], ("wa",), PEOPLE)
    both = [[as_cell(folder, seed) for seed, folder in enumerate(folders)] for folders in (first, second)]
    two, drawn = cell_differences(*both, ("wa",), PEOPLE)
    # 3 of 24 clips are wrong in the first, none in the second.
    assert one["wa"].value == pytest.approx(3 / 24)
    assert two["wa"].value == pytest.approx(3 / 24)
    assert two["wa"].interval == one["wa"].interval
    assert two["wa"].folds_won == (0, 4, 0)
    assert drawn == Resampled("speaker", 4)
    # The second seed of the second cell gains nothing: half of the difference is left.
    mixed = [both[0], [both[1][0], as_cell(first[1], 1)]]
    assert cell_differences(*mixed, ("wa",), PEOPLE)[0]["wa"].value == pytest.approx(3 / 48)


def test_only_folds_that_both_cells_have_are_compared():
    first = write_run(Path("first"), [some_rows(s, wrong=["a-sad-0", "c-sad-0", "d-sad-0"]) for s in SPEAKERS])
    second = write_run(Path("second"), [some_rows(s) for s in SPEAKERS])
    (second / "fold-2/done.json").unlink()
    found, drawn = cell_differences([as_cell(first)], [as_cell(second)], ("wa",), PEOPLE)
    assert found["wa"].value == pytest.approx(1 / 12)
    assert (found["wa"].folds_won, drawn.units) == ((0, 1, 0), 2)
    assert cell_differences([as_cell(first)], [as_cell(second, seed=1)], ("wa",), PEOPLE) == ({}, None)


def test_seeds_that_test_different_clips_each_count_with_their_own():
    # Folds dealt by the seed: with one done of each seed, the two test no speaker in common.
    def cell(name: str, wrong: dict[int, list[str]]) -> list:
        folders = [
            write_run(Path(f"{name}-{n}"), [some_rows(s, wrong=wrong.get(n, []))]) for n, s in enumerate(SPEAKERS)
        ]
        return [as_cell(folder, seed) for seed, folder in enumerate(folders)]

    first = cell("first", {0: ["a-sad-0"], 1: ["c-sad-0", "c-sad-1", "d-sad-0", "d-happy-0"]})
    second = cell("second", {0: ["a-sad-0", "a-sad-1", "b-happy-1"]})
    found, drawn = cell_differences(first, second, ("wa", "ua"), PEOPLE)
    # Of 12 clips each: 2 more are wrong with the first seed, 4 fewer with the second.
    assert found["wa"].value == pytest.approx((-2 / 12 + 4 / 12) / 2)
    assert found["wa"].folds_won == (1, 1, 0)
    assert drawn == Resampled("speaker", 4)
    gains = {"a": -1 / 6, "b": -1 / 6, "c": 2 / 6, "d": 2 / 6}  # WA of 6 clips each
    rng = np.random.default_rng(0)
    drawn = [[gains[name] for name in rng.choice(list("abcd"), 4)] for _ in range(20_000)]
    means = [
        np.mean([np.mean(part) for part in ([g for g in row if g < 0], [g for g in row if g > 0]) if part])
        for row in drawn
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["wa"].interval.low == pytest.approx(low, abs=0.01)
    assert found["wa"].interval.high == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize("damaged", ["run.json", "fold-1/predictions.csv", "fold-1/done.json"])
def test_a_damaged_run_is_left_out_and_named_and_does_not_keep_the_others_from_it(studied, tmp_path, damaged):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    (folder / "study/cells/02-eam/seed-0" / damaged).write_text("{")
    result = ablate(folder, "--grid", "rules.toml", "--output", "study", "--cells", 1)
    assert (result.exit_code, result.stdout) == (0, "study\n"), result.stderr
    assert "warning: cell 2 (eam), seed 0 is left out: " in result.stderr
    assert "Delete study/cells/02-eam/seed-0, and the same command trains it anew." in result.stderr
    assert (folder / "study/cells/01-none/seed-0/fold-2/done.json").is_file()
    if damaged == "run.json":
        again = ("--grid", "rules.toml", "--output", "study", "--cells", 2)
        refused = ablate(folder, *again)
        assert "or over it with --force" in refused.stderr
        forced = ablate(folder, *again, "--force")
        assert forced.exit_code == 0, forced.stderr


def test_a_study_of_one_fold_is_whole_in_itself(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    result = ablate(folder, "--grid", "rules.toml", "--output", "one", "--fold", 2)
    assert result.exit_code == 0, result.stderr
    assert "Not done yet" not in result.stderr
    assert "Done so far: fold 2 of 2." in result.stderr
    more = ablate(folder, "--grid", "rules.toml", "--output", "one", "--fold", 1, "--cells", "eam")
    assert "Not done yet: cell 1 (1 of 2 folds)" in more.stderr


def test_a_study_writes_one_report_whatever_command_came_last(studied, tmp_path):
    # Two seeds of cell 1, one of cell 2: the second seed is lacking in cell 2, whichever seed was asked for last.
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    command = ("--grid", "rules.toml", "--output", "one", "--json", "--protocol", "seeded", "--folds", 2)
    ablate(folder, *command, "--cells", 1, "--seed", 0)
    ablate(folder, *command, "--cells", 1, "--seed", 1)
    last = ablate(folder, *command, "--cells", 2, "--seed", 0)
    assert last.exit_code == 0, last.stderr
    values = json.loads(last.stdout)
    assert [(cell["folds_done"], cell["folds_in_all"]) for cell in values["cells"]] == [(4, 4), (2, 4)]
    again = ablate(folder, *command, "--cells", 1, "--seed", 1)
    assert json.loads(again.stdout) == values
    dealt = [Run(folder / f"one/cells/01-none/seed-{seed}").identity() for seed in (0, 1)]
    assert dealt[0].protocol_hash != dealt[1].protocol_hash
    assert values["protocols"] == [
        {"seed": n, "protocol": one.protocol, "protocol_hash": one.protocol_hash} for n, one in enumerate(dealt)
    ]
    told = ", ".join(f"{one.protocol} (hash {one.protocol_hash[:12]}) with seed {n}" for n, one in enumerate(dealt))
    assert f"protocol {told}." in again.stderr


def test_a_dry_run_refuses_what_the_run_would_refuse(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    (folder / "foreign").mkdir()
    (folder / "foreign/notes.txt").write_text("mine")
    for output, sentence in {
        "foreign": "foreign exists and holds no study",
        "study": "study holds another study",
    }.items():
        result = ablate(folder, "--grid", "rules.toml", "--output", output, "--epochs", 2, "--dry-run")
        assert (result.exit_code, result.stdout) == (1, "")
        assert sentence in result.stderr
    told = json.loads(ablate(folder, "--grid", "rules.toml", "--output", "study", "--dry-run", "--json").stdout)
    assert [(cell["name"], cell["seeds_done"]) for cell in told["cells"]] == [("none", 0), ("eam", 1)]


def test_a_local_encoder_has_the_check_mark_of_its_name():
    grid = load_grid("paper-a", asked={"encoder.name": "/models/wavlm-large"})
    wavlm = next(component for component in grid.components if "wavlm" in str(component.value).lower())
    assert sum(cell.has(wavlm) for cell in grid.cells) >= 3
    other = load_grid("paper-a", asked={"encoder.name": "/models/wavlm-base"})
    assert not any(cell.has(wavlm) for cell in other.cells)


def test_who_takes_a_study_for_a_run_is_told(studied):
    folder, _ = studied
    with pytest.raises(RunError, match="study is a study of `ser ablate`, which holds several runs"):
        Run(folder / "study").identity()
    with pytest.raises(RunError, match=r"study: a study of `ser ablate` holds several runs\n  give one of them: "):
        open_model(str(folder / "study"), (), torch.device("cpu"))


def test_the_picture_has_a_row_for_each_cell():
    rows = [
        Row("1 none", [0.4, 0.6], 0.5, None, None),
        Row("2 eam", [0.5, 0.7], 0.6, 0.79, (0.1, -0.02, 0.2)),
        Row("3 lam", [], None, None, None),
    ]
    left, right = draw_ablation(rows, "UA", "none").axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["1 none", "2 eam", "3 lam"]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in left.lines]
    assert drawn == [([0.4, 0.6], [0, 0]), ([0.5], [0]), ([0.5, 0.7], [1, 1]), ([0.6], [1]), ([0.79], [1]), ([], [])]
    assert [list(line.get_xdata()) for line in right.lines] == [[-0.02, 0.2], [0.1], [0, 0]]


def test_threads_are_divided_unless_they_are_given(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(jobs) for jobs in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(8) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_a_process_between_two_cells_outlives_every_signal_that_stops_a_command():
    came = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in signals}
    threads = torch.get_num_threads()

    class Sending:
        def train(self, run):
            for number in signals:
                os.kill(os.getpid(), number)
            return "trained"

    try:
        assert _train_in_worker(None, Sending(), threads) == "trained"
        assert came == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_four_cells_at_once_come_to_what_they_come_to_one_after_another(studied, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    for output, jobs in (("one", 1), ("four", 4)):
        result = ablate(folder, "--grid", "mixing", "--output", output, "--jobs", jobs)
        assert result.exit_code == 0, result.stderr
    files = sorted(path.relative_to(folder / "one") for path in (folder / "one").rglob("*.safetensors"))
    assert len(files) == 8
    for file in files:
        assert (folder / "four" / file).read_bytes() == (folder / "one" / file).read_bytes()
    tables = [(folder / output / "tables/ablation.csv").read_text() for output in ("one", "four")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_signal_stops_all_cells_with_a_checkpoint_and_the_same_command_goes_on(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    options = [*map(str, OPTIONS), "--epochs", "60", "--grid", "mixing", "--cells", "1,2", "--output", "stopped"]
    command = [sys.executable, "-m", "ser_cli", "ablate", "--dataset", "tones", *options, "--jobs", "2"]
    environment = {**os.environ, "SER_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while len(list(folder.glob("stopped/cells/*/seed-0/fold-1/environment.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, b""), err.decode()
    assert "the same command goes on from there" in err.decode()
    assert len(list(folder.glob("stopped/cells/*/seed-0/fold-1/checkpoints/step-*/state.json"))) >= 2
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, "stopped\n"), again.stderr
    assert again.stderr.count("goes on from its checkpoint") == 2


@pytest.mark.slow
def test_a_process_that_the_system_ends_is_told_and_what_was_finished_is_kept(studied, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(studied[0], folder)
    options = [*map(str, OPTIONS), "--epochs", "500", "--grid", "mixing", "--cells", "1,2", "--output", "ended"]
    command = [sys.executable, "-m", "ser_cli", "ablate", "--dataset", "tones", *options, "--jobs", "2"]
    environment = {**os.environ, "SER_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    holder = folder / "ended/cells/02-mixup/seed-0/.fold-1.lock.holder"
    until = time.monotonic() + 120
    while not holder.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    os.kill(json.loads(holder.read_text())["process"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, b""), err.decode()
    assert err.decode().endswith(
        "error: a process that trained a cell was ended from outside, most often for want of memory\n"
        "  run the same command with fewer --jobs than 2; what was finished is kept\n"
    )
