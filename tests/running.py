"""Running `ser` in tests: stopped at a step, in processes of its own, and what a run came to."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ser_cli.commands.training_view import TrainingView

TIMES = {"seconds", "clips_per_s", "waiting_share"}
"""Columns and keys that tell how long something took."""


def stop_after(monkeypatch, steps: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have this process get a signal once, after so many steps."""
    seen = 0
    original = TrainingView.step_done

    def step_done(self, step, of):
        nonlocal seen
        seen += 1
        if seen == steps:
            signal.raise_signal(number)
        original(self, step, of)

    monkeypatch.setattr(TrainingView, "step_done", step_done)


def results(run: str | Path) -> dict[str, object]:
    """Everything that a run came to, but for times and how often it was stopped."""
    found: dict[str, object] = {}
    for path in sorted(Path(run).rglob("*")):
        name = str(path.relative_to(run))
        if not path.is_file() or path.name == "environment.json" or path.name.startswith("."):
            continue
        if path.name == "history.csv":
            rows = read_csv(path)
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        elif path.name == "done.json":
            facts = json.loads(path.read_text())
            found[name] = {key: value for key, value in facts.items() if key not in {*TIMES, "stops"}}
        else:
            found[name] = path.read_bytes()
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def train_wavlm(manifest: Path, encoder: Path, *options: str) -> list[str]:
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


def run_process(arguments: list[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return result
