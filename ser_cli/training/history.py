"""What each epoch of a fold came to: recorded as it happens, one row per epoch in `history.csv`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ser_cli.files import write_atomically
from ser_cli.metrics import Scores


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """Of the model, at the epoch's first step."""
    total: float
    """Weighted sum of the losses, mean over the steps."""
    losses: dict[str, float]
    """Each loss, unweighted, mean over the steps."""
    selection: Scores | None
    """On the side that chooses the epoch; None where the last one is taken."""
    is_best: bool
    """Whether this is the epoch to be tested, so far."""
    seconds: float
    """Training alone."""
    waiting_share: float
    """Of these, the share in which the model waited for a batch."""
    clips_per_s: float
    selection_cross_entropy: float | None = None
    """On that side, in nats."""


def write_history(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write `history.csv`, whole or not at all."""
    text = io.StringIO()
    # Losses can differ between epochs: a run may go on with others, see `--resume-anyway`.
    names = list(dict.fromkeys(name for record in records for name in record.losses))
    rows = [_row(record, names) for record in records]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _row(record: EpochRecord, losses: Sequence[str]) -> dict[str, object]:
    judged = asdict(record.selection) if record.selection else {}
    nats = record.selection_cross_entropy
    return {
        "epoch": record.epoch,
        "learning_rate": f"{record.learning_rate:.6g}",
        "total": f"{record.total:.6f}",
        **{name: f"{record.losses[name]:.6f}" if name in record.losses else "" for name in losses},
        **{f"selection_{rate}": f"{judged[rate]:.6f}" if judged else "" for rate in ("wa", "ua", "macro_f1")},
        "selection_cross_entropy": "" if nats is None else f"{nats:.6f}",
        "is_best": int(record.is_best),
        "seconds": f"{record.seconds:.2f}",
        "waiting_share": f"{record.waiting_share:.4f}",
        "clips_per_s": f"{record.clips_per_s:.1f}",
    }
