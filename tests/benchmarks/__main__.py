"""Run the benchmarks and print their table: `python -m tests.benchmarks [NAME …]`."""

import os
import platform
import sys

from tests.benchmarks import batches, mix, prepare, startup
from tests.benchmarks.measuring import Measured

BENCHMARKS = {
    "startup": startup.measure,
    "prepare": prepare.measure,
    "mix": mix.measure,
    "batches": batches.measure,
}


def main(names: list[str]) -> None:
    """Print one Markdown row per measurement."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]}; known: {', '.join(BENCHMARKS)}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | size | ser | peer | ratio | wanted |\n|---|---|---|---|---|---|")
    for name in names or BENCHMARKS:
        for row in BENCHMARKS[name]():
            print(_line(row), flush=True)


def _line(row: Measured) -> str:
    figures = (f"{row.ours:.2f} {row.unit}", f"{row.peer:.2f} {row.unit}", f"{row.ours / row.peer:.2f}")
    return "| " + " | ".join((row.what, row.size, *figures, row.wanted)) + " |"


if __name__ == "__main__":
    main(sys.argv[1:])
