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

from tests.test_end_to_end import read_csv, wavlm  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]


def command(manifest: Path, encoder: Path, *options: str) -> list[str]:
    """Train a WavLM of random weights, with nothing drawn inside the model: each process draws for its own clips."""
    return [
        *("train", "--manifest", str(manifest), "--folds", "2", "--fold", "1", "--encoder", str(encoder)),
        *("--epochs", "2", "--batch-size", "6", "--device", "cpu", "--recipe", "mll"),
        *("--set", "losses.weighting=fixed", "--set", "training.weight_average=0.9"),
        *options,
    ]


def torchrun(*arguments: str, processes: int = 2) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "ser_cli", *arguments),
    ]


@pytest.fixture
def still_wavlm(wavlm):  # noqa: F811
    """Without dropout, masking or layers left out at random."""
    path = wavlm / "config.json"
    config = json.loads(path.read_text())
    config |= {key: 0.0 for key in config if "dropout" in key or key == "layerdrop"}
    path.write_text(json.dumps({**config, "apply_spec_augment": False}))
    return wavlm


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize("heard_against", ["clip", "speaker"])
def test_two_processes_learn_what_one_does(tones, still_wavlm, heard_against):
    options = ("--normalize", heard_against)
    alone = run([sys.executable, "-m", "ser_cli", *command(tones, still_wavlm, *options, "--output", "alone")])
    shared = run(torchrun(*command(tones, still_wavlm, *options, "--output", "shared")))
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
    options = ("--set", "training.batch_size=4", "--epochs", "12")
    run(torchrun(*command(tones, still_wavlm, "--output", "whole", *options)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = torchrun(*command(tones, still_wavlm, "--output", "run", *options))
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
    result = run(arguments)
    assert "goes on from its checkpoint" in result.stderr
    for name in ("model.safetensors", "predictions.csv"):
        assert Path(f"run/fold-1/{name}").read_bytes() == Path(f"whole/fold-1/{name}").read_bytes()


def test_the_built_in_encoder_trains_in_two_processes(tones):
    from tests.conftest import TINY

    arguments = ["train", "--manifest", str(tones), "--folds", "2", *TINY, "--batch-size", "6", "--output", "run"]
    result = run(torchrun(*arguments))
    assert "mean over 2 folds" in result.stderr
    assert len(read_csv(Path("run/fold-1/predictions.csv"))) == 27
