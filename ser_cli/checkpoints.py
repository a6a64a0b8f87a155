"""Trained models on disk: weights as safetensors, everything else as JSON, each whole or absent; never pickle.

FOLDER/
  model.safetensors  the weights
  model.json         labels, preprocessing, recipe, encoders, tasks; where the model comes from; SHA-256 of both files
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.encoder_settings import BUILT_IN_ENCODER, VGGISH_ENCODER
from ser_cli.errors import RunError, SerError
from ser_cli.files import read_bounded, write_atomically, write_json
from ser_cli.models import vggish
from ser_cli.models.building import describe_encoder, describe_tasks, describe_text_encoder, rebuild_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.folders import begins_as_pickle, pickle_in
from ser_cli.provenance import DESCRIPTION_NAME, PREPROCESSING, Provenance, read_description, read_provenance
from ser_cli.recipe import Recipe
from ser_cli.tasks.outputs import TaskOutputs

WEIGHTS_NAME = "model.safetensors"
FORMAT = 6
"""Of `model.json`; the first had neither hashes nor provenance. All earlier ones are still read; models of the fourth
begin to hear a clip up to 16 ms earlier or later than they did, as ends of silence are now found to the millisecond."""
HEAD_BEFORE_FORMAT_3 = {f"classifier.{name}": f"head.classifier.{name}" for name in ("weight", "bias")}

MAX_WEIGHTS_BYTES = 64 << 30
"""Of a model; the largest published speech encoders take 8 GB."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights and what its outputs mean."""

    model: EmotionClassifier
    labels: tuple[str, ...]
    """Emotions in the order of the logits."""
    recipe: Recipe
    provenance: Provenance | None
    """None for a model of an older version, which does not tell."""
    weights_sha256: str


def save_model(
    folder: Path,
    model: EmotionClassifier,
    weights: dict[str, Tensor],
    labels: tuple[str, ...],
    recipe: Recipe,
    provenance: Provenance | None = None,
) -> None:
    """Write a model so that `load_model` needs nothing but the folder.

    Args:
        folder: of the fold.
        model: tells the encoder's shape.
        weights: to store, by parameter name.
        labels: emotions in the order of the logits.
        recipe: that the model was built from.
        provenance: which data and speakers it was trained on.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = safetensors.torch.save(tensors)
    description: dict[str, Any] = {
        "format": FORMAT,
        "labels": list(labels),
        "preprocessing": {**PREPROCESSING, "features": _features(recipe), "normalization": _normalization(recipe)},
        "provenance": asdict(provenance) if provenance else None,
        "recipe": recipe.model_dump(mode="json"),
        "encoder": describe_encoder(model),
        "tasks": describe_tasks(model),
        "text": describe_text_encoder(model),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    description["sha256"] = _hash_description(description)
    write_atomically(folder / WEIGHTS_NAME, content)
    write_json(folder / DESCRIPTION_NAME, description)


def hash_weights(module: nn.Module, *, without: Collection[str] = ()) -> str:
    """SHA-256 over the names and values of a module's weights: tells which pre-trained encoder was meant.

    Args:
        module: whose weights are hashed.
        without: last parts of the names of those that are left out.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name.rpartition(".")[2] in without:
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weight_without_numbers(module: nn.Module) -> str | None:
    """The first of a module's weights that holds NaN or infinity; None where all are numbers."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None


def load_model(folder: Path) -> TrainedModel:
    """Load what `save_model` wrote; needs the folder, torch and the code of the model, nothing of training.

    Raises:
        RunError: files are missing, truncated or changed, hold no numbers, or there is a pickle in the place of the
            weights.
    """
    description = read_description(folder)
    content = _read_weights(folder)
    digest = hashlib.sha256(content).hexdigest()
    if "format" in description:
        _require_untouched(folder, description, digest)
    try:
        recipe = Recipe.model_validate(_recipe_of(description))
        labels = tuple(description["labels"])
        told = description.get("provenance")
        provenance = read_provenance(told) if told else None
        tasks = TaskOutputs.from_json(description.get("tasks", {}))
        model = rebuild_model(
            recipe,
            len(labels),
            description["encoder"],
            tasks,
            description.get("text"),
            weights_bytes=len(content),
        )
        weights = safetensors.torch.load(content)
        if description.get("format", 1) < 3:
            weights = {HEAD_BEFORE_FORMAT_3.get(name, name): value for name, value in weights.items()}
        model.load_state_dict(weights)
        if broken := weight_without_numbers(model):
            raise ValueError(f"{WEIGHTS_NAME}: {broken} holds values that are NaN or infinite")
    except SerError:
        raise
    except Exception as error:  # torch and transformers raise nearly anything at a description that does not fit
        raise RunError(
            f"{folder}: no usable model, the files do not fit together or are truncated ({_first_line(error)})\n"
            f"  copy the whole folder again, or train the fold again"
        ) from error
    return TrainedModel(model.eval(), labels, recipe, provenance, digest)


def _recipe_of(description: dict[str, Any]) -> Any:
    """The recipe that a description tells, with what was not told yet as it then was."""
    recipe, version = description["recipe"], description.get("format", 1)
    conformer: dict[str, Any] = {}
    if version < 6:  # no styles were mixed in training
        conformer |= {"mixstyle_share": 0.0}
    if version < 5:  # what silence is did not follow the noise, and no background was laid behind training clips
        conformer |= {"trim_over_noise_db": 0.0, "background_share": 0.0}
    if version < 4:  # clips were heard with the silence at their ends
        conformer |= {"trim_db": 0.0, "trim_jitter_db": 0.0}
    return {**recipe, "conformer": {**recipe.get("conformer", {}), **conformer}} if conformer else recipe


def _read_weights(folder: Path) -> bytes:
    path = folder / WEIGHTS_NAME
    try:
        content = read_bounded(path, MAX_WEIGHTS_BYTES)
    except FileNotFoundError:
        refuse_pickles(folder)
        raise RunError(
            f"{folder}: no usable model, {WEIGHTS_NAME} is missing\n  copy the whole folder again, or train the fold"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: no usable model ({reason})\n  copy the whole folder again") from None
    if begins_as_pickle(content):
        raise _refused(path)
    return content


def refuse_pickles(folder: Path) -> None:
    """Say of a folder without safetensors which file was not opened.

    Raises:
        RunError: there is a pickle; it is named.
    """
    if path := pickle_in(folder):
        raise _refused(path)


def _refused(path: Path) -> RunError:
    return RunError(
        f"{path} is a pickle, which runs whatever code its author put in; it was not opened\n"
        f"  expected weights as safetensors ({WEIGHTS_NAME}): ask for them, or convert the file where you trust it"
    )


def _require_untouched(folder: Path, description: Mapping[str, Any], weights_sha256: str) -> None:
    """Compare both files with what was written.

    Raises:
        RunError: one of them differs.
    """
    newer = description["format"] if isinstance(description["format"], int) else FORMAT + 1
    if newer > FORMAT:
        raise RunError(
            f"{folder / DESCRIPTION_NAME} was written by a newer version of ser (format {description['format']};"
            f" this one reads {FORMAT})\n  upgrade: pip install --upgrade ser-cli"
        )
    expected = {
        WEIGHTS_NAME: (weights_sha256, description.get("weights_sha256")),
        DESCRIPTION_NAME: (_hash_description(description), description.get("sha256")),
    }
    for name, (found, told) in expected.items():
        if found != told:
            raise RunError(
                f"{folder / name} is truncated or was changed after training (SHA-256 {found[:12]}…,"
                f" expected {str(told)[:12]}…)\n  copy the whole folder again, or train the fold again"
            )


def _hash_description(description: Mapping[str, Any]) -> str:
    """SHA-256 of everything that `model.json` says but this hash."""
    told = {key: value for key, value in description.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _features(recipe: Recipe) -> dict[str, Any]:
    """What the encoder makes of the waveform, for whoever rebuilds it elsewhere."""
    if recipe.encoder.name == VGGISH_ENCODER:
        return {
            "kind": "log-mel spectrogram",
            "mel_bands": vggish.MEL_BANDS,
            "hop_ms": 1000 * vggish.HOP / SAMPLE_RATE_HZ,
            "window_ms": 1000 * vggish.WINDOW / SAMPLE_RATE_HZ,
        }
    if recipe.encoder.name != BUILT_IN_ENCODER:
        return {"kind": "waveform", "encoder": Path(recipe.encoder.name).name}
    settings = recipe.conformer
    return {
        "kind": "log-mel spectrogram",
        "mel_bands": settings.mel_bands,
        "hop_ms": settings.hop_ms,
        "window_ms": settings.window_ms,
        "trim_db": settings.trim_db,
        "trim_over_noise_db": settings.trim_over_noise_db if settings.trim_db else 0.0,
    }


def _normalization(recipe: Recipe) -> dict[str, str]:
    """What becomes of a clip's embedding before it is classified; see `SpeakerNormalization`."""
    if recipe.normalization.by == "clip":
        return {"by": "clip"}
    rule = "f'_i = f_i - (f_1 + ... + f_n + center) / (n + 1), over the n embeddings of one speaker's clips"
    return {"by": "speaker", "rule": rule, "center": "speakers.center in the weights"}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
