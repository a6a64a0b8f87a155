"""Imports only go down, and what must start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ser_cli"
WORKFLOWS = {"sources", "downloading", "decoding", "preparation"}
WORKFLOWS |= {
    "mixing",
    "mixed_corpus",
    "mix_page",
    "cross_validation",
    "training",
    "inference",
    "evaluation",
    "reports",
}
WORKFLOWS |= {"prediction", "exporting", "training_setup"}
WORKFLOWS |= {"comparison", "cross_corpus", "ablation", "ablation_report", "studies"}
LIGHT = [
    "cli",
    "console",
    "errors",
    "files",
    "home",
    "recipe",
    "runs",
    "metrics",
    "predictions",
    "evaluation",
    "reports",
]
LIGHT += ["downloading", "decoding", "preparation", "corpora"]
LIGHT += ["commands.predict", "recordings", "answers", "provenance", "data.streaming"]
LIGHT += ["breakdown", "intervals", "embeddings", "tables", "pages", "comparison", "cross_corpus"]
LIGHT += ["commands.evaluate", "commands.ablate", "grids"]
LIGHT += ["data.manifest", "data.selection", "data.protocols", "data.folds", "data.store", "data.audio"]
LIGHT += ["data.batch_plans", "locks", "history", "checkpoint_times", "disk_space", "observers", "commands.train"]


def imported_by(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ser_cli"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("ser_cli")}
    return {name.removeprefix("ser_cli").removeprefix(".").split(".")[0] for name in names} - {""}


def floor(part: str) -> int:
    """Say above do above know."""
    if part in {"cli", "commands", "__main__", "reference"}:
        return 3
    return 2 if part in WORKFLOWS else 1


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = sorted(part for part in imported_by(path) if floor(part) > floor(own))
    assert not upward, f"{path.relative_to(PACKAGE)} imports upward: {upward}"


def test_workflows_stand_in_their_order():
    order = ["ablation_report", "ablation", "studies", "cross_validation", "training", "inference"]
    for position, name in enumerate(order):
        above = set(order[:position])
        assert not imported_by(PACKAGE / f"{name}.py") & above
    for reader in ("evaluation", "reports", "comparison", "pictures", "breakdown"):
        assert not imported_by(PACKAGE / f"{reader}.py") & {*order, "models", "losses", "checkpoints"}


@pytest.mark.parametrize("module", LIGHT)
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    heavy = ("torch", "torchaudio", "transformers", "accelerate", "soundfile", "sklearn", "matplotlib", "scipy")
    code = f"import sys, ser_cli.{module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
