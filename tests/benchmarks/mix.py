"""`ser mix` against encoding the same FLAC files alone, on as many threads."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.mixtures.choosing import draw_plans
from ser_cli.mixtures.writing import encode_flac, write_mixtures
from ser_cli.preparation.sources import list_manifest
from ser_cli.preparation.whole_corpus import prepare
from ser_cli.recipe_settings import MixupSettings
from tests.benchmarks.measuring import Measured, in_turn

CLIPS = 200
MIXTURES = 1_000
DURATION_S = 3.7


def measure() -> Iterator[Measured]:
    """1,000 mixtures of 3.7 s clips with metadata, without pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SER_HOME"] = str(folder / "home")
        corpus = prepare(list_manifest(_write(folder))).corpus
        ids = [utterance.id for utterance in corpus.utterances]
        plans = draw_plans(corpus, ids, MIXTURES, MixupSettings(), 0)

        def ours() -> None:
            write_mixtures(corpus, plans, folder / "mixed", force=True)

        def peer() -> None:
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                list(pool.map(lambda plan: encode_flac(corpus.waveform(plan.dominant)), plans))

        times = in_turn(ours, peer)
        size = f"{MIXTURES:,} mixtures of {DURATION_S} s"
        yield Measured(
            f"mix: encoding FLAC alone ({MIXTURES / times[0]:.0f} a second)", size, *times, "s", "10 s at most"
        )


def _write(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["path,emotion,speaker"]
    for number in range(CLIPS):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.05, int(SAMPLE_RATE_HZ * DURATION_S)), SAMPLE_RATE_HZ)
        lines.append(f"{number}.wav,{'happy' if number % 2 else 'sad'},p{number % 8}")
    manifest = folder / "noise.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
