"""Build the model that a recipe describes, and rebuild it from what a checkpoint says of it."""

from functools import partial
from typing import Any

from torch import nn

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.encoder_settings import BUILT_IN_ENCODER, VGGISH_ENCODER, ConformerSettings
from ser_cli.models.augmentation import Augmentation
from ser_cli.models.background import Background
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.conformer import ConformerEncoder
from ser_cli.models.folders import PREPROCESSOR_NAME, require_folder_or_id
from ser_cli.models.heads import Head
from ser_cli.models.layers import FusedEncoder, keep_first_layers
from ser_cli.models.multi_task import MultiTaskHead
from ser_cli.models.pretrained import PretrainedEncoder, describe_pretrained, load_pretrained, restore_pretrained
from ser_cli.models.projection_dropout import set_projection_dropout
from ser_cli.models.text import TOKENIZER_NAME, TextEncoder, describe_text, load_text_encoder, restore_text_encoder
from ser_cli.models.vggish import VGGish, load_vggish, require_weights_file
from ser_cli.recipe import Recipe
from ser_cli.tasks.outputs import TaskOutputs


def build_model(recipe: Recipe, num_classes: int, tasks: TaskOutputs | None = None) -> EmotionClassifier:
    """The model of a recipe with the weights that training starts from.

    Args:
        recipe: what to build.
        num_classes: declared emotions.
        tasks: what the outputs of further tasks mean; None for no task.

    Raises:
        EncoderError: pre-trained weights cannot be had.
    """
    if recipe.encoder.name == BUILT_IN_ENCODER:
        return _with_heads(_build_conformer(recipe), recipe, num_classes, tasks, _load_text(recipe))
    if recipe.encoder.name == VGGISH_ENCODER:
        vggish = load_vggish(recipe.encoder.weights)
        if recipe.encoder.frozen == "convolutions":
            vggish.freeze_convolutions()
        return _with_heads(vggish, recipe, num_classes, tasks, _load_text(recipe))
    encoder = load_pretrained(recipe.encoder.name)
    if recipe.encoder.layers:
        keep_first_layers(encoder, recipe.encoder.layers, recipe.encoder.name)
    _set_dropout(encoder, recipe)
    if recipe.encoder.frozen == "convolutions":
        encoder.freeze_convolutions()
    if recipe.encoder.checkpoint_activations:
        encoder.checkpoint_activations()
    return _with_heads(_fused(encoder, recipe), recipe, num_classes, tasks, _load_text(recipe))


def require_weights(recipe: Recipe) -> None:
    """See what can be seen of a recipe's weights without reading them: `build_model` would refuse the same.

    Raises:
        EncoderError: a file or folder that the recipe needs is not named or not there.
    """
    if recipe.encoder.name == VGGISH_ENCODER:
        require_weights_file(recipe.encoder.weights)
    elif recipe.encoder.name != BUILT_IN_ENCODER:
        require_folder_or_id("encoder", recipe.encoder.name, PREPROCESSOR_NAME)
    if recipe.text.encoder:
        require_folder_or_id("text.encoder", recipe.text.encoder, TOKENIZER_NAME)


def describe_encoder(model: EmotionClassifier) -> dict[str, Any]:
    """What `rebuild_model` needs besides the recipe: nothing for the built-in encoder and VGGish."""
    encoder = model.encoder.encoder if isinstance(model.encoder, FusedEncoder) else model.encoder
    return describe_pretrained(encoder) if isinstance(encoder, PretrainedEncoder) else {}


def describe_text_encoder(model: EmotionClassifier) -> dict[str, Any]:
    """What `rebuild_model` needs to read texts as this model does; nothing for one that reads none."""
    return describe_text(model.text) if model.text is not None else {}


def describe_tasks(model: EmotionClassifier) -> dict[str, list[str]]:
    """What the outputs of further tasks mean, by the name of the task; nothing for a head without them."""
    return model.head.outputs.as_json() if isinstance(model.head, MultiTaskHead) else {}


def rebuild_model(
    recipe: Recipe,
    num_classes: int,
    encoder: dict[str, Any],
    tasks: TaskOutputs | None = None,
    text: dict[str, Any] | None = None,
    *,
    weights_bytes: int,
) -> EmotionClassifier:
    """The model of a recipe with weights still to be loaded; needs no network and no original folder or file.

    Args:
        recipe: that the model was built from.
        num_classes: declared emotions.
        encoder: what `describe_encoder` told.
        tasks: what the outputs of further tasks mean; None for no task.
        text: what `describe_text_encoder` told.
        weights_bytes: of the file of weights; encoders that would not fit into it are not built.

    Raises:
        EncoderError: a description asks for more than it may.
    """
    reader = None
    if recipe.text.encoder:
        reader = restore_text_encoder(
            text or {}, max_tokens=recipe.text.max_tokens, frozen=recipe.text.frozen, weights_bytes=weights_bytes
        )
    if recipe.encoder.name == BUILT_IN_ENCODER:
        return _with_heads(_build_conformer(recipe), recipe, num_classes, tasks, reader, asked_again=False)
    if recipe.encoder.name == VGGISH_ENCODER:
        return _with_heads(VGGish(), recipe, num_classes, tasks, reader, asked_again=False)
    restored = restore_pretrained(encoder, weights_bytes=weights_bytes)
    _set_dropout(restored, recipe)
    return _with_heads(_fused(restored, recipe), recipe, num_classes, tasks, reader, asked_again=False)


def _load_text(recipe: Recipe) -> TextEncoder | None:
    """What reads the transcripts, with its weights; after the encoder, which so draws the same random weights."""
    settings = recipe.text
    if not settings.encoder:
        return None
    return load_text_encoder(settings.encoder, max_tokens=settings.max_tokens, frozen=settings.frozen)


def _set_dropout(encoder: PretrainedEncoder, recipe: Recipe) -> None:
    if recipe.encoder.projection_dropout is not None:
        set_projection_dropout(encoder, recipe.encoder.projection_dropout, recipe.encoder.name)


def _fused(encoder: PretrainedEncoder, recipe: Recipe) -> nn.Module:
    return FusedEncoder(encoder, recipe.encoder.name) if recipe.encoder.fusion == "weighted_sum" else encoder


def _with_heads(
    encoder: nn.Module,
    recipe: Recipe,
    num_classes: int,
    tasks: TaskOutputs | None,
    text: TextEncoder | None,
    *,
    asked_again: bool = True,
) -> EmotionClassifier:
    """The classifier; one that is asked about each clip once, as trained ones are, keeps no frames of any."""
    cache_bytes = round(1e9 * recipe.encoder.cache_gb) if asked_again else 0
    return EmotionClassifier(
        encoder,
        num_classes,
        pooling=recipe.pooling.name,
        pooling_heads=recipe.pooling.heads,
        attention_dim=recipe.pooling.attention_dim,
        hidden_dim=recipe.head.hidden_dim,
        dropout=recipe.pooling.dropout,
        projection_dim=recipe.losses.projection_dim,
        frozen_cache_bytes=cache_bytes if recipe.encoder.frozen == "everything" else None,
        make_head=partial(_branches, recipe, num_classes, tasks or TaskOutputs())
        if recipe.head.name == "branches"
        else None,
        text=text,
        fusion=recipe.text.fusion,
        fusion_heads=recipe.text.heads,
        normalize_by_speaker=recipe.normalization.by == "speaker",
        speaker_relative=recipe.losses.speaker_relative > 0,
    )


def _branches(recipe: Recipe, num_classes: int, tasks: TaskOutputs, embedding_dim: int, frame_dim: int) -> Head:
    settings = recipe.tasks
    return MultiTaskHead(
        embedding_dim,
        frame_dim,
        num_classes,
        tasks,
        hidden_dim=settings.hidden_dim,
        lstm_dim=settings.lstm_dim,
        branch_dropout=settings.dropout,
        co_attention=settings.fusion == "co_attention",
        dropout=recipe.pooling.dropout,
    )


def _background(settings: ConformerSettings) -> Background:
    return Background(
        settings.background_share,
        settings.background_min_snr_db,
        settings.background_max_snr_db,
        round(settings.background_margin_ms * SAMPLE_RATE_HZ / 1000),
    )


def _build_conformer(recipe: Recipe) -> ConformerEncoder:
    settings = recipe.conformer
    return ConformerEncoder(
        mel_bands=settings.mel_bands,
        hop_ms=settings.hop_ms,
        window_ms=settings.window_ms,
        trim_db=settings.trim_db,
        over_noise_db=settings.trim_over_noise_db,
        channels=settings.channels,
        dim=settings.dim,
        layers=settings.layers,
        heads=settings.heads,
        feed_forward_dim=settings.feed_forward_dim,
        kernel_size=settings.kernel_size,
        dropout=settings.dropout,
        augmentation=Augmentation(
            max_time_warp=settings.max_time_warp,
            max_frequency_warp=settings.max_frequency_warp,
            crop_frames=round(1000 * settings.crop_s / settings.hop_ms),
            max_masked_bands=settings.max_masked_bands,
            max_masked_frames=round(settings.max_masked_ms / settings.hop_ms),
            trim_jitter_db=settings.trim_jitter_db,
            background=_background(settings) if settings.background_share else None,
            noise_share=settings.noise_share,
            noise_min_snr_db=settings.noise_min_snr_db,
            noise_max_snr_db=settings.noise_max_snr_db,
            mixstyle_share=settings.mixstyle_share,
            mixstyle_alpha=settings.mixstyle_alpha,
        ),
    )
