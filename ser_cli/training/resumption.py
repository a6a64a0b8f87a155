"""Checkpoints of a fold that is being trained: whole or absent, verified, never pickles.

    RUN/fold-1/checkpoints/
      step-000240/                the last two are kept
        state.safetensors           weights, averages, centers, moments, random states
        state.json                  where the loop stood; what it was made with; SHA-256 of all three files
      chosen-3-5ab1….safetensors  weights of the best epoch so far, written once and shared by checkpoints

A checkpoint is written beside its place, synced and renamed. Opened again, its hashes are compared: one that is
truncated, changed or half deleted is named, and the one before it is used.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter
from torch import Tensor

from ser_cli.errors import SerError
from ser_cli.files import MAX_JSON_BYTES, read_bounded, sync_folder, write_atomically
from ser_cli.training.epoch_choice import LOWEST, Standing
from ser_cli.training.history import EpochRecord
from ser_cli.training.learner import LearnerState

STATE_NAME = "state.safetensors"
FACTS_NAME = "state.json"
KEPT = 2
FORMAT = 2


@dataclass(frozen=True)
class Progress:
    """Where the loop of a fold stands."""

    epoch: int = 1
    """That is being learnt, counted from 1; one more than the recipe has when all are learnt."""
    step: int = 0
    """Batches of that epoch that are learnt."""
    steps_done: int = 0
    """Of all epochs."""
    learning_rate: float = 0.0
    """At the epoch's first step."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss, summed over the epoch's steps, but those before other losses were asked for."""
    seconds: float = 0.0
    """The epoch has taken."""
    waited_s: float = 0.0
    """Of these, for batches."""
    seconds_before: float = 0.0
    """All that was spent on the fold, by processes that were stopped too."""
    records: tuple[EpochRecord, ...] = ()
    """The epochs that were learnt and judged."""
    best: Standing = LOWEST
    """Where the chosen epoch stands."""
    chosen: int = 0
    """The best epoch so far; 0 before the first was judged."""
    stops: int = 0
    """How often the fold was taken up again."""
    summed_from: int = 0
    """Batches of the epoch that are not in `sums`."""

    def after_step(self, losses: Mapping[str, float]) -> "Progress":
        """One step further, which had these losses; where they are others than before, their sums begin here."""
        goes_on = self.sums.keys() == losses.keys()
        return replace(
            self,
            step=self.step + 1,
            steps_done=self.steps_done + 1,
            sums={name: value + (self.sums[name] if goes_on else 0.0) for name, value in losses.items()},
            summed_from=self.summed_from if goes_on else self.step,
        )

    def mean_losses(self) -> dict[str, float]:
        """Of the epoch's steps, or of those with the losses of its last one."""
        return {name: value / (self.step - self.summed_from) for name, value in self.sums.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A fold as it was left."""

    progress: Progress
    learner: LearnerState
    chosen_weights: dict[str, Tensor]
    """Of the best epoch; empty before the first was judged."""
    made_with: dict[str, str]
    """Recipe, corpus and versions, as names and values."""
    changes: tuple[str, ...] = ()
    """What was different when it was taken up all the same; see `differences`."""


class CheckpointFolder:
    """The checkpoints of one fold; the caller holds the fold against other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._chosen: dict[int, dict[str, str]] = {}
        """What this process wrote of the chosen weights, by epoch."""

    def newest(self, say_damaged: Callable[[str], None]) -> Checkpoint | None:
        """The last whole checkpoint; None where there is none.

        Args:
            say_damaged: called with a sentence for each newer one that cannot be used.
        """
        for path in sorted(self._paths(), key=_steps_of, reverse=True):
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                say_damaged(f"checkpoint {path} is damaged ({reason}) and is left aside")
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all; afterwards only the last two are kept.

        Raises:
            SerError: the disk is full, or the folder cannot be written to. The checkpoints before are untouched.
        """
        name = f"step-{checkpoint.progress.steps_done:06d}"
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._delete_unfinished()
            chosen = self._save_chosen(checkpoint)
            temporary.mkdir()
            digest = _write_tensors(temporary / STATE_NAME, checkpoint.learner.tensors)
            facts = {
                "format": FORMAT,
                "progress": asdict(checkpoint.progress),
                "learner": checkpoint.learner.facts,
                "made_with": checkpoint.made_with,
                "changes": list(checkpoint.changes),
                "state_sha256": digest,
                "chosen": chosen,
            }
            facts["sha256"] = _hash_of(facts)
            write_atomically(temporary / FACTS_NAME, json.dumps(facts, indent=1).encode())
            sync_folder(temporary)
            final = self.folder / name
            if final.exists():  # a damaged one that was left aside
                shutil.rmtree(final)
            temporary.rename(final)
            sync_folder(self.folder)
        except (OSError, SerError, safetensors.SafetensorError) as error:
            self._delete_unfinished()
            reason = getattr(error, "strerror", None) or str(error)
            before = "the one before it is whole" if self._paths() else "there was none before it"
            raise SerError(
                f"cannot write the checkpoint {self.folder / name}: {reason}\n"
                f"  {before}; free space, then run the same command again"
            ) from error
        self._delete_old(checkpoint.progress.steps_done)

    def clear(self) -> None:
        """Delete all checkpoints of a fold that is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def bytes_on_disk(self) -> int:
        """How much all checkpoints of the fold take."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _delete_unfinished(self) -> None:
        """Delete what this process, or one that was killed, was about to rename into place."""
        for path in [*self.folder.glob(".step-*"), *self.folder.glob(".chosen.*")]:
            with suppress(OSError):  # a network file system may keep what is still open elsewhere
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if re.fullmatch(r"step-\d{6,}", path.name)]

    def _save_chosen(self, checkpoint: Checkpoint) -> dict[str, str] | None:
        """Write the weights of the chosen epoch, unless a checkpoint before this one did."""
        if not checkpoint.chosen_weights:
            return None
        epoch = checkpoint.progress.chosen
        if epoch not in self._chosen:
            temporary = self.folder / f".chosen.{os.getpid()}"
            digest = _write_tensors(temporary, checkpoint.chosen_weights)
            name = f"chosen-{epoch}-{digest[:12]}.safetensors"
            temporary.replace(self.folder / name)
            self._chosen = {epoch: {"name": name, "sha256": digest}}
        return self._chosen[epoch]

    def _delete_old(self, steps_done: int) -> None:
        """Keep the last two up to a step, and the weights that they name; later ones were damaged, or are overtaken."""
        done = sorted((path for path in self._paths() if _steps_of(path) <= steps_done), key=_steps_of)
        for path in {*self._paths()} - {*done[-KEPT:]}:
            shutil.rmtree(path, ignore_errors=True)
        used = set()
        for path in self._paths():
            try:
                chosen = json.loads((path / FACTS_NAME).read_text(encoding="utf-8"))["chosen"]
            except (OSError, ValueError, KeyError, RecursionError):
                continue
            used |= {chosen["name"]} if chosen else set()
        for path in self.folder.glob("chosen-*.safetensors"):
            if path.name not in used:
                path.unlink(missing_ok=True)


def _read(folder: Path) -> Checkpoint:
    """Read one checkpoint and compare its hashes.

    Raises:
        ValueError, KeyError, TypeError, OSError, SafetensorError: it is damaged.
    """
    facts = json.loads(read_bounded(folder / FACTS_NAME, MAX_JSON_BYTES))
    if facts["format"] != FORMAT:
        raise ValueError(f"written in format {facts['format']}, this version reads {FORMAT}")
    told = facts.pop("sha256")
    if told != _hash_of(facts):
        raise ValueError(f"{FACTS_NAME} was changed")
    tensors = _read_tensors(folder / STATE_NAME, facts["state_sha256"])
    chosen = facts["chosen"]
    weights = _read_tensors(folder.parent / Path(chosen["name"]).name, chosen["sha256"]) if chosen else {}
    progress = TypeAdapter(Progress).validate_python(facts["progress"])
    return Checkpoint(
        progress, LearnerState(tensors, facts["learner"]), weights, facts["made_with"], tuple(facts["changes"])
    )


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """A sentence for all that a checkpoint was made with and this process would not go on with, by its name."""
    return {
        name: f"{name}: {then.get(name, 'unknown')} then, {now.get(name, 'unknown')} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    }


def _steps_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write and sync tensors; their SHA-256."""
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash_file(path)


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    content = path.read_bytes()  # not mapped: what was hashed is what is used, and the file may be deleted
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path.name} is truncated or was changed")
    return safetensors.torch.load(content)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
