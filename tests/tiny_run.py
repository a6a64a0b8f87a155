"""A run of the smallest model, trained through the command line: for tests that need any model at all."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import TINY, write_tone_corpus


def train_tiny_run(folder: Path) -> Path:
    """Train one epoch on tones of four speakers; the folder of the first of two folds."""
    from ser_cli.cli import app

    manifest = write_tone_corpus(folder / "tones", speakers=4, takes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_HOME", str(folder / "home"))
        command = ["train", "--manifest", manifest, "--folds", 2, *TINY, "--epochs", 1, "--output", folder / "run"]
        result = CliRunner().invoke(app, list(map(str, command)), prog_name="ser")
    assert result.exit_code == 0, result.stderr
    return folder / "run" / "fold-1"
