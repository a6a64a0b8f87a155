"""The settings of the tasks beside emotion: a section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ser_cli.settings_section import Section, Width
from ser_cli.tasks.outputs import TASKS


class TaskSettings(Section):
    """What `head.name` `branches` learns beside emotion, and how its branches are built; the multi-task paper's."""

    gender: bool = False
    """Learn the speakers' gender too, from the manifest: `female` or `male`. Of any task, clips without a label, and
    mixed ones, do not count; a task whose labels a fold's training side lacks is left out with a word about it."""
    speaker: bool = False
    """Learn to tell the speakers of the training side apart. Those tested are others, so it has no test of its own."""
    characters: bool = False
    """Learn what is said, from the manifest's text: characters for each frame, by connectionist temporal
    classification (CTC). Clips that `training.max_clip_s` cuts do not count for it."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Weight of each of the n tasks; all losses of emotion but `losses.swfc` weigh 1 - n alpha. With `losses.weighting`
    `auto` the losses are brought into [0, 1] first. The paper does not print it."""
    hidden_dim: Width = 256
    """Width of each branch's first layer, that of emotion included. The paper is silent."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of each branch's first layer. The paper is silent."""
    lstm_dim: Width = 256
    """Width of the LSTM of the characters branch. The paper is silent."""
    fusion: Literal["none", "co_attention"] = "none"
    """`co_attention` adds to the features of emotion, behind their first layer, what they attend to in the others'."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tasks that are asked for."""
        return tuple(task for task in TASKS if getattr(self, task))

    @model_validator(mode="after")
    def _leaves_emotion_a_weight(self) -> "TaskSettings":
        number = len(self.wanted)
        if number * self.alpha >= 1:
            raise ValueError(
                f"alpha {self.alpha:g} for each of {number} tasks leaves emotion the weight"
                f" {1 - number * self.alpha:.2g}; it must be below 1/{number}"
            )
        if self.fusion == "co_attention" and not number:
            raise ValueError(
                "fusion co_attention fuses the tasks' features into those of emotion, and no task is asked for;"
                " switch gender, speaker or characters on, or take fusion none"
            )
        return self
