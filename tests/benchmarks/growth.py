"""How cost grows: a training step with the length and the number of its clips, an epoch's plan with the corpus.

Each row is one size against half of it. A step is that of the built-in encoder with the losses of its recipe; since
SupCon compares each frame with every other, its time is told without it too. Attention does so within each clip: longer
clips cost more than their length says. How SupCon itself grows stands in `losses.py`, how the making of an epoch's
batches grows in `batches.py`. Peak memory needs a process for each size: `python -m tests.benchmarks.growth` is what
`measure` starts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.measuring import Measured, in_own_process, in_turn, peak_mb

if TYPE_CHECKING:
    from ser_cli.data.batch_plans import PlannedBatch
    from ser_cli.data.folds import Fold
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.recipe import Recipe

LENGTHS_S = (2.0, 4.0, 8.0)
BATCHES = (8, 16, 32)
CORPORA = (1_440, 2_880, 5_760)
BATCH_SIZE, CLIP_S = 16, 4.0
"""Where they are not what grows."""
STEPS = 7
ROUNDS = 3


def measure() -> Iterator[Measured]:
    """Clip length, batch, corpus."""
    by_length = {length: (BATCH_SIZE, length, 0) for length in LENGTHS_S}
    by_batch = {clips: (clips, CLIP_S, 0) for clips in BATCHES}
    by_corpus = {clips: (BATCH_SIZE, CLIP_S, clips) for clips in CORPORA}
    taken = _measure_steps({*by_length.values(), *by_batch.values(), *by_corpus.values()})
    for what, sizes, unit, wanted in (
        ("clips of twice the length", by_length, "s", ("below 4", "below 4", "2 at most")),
        ("twice the clips in a batch", by_batch, "clips", ("2 at most", "below 4", "2 at most")),
        ("a corpus of twice the clips", by_corpus, "clips", ("", "about 1", "about 1")),
    ):
        for half, whole in pairwise(sizes):
            size = f"{whole:,g} {unit} against {half:,g} {unit}"
            for number, (told, kind) in enumerate((("time but SupCon", "s"), ("time", "s"), ("memory", "MB"))):
                if not wanted[number]:
                    continue
                pair = (taken[sizes[whole]][number], taken[sizes[half]][number])
                yield Measured(f"growth: a step's {told}, {what}", size, *pair, kind, wanted[number])
    yield from _planning()


def _measure_steps(sizes: set[tuple[int, float, int]]) -> Mapping[tuple[int, float, int], Sequence[float]]:
    """Medians of what `measure_step` tells of each size, taking turns."""
    told: dict[tuple[int, float, int], list[Sequence[float]]] = {size: [] for size in sorted(sizes)}
    for _ in range(ROUNDS):
        for (clips, length_s, corpus), results in told.items():
            options = ["--clips", clips, "--seconds", length_s, "--corpus", corpus]
            results.append(in_own_process("tests.benchmarks.growth", options))
    return {size: [median(values) for values in zip(*rows, strict=True)] for size, rows in told.items()}


def _planning() -> Iterator[Measured]:
    """Planning an epoch with its mixtures, of corpora of RAVDESS's lengths."""
    import numpy as np

    from ser_cli.data.folds import Fold
    from ser_cli.recipe import load_recipe
    from ser_cli.training.setup import plan_training_epoch
    from tests.data.durations import ravdess_lengths
    from tests.data.stored import stored_corpus

    recipe = load_recipe("mll")
    lengths = np.resize(ravdess_lengths(), CORPORA[-1]).tolist()
    with tempfile.TemporaryDirectory() as folder:
        corpus = stored_corpus(Path(folder), {f"{i:05d}": n for i, n in enumerate(lengths)}, sounding=0)
        folds = {clips: Fold(1, tuple(u.id for u in corpus.utterances[:clips]), (), ()) for clips in CORPORA}

        def plan(clips: int) -> None:
            plan_training_epoch(corpus, folds[clips], recipe, seed=0)

        plan(CORPORA[0])
        for half, whole in pairwise(CORPORA):
            times = in_turn(lambda whole=whole: plan(whole), lambda half=half: plan(half), rounds=9)  # type: ignore[misc]
            size = f"{whole:,} clips against {half:,}"
            milliseconds = [1000 * time for time in times]
            yield Measured("growth: planning an epoch, twice the clips", size, *milliseconds, "ms", "about 2")


def measure_step(clips: int, length_s: float, corpus_clips: int) -> tuple[float, float, float]:
    """Median seconds of a step without SupCon and with it, and the peak of memory in MB above what stood before.

    Args:
        clips: of a batch.
        length_s: of every clip.
        corpus_clips: in the corpus; 0 takes as many as the steps need.
    """
    from ser_cli.data.folds import Fold
    from ser_cli.recipe import load_recipe
    from ser_cli.training.setup import plan_training_epoch
    from tests.data.stored import stored_corpus

    # The recipe keeps 3 s of a spectrogram, and warps time: here the whole of each clip, so that every step is alike.
    changes = [f"training.batch_size={clips}", f"conformer.crop_s={2 * length_s}", "conformer.max_time_warp=0"]
    recipe = load_recipe("conformer", changes)
    samples = round(16_000 * length_s)
    with tempfile.TemporaryDirectory() as folder:
        number = corpus_clips or clips * STEPS
        corpus = stored_corpus(Path(folder), {f"{i:05d}": samples for i in range(number)}, sounding=8_000)
        fold = Fold(1, tuple(u.id for u in corpus.utterances), (), ())
        plan = plan_training_epoch(corpus, fold, recipe, seed=0)[:STEPS]
        taken: list[float] = []
        learn = _learning(corpus, fold, recipe, plan)
        memory = peak_mb(lambda: taken.extend(learn()))
        without = _learning(corpus, fold, load_recipe("conformer", [*changes, "losses.supcon=0"]), plan)()
    return median(without[1:]), median(taken[1:]), memory


def _learning(
    corpus: "PreparedCorpus", fold: "Fold", recipe: "Recipe", plan: "Sequence[PlannedBatch]"
) -> Callable[[], list[float]]:
    """Learns a plan's batches and returns the seconds of each step."""
    from accelerate import Accelerator

    from ser_cli.data.batches import BatchLoader
    from ser_cli.training.setup import set_up_learner

    learner = set_up_learner(corpus, fold, recipe, Accelerator(cpu=True))
    learner.begin_epoch(seed=0)

    def learn() -> list[float]:
        taken = []
        for step, batch in enumerate(BatchLoader(corpus, plan)):
            began = time.perf_counter()
            learner.learn([batch], step / STEPS)
            taken.append(time.perf_counter() - began)
        return taken

    return learn


def _main() -> None:
    parser = argparse.ArgumentParser(
        description="Steps of one size; prints seconds without SupCon, seconds and MB as JSON."
    )
    parser.add_argument("--clips", type=int, default=BATCH_SIZE)
    parser.add_argument("--seconds", type=float, default=CLIP_S)
    parser.add_argument("--corpus", type=int, default=0)
    chosen = parser.parse_args()
    print(json.dumps(measure_step(chosen.clips, chosen.seconds, chosen.corpus)))


if __name__ == "__main__":
    _main()
