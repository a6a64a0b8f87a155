"""`ser` in a process of its own, which tells how long each recording took to decode and how much memory was needed.

`measure` starts it; `python -m tests.measured_process JOURNAL LIMIT_MIB ARGUMENTS…` is what it starts. Memory is the
highest resident set since the program began (VmHWM of Linux's /proc; `ru_maxrss` would count that of the process that
started it), and the baseline is what torch, FFmpeg and the package itself take before any work. The address space may
be limited to some more than that of the baseline (RLIMIT_AS): then an allocation as large as a header lies fails, even
where nothing is ever written to it.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What a process did and what it took."""

    exit_code: int
    stdout: str
    stderr: str
    baseline_mib: float
    """Resident after everything was imported."""
    peak_mib: float
    """Highest resident set."""
    decoding_s: dict[str, float]
    """By path, the longest time that a recording was being opened or decoded in one go through it."""
    opened: Counter[str]
    """By path, how often."""
    wall_s: float


def measure(
    arguments: Sequence[object],
    journal: Path,
    *,
    stdin: str = "",
    limit_mib: int = 0,
    timeout_s: float = 300.0,
) -> Measured:
    """Run `ser` with arguments.

    Args:
        arguments: of `ser`.
        journal: a file for what is measured, made anew.
        stdin: given to it.
        limit_mib: address space beyond the baseline; 0 sets no limit.
        timeout_s: after which it is killed, and the test fails with the recordings that it was at.
    """
    journal.write_text("")
    command = [sys.executable, "-m", "tests.measured_process", str(journal), str(limit_mib), *map(str, arguments)]
    # Each thread of glibc's malloc reserves 64 MiB of addresses; two such arenas keep the limit about real memory.
    root = Path(__file__).parent.parent
    environment = os.environ | {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    start = time.monotonic()
    try:
        result = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=environment, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not done after {timeout_s:.0f} s; it was at {_unfinished(journal)}") from None
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    decoding_s: dict[str, float] = {}
    for row in rows:
        if "seconds" in row:
            decoding_s[row["path"]] = max(decoding_s.get(row["path"], 0.0), row["seconds"])
    memory = [row for row in rows if "peak_mib" in row]
    assert memory, f"ended by itself, exit code {result.returncode}, at {_unfinished(journal)}\n{result.stderr[-3000:]}"
    return Measured(
        result.returncode,
        result.stdout,
        result.stderr,
        memory[0]["baseline_mib"],
        memory[0]["peak_mib"],
        decoding_s,
        Counter(row["started"] for row in rows if "started" in row),
        time.monotonic() - start,
    )


def _unfinished(journal: Path) -> list[str]:
    """Recordings that were opened and not closed."""
    started: list[str] = []
    for line in journal.read_text().splitlines():
        row = json.loads(line)
        if "started" in row:
            started.append(row["started"])
        elif row.get("path") in started:
            started.remove(row["path"])
    return started


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/self/status has no {name}")


def _time_decoding(journal: Path) -> None:
    """Put a stopwatch around the one place where recordings are decoded."""
    from ser_cli.data import audio, streaming
    from ser_cli.preparation import decoding

    real = audio.open_recording
    file = journal.open("a", buffering=1)
    lock = threading.Lock()

    def note(row: dict[str, object]) -> None:
        with lock:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def timed(path: Path) -> Iterator[audio.RecordingStream]:
        note({"started": str(path)})
        seconds = -time.monotonic()
        try:
            with ExitStack() as stack:
                try:
                    stream = stack.enter_context(real(path))
                finally:
                    seconds += time.monotonic()

                def blocks() -> Iterator[object]:
                    nonlocal seconds
                    while True:
                        seconds -= time.monotonic()
                        try:
                            block = next(stream.blocks)
                        except StopIteration:
                            return
                        finally:
                            seconds += time.monotonic()
                        yield block

                yield replace(stream, blocks=blocks())
        finally:
            note({"path": str(path), "seconds": seconds})

    for module in (audio, streaming, decoding):
        assert module.open_recording is real
        module.open_recording = timed


def _main() -> None:
    journal, limit_mib, *arguments = sys.argv[1:]
    import av  # noqa: F401
    import soundfile  # noqa: F401
    import soxr  # noqa: F401
    import torch

    from ser_cli.cli import app
    from ser_cli.prediction import classifiers, streams  # noqa: F401
    from ser_cli.preparation import whole_corpus  # noqa: F401

    torch.set_num_threads(1)
    _time_decoding(Path(journal))
    baseline_mib = _status_mib("VmRSS")
    if int(limit_mib):
        size = int((_status_mib("VmSize") + int(limit_mib)) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    code: object = 0
    try:
        app(arguments, prog_name="ser")
    except SystemExit as exit_:
        code = exit_.code
    finally:
        row = {"baseline_mib": baseline_mib, "peak_mib": _status_mib("VmHWM")}
        with Path(journal).open("a") as file:
            file.write(json.dumps(row) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    _main()
