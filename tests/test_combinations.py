"""Every pooling with every mixing rule, trained from the command line on all losses at once."""

import csv
import json
import math
from pathlib import Path

import pytest

from ser_cli.losses import LOSS_NAMES
from ser_cli.models.pooling import POOLINGS
from tests.conftest import TINY

ALL_LOSSES = tuple(option for name in LOSS_NAMES for option in ("--set", f"losses.{name}=1"))


@pytest.mark.slow
@pytest.mark.parametrize("mixing", ["none", "mixup", "lam", "eam"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_any_pooling_trains_with_any_mixing_rule_on_all_losses(pooling, mixing, ser, tones):
    options = ("--set", f"pooling.name={pooling}", "--set", f"mixup.method={mixing}", "--set", "mixup.share=1")
    result = ser(
        *("train", "--manifest", tones, "--folds", "2", "--fold", "1", *TINY, *ALL_LOSSES, *options),
        *("--set", "losses.weighting=auto", "--output", "run"),
    )
    assert result.exit_code == 0, result.stderr
    with Path("run/fold-1/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    weights = json.loads(Path("run/fold-1/done.json").read_text())["loss_weights"]
    assert tuple(weights) == LOSS_NAMES
    for row in rows:
        values = {name: float(row[name]) for name in LOSS_NAMES}
        assert all(math.isfinite(value) and value > 0 for value in values.values()), values
        assert float(row["total"]) == pytest.approx(sum(weights[n] * values[n] for n in LOSS_NAMES), rel=1e-3)
