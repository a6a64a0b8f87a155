"""Trained models on disk: weights as safetensors, everything else as JSON, each whole or absent."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ser_cli.errors import RunError
from ser_cli.files import write_atomically
from ser_cli.models.building import describe_encoder, rebuild_model
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.recipe import Recipe
from ser_cli.runs import write_json

WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "model.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model with its weights and what its outputs mean."""

    model: EmotionClassifier
    labels: tuple[str, ...]
    """Emotions in the order of the logits."""
    recipe: Recipe


def save_model(
    folder: Path,
    model: EmotionClassifier,
    weights: dict[str, Tensor],
    labels: tuple[str, ...],
    recipe: Recipe,
) -> None:
    """Write a model so that `load_model` needs nothing but the folder.

    Args:
        folder: of the fold.
        model: tells the encoder's shape.
        weights: to store, by parameter name.
        labels: emotions in the order of the logits.
        recipe: that the model was built from.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_atomically(folder / WEIGHTS_NAME, safetensors.torch.save(tensors))
    write_json(
        folder / DESCRIPTION_NAME,
        {"labels": labels, "recipe": recipe.model_dump(mode="json"), "encoder": describe_encoder(model)},
    )


def hash_weights(module: nn.Module) -> str:
    """SHA-256 over the names and values of a module's weights: tells which pre-trained encoder was meant."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_model(folder: Path) -> TrainedModel:
    """Load what `save_model` wrote.

    Raises:
        RunError: files are missing or damaged.
    """
    try:
        description = json.loads((folder / DESCRIPTION_NAME).read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(description["recipe"])
        labels = tuple(description["labels"])
        model = rebuild_model(recipe, len(labels), description["encoder"])
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_NAME))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunError(f"{folder}: no usable model ({error})\n  train the fold again") from error
    return TrainedModel(model.eval(), labels, recipe)
