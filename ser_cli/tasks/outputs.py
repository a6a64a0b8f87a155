"""What the outputs of the tasks beside emotion mean, chosen from the training side of a fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ser_cli.data.manifest import Utterance
from ser_cli.tasks.transcripts import characters_of, encode, frames_needed

TASKS = ("gender", "speaker", "characters")
"""The tasks beside emotion, by the names of their settings and of their losses."""

GENDERS = ("female", "male")

UNKNOWN_SPEAKER = "unknown"
"""Whom MSP-Podcast does not name: many people, and no class."""


@dataclass(frozen=True)
class TaskOutputs:
    """What the outputs of each task mean, in their order; a task that is not learnt has none."""

    gender: tuple[str, ...] = ()
    speaker: tuple[str, ...] = ()
    """Those of the training side."""
    characters: tuple[str, ...] = ()
    """Counted from 1: output 0 is CTC's blank."""

    @property
    def learnt(self) -> tuple[str, ...]:
        """The tasks that are learnt, in the order of `TASKS`."""
        return tuple(task for task in TASKS if getattr(self, task))

    def number(self, task: str) -> int:
        """How many outputs a task has."""
        return len(getattr(self, task)) + (task == "characters")

    def as_json(self) -> dict[str, list[str]]:
        """What `model.json` holds."""
        return {task: list(getattr(self, task)) for task in self.learnt}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TaskOutputs":
        """What `as_json` gave.

        Raises:
            ValueError: it is none of that.
        """
        for task, names in values.items():
            is_list = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
            if task not in TASKS or not is_list:
                raise ValueError(f"tasks: {task} is no list of what the outputs of a task mean")
        return cls(**{task: tuple(names) for task, names in values.items()})


@dataclass(frozen=True)
class ChosenOutputs:
    """The outputs of a fold, and what was asked for but is not to be had."""

    outputs: TaskOutputs
    left_out: dict[str, str]
    """Why a task that was asked for is not learnt, by its name."""

    def sentences(self) -> list[str]:
        """What a person has to know."""
        return [f"task {task} is left out: {reason}" for task, reason in self.left_out.items()]


def choose_outputs(wanted: Sequence[str], clips: Sequence[Utterance]) -> ChosenOutputs:
    """Choose what the outputs of the wanted tasks mean.

    Args:
        wanted: names of tasks.
        clips: of the training side.
    """
    outputs = TaskOutputs(
        gender=GENDERS if "gender" in wanted and {clip.gender for clip in clips} >= set(GENDERS) else (),
        speaker=_speakers(clips) if "speaker" in wanted else (),
        characters=characters_of(clip.text for clip in clips) if "characters" in wanted else (),
    )
    reasons = {
        "gender": "the training clips are not of both genders",
        "speaker": "the training clips are of fewer than two known speakers",
        "characters": "no training clip has a text",
    }
    left_out = {task: reasons[task] for task in TASKS if task in wanted and task not in outputs.learnt}
    return ChosenOutputs(outputs, left_out)


def texts_too_long(outputs: TaskOutputs, clips: Sequence[Utterance], frames: Sequence[int]) -> int:
    """How many clips have fewer frames than CTC needs for their text; they do not count for characters.

    Args:
        outputs: tell the characters.
        clips: any.
        frames: of each clip.
    """
    if not outputs.characters:
        return 0
    needed = [frames_needed(encode(clip.text, outputs.characters)) for clip in clips]
    return sum(most < least for most, least in zip(frames, needed, strict=True))


def _speakers(clips: Sequence[Utterance]) -> tuple[str, ...]:
    speakers = sorted({clip.speaker for clip in clips} - {"", UNKNOWN_SPEAKER})
    return tuple(speakers) if len(speakers) > 1 else ()
