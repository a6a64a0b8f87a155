"""Audio classifiers of `transformers`, as published on its hub or saved in a folder, to compare with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import EncoderError, count_of
from ser_cli.models.folders import (
    INDEX_NAME,
    WEIGHTS_NAME,
    ask_hub_for,
    refuse_pickle_on_hub,
    require_harmless_folder,
    require_harmless_on_hub,
)
from ser_cli.models.pretrained import OPTIONAL_WEIGHTS, quieten_off_a_terminal, read_weights

WEIGHTS_NAMES = (WEIGHTS_NAME, INDEX_NAME)


class PublishedClassifier:
    """An `AutoModelForAudioClassification` checkpoint with its feature extractor."""

    def __init__(self, name: str, model: Any, extractor: Any) -> None:
        self.name = name
        self.model = model
        self.extractor = extractor
        id2label = {int(key): str(label) for key, label in model.config.id2label.items()}
        self.labels = tuple(id2label[index] for index in range(model.config.num_labels))

    @property
    def exact_under_padding(self) -> bool:
        """Whether a clip in a padded batch gives what it gives alone; then it takes an attention mask."""
        return getattr(self.model.config, "feat_extract_norm", None) == "layer"

    @property
    def reads_texts(self) -> bool:
        """Never: it hears alone."""
        return False

    @property
    def normalizes_by_speaker(self) -> bool:
        """Never: it hears each clip on its own."""
        return False

    @torch.inference_mode()
    def probabilities(
        self,
        waveforms: list[NDArray[np.float32]],
        texts: Sequence[str] = (),
        offsets: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """(batch, classes) of waveforms at 16 kHz; `texts` are not read and `offsets` not subtracted."""
        inputs = self.extractor(
            waveforms,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            **({"padding": True, "return_attention_mask": True} if self.exact_under_padding else {}),
        )
        device = next(self.model.parameters()).device
        logits = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
        result: NDArray[np.float64] = logits.cpu().double().softmax(dim=-1).numpy()
        return result


def load_published(name: str, device: torch.device) -> PublishedClassifier:
    """Load a classifier: safetensors alone, no code from the repository.

    Args:
        name: hub id, or a folder written by `save_pretrained`.
        device: where it shall run.

    Raises:
        EncoderError: it cannot be had, is no audio classifier at 16 kHz, has no trained head, or a weight that is no
            number.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

    quieten_off_a_terminal()
    try:
        if Path(name).is_dir():
            require_harmless_folder(name)
        else:
            _require_within_reach(name)
            require_harmless_on_hub(name)
        extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        model, missing = read_weights(f"model {name}", name, config, AutoModelForAudioClassification)
    except EncoderError:
        raise
    except Exception as error:  # transformers raises nearly anything at values that it does not expect
        if not Path(name).is_dir():
            refuse_pickle_on_hub(name)
        raise _cannot_load(name, error) from error
    if missing := sorted(key for key in missing if key.rpartition(".")[2] not in OPTIONAL_WEIGHTS):
        raise EncoderError(
            f"model {name}: {count_of(len(missing), 'weight')} of the classifier are missing, such as {missing[0]}\n"
            f"  it is an encoder without a trained head, or incomplete; give an audio classification checkpoint, or"
            f" train one: ser train --encoder {name}"
        )
    rate = getattr(extractor, "sampling_rate", None)
    if rate != SAMPLE_RATE_HZ:
        raise EncoderError(
            f"model {name}: hears {rate or 'an unknown number of'} Hz; expected {SAMPLE_RATE_HZ} Hz\n"
            f"  choose a classifier of speech at 16 kHz"
        )
    return PublishedClassifier(name, model.eval().to(device), extractor)


def _require_within_reach(name: str) -> None:
    try:
        ask_hub_for(name)
    except Exception as error:
        raise _cannot_load(name, error) from error


def _cannot_load(name: str, error: Exception) -> EncoderError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EncoderError(
        f"model {name}: no usable audio classifier with safetensors weights was found ({reason})\n"
        f"  give the folder that `ser train` printed, a folder written by save_pretrained, or a hub id that can be"
        f" reached"
    )
