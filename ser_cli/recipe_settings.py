"""The settings of a recipe, section by section: names, defaults, bounds and what each means."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ser_cli.settings_section import Count, NotNegative, Positive, Section, Share, Width

MAX_MIXING_SNR_DB = 200.0
"""Of one voice to another, either way; as far apart, nobody hears the softer one."""
MixingSnrDb = Annotated[float, Field(ge=-MAX_MIXING_SNR_DB, le=MAX_MIXING_SNR_DB)]


class MixupSettings(Section):
    """How training clips are mixed."""

    method: Literal["eam", "lam", "mixup", "none"] = "eam"
    """`eam`: energy-adaptive mixup, eq. 1-4 of the paper; `lam`: label-adaptive; `mixup`: conventional; `none`: clips
    stay as they are."""
    share: Share = 0.5
    """Share of the training clips that are mixed. The paper is silent; label-adaptive mixup uses 0.5."""
    snr_min_db: MixingSnrDb = -5.0
    """Of `eam`: lower end of the signal-to-noise ratio."""
    snr_max_db: MixingSnrDb = 10.0
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
    The contrastive losses, and the means over a speaker's clips, then see half of the clips at a time, so results
    change a little."""
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
    be parted, each group with its share of every emotion; batches are made of groups, whatever their length. A mixture
    counts for the speaker whose clip carries most of its label; one that `ser mix` wrote, for its first clip's."""


class SelectionSettings(Section):
    """Which epoch is tested."""

    by: Literal["validation", "last", "test"] = "validation"
    """`validation`: the epoch with the highest UA on held-out speakers, or on clips where `validation_share` says so;
    of equal ones the highest WA, then the lowest cross-entropy. `last`: the last one, nothing held out; `test`: as
    `validation`, on the test side, as some papers do, which is no fair estimate."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a higher UA, or WA at that UA, after which a fold's training ends; 0 trains all of them."""
    validation_speakers: Count = 2
    """Speakers held out of each training side, both genders where known; at most a third of its speakers."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Above 0: in the place of speakers, this share of the training side's clips, drawn at random among those of each
    emotion. Their speakers are heard in training, which flatters the choice of the epoch. 0.1 in the label-adaptive
    mixup paper. Protocols that fix who chooses the epoch keep them."""
