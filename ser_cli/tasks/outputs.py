"""What the outputs of the tasks beside emotion mean, chosen from the training side of a fold."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ser_cli.data.manifest import UNKNOWN_SPEAKER, Utterance, is_mixture
from ser_cli.errors import SHOWN_PROBLEMS
from ser_cli.tasks.transcripts import characters_of, encode, frames_needed

TASKS = ("gender", "speaker", "characters")
"""The tasks beside emotion, by the names of their settings and of their losses."""

GENDERS = ("female", "male")


def known_gender(clip: Utterance) -> str:
    """The gender of who speaks where it is one of `GENDERS`, else nothing; nothing of a mixture, where two may."""
    return clip.gender if clip.gender in GENDERS and not is_mixture(clip) else ""


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

    def without(self, task: str, reason: str) -> "ChosenOutputs":
        """The same without a task that cannot be learnt after all."""
        return ChosenOutputs(replace(self.outputs, **{task: ()}), {**self.left_out, task: reason})


def choose_outputs(
    wanted: Sequence[str], clips: Sequence[Utterance], cut: Collection[str] = frozenset()
) -> ChosenOutputs:
    """Choose what the outputs of the wanted tasks mean.

    Args:
        wanted: names of tasks.
        clips: of the training side; mixtures among them teach none.
        cut: ids of clips of which the model never hears all, so that their texts teach nothing.
    """
    recordings = [clip for clip in clips if not is_mixture(clip)]
    genders = {clip.gender for clip in recordings}
    outputs = TaskOutputs(
        gender=GENDERS if "gender" in wanted and genders >= set(GENDERS) else (),
        speaker=_speakers(recordings) if "speaker" in wanted else (),
        characters=characters_of(c.text for c in recordings if c.id not in cut) if "characters" in wanted else (),
    )
    others = sorted(genders - {*GENDERS, ""})
    told = f", {' and '.join(GENDERS)}; there are {', '.join(others[:SHOWN_PROBLEMS])}" if others else ""
    has_texts = any(clip.text and clip.id in cut for clip in recordings)
    reasons = {
        "gender": f"the training clips are not of both genders{told}",
        "speaker": "the training clips are of fewer than two known speakers",
        "characters": "training.max_clip_s cuts every training clip that has a text"
        if has_texts
        else "no training clip has a text",
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
