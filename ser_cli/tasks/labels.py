"""The labels of the tasks beside emotion, for batches of training clips."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ser_cli.data.batches import Batch
from ser_cli.data.manifest import Utterance
from ser_cli.tasks.outputs import TaskOutputs
from ser_cli.tasks.transcripts import encode

NO_LABEL = -1


@dataclass(frozen=True)
class TaskTargets:
    """What the tasks are to say of a batch."""

    gender: Tensor
    """(batch,) integers; `NO_LABEL` where a clip does not count."""
    speaker: Tensor
    """(batch,) likewise."""
    characters: Tensor
    """(batch, longest) integers from 1, zeros behind each text's end."""
    character_counts: Tensor
    """(batch,) of the texts; 0 where a clip does not count."""

    def to(self, device: torch.device) -> "TaskTargets":
        """The same targets on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


class TaskLabels:
    """The labels of clips, by their ids."""

    def __init__(self, outputs: TaskOutputs, clips: Sequence[Utterance]) -> None:
        """Look the labels up.

        Args:
            outputs: what the outputs mean; a label that is not among them is none.
            clips: of the training side.
        """
        genders = {name: position for position, name in enumerate(outputs.gender)}
        speakers = {name: position for position, name in enumerate(outputs.speaker)}
        self._gender = {clip.id: genders.get(clip.gender, NO_LABEL) for clip in clips}
        self._speaker = {clip.id: speakers.get(clip.speaker, NO_LABEL) for clip in clips}
        self._characters = {clip.id: encode(clip.text, outputs.characters) for clip in clips}

    def of(self, batch: Batch) -> TaskTargets:
        """The labels of a batch: of a mixture there are none, and what is said in a part of a clip is not known."""
        rows = list(zip(batch.ids, batch.unmixed.tolist(), strict=True))
        whole = zip(batch.ids, batch.untouched.tolist(), strict=True)
        texts = [self._characters[identity] if known else [] for identity, known in whole]
        characters = torch.zeros(len(texts), max(1, *map(len, texts)), dtype=torch.long)
        for row, text in enumerate(texts):
            characters[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        return TaskTargets(
            torch.tensor([self._gender[identity] if unmixed else NO_LABEL for identity, unmixed in rows]),
            torch.tensor([self._speaker[identity] if unmixed else NO_LABEL for identity, unmixed in rows]),
            characters,
            torch.tensor([len(text) for text in texts]),
        )
