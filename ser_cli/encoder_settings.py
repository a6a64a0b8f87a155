"""The settings of the networks that hear and read a clip: encoders of waveforms, and of texts."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ser_cli.settings_section import NotNegative, Positive, Section, Share, SnrDb, Width

BUILT_IN_ENCODER = "conformer"
"""The encoder that is trained from scratch and needs no download."""
VGGISH_ENCODER = "vggish"
"""The encoder that was published with AudioSet, whose weights come from a file."""


class EncoderSettings(Section):
    """Which network turns a waveform into frames."""

    name: str = BUILT_IN_ENCODER
    """`conformer`, `vggish`, the id of a speech encoder on the hub of transformers, or a local folder of one."""
    weights: str = ""
    """Of `vggish`: a safetensors or .npz file of the published weights, with the names of the TensorFlow checkpoint or
    of its PyTorch port."""
    layers: Annotated[int, Field(ge=0)] = 0
    """Of a pre-trained encoder: its first so many transformer layers; later ones are dropped. 0 keeps all. The
    label-adaptive mixup paper keeps 22 of HuBERT-Large's 24."""
    projection_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of a pre-trained encoder: dropout on the output of each layer's self-attention, before the feed-forward module;
    left out, as in its checkpoint. 0.4 in the label-adaptive mixup paper."""
    fusion: Literal["last", "weighted_sum"] = "last"
    """Of a pre-trained encoder: `last` takes the frames of its last layer; `weighted_sum` a learnt weighted sum over
    all of its layers, as the multi-task paper does."""
    frozen: Literal["nothing", "convolutions", "everything"] = "nothing"
    """Of a pre-trained encoder: what is not trained. `convolutions` are those before the transformer, as is usual on
    small corpora; with `everything` the frames of each clip are computed once and kept."""
    cache_gb: Annotated[float, Field(ge=0)] = 2.0
    """Memory for the frames of an encoder that is frozen as a whole, in gigabytes; of clips that find no room there,
    and of mixtures, they are computed each time."""
    checkpoint_activations: bool = False
    """Of a pre-trained encoder: compute each layer again in the backward pass rather than keep what is inside it;
    less memory, a third more time."""

    @model_validator(mode="after")
    def _is_vggish_where_that_is_meant(self) -> "EncoderSettings":
        if self.weights and self.name != VGGISH_ENCODER:
            raise ValueError(
                f"weights names a file of {VGGISH_ENCODER}'s, and name is {self.name}, which brings its own; leave it"
                f" out, or set name to {VGGISH_ENCODER}"
            )
        asked = {
            "layers": self.layers,
            "fusion": self.fusion != "last",
            "projection_dropout": self.projection_dropout is not None,
            "checkpoint_activations": self.checkpoint_activations,
        }
        given = [key for key, value in asked.items() if value]
        if self.name == VGGISH_ENCODER and given:
            raise ValueError(
                f"{', '.join(given)}: for the transformer layers of a pre-trained encoder, and {VGGISH_ENCODER} has"
                " none; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _has_such_layers(self) -> "EncoderSettings":
        if self.name == BUILT_IN_ENCODER and self.frozen != "nothing":
            raise ValueError(
                f"frozen {self.frozen} keeps pre-trained weights as they are, and the built-in encoder has none;"
                " leave it out, or name a pre-trained encoder"
            )
        if self.name == BUILT_IN_ENCODER and self.checkpoint_activations:
            raise ValueError(
                "checkpoint_activations is for the layers of a pre-trained encoder; the built-in one is small: leave it"
                " out"
            )
        if self.name == BUILT_IN_ENCODER and self.projection_dropout is not None:
            raise ValueError(
                "projection_dropout is for the layers of a pre-trained encoder; the built-in one has a setting of its"
                " own for all of its modules, conformer.dropout: leave it out, in place of a recipe's with"
                " --set encoder.projection_dropout="
            )
        if self.frozen == "everything" and self.projection_dropout is not None:
            raise ValueError(
                "frozen everything never trains the encoder, and projection_dropout acts in its training alone;"
                " choose one of them (--set encoder.projection_dropout= takes a recipe's back)"
            )
        if self.frozen == "everything" and self.checkpoint_activations:
            raise ValueError(
                "frozen everything never trains the encoder, and checkpoint_activations saves memory in its training"
                " alone; choose one of them"
            )
        if self.frozen == "everything" and self.fusion != "last":
            raise ValueError(
                "frozen everything keeps the frames of the last layer, so nothing is left for fusion weighted_sum to"
                " learn; choose one of them"
            )
        if self.name == BUILT_IN_ENCODER and (self.layers or self.fusion != "last"):
            raise ValueError(
                f"layers and fusion choose among the layers of a pre-trained encoder, and name is {self.name};"
                " leave them out (conformer.layers sets how many it has), or name a pre-trained encoder"
            )
        return self


class ConformerSettings(Section):
    """The built-in encoder; read where `encoder.name` is `conformer`."""

    mel_bands: Annotated[int, Field(ge=16, le=256)] = 80
    """Bands of the log-mel spectrogram."""
    hop_ms: Annotated[float, Field(ge=5, le=25)] = 16.0
    """Step between its frames."""
    window_ms: Annotated[float, Field(ge=10, le=100)] = 40.0
    """Length of its analysis window."""
    trim_db: Annotated[float, Field(ge=0, le=120)] = 40.0
    """Silence at both ends of a clip is not heard: what lies so far below its loudest moment; 0 keeps clips whole."""
    trim_over_noise_db: Annotated[float, Field(ge=0, le=60)] = 6.0
    """Also not heard: ends that lie less than this above the recording's steady noise (its quietest tenth), unless
    within 18 dB of the loudest moment; 0 ignores the noise. Without effect where `trim_db` is below 18."""
    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=8)] = (16, 32, 64)
    """Of the convolution blocks; the first two halve time and frequency, the others frequency."""
    dim: Annotated[int, Field(ge=16, le=4_096)] = 128
    """Width of a frame."""
    layers: Annotated[int, Field(ge=1, le=100)] = 1
    """Conformer layers."""
    heads: Width = 4
    """Attention heads of a Conformer layer."""
    feed_forward_dim: Width = 256
    """Hidden width of a Conformer layer's feed-forward modules."""
    kernel_size: Annotated[int, Field(ge=3, le=1_001)] = 11
    """Frames under the depthwise convolution of a Conformer layer; odd."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Of every module of the encoder."""
    max_time_warp: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Largest change of a training clip's speaking rate; 0.25 draws factors from exp(-0.25) to exp(0.25)."""
    max_frequency_warp: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Largest change of its frequency axis, likewise: another vocal tract."""
    crop_s: Annotated[float, Field(ge=0.1)] = 3.0
    """Longest stretch of a training clip that is kept, at a random place."""
    max_masked_bands: Annotated[int, Field(ge=0)] = 12
    """Widest band that is masked in training (SpecAugment), in mel bands; two are drawn."""
    max_masked_ms: NotNegative = 320.0
    """Longest stretch that is masked in training (SpecAugment); two are drawn."""
    trim_jitter_db: NotNegative = 10.0
    """Largest change of `trim_db` in training, drawn for each clip: some keep a little silence, some lose soft ends."""
    background_share: Share = 0.5
    """Share of the training clips that get a background: white noise, or a babble of one to six clips of the batch.
    Where a clip begins and ends is found before."""
    background_min_snr_db: SnrDb = 12.0
    """Lowest ratio of the power of a clip's sounding part to that of its background, in dB."""
    background_max_snr_db: SnrDb = 40.0
    """Highest ratio of the power of a clip's sounding part to that of its background, in dB."""
    background_margin_ms: Annotated[float, Field(ge=0, le=10_000)] = 600.0
    """Longest stretch before and behind the sounding part of such a clip that is kept; on each side half of them keep
    none. Without effect where `trim_db` is 0."""
    noise_share: Share = 0.5
    """Share of the training clips that get steady noise of a random level and colour."""
    noise_min_snr_db: SnrDb = 15.0
    """Lowest ratio of a clip's mean power to that of this noise, in dB."""
    noise_max_snr_db: SnrDb = 50.0
    """Highest ratio of a clip's mean power to that of this noise, in dB."""
    mixstyle_share: Share = 0.5
    """Share of the training clips whose mean and range in each band move towards those of another clip of the batch
    (MixStyle): another average voice, with the same course of the sound. Labels stay as they are."""
    mixstyle_alpha: Positive = 0.4
    """Parameter of the Beta distribution that says how far."""

    @model_validator(mode="after")
    def _fits(self) -> "ConformerSettings":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.trim_jitter_db > self.trim_db:
            raise ValueError(f"trim_jitter_db {self.trim_jitter_db} must not exceed trim_db {self.trim_db}")
        if self.background_min_snr_db > self.background_max_snr_db:
            raise ValueError(
                f"background_min_snr_db {self.background_min_snr_db} must not exceed background_max_snr_db"
                f" {self.background_max_snr_db}"
            )
        if self.noise_min_snr_db > self.noise_max_snr_db:
            raise ValueError(
                f"noise_min_snr_db {self.noise_min_snr_db} must not exceed noise_max_snr_db {self.noise_max_snr_db}"
            )
        return self


class TextSettings(Section):
    """What is read beside what is heard: the transcript of each clip, column `text` of the manifest."""

    encoder: str = ""
    """The id of a text encoder on the hub of transformers such as `google-bert/bert-base-uncased`, or a local folder of
    one; empty reads no text."""
    frozen: bool = False
    """Keep its weights as they are."""
    max_tokens: Annotated[int, Field(ge=2, le=8_192)] = 128
    """Longer texts are cut; BERT reads at most 512. Of a clip that is longer than `training.max_clip_s`, each window
    is read with the whole text."""
    fusion: Literal["concatenate", "attention"] = "concatenate"
    """`concatenate`: the state of [CLS] beside the pooled frames, as in SERVER; `attention`: self-attention over tokens
    and frames together before they are pooled, as in 3M-SER."""
    heads: Width = 8
    """Attention heads of `attention`."""
