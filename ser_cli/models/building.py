"""Build the model that a recipe describes, and rebuild it from what a checkpoint says of it."""

from typing import Any

from torch import nn

from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.conformer import ConformerEncoder
from ser_cli.models.features import FeatureAugmentation
from ser_cli.models.layers import FusedEncoder, keep_first_layers
from ser_cli.models.pretrained import PretrainedEncoder, describe_pretrained, load_pretrained, restore_pretrained
from ser_cli.recipe import Recipe
from ser_cli.recipe_settings import BUILT_IN_ENCODER


def build_model(recipe: Recipe, num_classes: int) -> EmotionClassifier:
    """The model of a recipe with the weights that training starts from.

    Raises:
        EncoderError: pre-trained weights cannot be had.
    """
    if recipe.encoder.name == BUILT_IN_ENCODER:
        return _with_heads(_build_conformer(recipe), recipe, num_classes)
    encoder = load_pretrained(recipe.encoder.name)
    if recipe.encoder.layers:
        keep_first_layers(encoder, recipe.encoder.layers, recipe.encoder.name)
    if recipe.encoder.frozen == "convolutions":
        encoder.freeze_convolutions()
    if recipe.encoder.checkpoint_activations:
        encoder.checkpoint_activations()
    return _with_heads(_fused(encoder, recipe), recipe, num_classes)


def describe_encoder(model: EmotionClassifier) -> dict[str, Any]:
    """What `rebuild_model` needs besides the recipe: nothing for the built-in encoder."""
    encoder = model.encoder.encoder if isinstance(model.encoder, FusedEncoder) else model.encoder
    return {} if isinstance(encoder, ConformerEncoder) else describe_pretrained(encoder)  # type: ignore[arg-type]


def rebuild_model(recipe: Recipe, num_classes: int, encoder: dict[str, Any]) -> EmotionClassifier:
    """The model of a recipe with weights still to be loaded; needs no network and no original folder."""
    if recipe.encoder.name == BUILT_IN_ENCODER:
        return build_model(recipe, num_classes)
    return _with_heads(_fused(restore_pretrained(encoder), recipe), recipe, num_classes)


def _fused(encoder: PretrainedEncoder, recipe: Recipe) -> nn.Module:
    return FusedEncoder(encoder, recipe.encoder.name) if recipe.encoder.fusion == "weighted_sum" else encoder


def _with_heads(encoder: nn.Module, recipe: Recipe, num_classes: int) -> EmotionClassifier:
    return EmotionClassifier(
        encoder,
        num_classes,
        pooling=recipe.pooling.name,
        pooling_heads=recipe.pooling.heads,
        attention_dim=recipe.pooling.attention_dim,
        hidden_dim=recipe.head.hidden_dim,
        dropout=recipe.pooling.dropout,
        projection_dim=recipe.losses.projection_dim,
        frozen_cache_bytes=round(1e9 * recipe.encoder.cache_gb) if recipe.encoder.frozen == "everything" else None,
    )


def _build_conformer(recipe: Recipe) -> ConformerEncoder:
    settings = recipe.conformer
    return ConformerEncoder(
        mel_bands=settings.mel_bands,
        hop_ms=settings.hop_ms,
        window_ms=settings.window_ms,
        channels=settings.channels,
        dim=settings.dim,
        layers=settings.layers,
        heads=settings.heads,
        feed_forward_dim=settings.feed_forward_dim,
        kernel_size=settings.kernel_size,
        dropout=settings.dropout,
        augmentation=FeatureAugmentation(
            max_time_warp=settings.max_time_warp,
            max_frequency_warp=settings.max_frequency_warp,
            crop_frames=round(1000 * settings.crop_s / settings.hop_ms),
            max_masked_bands=settings.max_masked_bands,
            max_masked_frames=round(settings.max_masked_ms / settings.hop_ms),
        ),
    )
