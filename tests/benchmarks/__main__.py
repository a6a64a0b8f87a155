"""Run the benchmarks and print their table: `python -m tests.benchmarks [NAME …] [--device cpu|cuda]`.

`python -m tests.benchmarks steps --device cuda` is for a GPU machine. A benchmark is imported when it is its turn, so
that this one needs nothing of what the others do.
"""

import argparse
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import import_module

from tests.benchmarks.measuring import Measured

BENCHMARKS = ("startup", "prepare", "mix", "batches", "losses", "attention", "growth", "steps")
"""Modules of this package, each with a function `measure`."""

TOY = (
    "The rows of `steps` are of toy size: they show that the code runs, and are no measure of a GPU. On a GPU"
    " machine: python -m tests.benchmarks steps --device cuda"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one Markdown row per measurement."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all of them if none")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of steps; a GPU where there is one")
    parser.add_argument("--toy", action="store_true", help="toy size of steps on a GPU too")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]}; known: {', '.join(BENCHMARKS)}")
    if chosen.device == "cuda" and _default_device() == "cpu":
        parser.error("--device cuda: no GPU on this machine; --device cpu runs the same code at toy size")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | size | ser | peer | ratio | wanted |\n|---|---|---|---|---|---|")
    for name in chosen.names or BENCHMARKS:
        module = import_module(f"tests.benchmarks.{name}")
        if name != "steps":
            _print(module.measure())
            continue
        device = chosen.device or _default_device()
        toy = chosen.toy or device == "cpu"
        _print(module.measure(device, toy=toy))
        if toy:
            print(f"\n{TOY}")


def _print(rows: Iterable[Measured]) -> None:
    for row in rows:
        print(_line(row), flush=True)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(row: Measured) -> str:
    figures = (f"{row.ours:.2f} {row.unit}", f"{row.peer:.2f} {row.unit}", f"{row.ours / row.peer:.2f}")
    return "| " + " | ".join((row.what, row.size, *figures, row.wanted)) + " |"


if __name__ == "__main__":
    main()
