"""Tiny encoders, each built in one place."""

from pathlib import Path

import torch

from ser_cli.models.augmentation import Augmentation
from ser_cli.models.classifier import EmotionClassifier
from ser_cli.models.conformer import ConformerEncoder

LENGTHS = (6400, 4123, 5555)
"""Of the clips of a padded batch, in samples."""


def tiny_augmentation(**changes) -> Augmentation:
    """An augmentation of which everything is off but what is named."""
    off = {
        "max_time_warp": 0.0,
        "max_frequency_warp": 0.0,
        "crop_frames": 1000,
        "max_masked_bands": 0,
        "max_masked_frames": 0,
    }
    return Augmentation(**{**off, **changes})


def tiny_conformer() -> ConformerEncoder:
    """The built-in encoder; a changed constructor is mended here alone."""
    torch.manual_seed(0)
    return ConformerEncoder(
        mel_bands=16,
        hop_ms=12.5,
        window_ms=25.0,
        channels=(4, 4, 6),
        dim=16,
        layers=2,
        heads=2,
        feed_forward_dim=24,
        kernel_size=5,
        dropout=0.1,
        augmentation=tiny_augmentation(
            max_time_warp=0.2,
            max_frequency_warp=0.2,
            crop_frames=30,
            max_masked_bands=3,
            max_masked_frames=4,
        ),
    )


def tiny_classifier(encoder: torch.nn.Module, pooling: str = "flam", num_classes: int = 3) -> EmotionClassifier:
    """A classifier whose normalisations and frame weights are not at their start, where faults would hide."""
    torch.manual_seed(1)
    model = EmotionClassifier(encoder, num_classes, pooling=pooling, pooling_heads=4, dropout=0.2, projection_dim=8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_(0, 0.5)
        if pooling == "flam":
            model.pooling.frame_weight.normal_(0, 0.5)
            model.pooling.self_attention.in_proj_bias.normal_(0, 0.5)
        if pooling == "attentive_statistics":
            model.pooling.hidden.weight.normal_(0, 0.5)
            model.pooling.score.weight.normal_(0, 1)
    return model


def some_clips(lengths: tuple[int, ...] = LENGTHS, level: float = 0.1) -> list[torch.Tensor]:
    """Tones in noise, one per clip."""
    generator = torch.Generator().manual_seed(5)
    return [
        level * torch.sin(torch.arange(n) * (0.05 + 0.1 * k)) * torch.linspace(0.2, 1, n)
        + 0.2 * level * torch.randn(n, generator=generator)
        for k, n in enumerate(lengths)
    ]


def padded(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, time) with zeros behind each end, and the lengths."""
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(c) for c in clips])


def save_tiny_speech_encoder(
    folder: Path, kind: str, *, norm: str = "layer", normalize: bool = True, **changes
) -> Path:
    """Write a random two-layer encoder the way that its authors publish theirs."""
    import transformers

    config_class, model_class = {
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    }[kind]
    torch.manual_seed(2)
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "conv_bias": norm == "layer",
        "initializer_range": 0.3,
    }
    model_class(config_class(**{**settings, **changes})).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalize, return_attention_mask=norm == "layer"
    ).save_pretrained(folder)
    return folder
