"""Train and test every fold of a protocol into one run directory."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from ser_cli.checkpoints import load_model
from ser_cli.data.folds import Fold, caveats, check_folds, hash_folds, make_folds, write_folds
from ser_cli.data.protocols import Protocol, choose_protocol
from ser_cli.data.store import PreparedCorpus
from ser_cli.devices import choose_device, choose_precision
from ser_cli.embeddings import embed_fold, write_embeddings
from ser_cli.errors import FoldError, UsageError
from ser_cli.evaluation import evaluate_run
from ser_cli.files import write_atomically
from ser_cli.models.building import build_model
from ser_cli.observers import TrainingObserver
from ser_cli.recipe import Recipe
from ser_cli.reports import write_report
from ser_cli.runs import FoldFolder, Run, RunIdentity, open_or_create_run, write_environment, write_json
from ser_cli.training import train_fold


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is trained."""

    corpus: PreparedCorpus
    recipe: Recipe
    recipe_name: str
    protocol: Protocol
    folds: tuple[Fold, ...]
    wanted: tuple[int, ...]
    """The folds to train now, counted from 1."""

    @property
    def identity(self) -> RunIdentity:
        """What the run directory is recognised by."""
        return RunIdentity(
            dataset=self.corpus.name,
            recipe=self.recipe_name,
            encoder=self.recipe.encoder.name,
            labels=self.corpus.labels,
            label_set=self.corpus.preparation.label_set,
            where=self.corpus.where,
            targets=self.recipe.training.targets,
            folds=len(self.folds),
            protocol=self.protocol.name,
            protocol_hash=self.protocol.hash,
            folds_hash=hash_folds(self.folds),
            manifest_hash=self.corpus.preparation.manifest_hash,
            recipe_hash=self.recipe.hash,
            seed=self.recipe.seed,
        )

    @property
    def caveats(self) -> list[str]:
        """What a reader of the scores has to know of these folds."""
        return caveats(self.folds, self.corpus)

    @property
    def default_folder(self) -> Path:
        """Where the run goes unless told otherwise: equal plans go to the same place."""
        identity = self.identity
        parts = dict.fromkeys((identity.dataset, identity.recipe, Path(identity.encoder).name))
        hashes = (identity.recipe_hash, identity.protocol_hash, identity.folds_hash, identity.manifest_hash)
        digest = hashlib.sha256("".join([*hashes, *identity.labels]).encode()).hexdigest()[:8]
        return Path("runs") / "-".join([*filter(None, parts), digest])


def plan_cross_validation(
    corpus: PreparedCorpus,
    recipe: Recipe,
    recipe_name: str,
    *,
    folds: int | None = None,
    protocol: str | None = None,
    wanted: Sequence[int] = (),
) -> Plan:
    """Choose the protocol, make its folds and prove that nothing crosses them.

    Args:
        corpus: what is divided.
        recipe: its `selection` decides what is held out, its seed who.
        recipe_name: recorded with the run.
        folds: how many, or None for the standard protocol's number.
        protocol: its name, or None for the standard one.
        wanted: folds to train, counted from 1; empty for all.

    Raises:
        UsageError: `folds` or `wanted` do not fit.
        FoldError: folds that would leak, or lack an emotion.
    """
    _require_labels(corpus)
    chosen = choose_protocol(corpus, protocol, folds, recipe.seed)
    held_out = recipe.selection.validation_speakers if recipe.selection.by == "validation" else 0
    made = make_folds(chosen, corpus, validation_speakers=held_out, seed=recipe.seed)
    check_folds(made, corpus, chosen)
    for index in wanted:
        if not 1 <= index <= len(made):
            raise UsageError(f"--fold {index}: protocol {chosen.name} has folds 1 to {len(made)}")
    return Plan(corpus, recipe, recipe_name, chosen, made, tuple(sorted(set(wanted))) or tuple(f.index for f in made))


def _require_labels(corpus: PreparedCorpus) -> None:
    there = {utterance.emotion for utterance in corpus.utterances}
    gone = [label for label in corpus.labels if label not in there]
    if gone:
        because = f" is left by {' and '.join(f'--where {text!r}' for text in corpus.where)}" if corpus.where else ""
        raise FoldError(
            f"{corpus.name}: no clip of {', '.join(gone)}{because or ' was prepared'}\n"
            f"  choose other emotions with --labels{', or loosen --where' if corpus.where else ''}"
        )


def cross_validate(
    plan: Plan,
    folder: Path,
    device_name: str,
    observer: TrainingObserver,
    *,
    force: bool = False,
    embeddings: bool = False,
) -> Run:
    """Train the wanted folds that are not done yet; score the run when it is complete.

    Any number of processes may train different folds of one run at the same time; the last to finish finds
    all folds there and writes scores and report.

    Args:
        plan: what is trained.
        folder: of the run.
        device_name: as `--device` takes it.
        observer: told what happens.
        force: delete another run that lies in the folder.
        embeddings: store those of each wanted fold too, also where it was trained before.

    Raises:
        EncoderError: pre-trained weights cannot be had; found before anything is written.
        RunError: the folder holds another run.
        UsageError: the device or the precision is not to be had.
    """
    accelerator = _accelerate(device_name, plan.recipe)
    if not _all_done(plan, folder):
        build_model(plan.recipe, len(plan.corpus.labels))  # fails now, not after the folder is made
    run = open_or_create_run(folder, plan.identity, force=force)
    _write_preamble(run, plan, accelerator)
    observer.run_opened(run.finished_among(plan.wanted))
    for index in plan.wanted:
        with _hold(run, index) as held:
            if not held:
                observer.fold_taken(index)
            elif not run.fold(index).is_done:
                write_environment(run.fold(index).folder / "environment.json", str(accelerator.device))
                train_fold(plan.corpus, plan.folds[index - 1], plan.recipe, run.fold(index), accelerator, observer)
            if held and embeddings and not run.fold(index).embeddings_path.is_file():
                _store_embeddings(plan, run.fold(index), plan.folds[index - 1], accelerator, observer)
    if run.is_complete:
        write_report(run, evaluate_run(run))
    return run


def _accelerate(device_name: str, recipe: Recipe) -> Accelerator:
    """The device and precision that were asked for."""
    device = choose_device(device_name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    precision = choose_precision(recipe.training.precision, device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise UsageError(
            f"started as one of {accelerator.num_processes} processes, which would all train the same folds\n"
            f"  start one process per fold instead: ser train … --fold 1, ser train … --fold 2"
        )
    return accelerator


def _all_done(plan: Plan, folder: Path) -> bool:
    """Whether the folder holds this very run with every wanted fold done."""
    run = Run(folder)
    return len(run.finished_among(plan.wanted)) == len(plan.wanted) and run.identity() == plan.identity


def _write_preamble(run: Run, plan: Plan, accelerator: Accelerator) -> None:
    """What stands beside the folds; each file on its own, since a process may have been stopped in between."""
    if not run.environment_path.is_file():
        write_environment(run.environment_path, str(accelerator.device))
    if not run.protocol_path.is_file():
        told = {**plan.protocol.as_json(), "caveats": plan.caveats}
        write_json(run.protocol_path, told)
    if not run.folds_path.is_file():
        write_folds(run.folds_path, plan.folds, plan.corpus)
    if not run.recipe_path.is_file():
        write_atomically(run.recipe_path, plan.recipe.as_toml().encode())


def _store_embeddings(
    plan: Plan, folder: FoldFolder, fold: Fold, accelerator: Accelerator, observer: TrainingObserver
) -> None:
    """Run a trained fold's clips through its stored model: what is kept belongs to the weights that are kept."""
    model = load_model(folder.folder).model.to(accelerator.device)

    def progress(done: int, total: int) -> None:
        observer.embedding(fold, done, total)

    found = embed_fold(model, plan.corpus, fold, plan.recipe.training.batch_size, progress)
    write_embeddings(folder.embeddings_path, found)


@contextmanager
def _hold(run: Run, index: int) -> Iterator[bool]:
    """Hold a fold against other processes; False where one holds it already."""
    lock = FileLock(run.folder / f".fold-{index}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
