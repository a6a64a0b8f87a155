"""Several processes that train one fold together come to what one process comes to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.running import read_csv, run_process, torchrun, train_wavlm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]


@pytest.mark.parametrize("heard_against", ["clip", "speaker"])
def test_two_processes_learn_what_one_does(tones, still_wavlm, heard_against):
    options = ("--normalize", heard_against)
    alone = run_process(
        [sys.executable, "-m", "ser_cli", *train_wavlm(tones, still_wavlm, *options, "--output", "alone")]
    )
    shared = run_process(torchrun(*train_wavlm(tones, still_wavlm, *options, "--output", "shared")))
    assert shared.stdout.strip() == "shared"
    assert shared.stderr.count("epoch 1/2") == alone.stderr.count("epoch 1/2") == 1
    one, two = (read_csv(Path(f"{name}/fold-1/history.csv")) for name in ("alone", "shared"))
    for row, other in zip(one, two, strict=True):
        for loss in ("total", "kl", "focal", "center", "supcon"):
            assert float(other[loss]) == pytest.approx(float(row[loss]), rel=1e-5, abs=2e-6), loss
    # Not the weights: where a gradient is nothing but rounding, Adam makes a whole step of it.
    rows, theirs = (read_csv(Path(f"{name}/fold-1/predictions.csv")) for name in ("alone", "shared"))
    for row, other in zip(rows, theirs, strict=True):
        assert row["id"] == other["id"]
        for label in ("angry", "happy", "sad"):
            expected = pytest.approx(float(row[f"probability_{label}"]), abs=1e-4)
            assert float(other[f"probability_{label}"]) == expected
    assert json.loads(Path("shared/fold-1/done.json").read_text())["processes"] == 2


def test_two_processes_stop_together_and_go_on(tones, still_wavlm):
    options = ("--batch-size", "4", "--epochs", "12")
    run_process(torchrun(*train_wavlm(tones, still_wavlm, "--output", "whole", *options)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = torchrun(*train_wavlm(tones, still_wavlm, "--output", "run", *options))
    stopped = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    for line in stopped.stderr:
        if "epoch 2/12" in line:
            break
    children = subprocess.run(["pgrep", "-P", str(stopped.pid)], capture_output=True, text=True).stdout.split()
    for child in children[-1:]:  # one alone gets the signal, as from a scheduler of its machine
        os.kill(int(child), signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while stopped.poll() is None and time.monotonic() < deadline:
        stopped.stderr.read(1)
    assert stopped.wait(10) != 0
    assert list(Path("run/fold-1/checkpoints").glob("step-*"))
    result = run_process(arguments)
    assert "goes on from its checkpoint" in result.stderr
    for name in ("model.safetensors", "predictions.csv"):
        assert Path(f"run/fold-1/{name}").read_bytes() == Path(f"whole/fold-1/{name}").read_bytes()


def test_the_built_in_encoder_trains_in_two_processes(tones):
    from tests.conftest import TINY

    arguments = ["train", "--manifest", str(tones), "--folds", "2", *TINY, "--batch-size", "6", "--output", "run"]
    result = run_process(torchrun(*arguments))
    assert "mean over 2 folds" in result.stderr
    assert len(read_csv(Path("run/fold-1/predictions.csv"))) == 27
