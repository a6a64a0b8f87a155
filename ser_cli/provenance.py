"""What a trained model must tell wherever it goes: the data and speakers behind it, and what it wants to hear.

It stands in `model.json` beside the weights, so that a fold's folder can be copied away from its run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_cli.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ
from ser_cli.errors import RunError
from ser_cli.files import read_json

if TYPE_CHECKING:
    from ser_cli.data.folds import Fold
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.runs.directory import RunIdentity

DESCRIPTION_NAME = "model.json"
OWN_LICENCE = "not stated: the user's own recordings"

PREPROCESSING = {
    "sample_rate_hz": SAMPLE_RATE_HZ,
    "channels": "mono, the mean of all channels",
    "range": "float32, 1 is full scale; no level is normalised before the model",
    "shortest_s": MIN_DURATION_S,
}
"""What becomes of a recording before a model of this program hears it."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from."""

    dataset: str
    corpus: str
    """The reader's name, or `manifest` for a user's own recordings."""
    licence: str
    """Of the recordings; a model that was trained on them may have to follow it."""
    label_set: str
    where: tuple[str, ...]
    protocol: str
    protocol_hash: str
    fold: int
    train_speakers: tuple[str, ...]
    """Whose voices the weights were fitted to."""
    validation_speakers: tuple[str, ...]
    """Whose voices chose the epoch."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Everybody whose voice had a part in the model."""
        return tuple(sorted({*self.train_speakers, *self.validation_speakers}))


def provenance_of(corpus: "PreparedCorpus", fold: "Fold", identity: "RunIdentity") -> Provenance:
    """What the model of a fold is to tell of itself.

    Args:
        corpus: that it was trained on.
        fold: its sides.
        identity: of the run, which knows the protocol.
    """
    from ser_cli.corpora import CORPORA

    known = CORPORA.get(corpus.preparation.corpus)
    train, validation = (tuple(sorted({corpus.by_id[i].speaker for i in ids})) for ids in (fold.train, fold.validation))
    return Provenance(
        dataset=corpus.name,
        corpus=corpus.preparation.corpus,
        licence=known.licence if known else OWN_LICENCE,
        label_set=corpus.preparation.label_set,
        where=corpus.where,
        protocol=identity.protocol,
        protocol_hash=identity.protocol_hash,
        fold=fold.index,
        train_speakers=train,
        validation_speakers=validation,
    )


def read_provenance(values: dict[str, Any]) -> Provenance:
    """A `Provenance` as JSON holds it."""
    told: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Provenance(**told)


def speakers_trained_on(folder: Path) -> tuple[str, ...]:
    """The speakers, sorted, whose voices trained a model or chose its epoch; empty where it does not tell.

    Args:
        folder: of a fold, or of a run: then those of all its folds.

    Raises:
        RunError: the folder holds no model, or its description is damaged.
    """
    folders = [folder] if (folder / DESCRIPTION_NAME).exists() else sorted(folder.glob("fold-*"))
    described = [path for path in folders if (path / DESCRIPTION_NAME).exists()]
    if not described:
        raise RunError(f"{folder} holds no trained model: no {DESCRIPTION_NAME} there or in its folds")
    return tuple(sorted({speaker for path in described for speaker in _speakers(path)}))


def _speakers(path: Path) -> Iterable[str]:
    told = read_description(path).get("provenance") or {}
    try:
        return [str(speaker) for side in ("train_speakers", "validation_speakers") for speaker in told.get(side, ())]
    except (AttributeError, TypeError) as error:
        raise RunError(
            f"{path / DESCRIPTION_NAME}: names no speakers ({error})\n  copy the whole folder again"
        ) from None


def normalized_by(description: Mapping[str, Any]) -> str:
    """What a described model hears each clip against, `clip` or `speaker`; early models know the clip alone."""
    recipe = description.get("recipe")
    section = recipe.get("normalization") if isinstance(recipe, Mapping) else None
    return "speaker" if isinstance(section, Mapping) and section.get("by") == "speaker" else "clip"


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` of a folder says.

    Raises:
        RunError: it is missing or damaged.
    """
    path = folder / DESCRIPTION_NAME
    try:
        description = read_json(path)
    except FileNotFoundError:
        raise RunError(
            f"{folder}: no usable model, {DESCRIPTION_NAME} is missing\n  copy the folder again, or train the fold"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: no usable model, the file is damaged ({error})\n  copy the whole folder again, or train the fold"
        ) from None
    if not isinstance(description, dict):
        raise RunError(f"{path}: no usable model, the file is no description of one\n  copy the whole folder again")
    return description
