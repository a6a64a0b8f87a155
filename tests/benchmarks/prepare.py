"""`ser prepare` against what reading and resampling alone take, on as many threads."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ser_cli.preparation.sources import list_known_corpus
from ser_cli.preparation.whole_corpus import prepare
from tests.benchmarks.measuring import Measured, in_turn, seconds
from tests.corpora.test_ravdess import published_names

RATE_HZ = 48_000
DURATION_S = 3.7


def measure() -> Iterator[Measured]:
    """RAVDESS by names and sizes: 1,440 clips of 3.7 s, 48 kHz, 16-bit WAV; noise for speech."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "ravdess")
        paths = _write(source)
        os.environ["SER_HOME"] = str(Path(folder, "home"))

        def ours() -> None:
            prepare(list_known_corpus("ravdess", source), force=True)

        def peer() -> None:
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                sum(pool.map(_read_and_resample, paths))

        times = in_turn(ours, peer)
        size = f"{len(paths):,} clips of {DURATION_S} s, 48 kHz WAV"
        yield Measured("prepare: soundfile and soxr alone", size, *times, "s", "at most 2")

        again = seconds(lambda: prepare(list_known_corpus("ravdess", source)))
        yield Measured("prepare again, nothing changed: the first time", size, again, times[0], "s", "far below 1")


def _write(source: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for name in published_names():
        path = source / f"Actor_{name[-2:]}" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.05, int(RATE_HZ * DURATION_S)), RATE_HZ, subtype="PCM_16")
        paths.append(path)
    return paths


def _read_and_resample(path: Path) -> int:
    samples, rate = soundfile.read(path, dtype="float32")
    return len(soxr.resample(samples, rate, 16_000, quality="HQ"))
