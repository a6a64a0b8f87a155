"""Imports only go down, and what must start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ser_cli"
WORKFLOWS = {"preparation", "mixtures", "training", "ablation", "evaluation", "prediction", "inference"}
LIGHT = ["cli", "console", "errors", "files", "home", "metrics", "provenance", "recipe", "corpora"]
LIGHT += ["commands.ablate", "commands.evaluate", "commands.predict", "commands.train", "commands.cell_view"]
LIGHT += [f"runs.{name}" for name in ("directory", "opening", "locks", "predictions", "embeddings")]
LIGHT += [f"preparation.{name}" for name in ("downloading", "decoding", "whole_corpus")]
LIGHT += [f"prediction.{name}" for name in ("recordings", "recording_tables", "answers", "transcripts", "speakers")]
LIGHT += [f"evaluation.{name}" for name in ("scores", "reports", "breakdown", "intervals", "tables", "pages")]
LIGHT += [f"evaluation.{name}" for name in ("comparison", "cross_corpus", "cross_report", "normalization")] + [
    "ablation.grids"
]
LIGHT += [f"training.{name}" for name in ("history", "checkpoint_times", "disk_space", "observers")]
LIGHT += [f"data.{name}" for name in ("manifest", "selection", "protocols", "folds", "store", "audio")]
LIGHT += ["data.streaming", "data.batch_plans", "evaluation.tasks"]
LIGHT += [f"tasks.{name}" for name in ("settings", "outputs", "transcripts", "predictions", "scores")]


def imported_by(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ser_cli"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("ser_cli")}
    return {name.removeprefix("ser_cli").removeprefix(".") for name in names} - {""}


def parts_imported_by(path: Path) -> set[str]:
    """The packages, and modules beside them, that a file imports."""
    return {name.split(".")[0] for name in imported_by(path)}


def floor(part: str) -> int:
    """Say above do above know."""
    if part in {"cli", "commands", "__main__", "reference"}:
        return 3
    return 2 if part in WORKFLOWS else 1


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = sorted(part for part in parts_imported_by(path) if floor(part) > floor(own))
    assert not upward, f"{path.relative_to(PACKAGE)} imports upward: {upward}"


def test_workflows_stand_in_their_order():
    order = ["ablation", "training.cross_validation", "training.fold", "inference"]
    for position, name in enumerate(order):
        above = order[:position]
        paths = [PACKAGE / f"{name.replace('.', '/')}.py", *(PACKAGE / name).glob("*.py")]
        for path in filter(Path.exists, paths):
            assert not [found for found in imported_by(path) if found.startswith(tuple(above))], path
    for reader in ("scores", "reports", "comparison", "pictures", "breakdown"):
        read = imported_by(PACKAGE / "evaluation" / f"{reader}.py")
        assert not [name for name in read if name.startswith((*order, "models", "losses", "checkpoints"))], reader


def test_training_knows_nothing_of_the_other_verbs():
    for path in (PACKAGE / "training").glob("*.py"):
        known = {name for name in imported_by(path) if name.startswith(("preparation", "prediction", "mixtures"))}
        assert not known, path


@pytest.mark.parametrize("module", LIGHT)
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    heavy = ("torch", "torchaudio", "transformers", "accelerate", "soundfile", "sklearn", "matplotlib", "scipy")
    code = f"import sys, ser_cli.{module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
