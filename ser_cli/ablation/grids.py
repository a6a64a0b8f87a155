"""Grids: a recipe plus named changes, as frozen data read from TOML. Each cell is one recipe.

The TOML files lie in `ser_cli/grids/`. Which components a cell has is read off its resolved recipe, never written
beside it, so that a check mark cannot say something else than what is trained.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ser_cli.errors import ProblemsError, UnknownNameError, UsageError
from ser_cli.files import read_text
from ser_cli.recipe import MAX_RECIPE_BYTES, Recipe, flatten_changes, load_recipe, parse_overrides
from ser_cli.settings_section import Section, flatten

Rate = Literal["wa", "ua", "macro_f1"]
Name = Annotated[str, Field(pattern=r"^[0-9]*[a-z][a-z0-9_.-]*$", max_length=60)]
"""Of a cell: with a letter, since `--cells 2` means the second."""
PerCent = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?)?$", max_length=20)]
Setting = str | int | float | bool | list[str | int | float]

SAME_FOR_ALL = {
    "seed": "--seed",
    "training.targets": "--set training.targets=…",
    "training.precision": "--set training.precision=…",
}
"""What no cell may change: cells are compared on the same folds and the same labels, and accelerate has one precision
in a process."""


class PaperFigures(Section):
    """What a paper reports for a cell, in per cent as printed."""

    wa: PerCent = ""
    ua: PerCent = ""
    macro_f1: PerCent = ""


class Component(Section):
    """A column of check marks, or of values."""

    title: str
    """Its name for people."""
    setting: str
    """Dotted key of the recipe."""
    value: str | int | float | None = None
    """A cell has the component where its setting equals this; left out, where its setting is above 0."""
    shown: bool = False
    """Show the setting itself in the place of a check mark."""


class Cell(Section):
    """One row: a name, and what it changes."""

    name: Name
    changes: dict[str, Any] = Field(default_factory=dict)
    """Sections and keys of a recipe."""
    paper: PaperFigures = PaperFigures()


class GridFile(Section):
    """What a TOML file of a grid holds."""

    title: str
    """One line for people."""
    recipe: str
    """That is changed, unless `--recipe` names another."""
    source: str = ""
    """Paper and table that the figures were reported in, and on what."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = ("wa", "ua")
    """The figures that are shown."""
    reference: str
    """Name of the cell that the others are held against."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Of all cells; what the command line asks for comes after them, what a cell changes last."""
    components: tuple[Component, ...] = ()
    cells: Annotated[tuple[Cell, ...], Field(min_length=2, max_length=99)]
    left_out: tuple[str, ...] = ()
    """A sentence for each part of the paper's table that is not here, and why."""


@dataclass(frozen=True)
class GridCell:
    """One cell, resolved."""

    number: int
    """Counted from 1, in the order of the file."""
    name: str
    changes: dict[str, Setting]
    """By dotted key; those of all cells are not among them."""
    recipe: Recipe
    paper: dict[str, str]
    """What the paper reports, by rate, in per cent as printed; empty where it does not."""

    @property
    def folder_name(self) -> str:
        """Of the cell in a study."""
        return f"{self.number:02d}-{self.name}"

    def has(self, component: Component) -> bool:
        """Whether the cell's recipe has a component; an encoder by its name alone, wherever its folder is."""
        found = self.setting(component.setting)
        if component.setting == "encoder.name" and isinstance(component.value, str):
            return Path(found).name.lower() == Path(component.value).name.lower()
        return found == component.value if component.value is not None else float(found or 0) > 0

    def setting(self, key: str) -> Any:
        """What the cell's recipe has under a dotted key."""
        return flatten(self.recipe.model_dump(mode="json"))[key]


@dataclass(frozen=True)
class Grid:
    """A grid whose cells are resolved and checked."""

    name: str
    recipe_name: str
    title: str
    source: str
    rates: tuple[Rate, ...]
    reference: GridCell
    components: tuple[Component, ...]
    cells: tuple[GridCell, ...]
    left_out: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of every setting of every cell but titles and seeds."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every setting of each cell but title and seed, by folder name and dotted key."""
        return {
            cell.folder_name: flatten(cell.recipe.model_dump(mode="json", exclude={"title", "seed"}))
            for cell in self.cells
        }

    def choose(self, text: str | None) -> tuple[GridCell, ...]:
        """The cells of a list such as `3,7`, by number or by name; all where there is none.

        Raises:
            UsageError: there is no such cell.
        """
        if text is None:
            return self.cells
        known = {str(cell.number): cell for cell in self.cells} | {cell.name: cell for cell in self.cells}
        chosen = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            if part not in known:
                cells = ", ".join(f"{cell.number} {cell.name}" for cell in self.cells)
                raise UsageError(f"--cells {text}: grid {self.name} has no cell {part!r}\n  cells: {cells}")
            chosen[known[part].number] = known[part]
        if not chosen:
            raise UsageError(f"--cells {text!r} names no cell\n  give numbers or names with commas, such as 1,3")
        return tuple(chosen[number] for number in sorted(chosen))


def shipped_grids() -> dict[str, str]:
    """The texts of the grids that ship, by name."""
    folder = resources.files("ser_cli") / "grids"
    return {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
    }


def load_grid(
    name: str,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> Grid:
    """Read a grid and resolve the recipe of each cell.

    A later one wins: the recipe, the changes of all cells, `asked`, `overrides`, the changes of the cell.

    Args:
        name: of a shipped grid, or the path of a TOML file.
        recipe: to change in the place of the grid's own.
        overrides: `section.key=value` as given with `--set`.
        asked: values by dotted key, from options of their own.

    Raises:
        UnknownNameError: no shipped grid has that name.
        UsageError: the file cannot be read as TOML.
        ProblemsError: unknown keys or values out of bounds, in the grid or in the recipe of a cell.
    """
    read = _read(name)
    _require_sound(name, read)
    base = recipe or read.recipe
    shared = {**flatten_changes(read.changes), **asked, **parse_overrides(overrides)}
    cells = []
    for number, cell in enumerate(read.cells, start=1):
        changes = flatten_changes(cell.changes)
        try:
            resolved = load_recipe(base, changes={**shared, **changes})
        except ProblemsError as error:
            load_recipe(base, overrides, asked)  # where that fails alone, the fault is not the grid's
            subject = f"grid {name}, cell {number} ({cell.name}), recipe {base}"
            advice = "mend the grid's changes, or what --recipe, --encoder and --set ask for; all keys: man ser-train"
            raise ProblemsError(subject, error.problems, advice, usage=True) from None
        paper: dict[str, str] = {rate: getattr(cell.paper, rate) for rate in read.rates}
        cells.append(GridCell(number, cell.name, changes, resolved, paper))
    reference = next(cell for cell in cells if cell.name == read.reference)
    grid = Grid(
        Path(name).stem, Path(base).stem, read.title, read.source, read.rates, reference, read.components,
        tuple(cells), read.left_out,
    )  # fmt: skip
    _require_distinct(name, grid)
    return grid


def overridden(grid: Grid, keys: Sequence[str], cells: Sequence[GridCell]) -> dict[str, list[GridCell]]:
    """The cells that keep a setting of their own where the command line asks for another, by its key.

    Raises:
        UsageError: all of the cells do, so that the option would do nothing.
    """
    found = {key: [cell for cell in cells if key in cell.changes] for key in keys}
    for key, keeping in found.items():
        if len(keeping) == len(cells):
            raise UsageError(
                f"{key} is what grid {grid.name} varies: each of its cells sets it, so asking for another does"
                " nothing\n"
                "  leave it out, or choose cells that do not set it with --cells"
            )
    return {key: keeping for key, keeping in found.items() if keeping}


def _read(name: str) -> GridFile:
    shipped = shipped_grids()
    values = tomllib.loads(shipped[name]) if name in shipped else _read_file(Path(name), shipped)
    try:
        return GridFile.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in problem["loc"])
            message = problem["msg"].replace("Input should be", "must be").replace("String should", "must")
            message = message.replace("Extra inputs are not permitted", "unknown")
            if problem["type"] == "too_short" and where == "cells":
                message = "a grid has at least 2 cells, one of which the others are held against"
            problems.append(f"{where}: {message}")
        raise ProblemsError(f"grid {name}", problems, "compare with a shipped grid", usage=True) from None


def _read_file(path: Path, shipped: Mapping[str, str]) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, MAX_RECIPE_BYTES))
    except FileNotFoundError:
        raise UnknownNameError("grid", str(path), shipped, "or the path of a TOML file") from None
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
    except RecursionError:
        reason = "it is nested too deeply"
    raise UsageError(f"{path}: cannot be read as TOML ({reason}); compare with a shipped grid")


def _require_sound(name: str, grid: GridFile) -> None:
    """See that names stand once, the reference is a cell, and that every key is one that a cell may change.

    Raises:
        ProblemsError: all that is wrong.
    """
    names = [cell.name for cell in grid.cells]
    problems = [
        f"cells: the name {twice} stands there twice" for twice in sorted({n for n in names if names.count(n) > 1})
    ]
    if grid.reference not in names:
        problems.append(f"reference: no cell is called {grid.reference!r}")
    keys = flatten(Recipe().model_dump(mode="json"))
    problems += [f"components: {c.setting} is no setting of a recipe" for c in grid.components if c.setting not in keys]
    problems += [
        f"components: {c.setting} is no number, so it needs `value`, what cells with the component have, or `shown`"
        for c in grid.components
        if c.value is None and not c.shown and isinstance(keys.get(c.setting), str | list)
    ]
    for where, changes in [("changes", grid.changes), *((f"cell {cell.name}", cell.changes) for cell in grid.cells)]:
        flat = flatten(changes)
        problems += [
            f"{where}: {key} must be the same for all cells; give it with {option}"
            for key, option in SAME_FOR_ALL.items()
            if key in flat
        ]
        for key, value in flat.items():
            try:
                TypeAdapter(Setting).validate_python(value)
            except ValidationError:
                problems.append(f"{where}: {key} must be text, a number, true, false or a list of these")
    if problems:
        raise ProblemsError(f"grid {name}", problems, "compare with a shipped grid", usage=True)


def _require_distinct(name: str, grid: Grid) -> None:
    """Two cells of one recipe would be trained twice and differ in nothing.

    Raises:
        ProblemsError: there are such cells.
    """
    seen: dict[str, str] = {}
    problems = []
    for cell in grid.cells:
        if cell.recipe.hash in seen:
            problems.append(f"cells {seen[cell.recipe.hash]} and {cell.name} come to the same recipe")
        seen.setdefault(cell.recipe.hash, cell.name)
    if problems:
        raise ProblemsError(f"grid {name}", problems, "change one of them, or take it out", usage=True)
