"""Which epoch is tested, and when a fold's training ends."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ser_cli.metrics import Scores
from ser_cli.training import fold
from tests.conftest import TINY
from tests.test_end_to_end import read_csv


def train(manifest: Path, *options: object) -> list[object]:
    return ["train", "--manifest", manifest, "--folds", 2, "--fold", 1, *TINY, *options, "--output", "run"]


@pytest.fixture
def judged(monkeypatch):
    """Have the epochs of a fold come to these UA, WA and cross-entropies."""

    def use(*epochs: tuple[float, float, float]) -> None:
        def judge(self):
            ua, wa, nats = epochs[self.progress.epoch - 1]
            return Scores(4, wa, ua, 0.5), nats

        monkeypatch.setattr(fold._FoldTraining, "_judge", judge)

    return use


@pytest.mark.parametrize(
    ("epochs", "tested"),
    [
        ([(0.5, 0.9, 0.1), (0.6, 0.5, 0.9), (0.5, 0.9, 0.1)], 2),  # UA before all else
        ([(0.6, 0.5, 0.1), (0.6, 0.7, 0.9), (0.6, 0.6, 0.1)], 2),  # of equal UA, WA
        ([(0.6, 0.5, 0.9), (0.6, 0.5, 0.2), (0.6, 0.5, 0.4)], 2),  # of equal rates, the surest
        ([(0.6, 0.5, 0.9), (0.5, 0.5, 0.1), (0.6, 0.5, 0.4)], 3),
        ([(0.6, 0.5, 0.4), (0.6, 0.5, 0.4), (0.6, 0.5, 0.4)], 1),
    ],
)
def test_the_epoch_with_the_highest_rates_is_tested_and_of_equal_ones_the_lowest_cross_entropy(
    ser, tones, judged, epochs, tested
):
    judged(*epochs)
    result = ser(*train(tones, "--epochs", len(epochs)))
    assert result.exit_code == 0, result.stderr
    assert json.loads(Path("run/fold-1/done.json").read_text())["epoch"] == tested
    history = read_csv(Path("run/fold-1/history.csv"))
    assert [int(row["epoch"]) for row in history if row["is_best"] == "1"][-1] == tested
    assert [float(row["selection_cross_entropy"]) for row in history] == [nats for _, _, nats in epochs]


def test_patience_waits_for_higher_rates_alone(ser, tones, judged):
    judged(*[(0.5, 0.5, 1 / (1 + epoch)) for epoch in range(10)])
    assert ser(*train(tones, "--epochs", 10, "--set", "selection.patience=2")).exit_code == 0
    assert len(read_csv(Path("run/fold-1/history.csv"))) == 3
    assert json.loads(Path("run/fold-1/done.json").read_text())["epoch"] == 3


def test_the_cross_entropy_of_an_epoch_is_that_of_scikit_learn(ser, tones):
    assert ser(*train(tones, "--epochs", 1, "--select", "test")).exit_code == 0
    row = read_csv(Path("run/fold-1/history.csv"))[0]
    said = read_csv(Path("run/fold-1/predictions.csv"))  # of the same clips by the same weights
    labels = sorted(name.removeprefix("probability_") for name in said[0] if name.startswith("probability_"))
    probabilities = np.array([[float(clip[f"probability_{label}"]) for label in labels] for clip in said])
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # six digits do not quite sum to 1
    expected = log_loss([clip["truth"] for clip in said], probabilities, labels=labels)
    assert float(row["selection_cross_entropy"]) == pytest.approx(expected, abs=1e-5)
