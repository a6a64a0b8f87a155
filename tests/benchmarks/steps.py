"""Training steps of WavLM-Large with the recipe `mll`, against `transformers.Trainer` and the plain loop of LAM code.

    python -m tests.benchmarks steps --device cuda          real sizes, under 6 minutes on an H200
    python -m tests.benchmarks steps --device cpu           the same code at toy size: no measure of a GPU

The encoder has WavLM-Large's shape and random weights, written by `save_pretrained` and loaded by the program's own
code; the clips are noise of the lengths that are named. Each of the four trainings is a process of its own, since
precision is set once per process: `python -m tests.benchmarks.steps WHOSE FOLDER` is what `measure` starts. Steps that
warm up, and compile, are not counted, but they are in the epochs from which the whole experiment is projected.

Nothing here decodes audio: soundfile, soxr and av may be missing. What must be there are torch, torchaudio,
transformers, accelerate, safetensors, pydantic and tomli-w, with their own needs.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ser_cli.data.folds import Fold
from ser_cli.data.store import PreparedCorpus, open_corpus
from ser_cli.recipe import Recipe, load_recipe
from ser_cli.training.observers import TrainingObserver
from tests.benchmarks.measuring import Measured, StepWatch, in_own_process
from tests.benchmarks.wavlm_large import (
    IEMOCAP,
    LONG,
    RAVDESS,
    REAL,
    TOY,
    Size,
    forward_flops,
    save_encoder,
    write_corpora,
)

FOLDS, EPOCHS = 6, 20
"""Of the whole experiment."""
WANTED_S = 300.0


def measure(device: str, *, toy: bool) -> Iterator[Measured]:
    """All rows.

    Args:
        device: `cpu` or `cuda`.
        toy: a tiny encoder and short clips, which a CPU needs.
    """
    import torch

    size = TOY if toy else REAL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_encoder(folder / "encoder", size.encoder)
        write_corpora(folder, size)
        options = [folder, "--device", device, *(["--toy"] if toy else [])]
        told = {
            whose: in_own_process("tests.benchmarks.steps", [whose, *options])
            for whose in ("ours", "trainer", "padded", "experiment")
        }
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    yield from _rows(told, size, f"toy size, {where}" if toy else where, toy=toy)


def _rows(told: Mapping[str, Any], size: Size, where: str, *, toy: bool) -> Iterator[Measured]:
    def wanted(limit: str) -> str:
        return "nothing at toy size" if toy else limit

    unit, scale = ("GFLOP/s", 1e9) if toy else ("TFLOP/s", 1e12)
    peak = told["ours"]["peak_flops"]
    for name, ours in told["ours"]["corpora"].items():
        batch = f"batches of {size.batch_size}, {name}, {where}"
        for whose, peer, limit in (
            ("trainer", "transformers.Trainer", "3 at least"),
            ("padded", "float32, padded", "10 at least"),
        ):
            theirs = told[whose][name]
            pair = (ours["clips_per_s"], theirs["clips_per_s"])
            yield Measured(f"steps: {peer}", batch, *pair, "clips/s", wanted(limit))
            pair = (ours["peak_gb"], theirs["peak_gb"])
            yield Measured(f"steps: memory, {peer}", batch, *pair, "GB", wanted("below 1"))
        limit = "0.45 at least" if name == LONG else "for comparison"
        pair = (ours["flops"] / scale, peak / scale)
        yield Measured("steps: a large matrix product", batch, *pair, unit, wanted(limit))
        pair = (1000 * ours["waited_s"], 1000 * ours["step_s"])
        yield Measured("steps: waiting for data, of the step", batch, *pair, "ms", wanted("0.02 at most"))
    parts = told["experiment"]
    fold_s = parts["start_s"] + parts["first_s"] + (EPOCHS - 1) * parts["later_s"] + parts["end_s"]
    what = f"steps: the whole experiment, {FOLDS} folds of {EPOCHS} epochs, projected from {size.epochs}: 5 minutes"
    told_size = (
        f"{parts['clips']:,} clips of {RAVDESS}, a fold's start {parts['start_s']:.1f} s, epochs"
        f" {parts['first_s']:.1f} and {parts['later_s']:.1f} s with validation, end {parts['end_s']:.1f} s, {where}"
    )
    yield Measured(what, told_size, FOLDS * fold_s, WANTED_S, "s", wanted("1 at most"))


def _recipe(folder: Path, size: Size, epochs: int = EPOCHS) -> Recipe:
    changes = [f"encoder.name={folder / 'encoder'}", f"training.batch_size={size.batch_size}"]
    return load_recipe("mll", [*changes, f"training.epochs={epochs}"])


def _plan(corpus: PreparedCorpus, recipe: Recipe, size: Size) -> tuple[Fold, Sequence[Any]]:
    """All clips as training side, and the batches of the counted steps behind those that warm up."""
    from ser_cli.training.setup import plan_training_epoch

    fold = Fold(1, tuple(utterance.id for utterance in corpus.utterances), (), ())
    return fold, plan_training_epoch(corpus, fold, recipe, seed=0)[: size.warm_up + size.steps]


def train_ours(folder: Path, size: Size, device: str) -> dict[str, Any]:
    """The machine's peak, and of each corpus what `_train_ours` tells."""
    peak = _peak_flops(device, size.product)
    return {
        "peak_flops": peak,
        "corpora": {name: _train_ours(folder, name, size, device) for name in (LONG, RAVDESS, IEMOCAP)},
    }


def _train_ours(folder: Path, name: str, size: Size, device: str) -> dict[str, float]:
    from ser_cli.data.batches import BatchLoader
    from ser_cli.training.cross_validation import accelerate
    from ser_cli.training.setup import set_up_learner

    corpus, recipe = open_corpus(folder / name), _recipe(folder, size)
    fold, plan = _plan(corpus, recipe, size)
    learner = set_up_learner(corpus, fold, recipe, accelerate(device, recipe))
    learner.begin_epoch(seed=0)
    watch, waited_before = StepWatch(device, size.warm_up), 0.0
    loader = BatchLoader(corpus, plan, pin_memory=device == "cuda")
    for step, batch in enumerate(loader):
        learner.learn([batch], step / len(plan))
        if watch.step_done():
            waited_before = loader.waited_s
    taken_s, peak_gb = watch.read()
    counted = [clip for planned in plan[size.warm_up :] for clip in planned.clips]
    flops = 3 * sum(forward_flops(size.encoder, clip.samples, len(corpus.labels)) for clip in counted)
    steps = len(plan) - size.warm_up
    return {
        "clips_per_s": len(counted) / taken_s,
        "flops": flops / taken_s,
        "step_s": taken_s / steps,
        "waited_s": (loader.waited_s - waited_before) / steps,
        "peak_gb": peak_gb,
    }


def _peak_flops(device: str, width: int) -> float:
    """Operations per second of a large product of random matrices, in bf16 on a GPU: the best of some rounds."""
    import torch

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    first, second = (torch.randn(width, width, device=device, dtype=kind) for _ in range(2))
    best_s, products = float("inf"), 10
    for _ in range(4):  # the first warms up
        began = time.perf_counter()
        for _ in range(products):
            first @ second
        if device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * width**3 * products / best_s


def train_peer(whose: str, folder: Path, size: Size, device: str) -> dict[str, Any]:
    """Of each corpus, clips per second and GB of a peer on the very clips of our steps."""
    from tests.benchmarks.steps_peers import train_by_trainer, train_padded

    told = {}
    for name in (LONG, RAVDESS, IEMOCAP):
        corpus, recipe = open_corpus(folder / name), _recipe(folder, size)
        longest = round(16_000 * recipe.training.max_clip_s)
        clips = [identity for planned in _plan(corpus, recipe, size)[1] for identity in planned.ids]
        waveforms = [corpus.waveform(identity)[:longest] for identity in clips]
        classes = [int(corpus.target(identity).argmax()) for identity in clips]
        settings = {"batch_size": size.batch_size, "warm_up": size.warm_up, "device": device}
        if whose == "trainer":
            told[name] = train_by_trainer(folder / "encoder", waveforms, classes, **settings)
        else:
            told[name] = train_padded(
                folder / "encoder", waveforms, classes, padded_samples=100_000 // size.shortening, **settings
            )
    return told


class _Stamps(TrainingObserver):
    """When a fold starts and its epochs end."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def signal_that_came(self) -> int:
        return 0

    def fold_started(self, fold: Fold, epochs: int) -> None:
        self.times.append(time.perf_counter())

    def epoch_done(self, record: object) -> None:
        self.times.append(time.perf_counter())


def train_experiment(folder: Path, size: Size, device: str) -> dict[str, float]:
    """Seconds of one fold of `ser train --dataset ravdess --folds 6`, by its parts, all of them written to disk.

    `start_s` is all before the first step, `first_s` the first epoch, in which kernels are compiled, `later_s` the mean
    of the others, `end_s` test and storing of the model; each epoch with its validation.
    """
    from ser_cli.training.cross_validation import cross_validate, plan_cross_validation

    corpus, recipe = open_corpus(folder / RAVDESS), _recipe(folder, size, size.epochs)
    plan = plan_cross_validation(corpus, recipe, "mll", folds=FOLDS, wanted=(1,))
    stamps = _Stamps()
    cross_validate(plan, folder / "run", device, stamps)
    began, started, *epochs = stamps.times
    return {
        "clips": len(corpus.utterances),
        "start_s": started - began,
        "first_s": epochs[0] - started,
        "later_s": (epochs[-1] - epochs[0]) / (len(epochs) - 1),
        "end_s": time.perf_counter() - epochs[-1],
    }


def _main() -> None:
    import json

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the trainer would take all GPUs at once
    parser = argparse.ArgumentParser(description="One training of this benchmark; prints JSON.")
    parser.add_argument("whose", choices=("ours", "trainer", "padded", "experiment"))
    parser.add_argument("folder", type=Path, help="that `measure` wrote")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--toy", action="store_true")
    chosen = parser.parse_args()
    size = TOY if chosen.toy else REAL
    arguments = (chosen.folder, size, chosen.device)
    if chosen.whose == "ours":
        told = train_ours(*arguments)
    elif chosen.whose == "experiment":
        told = train_experiment(*arguments)
    else:
        told = train_peer(chosen.whose, *arguments)
    print(json.dumps(told))


if __name__ == "__main__":
    _main()
