"""What needs a GPU: python -m pytest -m gpu."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_a_gpu_ends_in_scores(tones, precision):
    # A process of its own: accelerate keeps one device and precision per process.
    command = [sys.executable, "-m", "ser_cli", "train", "--manifest", tones, "--folds", "2", *TINY]
    command += ["--device", "cuda", "--set", f"training.precision={precision}", "--output", "run"]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(Path("run/environment.json").read_text())["device"] == "cuda"
    assert len(json.loads(Path("run/scores.json").read_text())["folds"]) == 2
    with Path("run/fold-1/history.csv").open() as file:
        assert all(float(row["supcon"]) > 0 for row in csv.DictReader(file))
