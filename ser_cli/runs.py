"""The run directory: what lies where, where it came from, and what is done.

    RUN/
      run.json          what was asked for: dataset, protocol, labels, hashes
      recipe.toml       the resolved recipe; `--recipe RUN/recipe.toml` repeats it
      environment.json  versions, device and command of the process that made the run
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ser_cli import __version__
from ser_cli.errors import RunError
from ser_cli.files import write_atomically

IDENTITY_NAME = "run.json"
RUN_FILES = ("recipe.toml", "environment.json", "protocol.json", "folds.csv", "scores.json", "report.md", "report.html")
REPORT_FOLDERS = {"figures": ("svg", "png"), "tables": ("md", "tex", "csv")}
"""What `ser evaluate` writes beside its report, by the ending of the files."""
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
            told = json.loads(self.protocol_path.read_text(encoding="utf-8"))
            return "; ".join([str(told["rule"]), *map(str, told["caveats"])])
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.protocol_path} is missing or damaged ({error})\n  the same `ser train` again writes it anew"
            ) from None

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
            values = json.loads((self.folder / IDENTITY_NAME).read_text(encoding="utf-8"))
            return RunIdentity(**{**values, "labels": tuple(values["labels"]), "where": tuple(values["where"])})
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
    def done_path(self) -> Path:
        """Written last; holds the chosen epoch, the loss weights and the time taken."""
        return self.folder / "done.json"

    @property
    def is_done(self) -> bool:
        """Whether the fold was trained and tested to its end."""
        return self.done_path.is_file()

    def finish(self, facts: Mapping[str, object]) -> None:
        """Mark the fold as done."""
        write_json(self.done_path, facts)

    def facts(self) -> dict[str, Any]:
        """What `finish` wrote."""
        try:
            facts: dict[str, Any] = json.loads(self.done_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.done_path} is damaged ({error}); remove it and train that fold again") from None
        return facts


def open_or_create_run(folder: Path, identity: RunIdentity, *, force: bool) -> Run:
    """Take a folder for a run: a new one, or the one that holds the same run already.

    Args:
        folder: of the run.
        identity: what is asked for.
        force: delete a different run that lies there.

    Raises:
        RunError: the folder holds something else, or a run that differs; what differs is named.
    """
    run = Run(folder)
    # Hidden names are files that another process of the same run is about to rename into place.
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        write_json(folder / IDENTITY_NAME, asdict(identity))
        return run
    if not (folder / IDENTITY_NAME).is_file():
        raise RunError(f"{folder} exists and holds no run; choose a new folder with --output")
    there = run.identity()
    if there == identity:
        return run
    if not force:
        wanted, found = asdict(identity), asdict(there)
        different = [
            f"{key}: {found[key]} there, {wanted[key]} asked for" for key in wanted if wanted[key] != found[key]
        ]
        raise RunError(
            f"{folder} holds another run\n  "
            + "\n  ".join(different)
            + "\n  choose another --output, or delete what is there with --force"
        )
    _delete_run(folder)
    write_json(folder / IDENTITY_NAME, asdict(identity))
    return run


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
        for ending in endings:
            for path in (folder / name).glob(f"[!.]*.{ending}"):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).rmdir()


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_environment(path: Path, device: str) -> None:
    """Record what would be needed to repeat this: versions, machine, device and command."""
    write_json(
        path,
        {
            "ser": __version__,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "device": device,
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
