"""The run directory: what lies where, where it came from, and what is done.

    RUN/
      run.json          what was asked for: dataset, protocol, labels, hashes
      recipe.toml       the resolved recipe; `--recipe RUN/recipe.toml` repeats it in this version
      environment.json  versions, device and command of the process that made the run
      changes.json      what --resume-anyway went on over, where anything was
      protocol.json     which groups each fold tests, where that comes from, and its hash
      folds.csv         every utterance's side in every fold
      fold-1/           history.csv, model.safetensors, model.json, predictions.csv, environment.json, done.json;
                        tasks.csv where more than emotion was learnt
      scores.json       written by whichever process finishes the last fold, as is report.md
      report.html       written by `ser evaluate`, as are figures/ and tables/; .report-files.json tells which of
                        the files there are its own

Every file is whole or absent. A fold without `done.json` is not done and is trained when asked for again.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ser_cli.errors import RunError
from ser_cli.files import read_json, read_json_object, read_text, write_json
from ser_cli.settings_section import flatten

IDENTITY_NAME = "run.json"
SELECTED_BY = ("validation", "validation_clips", "last", "test")
"""How the epoch of a fold may have been chosen; `validation_clips` are of speakers that are heard in training too."""
NORMALIZED_BY = ("clip", "speaker")
"""What the clips of a fold may have been heard against."""
MAX_FOLDS = 10_000
"""More than any corpus has speakers; a run that claims more is damaged."""


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
            if (self.folder / "study.json").is_file():
                raise RunError(
                    f"{self.folder} is a study of `ser ablate`, which holds several runs\n"
                    f"  give one of them: {self.folder / 'cells'}/NN-NAME/seed-N"
                ) from None
            raise RunError(
                f"{self.folder} holds no run: no {IDENTITY_NAME} there\n  give the folder that `ser train` printed"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{self.folder / IDENTITY_NAME} is damaged or of another version ({error})\n"
                f"  train again into another folder, --output DIR, or over it with --force"
            ) from None

    def is_that_of(self, identity: RunIdentity) -> bool:
        """Whether the folder holds this very run; one that is damaged is another."""
        try:
            return self.identity() == identity
        except RunError:
            return False

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
    def tasks_path(self) -> Path:
        """What was said of each tested utterance beside its emotion; absent where nothing else was learnt."""
        return self.folder / "tasks.csv"

    @property
    def embeddings_path(self) -> Path:
        """Embeddings and frame attention of the tested model, where they were asked for; see `runs/embeddings.py`."""
        return self.folder / "embeddings.npz"

    @property
    def checkpoints_path(self) -> Path:
        """Where the fold is kept while it is trained; see `training/resumption.py`."""
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
            if not (type(facts.get("epoch")) is int and facts["epoch"] >= 1):
                raise ValueError("epoch is no number from 1 on")
            scores = facts.get("scores", {})
            if not (isinstance(scores, dict) and type(scores.get("n", 1)) is int):
                raise ValueError("scores tell no number of clips")
            if not _are_texts(facts.get("lacking", [])):
                raise ValueError("lacking is no list of labels")
            if not _are_texts(facts.get("changes", [])):
                raise ValueError("changes is no list of sentences")
            if facts.get("normalized_by", "clip") not in NORMALIZED_BY:
                raise ValueError(f"normalized_by is none of {', '.join(NORMALIZED_BY)}")
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


def flat_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings by their dotted keys, the values as text; without those that are left out."""
    return {key: str(value) for key, value in flatten(values).items() if value is not None}
