"""Imports only go down, and what must start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ser_cli"
WORKFLOWS = {"preparation", "mixtures", "training", "ablation", "evaluation", "prediction", "inference"}
SLOW_TO_IMPORT = {"torch", "torchaudio", "transformers", "accelerate", "soundfile", "sklearn", "matplotlib", "scipy"}
COMPUTES = {"models", "losses", "figures"}
"""Packages whose modules may take as long to import as the libraries that they compute with."""
COMPUTES |= {f"ablation.{name}" for name in ("cells", "nested", "report", "scores", "studies")}
COMPUTES |= {f"prediction.{name}" for name in ("classifiers", "exporting", "hearing", "streams")}
COMPUTES |= {f"training.{name}" for name in ("cross_validation", "device_memory", "embedding", "fold", "learner")}
COMPUTES |= {
    f"training.{name}" for name in ("compatibility", "initial_weights", "optimization", "resumption", "setup", "tasks")
}
COMPUTES |= {"checkpoints", "data.batches", "devices", "evaluation.pictures", "global_batch", "inference", "processes"}
COMPUTES |= {"tasks.labels"}


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
    for path in (PACKAGE / "evaluation").glob("*.py"):
        # Predictions are enough, but where a model is run on another corpus.
        found = [name for name in imported_by(path) if name.startswith((*order, "models", "losses", "checkpoints"))]
        assert bool(found) == (path.stem in {"cross_corpus", "cross_tasks"}), path


def test_training_knows_nothing_of_the_other_verbs():
    for path in (PACKAGE / "training").glob("*.py"):
        known = {name for name in imported_by(path) if name.startswith(("preparation", "prediction", "mixtures"))}
        assert not known, path


def imported_at_once(path: Path) -> set[str]:
    """What a file imports before any of its functions is called, with the packages around it."""
    found: set[str] = set()

    def visit(statements: list[ast.stmt]) -> None:
        for node in statements:
            if isinstance(node, ast.If):
                visit([*([] if "TYPE_CHECKING" in ast.unparse(node.test) else node.body), *node.orelse])
            elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
                visit(node.body)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])

    visit(ast.parse(path.read_text()).body)
    return {
        ".".join(parts[:count]) for parts in (name.split(".") for name in found) for count in range(1, len(parts) + 1)
    }


def test_nothing_that_takes_long_to_import_is_imported_before_it_is_needed():
    def name_of(path: Path) -> str:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    directly = {name_of(path): imported_at_once(path) for path in PACKAGE.rglob("*.py")}
    slow = {}
    for module in directly:
        seen, left = {module}, [module]
        while left:
            new = directly.get(left.pop(), set()) - seen
            seen |= new
            left += new
        slow[module.removeprefix("ser_cli").removeprefix(".")] = sorted(seen & SLOW_TO_IMPORT)
    allowed = {name for name in slow if name in COMPUTES or name.split(".")[0] in COMPUTES}
    assert {name: found for name, found in slow.items() if found and name not in allowed} == {}
    assert not [name for name in COMPUTES if not any(n == name or n.startswith(f"{name}.") for n in slow)]


@pytest.mark.parametrize(
    "module", ["cli", "commands.train", "commands.predict", "evaluation.run_report", "ablation.grids"]
)
def test_importing_what_answers_at_once_loads_no_library_that_computes(module):
    code = f"import sys, ser_cli.{module}; print(sorted({SLOW_TO_IMPORT} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
