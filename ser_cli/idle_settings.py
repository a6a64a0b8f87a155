"""Which settings nothing reads, given the others: asked for with `--set`, they would seem to change a result."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ser_cli.encoder_settings import BUILT_IN_ENCODER
from ser_cli.recipe import Recipe, parse_overrides


@dataclass(frozen=True)
class Reading:
    """When some settings are read."""

    settings: str
    """Dotted keys with spaces between them; `section.*` is all of a section."""
    deciders: str
    """The dotted keys of the settings that decide it, likewise."""
    is_read: Callable[..., bool]
    """Given the values of the deciders, in their order."""

    def concerns(self, key: str) -> bool:
        """Whether a dotted key is one of the settings, and not itself one that decides."""
        section = key.partition(".")[0]
        return key not in self.deciders.split() and bool({key, f"{section}.*"} & set(self.settings.split()))


def _is_positive(*values: float) -> bool:
    return any(value > 0 for value in values)


def _is(*names: str) -> Callable[[str], bool]:
    return lambda value: value in names


READINGS = (
    Reading("mixup.*", "mixup.method", lambda method: method != "none"),
    Reading("mixup.*", "mixup.share", _is_positive),
    Reading("mixup.snr_min_db mixup.snr_max_db mixup.max_overlap", "mixup.method", _is("eam")),
    Reading("mixup.lam_lambda", "mixup.method", _is("lam")),
    Reading("mixup.mixup_alpha", "mixup.method", _is("mixup")),
    Reading("pooling.heads", "pooling.name", _is("flam")),
    Reading("pooling.attention_dim", "pooling.name", _is("attentive_statistics")),
    Reading("tasks.alpha tasks.hidden_dim tasks.dropout tasks.lstm_dim", "head.name", _is("branches")),
    Reading("tasks.alpha", "tasks.gender tasks.speaker tasks.characters", lambda *tasks: any(tasks)),
    Reading("tasks.lstm_dim", "tasks.characters", bool),
    Reading("losses.calibration_batches", "losses.weighting", _is("auto")),
    Reading("losses.focal_gamma", "losses.focal", _is_positive),
    Reading("losses.temperature", "losses.supcon", _is_positive),
    Reading(
        "losses.center_reads optimizer.center_learning_rate", "losses.center losses.contrastive_center", _is_positive
    ),
    Reading("losses.contrastive_center_theta", "losses.contrastive_center", _is_positive),
    Reading("losses.swfc_gamma losses.swfc_temperature losses.swfc_form", "losses.swfc", _is_positive),
    Reading("optimizer.decay", "optimizer.schedule", _is("exponential", "step")),
    Reading("optimizer.decay_epochs", "optimizer.schedule", _is("exponential")),
    Reading("optimizer.step_epochs", "optimizer.schedule", _is("step")),
    Reading("optimizer.warmup_epochs", "optimizer.schedule", _is("cosine")),
    Reading(
        "training.group_by_length",
        "normalization.by losses.speaker_relative",
        lambda by, weight: by == "clip" and weight == 0,
    ),
    Reading(
        "normalization.group",
        "normalization.by losses.speaker_relative",
        lambda by, weight: by == "speaker" or weight > 0,
    ),
    Reading("selection.validation_speakers selection.validation_share", "selection.by", _is("validation")),
    Reading("selection.validation_speakers", "selection.validation_share", lambda share: share == 0),
    Reading("selection.patience", "selection.by", lambda by: by != "last"),
    Reading("encoder.cache_gb", "encoder.frozen", _is("everything")),
    Reading("conformer.*", "encoder.name", _is(BUILT_IN_ENCODER)),
    Reading("conformer.trim_over_noise_db", "conformer.trim_db", lambda trim_db: trim_db >= 18),
    Reading("conformer.background_margin_ms", "conformer.trim_db", _is_positive),
    Reading(
        "conformer.background_min_snr_db conformer.background_max_snr_db conformer.background_margin_ms",
        "conformer.background_share",
        _is_positive,
    ),
    Reading("conformer.noise_min_snr_db conformer.noise_max_snr_db", "conformer.noise_share", _is_positive),
    Reading("conformer.mixstyle_alpha", "conformer.mixstyle_share", _is_positive),
    Reading("text.*", "text.encoder", bool),
    Reading("text.heads", "text.fusion", _is("attention")),
)
"""In the order in which they are told: the first that is not fulfilled."""


def why_idle(recipe: Recipe, key: str) -> str:
    """Why nothing reads a setting of a recipe.

    Args:
        recipe: all settings.
        key: dotted, of one that the recipe has.

    Returns:
        A clause with the settings that decide it, such as `mixup.method is eam`; empty where it is read.
    """
    for reading in READINGS:
        if reading.concerns(key):
            values = {decider: _value(recipe, decider) for decider in reading.deciders.split()}
            if not reading.is_read(*values.values()):
                return " and ".join(f"{decider} is {_told(value)}" for decider, value in values.items())
    return ""


def idle_settings(recipes: Sequence[Recipe], changes: Iterable[str]) -> Iterator[str]:
    """Tell which of the changes asked for no recipe reads.

    Args:
        recipes: with the changes: one, or those of the cells of a study.
        changes: `section.key=value`, as given with `--set`.

    Yields:
        A sentence for each change that all recipes leave unread, with the reason of the first.
    """
    for change in changes:
        keys = list(parse_overrides([change]))
        for key in keys:
            reasons = [why_idle(recipe, key) for recipe in recipes]
            if all(reasons):
                what = f"--set {change}" if len(keys) == 1 else f"{key} in --set {change}"
                yield f"{what} changes nothing: {key} is not read, since {reasons[0]}"


def idle_cells(
    changes: Mapping[str, Mapping[str, object]], recipes: Mapping[str, Recipe], reference: Recipe
) -> Iterator[str]:
    """Tell which cells of a study change nothing that is read.

    Args:
        changes: of each cell, by its name and the dotted keys.
        recipes: of each cell, with its changes.
        reference: of the cell that the others are held against: what it reads, a change may have switched off.

    Yields:
        A sentence for each cell whose changes are all unread, with the reason of the first.
    """
    for name, of_cell in changes.items():
        reasons = {key: why_idle(reference, key) and why_idle(recipes[name], key) for key in of_cell if "." in key}
        if of_cell and len(reasons) == len(of_cell) and all(reasons.values()):
            key, reason = next(iter(reasons.items()))
            yield f"cell {name} changes nothing: {key} is not read, since {reason}"


def _value(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def _told(value: object) -> str:
    """A value as a recipe spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"
