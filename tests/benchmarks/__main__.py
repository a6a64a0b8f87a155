"""Run the benchmarks and print their table: `python -m tests.benchmarks [NAME …] [--device cpu|cuda]`.

`python -m tests.benchmarks steps --device cuda` is for a GPU machine. A benchmark is imported when it is its turn, so
that this one needs nothing of what the others do. `python -m tests.benchmarks robustness --run RUN` measures a trained
run, and is left out where no name is given.
"""

import argparse
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from tests.benchmarks.measuring import Measured

BENCHMARKS = ("startup", "prepare", "mix", "batches", "losses", "attention", "growth", "inference_cost", "steps")
"""Modules of this package, each with a function `measure`."""
OF_A_RUN = "robustness"
"""The module that measures a trained run."""

TOY = (
    "The rows of `steps` are of toy size: they show that the code runs, and are no measure of a GPU. On a GPU"
    " machine: python -m tests.benchmarks steps --device cuda"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one Markdown row per measurement."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}, all of them if none; or {OF_A_RUN}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of steps; a GPU where there is one")
    parser.add_argument("--toy", action="store_true", help="toy size of steps on a GPU too")
    parser.add_argument("--run", type=Path, help=f"of {OF_A_RUN}: the folder that `ser train` printed")
    parser.add_argument("--side", choices=("validation", "test"), default="validation", help=f"of {OF_A_RUN}")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - {*BENCHMARKS, OF_A_RUN})
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]}; known: {', '.join(BENCHMARKS)}, {OF_A_RUN}")
    if (OF_A_RUN in chosen.names) != (chosen.run is not None):
        parser.error(f"{OF_A_RUN} and --run RUN are given together: it measures the models of a run")
    if chosen.device == "cuda" and _default_device() == "cpu":
        parser.error("--device cuda: no GPU on this machine; --device cpu runs the same code at toy size")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    if chosen.run is not None:
        _print_robustness(chosen.run, chosen.side)
    names = [name for name in chosen.names if name != OF_A_RUN]
    if names or not chosen.names:
        _measure(names or BENCHMARKS, chosen.device, toy=chosen.toy)


def _measure(names: Sequence[str], device: str | None, *, toy: bool) -> None:
    print("| what | size | ser | peer | ratio | wanted |\n|---|---|---|---|---|---|")
    for name in names:
        module = import_module(f"tests.benchmarks.{name}")
        if name != "steps":
            _print(module.measure())
            continue
        device = device or _default_device()
        toy = toy or device == "cpu"
        _print(module.measure(device, toy=toy))
        if toy:
            print(f"\n{TOY}")


def _print_robustness(run: Path, side: str) -> None:
    robustness = import_module(f"tests.benchmarks.{OF_A_RUN}")
    rows, sentences = robustness.measure_run(run, side)
    print(f"Mean over {len(rows[0].rates) if rows else 0} folds, {side} side\n")
    print(robustness.as_table(rows))
    for sentence in sentences:
        print(f"\n{sentence}")


def _print(rows: Iterable[Measured]) -> None:
    for row in rows:
        print(_line(row), flush=True)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(row: Measured) -> str:
    ratio = row.ours / row.peer
    figures = (
        f"{row.ours:.2f} {row.unit}",
        f"{row.peer:.2f} {row.unit}",
        f"{ratio:.2f}" if ratio >= 0.01 else f"{ratio:.3f}",
    )
    return "| " + " | ".join((row.what, row.size, *figures, row.wanted)) + " |"


if __name__ == "__main__":
    main()
