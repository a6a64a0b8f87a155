"""What training steps are measured on: WavLM of the large shape, its operations, corpora of noise; and all small."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ser_cli.data.manifest import Utterance, write_manifest
from ser_cli.data.store import (
    INDEX_NAME,
    MANIFEST_NAME,
    write_audio_index,
    write_preparation,
)
from tests.data.durations import iemocap_like_lengths, ravdess_lengths
from tests.data.stored import stored_corpus

LONG, RAVDESS, IEMOCAP = "10 s", "ravdess", "iemocap-like"
PROJECTION_DIM = 64
"""Of the recipe `mll`."""
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    encoder: Mapping[str, Any]
    """Settings of the library's `WavLMConfig`."""
    batch_size: int
    warm_up: int
    """Steps that are not counted."""
    steps: int
    shortening: int
    """By which the lengths of all clips are divided."""
    takes: int
    """Clips of one actor, emotion and intensity in the corpus of the whole experiment; RAVDESS has 4."""
    epochs: int
    """Of the whole experiment that are measured; the first apart, the others as one."""
    product: int
    """Rows and columns of the matrices whose product is the machine's peak."""


_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "activation_dropout": 0.0,
}
_TOY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_BOTH = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "layerdrop": 0.0,  # every layer is computed in every step, by us and by the peers
}
REAL = Size({**_LARGE, **_BOTH}, 16, 10, 40, 1, 4, 3, 8192)
TOY = Size({**_TOY, **_BOTH}, 4, 1, 3, 10, 1, 2, 512)


def save_encoder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write a WavLM of random weights the way that its authors publish theirs."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**settings)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


def write_corpora(folder: Path, size: Size) -> None:
    """Prepared corpora of noise: clips of 10 s, RAVDESS's by names and lengths, a quarter of IEMOCAP's lengths."""
    rng = np.random.default_rng(0)
    clips = size.batch_size * (size.warm_up + size.steps)
    names = sorted(
        f"03-01-{emotion:02d}-{intensity:02d}-01-{take:02d}-{actor:02d}"
        for emotion in range(1, 9)
        for intensity in (1, 2)[: 1 if emotion == 1 else 2]
        for actor in range(1, 25)
        for take in range(size.takes)
    )
    lengths = {
        LONG: [160_000] * clips,
        RAVDESS: rng.permutation(ravdess_lengths())[: len(names)].tolist(),
        IEMOCAP: iemocap_like_lengths()[:: 4 * size.shortening],
    }
    for name, samples in lengths.items():
        ids = names if name == RAVDESS else [f"{number:05d}" for number in range(len(samples))]
        by_id = {i: max(n // size.shortening, 2000) for i, n in zip(ids, samples, strict=True)}
        corpus = stored_corpus(folder / name, by_id, sounding=max(by_id.values()))
        made, utterances = corpus.preparation, corpus.utterances
        audio = [replace(entry, sha256=entry.id) for entry in corpus.audio]  # no two are the same recording
        if name == RAVDESS:
            made = replace(made, name=RAVDESS, corpus=RAVDESS, labels=EMOTIONS)
            utterances = tuple(_as_in_ravdess(utterance) for utterance in utterances)
        write_manifest(corpus.folder / MANIFEST_NAME, utterances)
        write_audio_index(corpus.folder / INDEX_NAME, audio)
        write_preparation(corpus.folder, made)


def _as_in_ravdess(utterance: Utterance) -> Utterance:
    actor = utterance.id[-2:]
    gender = "male" if int(actor) % 2 else "female"
    return replace(utterance, emotion=EMOTIONS[int(utterance.id[6:8]) - 1], speaker=actor, gender=gender)


def forward_flops(encoder: Mapping[str, Any], samples: int, classes: int) -> int:
    """Floating-point operations of products and convolutions in a forward pass of one clip, two per multiplication.

    Of the clip's own frames: what padding costs is no work done. Normalisation, softmax, the bias of the attention and
    the losses are left out (SupCon over 16 clips of 10 s is 0.2 % of the sum). A step counts three times as much: the
    backward pass differentiates each product by both of its factors.

    Args:
        encoder: settings of a `WavLMConfig`.
        samples: of the clip.
        classes: of the classifier.
    """
    from transformers import WavLMConfig

    config = WavLMConfig(**encoder)
    dim, inner = config.hidden_size, config.intermediate_size
    flops, frames, channels = 0, samples, 1
    for out, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        flops += 2 * frames * kernel * channels * out
        channels = out
    flops += 2 * frames * channels * dim
    # With an even kernel the padding gives one frame more, which is cut off behind it.
    of_place = frames + 1 - config.num_conv_pos_embeddings % 2
    flops += 2 * of_place * config.num_conv_pos_embeddings * dim * dim // config.num_conv_pos_embedding_groups
    attention = 4 * 2 * frames * dim * dim + 2 * 2 * frames * frames * dim
    gate = 2 * frames * dim * 8
    flops += config.num_hidden_layers * (attention + gate + 2 * 2 * frames * dim * inner)
    flops += attention + 2 * 2 * frames * dim  # FLAM: its attention, the weight of each frame, the weighted sum
    return flops + 2 * dim * (classes + PROJECTION_DIM) + 2 * frames * dim * PROJECTION_DIM
