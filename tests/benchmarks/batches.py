"""Batches: padding, mixing, waiting and memory, against a step of the built-in encoder or what others do."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ser_cli.data.batch_plans import PlannedBatch, padding_share, plan_epoch
from ser_cli.data.batches import Batch, BatchLoader, make_batch
from ser_cli.data.mixup import plan_mixtures
from ser_cli.data.store import PreparedCorpus
from ser_cli.losses import LossWeights, MultiLoss
from ser_cli.models.building import build_model
from ser_cli.recipe import load_recipe
from tests.benchmarks.measuring import Measured, in_turn, seconds
from tests.data.durations import iemocap_like_lengths, ravdess_lengths
from tests.data.stored import LABELS, stored_corpus

BATCH_SIZE = 16
STEPS = 30
HOURS = 3 * 3600 * 16_000


def measure() -> Iterator[Measured]:
    """Padding of whole epochs; mixing and waiting in some steps on RAVDESS's lengths; one batch of a long clip."""
    for name, lengths in (("RAVDESS", ravdess_lengths()), ("IEMOCAP-like", iemocap_like_lengths())):
        yield _padding(name, lengths)
    with tempfile.TemporaryDirectory() as folder:
        lengths = ravdess_lengths()
        corpus = stored_corpus(Path(folder) / "noise", {f"{i:04d}": n for i, n in enumerate(lengths)})
        yield _growth(corpus)
        yield from _steps(corpus)
        yield _long_clip(Path(folder) / "long")


def _plan(
    corpus_or_lengths: PreparedCorpus | Sequence[int], *, grouped: bool = True, share: float = 0.5, seed: int = 0
) -> tuple[PlannedBatch, ...]:
    """The batches of one epoch."""
    length_of: Callable[[str], int]
    if isinstance(corpus_or_lengths, PreparedCorpus):
        ids = [utterance.id for utterance in corpus_or_lengths.utterances]
        length_of = corpus_or_lengths.length
    else:
        by_id = {f"{number:06d}": samples for number, samples in enumerate(corpus_or_lengths)}
        ids, length_of = list(by_id), by_id.__getitem__
    return plan_epoch(
        ids,
        length_of,
        np.random.default_rng(seed),
        batch_size=BATCH_SIZE,
        max_clip_s=15.0,
        group_by_length=grouped,
        draw_mixtures=partial(plan_mixtures, method="eam", share=share),
    )


def _padding(name: str, lengths: Sequence[int]) -> Measured:
    ours = np.mean([padding_share(_plan(lengths, seed=seed)) for seed in range(5)])
    peer = np.mean([padding_share(_plan(lengths, seed=seed, grouped=False)) for seed in range(5)])
    size = f"{len(lengths):,} clips, batches of {BATCH_SIZE}"
    what = f"batches: padding on {name}: as shuffled"
    return Measured(what, size, 100 * float(ours), 100 * float(peer), "% of samples", "ours below 5 %")


def _growth(corpus: PreparedCorpus) -> Measured:
    """Planning and making all batches of an epoch, without a model."""
    half = replace(corpus, utterances=corpus.utterances[::2])
    times = in_turn(lambda: _make_all(corpus, _plan(corpus)), lambda: _make_all(half, _plan(half)), rounds=9)
    size = f"{len(corpus.utterances):,} clips against {len(half.utterances):,}"
    return Measured("batches: an epoch's batches: of half the clips", size, *times, "s", "about 2")


def _steps(corpus: PreparedCorpus) -> Iterator[Measured]:
    step = _training_step()
    plan, plain = _plan(corpus)[:STEPS], _plan(corpus, share=0.0)[:STEPS]
    # The plans' draws are the same, so the same clips stand in the same batches.
    batches = [make_batch(corpus, planned) for planned in plan]
    list(map(step, batches[:3]))
    per_step = seconds(lambda: list(map(step, batches))) / STEPS
    making, reading = in_turn(lambda: _make_all(corpus, plan), lambda: _make_all(corpus, plain), rounds=9)
    size = f"{BATCH_SIZE} clips of RAVDESS's lengths, half of them mixed"
    mixing_ms, step_ms = 1000 * (making - reading) / STEPS, 1000 * per_step
    yield Measured(
        "batches: EAM of a batch: a step of the built-in encoder", size, mixing_ms, step_ms, "ms", "0.05 at most"
    )
    for ahead, wanted in ((2, "0.02 at most"), (0, "for comparison")):
        loader = BatchLoader(corpus, plan, ahead=ahead)
        began = time.perf_counter()
        for batch in loader:
            step(batch)
        total = time.perf_counter() - began
        what = f"batches: waiting, {ahead} made ahead: {STEPS} steps"
        yield Measured(what, size, 1000 * loader.waited_s, 1000 * total, "ms", wanted)


def _make_all(corpus: PreparedCorpus, plan: Sequence[PlannedBatch]) -> None:
    for planned in plan:
        make_batch(corpus, planned)


def _training_step() -> Callable[[Batch], None]:
    """Forward and backward pass and update of the built-in encoder with all losses."""
    torch.manual_seed(0)
    recipe = load_recipe("conformer")
    model = build_model(recipe, len(LABELS)).train()
    criterion = MultiLoss(len(LABELS), LossWeights(0.5, 0.6, 0.01, 0.05))
    optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        output = model(batch.waveforms, batch.lengths, generator)
        criterion.total(criterion.each(output, batch.targets)).backward()
        optimizer.step()

    return step


def _long_clip(folder: Path) -> Measured:
    """Memory for a batch with a clip of three hours, mixed, against that of the batch itself."""
    corpus = stored_corpus(folder, {"hours": HOURS, **{f"short-{i}": 48_000 for i in range(BATCH_SIZE - 1)}})
    planned = _plan(corpus, share=1.0)[0]
    corpus.waveform("hours")
    tracemalloc.start()
    batch = make_batch(corpus, planned)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = f"one clip of 3 h ({4 * HOURS / 1e6:.0f} MB) among {BATCH_SIZE}"
    own = batch.waveforms.numel() * 4
    return Measured("batches: memory to make one: of the batch itself", size, peak / 1e6, own / 1e6, "MB", "2 at most")
