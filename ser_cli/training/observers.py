"""What is told of a training while it runs; whoever listens decides what a person sees of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ser_cli.data.folds import Fold
    from ser_cli.losses import LossWeights
    from ser_cli.metrics import Scores
    from ser_cli.training.history import EpochRecord


class TrainingObserver(Protocol):
    """Told what happens while folds train."""

    def run_opened(self, finished: Sequence[int], arithmetic: Mapping[str, object]) -> None:
        """The run folder is open; some of the wanted folds may be done already. `arithmetic`: see `devices.py`."""

    def fold_taken(self, index: int, holder: str) -> None:
        """A fold is being trained by another process and is left to it."""

    def lock_taken_over(self, index: int, holder: str) -> None:
        """A fold was held by a process that is gone."""

    def checkpoint_damaged(self, sentence: str) -> None:
        """A checkpoint cannot be used; the one before it is tried."""

    def checkpoint_differs(self, sentence: str) -> None:
        """A checkpoint was made under conditions that change the last digits alone."""

    def fold_resumed(self, fold: "Fold", epoch: int, step: int) -> None:
        """A fold goes on behind the step of an epoch at which it was left."""

    def signal_that_came(self) -> int:
        """The number of the signal that asked the process to end; 0 where none did."""

    def raise_if_stopped(self) -> None:
        """Called wherever it is safe to leave.

        Raises:
            Stopped: a signal asked the process to end.
        """

    def fold_started(self, fold: "Fold", epochs: int) -> None:
        """A fold begins."""

    def tasks_chosen(self, sentences: Sequence[str]) -> None:
        """What has to be known of the tasks beside emotion; nothing where all that were asked for are learnt."""

    def weights_chosen(self, weights: "LossWeights", measured: bool) -> None:
        """The weights of the losses are known."""

    def step_done(self, step: int, steps: int) -> None:
        """One batch was learnt."""

    def epoch_done(self, record: "EpochRecord") -> None:
        """One epoch was learnt and judged."""

    def fold_done(self, fold: "Fold", scores: "Scores", epoch: int) -> None:
        """The chosen epoch was tested."""

    def embedding(self, fold: "Fold", done: int, total: int) -> None:
        """So many of the fold's clips have their embeddings; 0 as it begins."""
