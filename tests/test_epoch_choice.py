"""Which epoch is tested, and when a fold's training ends."""

import json
import re
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ser_cli.commands.training_view import format_seconds
from ser_cli.metrics import Scores
from ser_cli.training.epoch_choice import LOWEST, is_out_of_patience, standing_of
from ser_cli.training.history import EpochRecord
from tests.conftest import TINY
from tests.running import read_csv


def train(manifest: Path, *options: object) -> list[object]:
    return ["train", "--manifest", manifest, "--folds", 2, "--fold", 1, *TINY, *options, "--output", "run"]


def record(epoch: int, ua: float, wa: float, nats: float) -> EpochRecord:
    return EpochRecord(epoch, 0.1, 1.0, {}, Scores(4, wa, ua, 0.5), False, 1.0, 0.0, 1.0, nats)


@pytest.mark.parametrize(
    ("epochs", "tested"),
    [
        ([(0.5, 0.9, 0.1), (0.6, 0.5, 0.9), (0.5, 0.9, 0.1)], 2),  # UA before all else
        ([(0.6, 0.5, 0.1), (0.6, 0.7, 0.9), (0.6, 0.6, 0.1)], 2),  # of equal UA, WA
        ([(0.6, 0.5, 0.9), (0.6, 0.5, 0.2), (0.6, 0.5, 0.4)], 2),  # of equal rates, the surest
        ([(0.6, 0.5, 0.9), (0.5, 0.5, 0.1), (0.6, 0.5, 0.4)], 3),
        ([(0.6, 0.5, 0.4), (0.6, 0.5, 0.4), (0.6, 0.5, 0.4)], 1),
        ([(0.0, 0.0, 9.0)], 1),
    ],
)
def test_the_highest_rates_stand_highest_and_of_equal_ones_the_lowest_cross_entropy(epochs, tested):
    chosen, best = 0, LOWEST
    for epoch, (ua, wa, nats) in enumerate(epochs, start=1):
        standing = standing_of(epoch, Scores(4, wa, ua, 0.5), nats)
        if standing > best:
            chosen, best = epoch, standing
    assert chosen == tested


def test_where_nothing_is_chosen_the_last_epoch_stands_highest():
    assert LOWEST < standing_of(1, None, None) < standing_of(2, None, None) < standing_of(300, None, None)


@pytest.mark.parametrize(
    ("rates", "patience", "ends_after"),
    [
        ([(0.5, 0.5)] * 6, 2, 3),
        ([(0.5, 0.5), (0.5, 0.6), (0.5, 0.6), (0.4, 0.9), (0.6, 0.1)], 2, 4),
        ([(0.5, 0.5), (0.4, 0.5), (0.6, 0.5), (0.4, 0.5), (0.4, 0.5)], 2, 5),
        ([(0.5, 0.5)] * 6, 0, None),
        ([(0.1 * epoch, 0.5) for epoch in range(1, 6)], 1, None),
    ],
)
def test_patience_waits_for_higher_rates_alone(rates, patience, ends_after):
    records = [record(n, ua, wa, 1 / n) for n, (ua, wa) in enumerate(rates, start=1)]  # ever surer
    ended = [n for n in range(1, len(records) + 1) if is_out_of_patience(records[:n], patience)]
    assert (ended[0] if ended else None) == ends_after
    assert not is_out_of_patience((), patience)


def test_the_epoch_that_stands_highest_is_tested_and_patience_ends_a_fold(ser, tones):
    options = ("--epochs", 12, "--set", "selection.patience=3", "--set", "optimizer.learning_rate=1e-9")
    result = ser(*train(tones, *options))
    assert result.exit_code == 0, result.stderr
    history = read_csv(Path("run/fold-1/history.csv"))
    rows = [
        (float(row["selection_ua"]), float(row["selection_wa"]), -float(row["selection_cross_entropy"]))
        for row in history
    ]
    best = rows.index(max(rows)) + 1
    assert json.loads(Path("run/fold-1/done.json").read_text())["epoch"] == best
    assert [int(row["epoch"]) for row in history if row["is_best"] == "1"][-1] == best
    first_of_highest = [row[:2] for row in rows].index(max(row[:2] for row in rows)) + 1
    assert len(history) == min(12, first_of_highest + 3)
    assert len(history) < 12, "at this rate nothing is learnt"


def test_the_cross_entropy_of_an_epoch_is_that_of_scikit_learn(ser, tones):
    assert ser(*train(tones, "--epochs", 1, "--select", "test")).exit_code == 0
    row = read_csv(Path("run/fold-1/history.csv"))[0]
    said = read_csv(Path("run/fold-1/predictions.csv"))  # of the same clips by the same weights
    labels = sorted(name.removeprefix("probability_") for name in said[0] if name.startswith("probability_"))
    probabilities = np.array([[float(clip[f"probability_{label}"]) for label in labels] for clip in said])
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # six digits do not quite sum to 1
    expected = log_loss([clip["truth"] for clip in said], probabilities, labels=labels)
    assert float(row["selection_cross_entropy"]) == pytest.approx(expected, abs=1e-5)


def test_epochs_that_patience_leaves_out_are_not_waited_for(ser, tones, monkeypatch):
    # By a clock that goes on by a second in each epoch: 400 are asked for, and each fold ends after a few.
    clock = SimpleNamespace(monotonic=partial(next, count()))
    monkeypatch.setattr("ser_cli.commands.training_view.time", clock)
    command = ("train", "--manifest", tones, "--folds", 2, *TINY, "--select", "validation", "--output", "run")
    result = ser(*command, "--epochs", 400, "--set", "selection.patience=1")
    assert result.exit_code == 0, result.stderr
    told = re.findall(r"fold (\d)/2 epoch (\d+)/400 .*  (\d+ \w+) left", result.stderr)
    assert [left for fold, epoch, left in told if epoch == "1"] == [format_seconds(799), format_seconds(399)]
