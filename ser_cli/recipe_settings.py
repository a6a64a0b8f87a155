"""The settings of a recipe, section by section: names, defaults, bounds and what each means."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BUILT_IN_ENCODER = "conformer"
"""The encoder that is trained from scratch and needs no download."""
VGGISH_ENCODER = "vggish"
"""The encoder that was published with AudioSet, whose weights come from a file."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=8_192)]
"""Of a layer: bounded, since a model from elsewhere is built before its weights are compared with it."""


class Section(BaseModel):
    """One section: frozen, nothing unknown, no infinities; the text behind a key is its help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


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
    """Memory for the frames of an encoder that is frozen as a whole, in gigabytes; the oldest go first."""
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
    noise_share: Share = 0.5
    """Share of the training clips that get steady noise of a random level and colour."""
    noise_min_snr_db: float = 15.0
    """Of a clip's mean power to this noise: least,"""
    noise_max_snr_db: float = 50.0
    """and most."""

    @model_validator(mode="after")
    def _fits(self) -> "ConformerSettings":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.trim_jitter_db > self.trim_db:
            raise ValueError(f"trim_jitter_db {self.trim_jitter_db} must not exceed trim_db {self.trim_db}")
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


class MixupSettings(Section):
    """How training clips are mixed."""

    method: Literal["eam", "lam", "mixup", "none"] = "eam"
    """`eam`: energy-adaptive mixup, eq. 1-4 of the paper; `lam`: label-adaptive; `mixup`: conventional."""
    share: Share = 0.5
    """Share of the training clips that are mixed. The paper is silent; label-adaptive mixup uses 0.5."""
    snr_min_db: float = -5.0
    """Of `eam`: lower end of the signal-to-noise ratio."""
    snr_max_db: float = 10.0
    """Of `eam`: upper end of the signal-to-noise ratio."""
    max_overlap: Annotated[float, Field(gt=0, le=0.5)] = 0.5
    """Of `eam`: longest mixed segment as a share of the dominant clip; the paper's bound is half."""
    lam_lambda: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of `lam`: weight of the first waveform; 0.5 is its paper's."""
    mixup_alpha: Positive = 0.2
    """Of `mixup`: parameter of the Beta distribution; the papers are silent, 0.2 is usual."""

    @model_validator(mode="after")
    def _ordered(self) -> "MixupSettings":
        if self.snr_min_db > self.snr_max_db:
            raise ValueError(f"snr_min_db {self.snr_min_db} exceeds snr_max_db {self.snr_max_db}")
        return self


class PoolingSettings(Section):
    """How frames become one embedding."""

    name: Literal["flam", "mean", "max", "first", "attentive_statistics"] = "flam"
    """`flam`: frame-level attention, eq. 5 of the paper; `mean` and `max` over the frames; `first`: the first frame
    alone; `attentive_statistics`: attention-weighted mean and standard deviation, which doubles the width."""
    heads: Width = 16
    """Self-attention heads of `flam`."""
    attention_dim: Width = 64
    """Hidden width of the attention of `attentive_statistics`; 64 is its paper's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Before the classifier."""


class HeadSettings(Section):
    """From the embedding to the logits."""

    name: Literal["linear", "branches"] = "linear"
    """`linear`: one linear layer, or two. `branches`: the multi-task paper's, one for emotion and one for each of
    `tasks`."""
    hidden_dim: Annotated[int, Field(ge=0, le=8_192)] = 0
    """Of `linear`: width of a linear layer before the one that gives the logits; 0 has none. The label-adaptive mixup
    paper has two layers; 64 is the width in its public code."""


class LossSettings(Section):
    """The losses and their weights: any sum of them, of which at least one trains the classifier."""

    weighting: Literal["fixed", "auto"] = "auto"
    """`auto` divides each weight below by the loss's largest value on the first batches, where that exceeds 1: the
    paper's rule that each weighted loss lies in [0, 1]; what it measured is recorded. `fixed` takes them as is."""
    calibration_batches: Count = 8
    """Batches that `auto` measures."""
    kl: NotNegative = 1.0
    """Weight of the KL divergence; 0 leaves a loss out, under `auto` too."""
    focal: NotNegative = 1.0
    """Weight of the focal loss."""
    center: NotNegative = 1.0
    """Weight of the center loss."""
    supcon: NotNegative = 1.0
    """Weight of the supervised contrastive loss over frames."""
    cross_entropy: NotNegative = 0.0
    """Weight of cross-entropy; its gradient is that of `kl`."""
    contrastive_center: NotNegative = 0.0
    """Weight of the contrastive-center loss."""
    swfc: NotNegative = 0.0
    """Weight of the sample-weighted focal contrastive loss; rare emotions count more in it."""
    speaker_relative: NotNegative = 0.0
    """Weight of the cross-entropy of a second classifier, used in training alone, that reads each embedding less the
    mean of its speaker's in the batch; batches are then made of groups of one speaker, `normalization.group` clips
    each. It makes embeddings tell emotions of one voice apart, whosever it is; with `normalization.by = "speaker"` the
    first classifier reads such embeddings too. Not from a paper."""
    focal_gamma: NotNegative = 2.0
    """Focusing parameter. The paper is silent; 2 is the focal-loss paper's choice."""
    temperature: Positive = 0.1
    """Of the contrastive loss. The paper is silent; 0.07 and 0.1 are usual."""
    projection_dim: Width = 64
    """Width of the space in which `supcon` works; `center` and `contrastive_center` too, where they read the
    projection."""
    center_reads: Literal["projection", "classifier_input"] = "projection"
    """What `center` and `contrastive_center` draw together: a `projection` of the embedding of its own, as in the
    multi-loss paper, or the `classifier_input`, what the last layer before the logits reads, as in the papers on
    label-adaptive mixup and on losses for multi-modal recognition."""
    contrastive_center_theta: Positive = 1.0
    """What is added to the denominators of `contrastive_center`; 1 is its paper's."""
    swfc_gamma: NotNegative = 2.0
    """Focusing parameter of `swfc`. The paper is silent; 2 is usual."""
    swfc_temperature: Positive = 0.8
    """Of `swfc`. The paper is silent; 0.8 is the default of the code of those who proposed the loss."""
    swfc_form: Literal["positives", "printed"] = "positives"
    """`positives`: over pairs of one emotion, as proposed; `printed`: over all pairs, as the multi-task paper's
    equation stands, which never asks for their emotions."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss by its name."""
        return {
            "kl": self.kl,
            "focal": self.focal,
            "center": self.center,
            "supcon": self.supcon,
            "cross_entropy": self.cross_entropy,
            "contrastive_center": self.contrastive_center,
            "swfc": self.swfc,
            "speaker_relative": self.speaker_relative,
        }

    @model_validator(mode="after")
    def _classifies(self) -> "LossSettings":
        if self.kl == self.focal == self.cross_entropy == 0:
            raise ValueError(
                "kl, focal and cross_entropy are all 0, so nothing would train the classifier: the other losses work"
                " on the features before it; give one of the three a weight"
            )
        return self


class OptimizerSettings(Section):
    """Adam with one learning rate for the model and one for the class centers."""

    learning_rate: Positive = 1e-4
    """Of the model."""
    center_learning_rate: Positive = 5e-3
    """Of the class centers."""
    schedule: Literal["exponential", "step", "cosine"] = "exponential"
    """`exponential`: times `decay` after each epoch until epoch `decay_epochs`; `step`: times `decay` after every
    `step_epochs` epochs; `cosine`: rises linearly over `warmup_epochs`, then falls to 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Factor of the exponential schedule and of that in steps; the paper's is 7/8."""
    step_epochs: Count = 30
    """Epochs from one step to the next."""
    decay_epochs: Annotated[int, Field(ge=0)] = 20
    """Epoch after which the exponential schedule stands still."""
    warmup_epochs: NotNegative = 0.0
    """Length of the rise of the cosine schedule."""
    weight_decay: NotNegative = 0.0
    """Decoupled (AdamW); 0 is plain Adam."""
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient; 0 does not clip."""


class TrainingSettings(Section):
    """The loop."""

    epochs: Count = 20
    """Passes over the training side."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Clips per step; at least 2, since contrast and batch normalisation need a second one."""
    group_by_length: bool = True
    """Clips of like length share a batch, drawn anew in every epoch: less padding. `false` takes them as shuffled."""
    max_clip_s: Annotated[float, Field(ge=0.1)] = 15.0
    """Of a longer clip, training takes a stretch of this duration at a random place, a new one in every epoch;
    tested, it is parted into windows of equal length, and their probabilities are averaged, weighted by length."""
    max_batch_s: NotNegative = 0.0
    """Longest batch in seconds of audio, padding included: bounds the memory of a step; 0 leaves it at
    `batch_size` clips of `max_clip_s`."""
    accumulate: Count = 1
    """Batches over whose gradients each step takes the mean; the contrastive losses see one batch at a time."""
    retry_smaller: bool = False
    """When the memory of the device is full, learn each batch in halves from then on, rather than stop with advice.
    The contrastive losses then see half of the clips at a time, so results change a little."""
    targets: Literal["hard", "soft"] = "hard"
    """`hard` learns the raters' verdict; `soft` the share of votes for each label, where the corpus has them."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the encoder's arithmetic; `auto` is bfloat16 on a GPU that has it, else float32."""
    tf32: bool = True
    """On a GPU, products of 32-bit numbers with 10 bits of mantissa (TensorFloat-32), several times as fast."""
    compile: bool = False
    """Compile the layers of a pre-trained encoder with torch.compile; where that fails they run as they are."""
    weight_average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights that is validated and tested; 0 tests the
    weights themselves."""

    @model_validator(mode="after")
    def _holds_a_clip(self) -> "TrainingSettings":
        if 0 < self.max_batch_s < self.max_clip_s:
            raise ValueError(
                f"max_batch_s {self.max_batch_s:g} is less than one clip of max_clip_s {self.max_clip_s:g};"
                " raise it, or lower max_clip_s"
            )
        return self


class NormalizationSettings(Section):
    """What a clip is heard against."""

    by: Literal["clip", "speaker"] = "clip"
    """`clip`: each clip on its own. `speaker`: from each embedding the mean over all clips of its speaker is taken,
    whose emotions need not be known: what makes this voice loud, high or bright at all times is no emotion. Reports
    say so, since tested speakers then bring their own clips."""
    group: Annotated[int, Field(ge=2, le=10_000)] = 8
    """Clips of one speaker that are learnt together with `by = "speaker"`, as near to that as the speaker's clips can
    be parted, each group with its share of every emotion; batches are made of groups, whatever their length."""


class SelectionSettings(Section):
    """Which epoch is tested."""

    by: Literal["validation", "last", "test"] = "validation"
    """`validation`: the epoch with the highest UA on held-out speakers, or on clips where `validation_share` says so;
    `last`: the last one, nothing held out; `test`: the highest UA on the test side, as some papers do, which is no
    fair estimate."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better one after which a fold's training ends; 0 trains all of them."""
    validation_speakers: Count = 2
    """Speakers held out of each training side, both genders where known."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Above 0: in the place of speakers, this share of the training side's clips, drawn at random among those of each
    emotion. Their speakers are heard in training, which flatters the choice of the epoch. 0.1 in the label-adaptive
    mixup paper. Protocols that fix who chooses the epoch keep them."""
