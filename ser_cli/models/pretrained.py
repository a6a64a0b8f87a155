"""Pre-trained speech encoders of `transformers`, by hub id or local folder."""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser_cli.console import silenced
from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import EncoderError, count_of
from ser_cli.models.folders import (
    PREPROCESSOR_NAME,
    ask_hub_for,
    refuse_pickle_on_hub,
    require_folder_or_id,
    require_harmless_config,
    require_harmless_folder,
    require_harmless_on_hub,
)
from ser_cli.models.sizes import bytes_of_weights, require_bearable

# WavLM hands a float position bias and a boolean padding mask to the same attention; both are meant.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")

FEATURE_EXTRACTOR = "Wav2Vec2FeatureExtractor"

OPTIONAL_WEIGHTS = frozenset({"masked_spec_embed"})
"""What a published checkpoint may lack: used for masking in training alone, drawn anew where it is missing."""


class PretrainedEncoder(nn.Module):
    """A waveform encoder such as WavLM, HuBERT or wav2vec 2.0, with its own normalisation of the waveform.

    Models whose convolutions end in layer normalisation get an attention mask, so that a clip in a padded batch
    gives what it gives alone. Models with group normalisation (wav2vec2-base and its kin) were pre-trained
    without one and normalise over time, padding included: they get none, and are evaluated one clip at a time.
    """

    def __init__(self, model: nn.Module, feature_extractor: Any) -> None:
        super().__init__()
        self.model = model
        self.feature_extractor = feature_extractor
        self.uses_attention_mask = model.config.feat_extract_norm == "layer"  # type: ignore[union-attr]

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def _samples_of_a_frame(self) -> int:
        """Under the convolutions before the first frame."""
        config: Any = self.model.config
        samples = 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def exact_under_padding(self) -> bool:
        """Whether a clip in a padded batch gives what it gives alone."""
        return bool(self.uses_attention_mask)

    def frames_of(self, lengths: Tensor) -> Tensor:
        """(batch,) frames of clips of (batch,) samples."""
        frames: Tensor = self.model._get_feat_extract_output_lengths(lengths.clamp(min=self._samples_of_a_frame)).long()  # type: ignore[operator]
        return frames

    def freeze_convolutions(self) -> None:
        """Train the transformer alone: the convolutions before it keep their weights and need no gradients."""
        self.model.feature_extractor._freeze_parameters()  # type: ignore[union-attr, operator]

    def checkpoint_activations(self) -> None:
        """Compute each transformer layer again in the backward pass, with the same random numbers."""
        settings = {"use_reentrant": False}
        if hasattr(self.model, "activation_checkpointing_enable"):  # its name from transformers 5.20 on
            self.model.activation_checkpointing_enable(settings)  # type: ignore[operator]
        else:
            self.model.gradient_checkpointing_enable(settings)  # type: ignore[operator]

    def forward(
        self, waveforms: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames (batch, frames, dim) and their numbers (batch,) of waveforms (batch, time).

        `generator` seeds the masking that the model itself applies in training.
        """
        if generator is not None:
            # transformers draws its time and feature masks (SpecAugment) from NumPy's global generator.
            np.random.seed(int(torch.randint(2**31, (), generator=generator)))
        mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
        if self.feature_extractor.do_normalize:
            waveforms = _normalize(waveforms, mask)
        lengths = lengths.clamp(min=self._samples_of_a_frame)  # a clip that gives no frame counts with its silence
        if not torch.compiler.is_exporting() and waveforms.shape[1] < self._samples_of_a_frame:
            waveforms = F.pad(waveforms, (0, self._samples_of_a_frame - waveforms.shape[1]))
        mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
        attention_mask = mask.long() if self.uses_attention_mask else None
        frame_lengths = self.frames_of(lengths)
        masking = {}
        # Only training asks for a number of the batch, which a graph that is exported cannot tell.
        if self.training and (longest := int(frame_lengths.max())) < self.model.config.mask_time_length:  # type: ignore[union-attr, operator]
            # transformers refuses to draw a mask longer than the batch; such short clips go unmasked.
            masking["mask_time_indices"] = torch.zeros(
                len(waveforms), longest, dtype=torch.bool, device=waveforms.device
            )
        frames = self.model(waveforms, attention_mask=attention_mask, **masking).last_hidden_state
        return frames, frame_lengths


def load_pretrained(name: str) -> PretrainedEncoder:
    """Load an encoder with its weights.

    Args:
        name: hub id such as `microsoft/wavlm-large`, or a folder written by `save_pretrained`.

    Raises:
        EncoderError: the weights cannot be had, or the model is no encoder of 16 kHz waveforms.
    """
    from transformers import AutoConfig

    quieten_off_a_terminal()
    require_folder_or_id("encoder", name, PREPROCESSOR_NAME)
    try:
        if Path(name).is_dir():
            require_harmless_folder(name)
        else:
            _require_on_hub(name)
            require_harmless_on_hub(name)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        _require_speech_encoder(name, config)
        feature_extractor = _load_feature_extractor(name)
        model = load_weights(name, config)
    except EncoderError:
        raise
    except Exception as error:  # transformers raises nearly anything at values that it does not expect
        if not Path(name).is_dir():
            refuse_pickle_on_hub(name)
        raise _cannot_load(name, error) from error
    return PretrainedEncoder(_streamed(model), feature_extractor)


def load_weights(name: str, config: Any, **options: Any) -> Any:
    """A model of transformers with its weights, every one of which is there and a number.

    Args:
        name: hub id or folder, found harmless.
        config: its configuration.
        options: of the model's class.

    Raises:
        EncoderError: a weight is missing, or holds NaN or infinity, or the configuration asks for a larger model.
        Exception: of nearly any kind where the files cannot be read.
    """
    from transformers import AutoModel

    model, missing = read_weights(f"encoder {name}", name, config, AutoModel, **options)
    if missing := sorted(set(missing) - OPTIONAL_WEIGHTS):
        raise EncoderError(
            f"encoder {name}: {count_of(len(missing), 'weight')} that its configuration names are missing, such as"
            f" {missing[0]}\n  the folder or repository is incomplete: download or save it again"
        )
    return model


def read_weights(subject: str, name: str, config: Any, auto: Any, **options: Any) -> tuple[Any, list[str]]:
    """A model of transformers and the names of the weights that its files lack; those that are there are numbers.

    Args:
        subject: what it is called in messages.
        name: hub id or folder, found harmless.
        config: its configuration.
        auto: the class of transformers that chooses the model, such as `AutoModel`.
        options: of the model's class.

    Raises:
        EncoderError: a weight holds NaN or infinity, or the configuration asks for a larger model.
        Exception: of nearly any kind where the files cannot be read.
    """
    from transformers.utils import logging

    # The library would give memory to all weights that are missing.
    require_bearable(
        f"{subject}: its configuration",
        lambda: auto.from_config(config, trust_remote_code=False, **options),
        bytes_of_weights(name),
    )
    # Without its table of weights that are there and not wanted, such as those of another task's head.
    with silenced(logging):
        model, report = auto.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    missing = list(report["missing_keys"])
    for weight, value in model.named_parameters():
        if weight not in missing and not bool(value.isfinite().all()):
            raise EncoderError(
                f"{subject}: its weight {weight} holds values that are NaN or infinite\n"
                f"  the file is damaged, or its training failed: download it again, or take another"
            )
    return model, missing


def describe_pretrained(encoder: PretrainedEncoder) -> dict[str, Any]:
    """What `restore_pretrained` needs besides the weights."""
    model: Any = encoder.model
    return {"config": model.config.to_dict(), "feature_extractor": encoder.feature_extractor.to_dict()}


def restore_pretrained(description: dict[str, Any], *, weights_bytes: int) -> PretrainedEncoder:
    """An encoder with random weights, of the shape that `describe_pretrained` told; needs no network.

    Args:
        description: of it.
        weights_bytes: of the file that its weights will come from; what is larger is not built.

    Raises:
        EncoderError: the description asks for more than a model of the library, or for more weights than there are.
    """
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    values = dict(description["config"])
    require_harmless_config("the encoder's configuration", values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)

    def build() -> nn.Module:
        made: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
        return made

    require_bearable("the encoder's configuration", build, weights_bytes)
    return PretrainedEncoder(
        _streamed(build()),
        Wav2Vec2FeatureExtractor(
            **{k: v for k, v in description["feature_extractor"].items() if not k.endswith("_type")}
        ),
    )


def _streamed(model: nn.Module) -> nn.Module:
    """The same model, WavLM with an attention that needs less time and memory; for its kin the library has one."""
    if model.config.model_type == "wavlm":  # type: ignore[union-attr]
        from ser_cli.models.wavlm_attention import stream_attention

        stream_attention(model)
    return model


def _normalize(waveforms: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip, as Wav2Vec2FeatureExtractor does, padding left at 0."""
    count = mask.sum(dim=1, keepdim=True)
    mean = waveforms.sum(dim=1, keepdim=True) / count
    centered = (waveforms - mean) * mask
    variance = centered.square().sum(dim=1, keepdim=True) / count
    return centered / (variance + 1e-7).sqrt()


def _load_feature_extractor(name: str) -> Any:
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    if type(extractor).__name__ != FEATURE_EXTRACTOR or extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise EncoderError(
            f"encoder {name}: its feature extractor is a {type(extractor).__name__} at"
            f" {getattr(extractor, 'sampling_rate', 'no')} Hz; expected {FEATURE_EXTRACTOR} at {SAMPLE_RATE_HZ} Hz\n"
            f"  choose an encoder of waveforms such as WavLM, HuBERT or wav2vec 2.0"
        )
    return extractor


def _require_speech_encoder(name: str, config: Any) -> None:
    if not hasattr(config, "feat_extract_norm"):
        raise EncoderError(
            f"encoder {name}: a {config.model_type} model, which is no encoder of speech waveforms\n"
            f"  choose one such as WavLM, HuBERT or wav2vec 2.0"
        )


def quieten_off_a_terminal() -> None:
    """No bar for reading weights from disk; one for a download only where a person sees it."""
    import transformers
    from huggingface_hub.utils import disable_progress_bars

    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()


def _require_on_hub(name: str) -> None:
    try:
        ask_hub_for(name)
    except Exception as error:
        raise _cannot_load(name, error) from error


def _cannot_load(name: str, error: Exception) -> EncoderError:
    looked = "in that folder" if Path(name).is_dir() else "in the local cache and on the Hugging Face hub"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EncoderError(
        f"encoder {name}: no usable configuration and weights were found {looked} ({reason})\n"
        f"  either download them where there is a network and give their folder: --encoder DIR\n"
        f"  or train the built-in encoder, which needs none: --encoder conformer"
    )
