"""Whether a fold may go on from the checkpoint that another process left."""

from dataclasses import dataclass

from ser_cli.errors import RunError
from ser_cli.runs.directory import FoldFolder
from ser_cli.training.checkpoint_times import Interval
from ser_cli.training.observers import TrainingObserver
from ser_cli.training.resumption import Checkpoint, differences


@dataclass(frozen=True)
class Resuming:
    """How a fold is kept against being stopped."""

    interval: Interval
    """Between checkpoints."""
    made_with: dict[str, str]
    """Recipe, corpus, versions and device of this process; a checkpoint that was made with others is refused, but
    for what is in `MAY_DIFFER`."""
    anyway: bool = False
    """Go on from a checkpoint that was made with others."""


MAY_DIFFER = frozenset({"threads"})
"""Changes the last digits alone: told and recorded, but gone on with."""


def require_same(left: Checkpoint, resuming: Resuming, folder: FoldFolder, observer: TrainingObserver) -> None:
    """See that a checkpoint may be gone on from.

    Raises:
        RunError: it was made with another recipe, corpus or version, and that was not asked for.
    """
    different = differences(left.made_with, resuming.made_with)
    for name in MAY_DIFFER & different.keys():
        observer.checkpoint_differs(different[name])
    if different.keys() - MAY_DIFFER and not resuming.anyway:
        raise RunError(
            f"{folder.folder} was left at epoch {left.progress.epoch}, step {left.progress.step}, by a process that"
            f" differs from this one\n  "
            + "\n  ".join(different.values())
            + "\n  go on all the same with --resume-anyway (the report will say so), or have the fold trained from its"
            f" start: delete {folder.checkpoints_path}"
        )


def losses_changed(left: Checkpoint, resuming: Resuming) -> bool:
    """Whether the losses are others than those that a checkpoint was made with, so that their weights are too."""
    return any(name.startswith(("losses.", "tasks.")) for name in differences(left.made_with, resuming.made_with))
