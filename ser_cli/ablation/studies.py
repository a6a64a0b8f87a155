"""A study: which runs a grid comes to on a corpus, and the folder that they share.

    STUDY/
      study.json                    what was asked for: dataset, protocol, hashes, every setting of each cell
      cells/03-NAME/seed-0/         a run; see `runs/directory.py`
      scores.json, report.md        written anew by every command, as are report.html, figures/ and tables/

Each cell with each seed is an ordinary run, so that whatever reads runs reads them too.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ser_cli.ablation.grids import Grid, GridCell
from ser_cli.data.protocols import Protocol
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import SHOWN_PROBLEMS, RunError, count_of
from ser_cli.files import read_json_object, write_json
from ser_cli.runs.directory import Run
from ser_cli.runs.locks import hold_free, locked_folder
from ser_cli.runs.report_files import delete_report_files
from ser_cli.training.cross_validation import Plan, plan_cross_validation

STUDY_NAME = "study.json"
STUDY_LOCK = ".study.lock"
"""Of the process that opens a study, or writes its report."""
STUDY_FILES = ("scores.json", "report.md", "report.html")
"""What is written beside it once cells are scored."""


@dataclass(frozen=True)
class CellRun:
    """One cell with one seed: an ordinary run."""

    cell: GridCell
    seed: int
    plan: Plan
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"cell {self.cell.number} ({self.cell.name}), seed {self.seed}"

    @property
    def is_this_run(self) -> bool:
        """Whether its folder holds this run, and not none or another.

        Raises:
            RunError: what it holds is damaged.
        """
        run = Run(self.folder)
        return (self.folder / "run.json").is_file() and run.identity() == self.plan.identity

    @property
    def is_another_run(self) -> bool:
        """Whether its folder holds another run; a damaged one is none."""
        try:
            return (self.folder / "run.json").is_file() and not self.is_this_run
        except RunError:
            return False

    @property
    def is_finished(self) -> bool:
        """Whether all wanted folds are done; those of a damaged run are not."""
        wanted, run = self.plan.wanted, Run(self.folder)
        return run.is_that_of(self.plan.identity) and len(run.finished_among(wanted)) == len(wanted)


@dataclass(frozen=True)
class Study:
    """What a study consists of, decided before anything is trained."""

    folder: Path
    grid: Grid
    seeds: tuple[int, ...]
    """That are asked for."""
    runs: tuple[CellRun, ...]
    """Of every cell, with each seed that is asked for, or lies in the folder of any cell."""
    plan_with: Callable[[int], Plan]
    """The folds of the reference cell with any seed."""

    @property
    def first_seed(self) -> int:
        """The lowest of those that are asked for or lie in the folder, so that all commands write one report."""
        return min(run.seed for run in self.runs)

    @property
    def plan(self) -> Plan:
        """Of the reference cell, with the first seed: what holds for all."""
        return self.plan_with(self.first_seed)

    @property
    def protocols(self) -> dict[int, Protocol]:
        """By seed: folds that a seed deals are others with each."""
        return {seed: self.plan_with(seed).protocol for seed in sorted({run.seed for run in self.runs})}

    def runs_of(self, cell: GridCell) -> list[CellRun]:
        """The runs of a cell, by seed; those asked for first."""
        return [run for run in self.runs if run.cell.number == cell.number]

    def wanted(self, cells: Sequence[GridCell]) -> list[CellRun]:
        """The runs of some cells with the seeds that are asked for."""
        return [run for cell in cells for run in self.runs_of(cell) if run.seed in self.seeds]

    def identity(self, seed: int) -> dict[str, Any]:
        """What a study folder is recognised by, whose first seed is this; further seeds may be trained into it."""
        plan = self.plan_with(seed).identity
        return {
            "dataset": plan.dataset,
            "labels": list(plan.labels),
            "where": list(plan.where),
            "protocol": plan.protocol,
            "folds": plan.folds,
            "seed": seed,
            "protocol_hash": plan.protocol_hash,
            "folds_hash": plan.folds_hash,
            "manifest_hash": plan.manifest_hash,
            "grid": self.grid.name,
            "recipe": self.grid.recipe_name,
            "grid_hash": self.grid.hash,
            "cells": self.grid.settings,
        }


def plan_study(
    corpus: PreparedCorpus,
    grid: Grid,
    folder: Path | None,
    *,
    seeds: int = 1,
    folds: int | None = None,
    protocol: str | None = None,
    wanted: Sequence[int] = (),
) -> Study:
    """Make the folds of every cell; those of one seed test the same clips.

    Args:
        corpus: what is divided.
        grid: its cells, resolved with the first seed.
        folder: of the study; None names it by what decides the result.
        seeds: how many, from that of the grid on.
        folds: as `plan_cross_validation` takes them, like `protocol` and `wanted`.
        protocol: its name.
        wanted: folds to train now.

    Raises:
        UsageError: `folds` or `wanted` do not fit.
        FoldError: folds that would leak, or lack an emotion.
    """
    first = grid.reference.recipe.seed
    asked = tuple(range(first, first + seeds))
    made: dict[tuple[int, str], Plan] = {}

    def plan(cell: GridCell, seed: int) -> Plan:
        recipe = cell.recipe.model_copy(update={"seed": seed})
        name = f"{grid.name}-{cell.name}"
        key = (seed, recipe.selection.model_dump_json())  # all that decides the folds
        if key not in made:
            made[key] = plan_cross_validation(corpus, recipe, name, folds=folds, protocol=protocol, wanted=wanted)
        return replace(made[key], recipe=recipe, recipe_name=name)

    if folder is None:
        settled = plan(grid.reference, first).identity
        hashes = grid.hash[:4] + settled.folds_hash[:4]
        folder = Path("studies") / f"{corpus.name}-{grid.name}-{hashes}"
    places = {cell.number: folder / "cells" / cell.folder_name for cell in grid.cells}
    # Of every cell: a seed that one of them has is lacking in the others, whatever the last command asked for.
    lying = {int(n) for place in places.values() for path in place.glob("seed-*") if (n := path.name[5:]).isdecimal()}
    seeds_of_all = (*asked, *sorted(lying - set(asked)))
    runs = tuple(
        CellRun(cell, seed, plan(cell, seed), places[cell.number] / f"seed-{seed}")
        for cell in grid.cells
        for seed in seeds_of_all
    )
    return Study(folder, grid, asked, runs, partial(plan, grid.reference))


def open_study(study: Study, *, force: bool = False) -> None:
    """Take a folder for a study: a new one, or the one that holds the same study already.

    Raises:
        RunError: the folder holds something else, or a study that differs; what differs is named.
    """
    folder = study.folder
    _require_own(folder)  # nothing is left behind in another's, no lock either
    with locked_folder(folder, STUDY_LOCK):
        if is_there(study, force=force):
            return
        if (folder / STUDY_NAME).is_file():
            _delete_study(folder)
        write_json(folder / STUDY_NAME, study.identity(study.seeds[0]))


def is_there(study: Study, *, force: bool = False) -> bool:
    """Whether a folder holds a study already; nothing is written.

    Args:
        study: that is meant.
        force: whether another study may be deleted.

    Raises:
        RunError: the folder holds something else, or a study that differs and may not be deleted.
    """
    folder = study.folder
    _require_own(folder)
    if not (folder / STUDY_NAME).is_file():
        return False
    there = _read_identity(folder, damaged_too=force)
    wanted = study.identity(_first_seed(there, study.seeds[0]))
    if there != wanted and not force:
        raise RunError(
            f"{folder} holds another study\n  "
            + "\n  ".join(_differences(there, wanted))
            + "\n  choose another --output, or delete what is there with --force"
        )
    return there == wanted


def _first_seed(there: dict[str, Any], otherwise: int) -> int:
    """The seed that a study was begun with; another where its file tells none."""
    seed = there.get("seed")
    return seed if type(seed) is int and seed >= 0 else otherwise


def _require_own(folder: Path) -> None:
    """See that a folder holds a study, or nothing yet.

    Raises:
        RunError: it holds something else.
    """
    if not folder.is_dir() or (folder / STUDY_NAME).is_file():
        return
    # Hidden names are locks, and files that another process is about to rename into place.
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise RunError(f"{folder} exists and holds no study; choose a new folder with --output")


def _read_identity(folder: Path, *, damaged_too: bool) -> dict[str, Any]:
    try:
        return read_json_object(folder / STUDY_NAME)
    except (OSError, ValueError) as error:
        if damaged_too:
            return {}
        raise RunError(
            f"{folder / STUDY_NAME} is damaged ({error})\n"
            f"  choose another --output, or delete what is there with --force"
        ) from None


def _differences(there: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """A sentence for each thing in which two studies differ; of the settings of cells, the first few."""
    sentences = [
        f"{key}: {there.get(key)} there, {value} asked for"
        for key, value in wanted.items()
        if key != "cells" and there.get(key) != value
    ]
    before = there.get("cells")
    before = before if isinstance(before, dict) else {}
    cells = [f"cell {name} is not in it" for name in wanted["cells"] if name not in before]
    cells += [f"cell {name} is in it and not asked for" for name in before if name not in wanted["cells"]]
    for name, settings in wanted["cells"].items():
        found = before.get(name)
        if isinstance(found, dict):
            cells += [
                f"cell {name}: {key}: {found.get(key, 'unset')} there, {settings.get(key, 'unset')} asked for"
                for key in {**found, **settings}
                if found.get(key) != settings.get(key)
            ]
    more = [f"and {count_of(len(cells) - SHOWN_PROBLEMS, 'more difference')}"] if len(cells) > SHOWN_PROBLEMS else []
    return [*sentences, *cells[:SHOWN_PROBLEMS], *more]


def _delete_study(folder: Path) -> None:
    """Delete what a study wrote but study.json, which is written anew, and nothing else that lies in its folder.

    Raises:
        RunError: somebody trains one of its cells.
    """
    runs = sorted(path for path in folder.glob("cells/[0-9][0-9]-*/seed-*") if (path / "run.json").is_file())
    locks = [path for run in runs for path in sorted(run.glob(".fold-*.lock"))]
    with hold_free(list(enumerate(locks)), lambda index, holder: None) as others:
        for index, holder in others.items():
            raise RunError(
                f"{locks[index].parent}: it is being trained by {holder or 'another process'}\n"
                f"  stop it before this study is deleted, or choose another --output"
            )
    if (folder / "cells").is_symlink():  # it may lead anywhere
        (folder / "cells").unlink()
        runs = []
    for run in runs:
        if not run.is_symlink() and not run.parent.is_symlink():
            shutil.rmtree(run)
    for name in STUDY_FILES:
        (folder / name).unlink(missing_ok=True)
    delete_report_files(folder, links=True)
