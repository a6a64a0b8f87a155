"""Train and test every fold of a protocol into one run directory."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator

from ser_cli import __version__
from ser_cli.checkpoints import load_model
from ser_cli.data.folds import Fold, caveats, check_folds, hash_folds, make_folds, write_folds
from ser_cli.data.manifest import hash_with_texts, require_texts
from ser_cli.data.protocols import Protocol, choose_protocol
from ser_cli.data.store import PreparedCorpus
from ser_cli.devices import choose_device, choose_precision, describe_arithmetic
from ser_cli.encoder_settings import BUILT_IN_ENCODER
from ser_cli.errors import FoldError, UsageError, count_of
from ser_cli.evaluation.run_report import write_report
from ser_cli.evaluation.scores import evaluate_run
from ser_cli.files import write_atomically, write_json
from ser_cli.models.building import build_model, require_weights
from ser_cli.processes import by_first, number_of_processes, rank, shared_by_first, wait_for_all, were_several_started
from ser_cli.recipe import Recipe
from ser_cli.recipe_settings import SelectionSettings
from ser_cli.runs.directory import FoldFolder, Run, RunIdentity, flat_settings
from ser_cli.runs.embeddings import write_embeddings
from ser_cli.runs.environment import write_environment
from ser_cli.runs.opening import open_or_create_run, require_openable
from ser_cli.training.checkpoint_times import Interval
from ser_cli.training.compatibility import Resuming
from ser_cli.training.disk_space import require_place
from ser_cli.training.embedding import embed_fold
from ser_cli.training.fold import train_fold
from ser_cli.training.folds_held import hold_folds, starting
from ser_cli.training.observers import TrainingObserver
from ser_cli.training.resumption import CheckpointFolder


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
            where=tuple(sorted(self.corpus.where)),
            targets=self.recipe.training.targets,
            folds=len(self.folds),
            protocol=self.protocol.name,
            protocol_hash=self.protocol.hash,
            folds_hash=hash_folds(self.folds),
            manifest_hash=self.manifest_hash,
            recipe_hash=self.recipe.hash,
            seed=self.recipe.seed,
        )

    @property
    def manifest_hash(self) -> str:
        """Of what the recipe learns from: the transcripts enter where it reads them."""
        plain = self.corpus.preparation.manifest_hash
        return hash_with_texts(plain, self.corpus.utterances) if self.recipe.reads_texts else plain

    @property
    def caveats(self) -> list[str]:
        """What a reader of the scores has to know of these folds."""
        return caveats(self.folds, self.corpus)

    @property
    def cautions(self) -> list[str]:
        """Where others are held out to choose the epoch than are asked for; nothing for the default number."""
        asked, default = self.recipe.selection.validation_speakers, SelectionSettings().validation_speakers
        if self.recipe.selection.by != "validation":
            return []
        if share := self.recipe.selection.validation_share:
            setting = f"selection.validation_share = {share:g}"
        elif asked != default:
            setting = f"selection.validation_speakers = {asked}"
        else:
            return []
        if self.protocol.validation or (self.protocol.validation_by == "utterance" and not share):
            return [f"{setting} changes nothing: protocol {self.protocol.name} says itself who chooses the epoch"]
        if share:
            return []
        sides = [[{self.corpus.by_id[i].speaker for i in ids} for _, ids in fold.sides[:2]] for fold in self.folds]
        train, held = min(sides, key=lambda side: len(side[1]))
        if len(held) >= asked:
            return []
        there = count_of(len(train | held), "speaker")
        most = f"at most a third of its {self.protocol.held_out_unit}s is held out, and one at least"
        return [f"{setting}: the epoch is chosen on {len(held)} of the {there} of a training side: {most}"]

    @property
    def default_folder(self) -> Path:
        """Where the run goes unless told otherwise: equal plans go to the same place."""
        identity = self.identity
        parts = dict.fromkeys((identity.dataset, identity.recipe, Path(identity.encoder).name))
        hashes = (identity.recipe_hash, identity.protocol_hash, identity.folds_hash, identity.manifest_hash)
        digest = hashlib.sha256(
            "".join([*hashes, *identity.labels, identity.label_set, *identity.where]).encode()
        ).hexdigest()[:8]
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
    if recipe.text.encoder:
        require_texts(corpus.name, corpus.utterances)
    chosen = choose_protocol(corpus, protocol, folds, recipe.seed)
    held_out = recipe.selection.validation_speakers if recipe.selection.by == "validation" else 0
    share = recipe.selection.validation_share if held_out else 0.0
    chosen = replace(chosen, validation_share=share, chooses=held_out > 0)
    made = make_folds(chosen, corpus, validation_speakers=held_out, seed=recipe.seed)
    check_folds(made, corpus, chosen)
    for index in wanted:
        if not 1 <= index <= len(made):
            raise UsageError(f"--fold {index}: protocol {chosen.name} has folds 1 to {len(made)}")
    return Plan(corpus, recipe, recipe_name, chosen, made, tuple(sorted(set(wanted))) or tuple(f.index for f in made))


def require_startable(
    plan: Plan, folder: Path, device_name: str, *, force: bool = False, changed_anyway: bool = False
) -> None:
    """See, as far as that takes no time, that `cross_validate` would begin; nothing is written.

    Args:
        plan: what would be trained.
        folder: of the run.
        device_name: as `--device` takes it.
        force: another run that lies in the folder may be deleted.
        changed_anyway: a run of another recipe, corpus or version may be gone on with.

    Raises:
        UsageError: the device or the precision is not to be had, or widths do not fit together.
        EncoderError: a file of weights is not named or not there.
        RunError: the folder could not be made or written to, or holds something else, or another run.
    """
    _choose_arithmetic(device_name, plan.recipe)
    if not _all_done(plan, folder):
        require_weights(plan.recipe)
        if plan.recipe.encoder.name == BUILT_IN_ENCODER and not plan.recipe.text.encoder:
            build_model(plan.recipe, len(plan.corpus.labels))  # widths that do not fit together; nothing is read
    require_place(folder)
    settings = flat_settings(plan.recipe.model_dump(mode="json"))
    require_openable(folder, plan.identity, settings, force=force, changed_anyway=changed_anyway)


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
    interval: Interval | None = None,
    changed_anyway: bool = False,
    force: bool = False,
    embeddings: bool = False,
) -> Run:
    """Train the wanted folds that are not done yet; score the run when it is complete.

    Any number of processes may train different folds of one run at the same time: each holds the folds that it
    wants, and the last to finish finds all folds there and writes scores and report. A fold that was stopped goes
    on at its last checkpoint.

    Args:
        plan: what is trained.
        folder: of the run.
        device_name: as `--device` takes it.
        observer: told what happens.
        interval: between checkpoints; None as often as it costs next to nothing.
        changed_anyway: go on with a run of another recipe, corpus or version.
        force: delete another run that lies in the folder.
        embeddings: store those of each wanted fold too, also where it was trained before.

    Raises:
        EncoderError: pre-trained weights cannot be had; found before anything is written.
        RunError: the folder holds another run, other processes hold the wanted folds, or its disk is full.
        UsageError: the device or the precision is not to be had.
        Stopped: a signal came; a checkpoint was written.
    """
    accelerator = accelerate(device_name, plan.recipe)
    if not _all_done(plan, folder):
        build_model(plan.recipe, len(plan.corpus.labels))  # fails now, not after the folder is made
    run = Run(folder)
    settings = flat_settings(plan.recipe.model_dump(mode="json"))
    with ExitStack() as stack:
        mine: list[int] = []

        def open_run() -> None:
            with starting(folder, plan.identity, force=force, changed_anyway=changed_anyway):
                open_or_create_run(folder, plan.identity, settings, force=force, changed_anyway=changed_anyway)
                _write_preamble(run, plan, accelerator)
                mine.extend(hold_folds(run, plan.wanted, observer, stack, embeddings=embeddings))

        by_first(open_run)
        observer.run_opened(run.finished_among(plan.wanted), _arithmetic(accelerator))
        resuming = Resuming(interval or Interval(), _made_with(plan, accelerator), changed_anyway)
        for index in shared_by_first(mine):
            fold, folder_of_fold = plan.folds[index - 1], run.fold(index)
            if not shared_by_first(folder_of_fold.is_done):
                # One for each fold: it would keep the moments of all, and the scale of float16 from one to the next.
                accelerator = accelerate(device_name, plan.recipe)
                environment = folder_of_fold.folder / "environment.json"
                by_first(partial(write_environment, environment, _arithmetic(accelerator)))
                train_fold(plan.corpus, fold, plan.recipe, folder_of_fold, accelerator, observer, resuming)
            by_first(CheckpointFolder(folder_of_fold.checkpoints_path).clear)
            if rank() == 0 and embeddings and not folder_of_fold.embeddings_path.is_file():
                _store_embeddings(plan, folder_of_fold, fold, accelerator, observer)
            wait_for_all()
    if rank() == 0 and run.is_complete:
        write_report(run, evaluate_run(run))
    return run


def _made_with(plan: Plan, accelerator: Accelerator) -> dict[str, str]:
    """What decides the numbers of a fold; a checkpoint that was made with the same goes on to the same result."""
    versions = {name: metadata.version(name) for name in ("torch", "torchaudio", "transformers", "accelerate", "numpy")}
    return {
        **flat_settings(plan.recipe.model_dump(mode="json", exclude={"title"})),
        "corpus (manifest hash)": plan.manifest_hash,
        "ser": __version__,
        **versions,
        "kind of device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
        "processes": str(number_of_processes()),
        "threads": str(torch.get_num_threads()),
    }


def accelerate(device_name: str, recipe: Recipe) -> Accelerator:
    """The device and precision that were asked for; each of several processes has a device of its own.

    Raises:
        UsageError: they are not to be had.
    """
    device, precision = _choose_arithmetic(device_name, recipe)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if recipe.training.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = recipe.training.tf32
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


def _choose_arithmetic(device_name: str, recipe: Recipe) -> tuple[torch.device, str]:
    """The device that was asked for, which is the current one from here on, and the precision.

    Raises:
        UsageError: they are not to be had.
    """
    device = choose_device(device_name)
    if device.type == "cuda" and device.index is not None:
        if were_several_started():
            raise UsageError(
                f"--device {device_name}: several processes were started, and each takes a GPU of its own\n"
                f"  give --device cuda, and choose among GPUs with CUDA_VISIBLE_DEVICES"
            )
        torch.cuda.set_device(device)  # accelerate takes the current one
    if recipe.training.retry_smaller and were_several_started():
        raise UsageError(
            "training.retry_smaller parts the batches of one process, and several were started: the others would wait\n"
            "  set it to false, and lower training.batch_size where the memory is small"
        )
    return device, choose_precision(recipe.training.precision, device)


def _arithmetic(accelerator: Accelerator) -> dict[str, object]:
    return describe_arithmetic(accelerator.device, accelerator.mixed_precision, number_of_processes())


def _all_done(plan: Plan, folder: Path) -> bool:
    """Whether the folder holds this very run with every wanted fold done."""
    run = Run(folder)
    return len(run.finished_among(plan.wanted)) == len(plan.wanted) and run.is_that_of(plan.identity)


def _write_preamble(run: Run, plan: Plan, accelerator: Accelerator) -> None:
    """What stands beside the folds; each file on its own, since a process may have been stopped in between."""
    if not run.environment_path.is_file():
        write_environment(run.environment_path, _arithmetic(accelerator))
    if not run.protocol_path.is_file():
        told = {**plan.protocol.as_json(), "caveats": plan.caveats}
        write_json(run.protocol_path, told)
    if not run.folds_path.is_file():
        write_folds(run.folds_path, plan.folds, plan.corpus)
    if run.recipe_settings() != flat_settings(plan.recipe.model_dump(mode="json")):
        write_atomically(run.recipe_path, plan.recipe.as_toml().encode())


def _store_embeddings(
    plan: Plan, folder: FoldFolder, fold: Fold, accelerator: Accelerator, observer: TrainingObserver
) -> None:
    """Run a trained fold's clips through its stored model: what is kept belongs to the weights that are kept."""
    model = load_model(folder.folder).model.to(accelerator.device)

    def progress(done: int, total: int) -> None:
        observer.embedding(fold, done, total)

    settings = plan.recipe.training
    found = embed_fold(
        model,
        plan.corpus,
        fold,
        settings.batch_size,
        progress,
        max_clip_s=settings.max_clip_s,
        max_batch_s=settings.max_batch_s,
    )
    write_embeddings(folder.embeddings_path, found)
