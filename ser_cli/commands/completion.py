"""What TAB offers for the values of options, from a glance at the disk: no corpus, recipe or model is read.

Every function gives (value, what it is) pairs; the shell drops those that do not begin as typed, and offers
files where none is left.
"""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path

import typer

from ser_cli.commands.known_corpora import LABEL_SETS, PROTOCOLS, RENDERED, TITLES

Choices = list[tuple[str, str]]

ENTRIES_LOOKED_AT = 2000
"""Of folders in which runs are sought: TAB answers at once in any folder."""


def complete_dataset(ctx: typer.Context) -> Choices:
    """Corpora that a verb can open: prepared ones and those that render themselves; for `prepare`, all known."""
    if ctx.info_name == "prepare":
        return list(TITLES.items())
    ready = {name: TITLES[name] for name in RENDERED}
    for name in _prepared_corpora():
        ready[name] = TITLES.get(name, "prepared from a manifest")
    return sorted(ready.items())


def complete_protocol(ctx: typer.Context) -> Choices:
    """Protocols that ship for the chosen corpus (for all, where none is chosen yet), and the dealt ones."""
    dataset = ctx.params.get("dataset")
    shipped = PROTOCOLS.get(dataset, {}) if dataset else {k: v for of in PROTOCOLS.values() for k, v in of.items()}
    dealt = {"seeded": "speakers dealt by the seed", "seeded-sessions": "whole sessions dealt by the seed"}
    return [*shipped.items(), *dealt.items()]


def complete_labels(ctx: typer.Context) -> Choices:
    """Label sets of the chosen corpus, or the labels that its manifest was prepared with."""
    dataset = ctx.params.get("dataset")
    if not dataset:
        return []
    if dataset in LABEL_SETS:
        return list(LABEL_SETS[dataset].items())
    labels = _prepared_corpora().get(dataset, ())
    return [(",".join(labels), "as prepared")] if labels else []


def complete_recipe(incomplete: str) -> Choices:
    """Recipes that ship, and TOML files where the typed path leads."""
    return _shipped_or_file("recipes", incomplete)


def complete_grid(incomplete: str) -> Choices:
    """Grids that ship, and TOML files where the typed path leads."""
    return _shipped_or_file("grids", incomplete)


def complete_encoder() -> Choices:
    """Encoders with a name of their own; folders and ids of the hub are typed."""
    return [("conformer", "built in, trained from scratch"), ("vggish", "AudioSet's, with --set encoder.weights=FILE")]


def complete_run(incomplete: str) -> Choices:
    """Run folders where the typed path leads, and one level below, as in `runs/`."""
    typed, beginning = _split(incomplete)
    found: Choices = []
    for entry in _entries(typed):
        if not entry.name.startswith(beginning) or entry.name.startswith(".") or not _is_folder(entry):
            continue
        path = typed + entry.name
        if _is_run(entry):
            found.append((path, "run"))
        else:
            found += [(f"{path}/{inner.name}", "run") for inner in _entries(path) if _is_run(inner)]
    return found


def complete_model(incomplete: str) -> Choices:
    """Run folders, and the folds of the run that is typed."""
    typed, _ = _split(incomplete)
    folds = [
        (typed + entry.name, "one fold of the run")
        for entry in _entries(typed)
        if entry.name.startswith("fold-") and Path(entry.path, "model.json").exists()
    ]
    return complete_run(incomplete) + folds


def _shipped_or_file(folder: str, incomplete: str) -> Choices:
    shipped = Path(__file__).parent.parent / folder
    choices = [(path.stem, _title_of(path)) for path in sorted(shipped.glob("*.toml"))]
    typed, _ = _split(incomplete)
    return choices + [(typed + entry.name, "file") for entry in _entries(typed) if entry.name.endswith(".toml")]


def _split(incomplete: str) -> tuple[str, str]:
    """The folder as typed, with its slash, and the beginning of a name in it."""
    folder, slash, beginning = incomplete.rpartition("/")
    return folder + slash, beginning


def _prepared_corpora() -> dict[str, tuple[str, ...]]:
    """Labels of each corpus that is whole in the data home, by its name."""
    from ser_cli.files import read_json_object
    from ser_cli.home import data_home

    prepared = {}
    for marker in sorted((data_home() / "corpora").glob("*/prepared.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            prepared[marker.parent.name] = tuple(read_json_object(marker)["labels"])
    return prepared


def _title_of(file: Path) -> str:
    import tomllib

    return str(tomllib.loads(file.read_text(encoding="utf-8")).get("title", ""))


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    """Entries of a folder as typed, sorted; none where it cannot be read."""
    with suppress(OSError, RuntimeError), os.scandir(Path(folder).expanduser()) as entries:
        return sorted(islice(entries, ENTRIES_LOOKED_AT), key=lambda entry: entry.name)
    return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _is_run(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):
        return Path(entry.path, "run.json").exists()
    return False
