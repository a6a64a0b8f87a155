"""The run directory: what lies where, where it came from, and what is done.

    RUN/
      run.json          what was asked for: dataset, protocol, labels, hashes
      recipe.toml       the resolved recipe; `--recipe RUN/recipe.toml` repeats it
      environment.json  versions, device and command of the process that made the run
      changes.json      what --resume-anyway went on over, where anything was
      protocol.json     which groups each fold tests, where that comes from, and its hash
      folds.csv         every utterance's side in every fold
      fold-1/           history.csv, model.safetensors, model.json, predictions.csv, environment.json, done.json
      scores.json       written by whichever process finishes the last fold, as is report.md
      report.html       written by `ser evaluate`, as are figures/ and tables/

Every file is whole or absent. A fold without `done.json` is not done and is trained when asked for again.
"""

import json
import os
import platform
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ser_cli import __version__
from ser_cli.errors import RunError
from ser_cli.files import read_json, read_json_object, read_text, write_atomically

IDENTITY_NAME = "run.json"
RUN_FILES = (
    "recipe.toml",
    "changes.json",
    "environment.json",
    "protocol.json",
    "folds.csv",
    "scores.json",
    "report.md",
    "report.html",
)
REPORT_FOLDERS = {"figures": ("svg", "png"), "tables": ("md", "tex", "csv")}
"""What `ser evaluate` writes beside its report, by the ending of the files."""
SELECTED_BY = ("validation", "last", "test")
"""How the epoch of a fold may have been chosen."""
MAX_FOLDS = 10_000
"""More than any corpus has speakers; a run that claims more is damaged."""
PACKAGES = ("torch", "torchaudio", "transformers", "accelerate", "safetensors", "numpy", "soundfile", "soxr")


@dataclass(frozen=True)
class RunIdentity:
    """What makes two runs the same: equal identities may share a folder."""

    dataset: str
    recipe: str
    encoder: str
    labels: tuple[str, ...]
    label_set: str
    """As `--labels` takes it."""
    where: tuple[str, ...]
    """Conditions that the utterances fulfil, as `--where` takes them."""
    targets: str
    """What was learnt: the verdict (`hard`) or the raters' votes (`soft`)."""
    folds: int
    protocol: str
    protocol_hash: str
    folds_hash: str
    """Of every utterance's side in every fold."""
    manifest_hash: str
    recipe_hash: str
    seed: int


@dataclass(frozen=True)
class Run:
    """A run directory."""

    folder: Path

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.toml"

    @property
    def environment_path(self) -> Path:
        """Versions, device and command of the process that made the run."""
        return self.folder / "environment.json"

    @property
    def folds_path(self) -> Path:
        """Every utterance's side in every fold."""
        return self.folder / "folds.csv"

    @property
    def protocol_path(self) -> Path:
        """The protocol, as data."""
        return self.folder / "protocol.json"

    def protocol_rule(self) -> str:
        """How the protocol divides the corpus and what to know of it, as a sentence."""
        try:
            told = read_json_object(self.protocol_path)
            return "; ".join([str(told["rule"]), *map(str, told["caveats"])])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.protocol_path} is missing or damaged ({error})\n  the same `ser train` again writes it anew"
            ) from None

    @property
    def changes_path(self) -> Path:
        """What was changed while the run went on; absent where nothing was."""
        return self.folder / "changes.json"

    def changes(self) -> list[str]:
        """A sentence for each thing that was changed while the run went on, by `--resume-anyway`."""
        if not self.changes_path.is_file():
            return []
        try:
            return [str(sentence) for sentence in read_json(self.changes_path)]
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.changes_path} is damaged ({error})\n  train again with --force") from None

    def recipe_settings(self) -> dict[str, str]:
        """The recipe that the run was made with, by dotted keys; empty where its file is missing or damaged."""
        try:
            return flat_settings(tomllib.loads(read_text(self.recipe_path)))
        except (OSError, ValueError, RecursionError):
            return {}

    @property
    def scores_path(self) -> Path:
        """The scores over all folds."""
        return self.folder / "scores.json"

    def fold(self, index: int) -> "FoldFolder":
        """The folder of one fold, counted from 1."""
        return FoldFolder(self.folder / f"fold-{index}")

    def identity(self) -> RunIdentity:
        """What the run was asked for.

        Raises:
            RunError: the folder holds no run.
        """
        try:
            values = read_json_object(self.folder / IDENTITY_NAME)
            identity = RunIdentity(**{**values, "labels": tuple(values["labels"]), "where": tuple(values["where"])})
            _require_kinds(identity, values)
            return identity
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{self.folder} holds no run: no {IDENTITY_NAME} there\n  give the folder that `ser train` printed"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{self.folder / IDENTITY_NAME} is damaged or of another version ({error})\n"
                f"  train again into another folder: --output DIR"
            ) from None

    def done_folds(self) -> list[int]:
        """The folds that are done, in order."""
        return [index for index in range(1, self.identity().folds + 1) if self.fold(index).is_done]

    def finished_among(self, wanted: Sequence[int]) -> list[int]:
        """Those of some folds that are done; none where the folder holds no run yet."""
        return [index for index in wanted if self.fold(index).is_done]

    @property
    def is_complete(self) -> bool:
        """Whether every fold is done."""
        return len(self.done_folds()) == self.identity().folds


@dataclass(frozen=True)
class FoldFolder:
    """The folder of one fold."""

    folder: Path

    @property
    def history_path(self) -> Path:
        """One row per epoch."""
        return self.folder / "history.csv"

    @property
    def predictions_path(self) -> Path:
        """One row per tested utterance."""
        return self.folder / "predictions.csv"

    @property
    def embeddings_path(self) -> Path:
        """Embeddings and frame attention of the tested model, where they were asked for; see `embeddings.py`."""
        return self.folder / "embeddings.npz"

    @property
    def checkpoints_path(self) -> Path:
        """Where the fold is kept while it is trained; see `resumption.py`."""
        return self.folder / "checkpoints"

    @property
    def done_path(self) -> Path:
        """Written last; holds the chosen epoch, the loss weights and the time taken."""
        return self.folder / "done.json"

    @property
    def is_done(self) -> bool:
        """Whether the fold was trained and tested to its end."""
        return self.done_path.is_file()

    def delete_unfinished(self) -> None:
        """Delete files that a process was about to rename into place when it was killed; the fold is held."""
        for path in self.folder.glob(".*"):
            if path.is_file():
                path.unlink(missing_ok=True)

    def finish(self, facts: Mapping[str, object]) -> None:
        """Mark the fold as done."""
        write_json(self.done_path, facts)

    def facts(self) -> dict[str, Any]:
        """What `finish` wrote."""
        try:
            facts = read_json_object(self.done_path)
            if facts.get("selected_by") not in SELECTED_BY:
                raise ValueError(f"selected_by is none of {', '.join(SELECTED_BY)}")
            if not _are_texts(facts.get("lacking", [])):
                raise ValueError("lacking is no list of labels")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.done_path} is damaged ({error}); remove it and train that fold again") from None
        return facts


def _require_kinds(identity: RunIdentity, values: Mapping[str, Any]) -> None:
    """See that an identity holds what its fields say; JSON may hold anything.

    Raises:
        ValueError: one does not.
    """
    for name, value in asdict(identity).items():
        kind = {"folds": int, "seed": int, "labels": tuple, "where": tuple}.get(name, str)
        if type(value) is not kind or (kind is tuple and not _are_texts(values[name])):
            raise ValueError(f"{name} is no {'list of texts' if kind is tuple else kind.__name__}")
    if not 1 <= identity.folds <= MAX_FOLDS:
        raise ValueError(f"folds is {str(identity.folds)[:20]}, expected 1 to {MAX_FOLDS:,}")
    if len(set(identity.labels)) < max(2, len(identity.labels)):
        raise ValueError("labels are fewer than two, or one stands there twice")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def open_or_create_run(
    folder: Path,
    identity: RunIdentity,
    settings: Mapping[str, str],
    *,
    force: bool = False,
    changed_anyway: bool = False,
) -> Run:
    """Take a folder for a run: a new one, or the one that holds the same run already.

    Args:
        folder: of the run.
        identity: what is asked for.
        settings: of the recipe that is asked for, by key; see `flat_settings`.
        force: delete a different run that lies there.
        changed_anyway: go on with a run of another recipe or corpus, and record what is different.

    Raises:
        RunError: the folder holds something else, or a run that differs; what differs is named.
    """
    run = Run(folder)
    # Hidden names are locks, and files that another process of the same run is about to rename into place.
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        write_json(folder / IDENTITY_NAME, asdict(identity))
        return run
    if not (folder / IDENTITY_NAME).is_file():
        if not (force and _is_rest_of_a_run(folder)):
            raise RunError(f"{folder} exists and holds no run; choose a new folder with --output")
        _delete_run(folder)
        write_json(folder / IDENTITY_NAME, asdict(identity))
        return run
    there = run.identity()
    if there == identity:
        return run
    if force:
        _delete_run(folder)
    else:
        _change_run(run, there, identity, settings, changed_anyway)
    write_json(folder / IDENTITY_NAME, asdict(identity))
    return run


FIXED_SETTINGS = ("selection.by",)
"""Of the recipe: what cannot change either, since epochs that were judged by one rule say nothing under another."""
MAY_CHANGE = frozenset({"recipe", "recipe_hash", "manifest_hash"})
"""Of a run's identity: what `--resume-anyway` goes on over. The rest decides who is tested and on what."""


def _change_run(
    run: Run, there: RunIdentity, identity: RunIdentity, settings: Mapping[str, str], changed_anyway: bool
) -> None:
    """Record that a run goes on with another recipe or corpus.

    Raises:
        RunError: that was not asked for, or what is different cannot change within a run.
    """
    wanted, found = asdict(identity), asdict(there)
    keys = [key for key in wanted if wanted[key] != found[key]]
    sentences = [f"{key}: {found[key]} there, {wanted[key]} asked for" for key in keys if key != "recipe_hash"]
    if "recipe_hash" in keys:
        before = run.recipe_settings()
        sentences += [
            f"{key}: {before.get(key, 'unset')} there, {settings.get(key, 'unset')} asked for"
            for key in {**before, **settings}
            if before.get(key) != settings.get(key)
        ]
    fixed = [key for key in keys if key not in MAY_CHANGE]
    if "recipe_hash" in keys:
        fixed += [key for key in FIXED_SETTINGS if before.get(key) != settings.get(key)]
    if not changed_anyway or fixed:
        advice = "" if fixed else ", go on with it all the same with --resume-anyway (the report will say so)"
        raise RunError(
            f"{run.folder} holds another run\n  "
            + "\n  ".join(sentences)
            + f"\n  choose another --output{advice}, or delete what is there with --force"
        )
    after = f"after fold {', '.join(map(str, done))}" if (done := run.done_folds()) else "before any fold was done"
    write_json(run.changes_path, [*run.changes(), *(f"{sentence} ({after})" for sentence in sentences)])
    run.recipe_path.unlink(missing_ok=True)  # written anew by the process that goes on


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by their dotted keys, the values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= (
            flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
        )
    return flat


def _is_rest_of_a_run(folder: Path) -> bool:
    """Whether a folder holds nothing but what `--force` was deleting when it was stopped."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    known = {*RUN_FILES, *REPORT_FOLDERS}
    return all(name in known or re.fullmatch(r"fold-\d+", name) for name in names)


def _delete_run(folder: Path) -> None:
    """Delete what a run wrote, the identity first, and nothing else that lies in its folder."""
    for name in (IDENTITY_NAME, *RUN_FILES):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("fold-*"):
        if re.fullmatch(r"fold-\d+", path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    delete_report_folders(folder)


def delete_report_folders(folder: Path) -> None:
    """Delete the pictures and tables of an earlier evaluation, and nothing else that lies beside them."""
    for name, endings in REPORT_FOLDERS.items():
        if (folder / name).is_symlink():  # it may lead anywhere: what lies there is not this run's
            (folder / name).unlink()
        for ending in endings:
            for path in (folder / name).glob(f"[!.]*.{ending}"):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).rmdir()


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_environment(path: Path, arithmetic: Mapping[str, object]) -> None:
    """Record what would be needed to repeat this: versions, machine, command, and what decides the last digits.

    Args:
        path: of the file.
        arithmetic: device, precision, threads; see `devices.describe_arithmetic`.
    """
    write_json(
        path,
        {
            "ser": __version__,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            **arithmetic,
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
