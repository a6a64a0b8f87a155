"""What to train, as frozen data: read from TOML, checked at the border, overridden, described.

Losses, poolings, mixing rules and encoders go by name. Inside the program nothing takes a recipe: every
object gets plain arguments.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from ser_cli.encoder_settings import BUILT_IN_ENCODER, VGGISH_ENCODER, ConformerSettings, EncoderSettings, TextSettings
from ser_cli.errors import ProblemsError, UnknownNameError, UsageError, did_you_mean
from ser_cli.files import read_text
from ser_cli.recipe_settings import (
    HeadSettings,
    LossSettings,
    MixupSettings,
    NormalizationSettings,
    OptimizerSettings,
    PoolingSettings,
    SelectionSettings,
    TrainingSettings,
)
from ser_cli.settings_section import Section, flatten
from ser_cli.tasks.settings import TaskSettings

MAX_RECIPE_BYTES = 256 << 10
MAX_DOTS = 50


class Recipe(Section):
    """Everything that decides a result but the corpus, the folds and the machine."""

    title: str = ""
    """One line for people."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides folds that are dealt, held-out speakers, initial weights, order, mixing and augmentation."""
    encoder: EncoderSettings = EncoderSettings()
    conformer: ConformerSettings = ConformerSettings()
    text: TextSettings = TextSettings()
    mixup: MixupSettings = MixupSettings()
    pooling: PoolingSettings = PoolingSettings()
    normalization: NormalizationSettings = NormalizationSettings()
    head: HeadSettings = HeadSettings()
    tasks: TaskSettings = TaskSettings()
    losses: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    selection: SelectionSettings = SelectionSettings()

    @model_validator(mode="after")
    def _fits_the_encoder(self) -> "Recipe":
        if self.training.compile and self.encoder.name in (BUILT_IN_ENCODER, VGGISH_ENCODER):
            raise ValueError(
                "training.compile is for the layers of a pre-trained encoder such as WavLM; leave it out, or name one:"
                " encoder.name"
            )
        return self

    @model_validator(mode="after")
    def _mixes_no_texts(self) -> "Recipe":
        if self.text.encoder and self.mixup.method != "none":
            raise ValueError(
                f"mixup.method {self.mixup.method} lays two voices over each other, and text.encoder reads one"
                " transcript: a mixture has none of its own; set mixup.method to none, or text.encoder to nothing"
            )
        return self

    @property
    def learns_by_speaker(self) -> bool:
        """Whether clips are learnt in groups of one speaker."""
        return self.normalization.by == "speaker" or self.losses.speaker_relative > 0

    @property
    def reads_texts(self) -> bool:
        """Whether transcripts decide the result."""
        return bool(self.text.encoder) or self.tasks.characters

    @model_validator(mode="after")
    def _has_a_head_for_the_tasks(self) -> "Recipe":
        if self.tasks.wanted and self.head.name != "branches":
            raise ValueError(
                f"tasks {', '.join(self.tasks.wanted)} need a branch each, and head.name is {self.head.name}; set it to"
                " branches, or switch the tasks off"
            )
        if self.head.name == "branches" and self.head.hidden_dim:
            raise ValueError("head.hidden_dim is of the head linear; the width of branches is tasks.hidden_dim")
        if self.tasks.characters and self.encoder.name == VGGISH_ENCODER:
            raise ValueError(
                f"tasks.characters tells a character or none in each frame, and {VGGISH_ENCODER} has one frame in 0.96"
                " s; switch the task off, or name another encoder"
            )
        if self.tasks.characters and self.text.encoder and self.text.fusion == "attention":
            raise ValueError(
                "tasks.characters is to hear what is said, and text.fusion attention has the frames read it; switch the"
                " task off, or set text.fusion to concatenate"
            )
        longest = self.training.max_clip_s * math.exp(self.conformer.max_time_warp)
        if self.tasks.characters and self.encoder.name == BUILT_IN_ENCODER and self.conformer.crop_s < longest:
            raise ValueError(
                f"tasks.characters learns whole texts, and the built-in encoder keeps {self.conformer.crop_s:g} s of"
                f" training clips of up to {longest:.3g} s (training.max_clip_s, spoken as slowly as"
                f" conformer.max_time_warp makes them); set conformer.crop_s to {math.ceil(longest)}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_the_tasks_clips(self) -> "Recipe":
        if self.tasks.wanted and self.mixup.method != "none" and self.mixup.share == 1:
            raise ValueError(
                f"mixup.share 1 mixes every training clip, and tasks {', '.join(self.tasks.wanted)} learn from clips"
                " that are not mixed; lower mixup.share, set mixup.method to none, or switch the tasks off"
            )
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of every setting but the title."""
        settings = self.model_dump(mode="json", exclude={"title"})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def as_toml(self) -> str:
        """The resolved recipe as a file that `--recipe` accepts."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))  # TOML has no word for what is left out


def shipped_recipes() -> dict[str, str]:
    """The texts of the recipes that ship, by name."""
    folder = resources.files("ser_cli.recipes")
    return {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
    }


def default_recipe(dataset: str, encoder: str | None) -> str:
    """The recipe that is meant where none is named.

    The demo corpus and the built-in encoder each have their own; anything else is the paper's.
    """
    if encoder in (None, BUILT_IN_ENCODER) and dataset == "demo":
        return "demo"
    return "conformer" if encoder == BUILT_IN_ENCODER else "mll"


def load_recipe(name: str, overrides: Sequence[str] = (), changes: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    """Read a recipe and change single settings.

    Args:
        name: of a shipped recipe, or the path of a TOML file.
        overrides: as `parse_overrides` takes them; they win over `changes`.
        changes: values by dotted key; None takes a setting back that may be left out.

    Raises:
        UnknownNameError: no shipped recipe has that name.
        UsageError: the file cannot be read as TOML, or an override has no `=`.
        ProblemsError: unknown keys or values out of bounds, all of them.
    """
    values = _read(name)
    for key, value in (*changes.items(), *parse_overrides(overrides).items()):
        _put(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise ProblemsError(
            f"recipe {name}",
            problems,
            "all keys with their meaning: man ser-train, or a shipped recipe",
            usage=True,
        ) from None


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """What `--set` asks for, by dotted key; of several that name one, the last.

    Args:
        texts: `section.key=value` each; values are read as TOML, else as text, and nothing behind the sign takes a
            setting back that may be left out: None. `section={key = value}` changes these keys of the section.

    Raises:
        UsageError: one has no `=`, or a value cannot be read or changes nothing.
    """
    found: dict[str, Any] = {}
    for override in texts:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator or not key:
            raise UsageError(f"--set {override}: expected key=value, such as --set optimizer.learning_rate=1e-5")
        changes = flatten_changes({key: _value(text.strip())})
        if not changes:
            raise UsageError(f"--set {override}: an empty table changes nothing; name a setting of it")
        found |= changes
    return found


def flatten_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested changes of a recipe by dotted key; "" takes a setting back that may be left out: None."""
    return {key: None if value == "" and _may_be_left_out(key) else value for key, value in flatten(values).items()}


def _read(name: str) -> dict[str, Any]:
    shipped = shipped_recipes()
    if name in shipped:
        return tomllib.loads(shipped[name])
    path = Path(name)
    try:
        text = read_text(path, MAX_RECIPE_BYTES)
        _require_short_keys(text)
        return tomllib.loads(text)
    except FileNotFoundError:
        raise UnknownNameError("recipe", name, shipped, "or the path of a TOML file") from None
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
    except RecursionError:
        reason = "it is nested too deeply"
    raise UsageError(f"{path}: cannot be read as TOML ({reason}); compare with a shipped recipe")


def _require_short_keys(text: str) -> None:
    """The time and memory that tomllib takes for a key grow with the square of its parts.

    Raises:
        ValueError: a line may hold a key of very many parts.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"line {number} has {line.count('.'):,} dots, at most {MAX_DOTS} are read")


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{key}: {section} is a setting, not a section")
        values = inner
    values[last] = value


def _may_be_left_out(key: str) -> bool:
    """Whether a setting is left out unless it is set, so that `--set key=` takes back what a recipe sets."""
    section, _, name = key.partition(".")
    field = Recipe.model_fields.get(section)
    inner = getattr(field.annotation, "model_fields", {}) if field else {}
    return name in inner and inner[name].default is None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--set {text[:40]}…: cannot be read as a TOML value ({error})") from None


def _sentence(problem: Any) -> str:
    """One problem of a recipe: the key, what was expected, what was found."""
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] = Recipe
        for part in where[:-1]:
            annotation = model.model_fields[part].annotation
            assert isinstance(annotation, type)
            model = annotation
        return f"{'.'.join(where)}: unknown{did_you_mean(where[-1], model.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    found = f", found {problem['input']!r}" if not isinstance(problem["input"], dict) else ""
    subject = f"{'.'.join(where)}: " if where else ""  # sections that do not go together name their own keys
    return f"{subject}{message}{found}"


def describe_settings() -> list[tuple[str, str, str]]:
    """Key, default and meaning of every setting, for the manual page."""
    rows = [("seed", str(Recipe.model_fields["seed"].default), Recipe.model_fields["seed"].description or "")]
    for section, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            rows += [
                (f"{section}.{key}", str("" if inner.default is None else inner.default), inner.description or "")
                for key, inner in field.annotation.model_fields.items()
            ]
    return rows
