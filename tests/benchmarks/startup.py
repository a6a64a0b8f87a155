"""How fast `ser` starts for a person.

Its help and TAB against the help of a bare Typer app with as many verbs; its first answer against `import torch`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import typer

from ser_cli.cli import app
from ser_cli.data.audio import SAMPLE_RATE_HZ
from tests.benchmarks.measuring import Measured, in_turn

ROUNDS = 15
ANSWER_ROUNDS = 7

SHELLS = ("bash", "zsh", "fish")

TYPED = {
    "verbs": ("ser", ""),
    "options": ("ser", "train", "--"),
    "--dataset": ("ser", "train", "--dataset", ""),
    "--labels": ("ser", "train", "--dataset", "ravdess", "--labels", ""),
    "run folders": ("ser", "evaluate", ""),
}
"""What stands on the command line before TAB."""


def measure() -> Iterator[Measured]:
    """Processes from their start to their end, nothing else loaded."""
    verbs = len(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        lines = ["import typer", "app = typer.Typer()"]
        lines += [f"@app.command()\ndef verb{index}(value: int = 1) -> None:\n    'Do it.'" for index in range(verbs)]
        bare.write_text("\n".join([*lines, "app()"]))
        os.environ["SER_HOME"] = str(Path(folder, "home"))
        help_of_bare = _process([str(bare), "--help"], {})
        tabs = {f"TAB for {what}, {shell}": tab(words, shell) for what, words in TYPED.items() for shell in SHELLS}
        for what, asked in {"--help": {}, **tabs}.items():
            ours = _process(["-m", "ser_cli", *([] if asked else ["--help"])], asked)
            times = in_turn(ours, help_of_bare, ROUNDS)
            yield Measured(f"ser {what}: bare Typer --help", f"{verbs} verbs", *times, "s", "at most 1.3")
        yield _first_answer(Path(folder))


def _first_answer(folder: Path) -> Measured:
    """One clip and one model of the built-in encoder, from the start of the process to its end."""
    run, clip = folder / "run", folder / "clip.wav"
    train = ["train", "--dataset", "demo", "--fold", "1", "--epochs", "1", "--output", str(run)]
    _process(["-m", "ser_cli", *train], {})()
    soundfile.write(clip, np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    answer = _process(["-m", "ser_cli", "predict", "--model", str(run / "fold-1"), str(clip)], {})
    times = in_turn(answer, _process(["-c", "import torch"], {}), ANSWER_ROUNDS)
    return Measured("ser predict: import torch", "one model, one clip of 4 s", *times, "s", "at most 2")


def tab(words: tuple[str, ...], shell: str = "bash") -> dict[str, str]:
    """What the completion script of a shell asks `ser` at TAB, as environment."""
    if shell == "bash":
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return {**asked, "_SER_COMPLETE": f"complete_{shell}"}


def _process(arguments: list[str], variables: Mapping[str, str]) -> Callable[[], object]:
    environment = {**os.environ, **variables}
    return lambda: subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
