"""What a person sees of a cross-validation while it runs: a bar on a terminal, plain lines anywhere."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ser_cli.commands.interruption import StopSignals
from ser_cli.console import Console
from ser_cli.errors import Stopped, count_of

if TYPE_CHECKING:
    from ser_cli.data.folds import Fold
    from ser_cli.losses import LossWeights
    from ser_cli.metrics import Scores
    from ser_cli.training.cross_validation import Plan
    from ser_cli.training.history import EpochRecord


class TrainingView:
    """Shows a cross-validation: a bar per epoch on a terminal, one line per epoch anywhere."""

    def __init__(self, console: Console, plan: "Plan", signals: StopSignals) -> None:
        """Prepare to show a cross-validation.

        Args:
            console: where it is shown.
            plan: what is trained.
            signals: that ask the process to end.
        """
        from ser_cli.evaluation.normalization import CAPTION

        self._console = console
        self._signals = signals
        self._normalized = f", {CAPTION}" if plan.recipe.normalization.by == "speaker" else ""
        self._folds = len(plan.folds)
        self._epochs = plan.recipe.training.epochs
        self._epochs_left = self._epochs * len(plan.wanted)
        self._epochs_seen = 0
        self._began = time.monotonic()
        self._fold = self._at = 0
        self._bar: Any = None

    def run_opened(self, finished: Sequence[int], arithmetic: Mapping[str, object]) -> None:
        """Say what computes, and which folds need nothing any more."""
        tf32 = ", TensorFloat-32 for what is left in float32" if arithmetic.get("tf32") else ""
        gpu = f" ({arithmetic['gpu']})" if "gpu" in arithmetic else ""
        count = int(str(arithmetic["processes"]))
        together = f", {count} processes" if count > 1 else ""
        self._console.say(f"device {arithmetic['device']}{gpu}, {arithmetic['precision']}{tf32}{together}")
        self._epochs_left -= self._epochs * len(finished)
        if finished:
            self._console.say(f"done already: fold {', '.join(map(str, finished))}")

    def fold_taken(self, index: int, holder: str) -> None:
        """Say that another process is at a fold."""
        self._epochs_left -= self._epochs
        self._console.warn(f"fold {index}/{self._folds} is being trained by {holder}, and is left to it")

    def lock_taken_over(self, index: int, holder: str) -> None:
        """Say that a process died at a fold."""
        self._console.say(f"fold {index}/{self._folds} was held by {holder}, which is gone; it is taken over")

    def checkpoint_damaged(self, sentence: str) -> None:
        """Say which checkpoint is not used."""
        self._console.warn(sentence)

    def checkpoint_differs(self, sentence: str) -> None:
        """Say what may change the last digits."""
        self._console.warn(f"the checkpoint's {sentence}; the last digits of the result may differ")

    def fold_resumed(self, fold: "Fold", epoch: int, step: int) -> None:
        """Say where a fold goes on."""
        self._at = epoch - 1
        self._epochs_left -= self._at
        self._console.say(
            f"fold {fold.index}/{self._folds} goes on from its checkpoint: epoch {epoch}, after step {step}"
        )

    def signal_that_came(self) -> int:
        """The number of the signal that asked the process to end, or 0."""
        return self._signals.came

    def raise_if_stopped(self) -> None:
        """Leave here where a signal came."""
        if number := self.signal_that_came():
            raise Stopped(number)

    def fold_started(self, fold: "Fold", epochs: int) -> None:
        """Say who is trained on and who is tested."""
        self._signals.finishes_steps = True
        self._fold, self._epochs, self._at = fold.index, epochs, 0
        sides = ", ".join(f"{side} {count_of(len(ids), 'clip')}" for side, ids in fold.sides if ids)
        self._console.say(f"fold {fold.index}/{self._folds}: {sides}")

    def tasks_chosen(self, sentences: Sequence[str]) -> None:
        """Say which tasks are left out, and why."""
        for sentence in sentences:
            self._console.say(f"  {sentence}")

    def weights_chosen(self, weights: "LossWeights", measured: bool) -> None:
        """Say the weights of the losses."""
        origin = "measured on the first batches" if measured else "from the recipe"
        shown = ", ".join(f"{name} {value:.4g}" for name, value in weights.as_dict().items())
        self._console.say(f"  loss weights, {origin}: {shown}")

    def step_done(self, step: int, steps: int) -> None:
        """Move the bar of the running epoch."""
        if not self._console.draws_bars:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, desc=f"fold {self._fold}/{self._folds}", unit="batch", leave=False)
        self._bar.update(step - self._bar.n)

    def epoch_done(self, record: "EpochRecord") -> None:
        """Say what one epoch came to, and how long the rest will take."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._at = record.epoch
        self._epochs_seen += 1
        self._epochs_left -= 1
        each = (time.monotonic() - self._began) / self._epochs_seen
        losses = "  ".join(f"{name} {value:.3f}" for name, value in record.losses.items())
        judged = ""
        if record.selection is not None:
            judged = f"  selection UA {100 * record.selection.ua:.1f}{' best' if record.is_best else ''}"
        self._console.say(
            f"fold {self._fold}/{self._folds} epoch {record.epoch}/{self._epochs}  loss {record.total:.3f}  {losses}"
            f"{judged}  {record.clips_per_s:.0f} clips/s  {format_seconds(each * self._epochs_left)} left"
        )

    def fold_done(self, fold: "Fold", scores: "Scores", epoch: int) -> None:
        """Say how the tested speakers were recognised."""
        self._signals.finishes_steps = False
        self._epochs_left -= self._epochs - self._at  # those that patience left out
        self._console.say(
            f"fold {fold.index}/{self._folds} tested with epoch {epoch}{self._normalized}: WA {100 * scores.wa:.1f} %, "
            f"UA {100 * scores.ua:.1f} %, macro F1 {100 * scores.macro_f1:.1f} %"
        )

    def embedding(self, fold: "Fold", done: int, total: int) -> None:
        """Say that embeddings are being made; leave here where a signal came."""
        self.raise_if_stopped()
        if not done:
            self._console.say(f"fold {fold.index}/{self._folds}: embeddings of {count_of(total, 'clip')}")


def format_seconds(seconds: float) -> str:
    """A duration for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
