"""Whatever `--model` names, as one thing that turns waveforms into probabilities."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser_cli.checkpoints import TrainedModel, load_model, refuse_pickles
from ser_cli.errors import RunError, UsageError
from ser_cli.files import read_json_object
from ser_cli.models.folders import may_be_hub_id
from ser_cli.provenance import DESCRIPTION_NAME
from ser_cli.runs.directory import MAX_FOLDS


class Classifier(Protocol):
    """Turns clips into probabilities."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotions in the order of the probabilities."""

    @property
    def exact_under_padding(self) -> bool:
        """Whether clips of different length may share a batch without changing each other's result."""

    @property
    def reads_texts(self) -> bool:
        """Whether it needs to be told what the clips say."""

    @property
    def normalizes_by_speaker(self) -> bool:
        """Whether it needs to hear other clips of each speaker first."""

    def probabilities(
        self,
        waveforms: list[NDArray[np.float32]],
        texts: Sequence[str] = (),
        offsets: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """(batch, classes) of waveforms at 16 kHz.

        Args:
            waveforms: the clips.
            texts: what is said in them, where it is read.
            offsets: (batch, embedding_dim) what their speakers have in common, where it is subtracted.
        """


@dataclass(frozen=True)
class Ensemble:
    """Models of one run, or of several; their probabilities are averaged."""

    members: tuple[TrainedModel, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotions in the order of the probabilities."""
        return self.members[0].labels

    @property
    def exact_under_padding(self) -> bool:
        """Whether a clip in a padded batch gives what it gives alone."""
        return all(getattr(member.model.encoder, "exact_under_padding", True) for member in self.members)

    @property
    def reads_texts(self) -> bool:
        """Whether a model needs to be told what the clips say."""
        return any(member.model.text is not None for member in self.members)

    @property
    def normalizes_by_speaker(self) -> bool:
        """Whether a model needs to hear other clips of each speaker first."""
        return any(self._widths)

    @property
    def embedding_dim(self) -> int:
        """Values of an embedding: those of all models that normalise by speaker, one after the other."""
        return sum(self._widths)

    @property
    def _widths(self) -> list[int]:
        """Of the embeddings of each model; 0 for one that hears each clip on its own."""
        return [member.model.embedding_dim if member.model.speakers else 0 for member in self.members]

    @torch.inference_mode()
    def probabilities(
        self,
        waveforms: list[NDArray[np.float32]],
        texts: Sequence[str] = (),
        offsets: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """(batch, classes), the mean over the models; `offsets` are (batch, embedding_dim)."""
        padded, lengths = self._padded(waveforms)
        parts: Sequence[Tensor | None] = [None] * len(self.members)
        if offsets is not None:
            parts = torch.from_numpy(offsets).to(padded.device).split(self._widths, dim=1)
        each = [
            member.model(padded, lengths, texts=texts, offsets=part).logits.cpu().double().softmax(dim=-1)
            for member, part in zip(self.members, parts, strict=True)
        ]
        result: NDArray[np.float64] = torch.stack(each).mean(dim=0).numpy()
        return result

    @torch.inference_mode()
    def embeddings(self, waveforms: list[NDArray[np.float32]], texts: Sequence[str] = ()) -> NDArray[np.float64]:
        """(batch, embedding_dim) before anything of a speaker is subtracted."""
        padded, lengths = self._padded(waveforms)
        hearing = [member.model for member in self.members if member.model.speakers]
        each = [model.embed(padded, lengths, texts).cpu().double() for model in hearing]
        result: NDArray[np.float64] = torch.cat(each, dim=1).numpy()
        return result

    @torch.inference_mode()
    def offsets(self, total: NDArray[np.float64], clips: NDArray[np.int64]) -> NDArray[np.float32]:
        """(speakers, embedding_dim) what is to be subtracted from the embeddings of each speaker's clips.

        Args:
            total: (speakers, embedding_dim) sum over the embeddings of each speaker.
            clips: (speakers,) how many they are.
        """
        device, counts = self._device, torch.from_numpy(clips)
        parts = torch.from_numpy(total).float().to(device).split(self._widths, dim=1)
        each = [
            member.model.speakers.offset(part, counts.to(device))
            for member, part in zip(self.members, parts, strict=True)
            if member.model.speakers
        ]
        result: NDArray[np.float32] = torch.cat(each, dim=1).cpu().numpy()
        return result

    @property
    def _device(self) -> torch.device:
        return next(self.members[0].model.parameters()).device

    def _padded(self, waveforms: list[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """(batch, time) with zeros behind each clip's end, and (batch,) its samples."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in enumerate(waveforms):
            padded[row, : len(waveform)] = torch.from_numpy(waveform)
        return padded.to(self._device), lengths.to(self._device)


@dataclass(frozen=True)
class OpenedModel:
    """A classifier and what to say of it."""

    classifier: Classifier
    description: str
    fingerprint: str
    """Equal for models that give equal answers: over the weights and labels."""
    cautions: tuple[str, ...] = ()
    """What to warn of, such as folds of a run that are not trained yet."""


def open_models(names: Sequence[str], folds: Sequence[int], device: torch.device) -> OpenedModel:
    """Open what `--model` names; of several, every model of every run counts as much as another.

    Args:
        names: each as `open_model` takes it.
        folds: of each run, counted from 1; empty for all that are done.
        device: where they shall run.

    Raises:
        UsageError: one is named twice, has other labels than another, or is a published classifier beside others.
        SerError: see `open_model`.
    """
    opened = [open_model(name, folds, device) for name in names]
    if len(opened) == 1:
        return opened[0]
    members: list[TrainedModel] = []
    named: dict[str, str] = {}
    for name, one in zip(names, opened, strict=True):
        if not isinstance(one.classifier, Ensemble):
            raise UsageError(
                f"--model {name}: a published classifier is not averaged with other models; give it alone, or runs and"
                f" fold folders of `ser train`"
            )
        if one.classifier.labels != opened[0].classifier.labels:
            raise UsageError(
                f"--model {name}: labels {', '.join(one.classifier.labels)}; those of {names[0]} are"
                f" {', '.join(opened[0].classifier.labels)}\n  models with one choice of labels can be averaged"
            )
        there = {member.weights_sha256 for member in one.classifier.members}
        if there & set(named):
            other = next(named[digest] for digest in there if digest in named)
            raise UsageError(f"--model {name}: a model of it is that of --model {other}; leave one of them out")
        named |= dict.fromkeys(there, name)
        members += one.classifier.members
    return OpenedModel(
        Ensemble(tuple(members)),
        f"{len(members)} models, each counts the same: {'; '.join(one.description for one in opened)}",
        _fingerprint(sorted(members, key=lambda member: member.weights_sha256)),
        tuple(caution for one in opened for caution in one.cautions),
    )


def open_model(name: str, folds: Sequence[int], device: torch.device) -> OpenedModel:
    """Open a run, the folder of a fold, or a published audio classifier.

    Args:
        name: as `--model` takes it.
        folds: of a run, counted from 1; empty for all that are done.
        device: where it shall run.

    Raises:
        RunError: a folder that holds no usable model.
        UsageError: `folds` do not exist.
        EncoderError: a published classifier that cannot be had.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and _fold_folders(folder):
        return _open_run(folder, folds, device)
    if folds:
        raise UsageError(f"--fold: {name} is no run with folds; leave --fold out, or give the folder of a run")
    if folder.is_dir() and (folder / "config.json").is_file() and not (folder / DESCRIPTION_NAME).exists():
        return _open_published(str(folder), device)
    if folder.is_dir():
        if not (folder / DESCRIPTION_NAME).exists():
            refuse_pickles(folder)
        if (folder / "study.json").exists():
            raise RunError(
                f"{name}: a study of `ser ablate` holds several runs\n"
                f"  give one of them: {folder / 'cells'}/NN-NAME/seed-N"
            )
        if (folder / "run.json").exists():
            raise RunError(f"{name}: no fold of this run is done yet\n  run the same `ser train` again")
        model = load_model(folder)
        model.model.to(device)
        return OpenedModel(Ensemble((model,)), f"one model from {folder}", _fingerprint([model]))
    if not may_be_hub_id(name):
        raise RunError(
            f"--model {name}: {'a file, not a folder' if folder.exists() else 'no such folder'}\n"
            f"  expected the folder that `ser train` printed, one of its fold-N, or an audio classification checkpoint"
        )
    return _open_published(name, device)


def _open_run(folder: Path, folds: Sequence[int], device: torch.device) -> OpenedModel:
    there = _fold_folders(folder)
    done = {index: path for index, path in there.items() if (path / "done.json").exists()}
    wanted = sorted(set(folds)) or sorted(done)
    unknown = [index for index in wanted if index not in done]
    if unknown or not wanted:
        known = f"done are: {', '.join(map(str, sorted(done)))}" if done else "none is done yet"
        asked = f"fold {', '.join(map(str, unknown))} is not done" if unknown else "nothing to predict with"
        most = _folds_of(folder, max(there))
        if strange := [index for index in unknown if not 1 <= index <= most]:
            raise UsageError(f"--fold {strange[0]}: {folder} has folds 1 to {most}; {known}")
        raise UsageError(f"--model {folder}: {asked}; {known}\n  train it with the same `ser train` again")
    members = tuple(load_model(done[index]) for index in wanted)
    for index, member in zip(wanted, members, strict=True):
        if member.labels != members[0].labels:
            raise RunError(
                f"{done[index]}: labels {', '.join(member.labels)}; fold {wanted[0]} has {', '.join(members[0].labels)}"
                f"\n  folds of different runs cannot be averaged: choose one with --fold"
            )
        member.model.to(device)
    missing = (
        () if folds else tuple(index for index in range(1, _folds_of(folder, max(there)) + 1) if index not in done)
    )
    cautions = []
    if missing:
        cautions = [f"fold {', '.join(map(str, missing))} of {folder} is not done; predicting with the others"]
    named = f"fold{'s' if len(wanted) > 1 else ''} {', '.join(map(str, wanted))}"
    averaged = ", probabilities averaged" if len(wanted) > 1 else ""
    return OpenedModel(Ensemble(members), f"{named} of {folder}{averaged}", _fingerprint(members), tuple(cautions))


def _fold_folders(folder: Path) -> dict[int, Path]:
    """Folders of folds, by their number."""
    found = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"fold-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _folds_of(folder: Path, at_least: int) -> int:
    """How many folds a run is to have."""
    try:
        return min(int(read_json_object(folder / "run.json")["folds"]), MAX_FOLDS)
    except (OSError, ValueError, KeyError, TypeError):
        return at_least


def _fingerprint(members: Sequence[TrainedModel]) -> str:
    told = [[member.weights_sha256, *member.labels] for member in members]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _open_published(name: str, device: torch.device) -> OpenedModel:
    from ser_cli.checkpoints import hash_weights
    from ser_cli.models.published import WEIGHTS_NAMES, load_published

    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in WEIGHTS_NAMES):
        refuse_pickles(folder)
    published = load_published(name, device)
    digest = hashlib.sha256((hash_weights(published.model) + "\n".join(published.labels)).encode()).hexdigest()
    return OpenedModel(published, f"published model {name}", digest)
