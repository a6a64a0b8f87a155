"""Which process trains which folds of a run: opening a run, and holding its folds while they are trained."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ser_cli.errors import HeldError, RunError
from ser_cli.runs.directory import IDENTITY_NAME, Run, RunIdentity
from ser_cli.runs.locks import hold_free, locked_folder
from ser_cli.training.observers import TrainingObserver


@contextmanager
def starting(folder: Path, identity: RunIdentity, *, force: bool, changed_anyway: bool) -> Iterator[None]:
    """One process at a time opens a run and takes its folds.

    Args:
        folder: of the run; is made.
        identity: of the run that is asked for.
        force: another run there will be deleted.
        changed_anyway: another run there will be gone on with.

    Raises:
        RunError: the folder cannot be written to or locked, or the other run is being trained.
    """
    run = Run(folder)
    if folder.is_dir() and not (folder / IDENTITY_NAME).is_file() and not force:
        others = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if others:  # not ours: nothing is left behind in it, no lock either
            raise RunError(f"{folder} exists and holds no run; choose a new folder with --output")
    with locked_folder(folder, ".start.lock"):
        if (force or changed_anyway) and (folder / IDENTITY_NAME).is_file() and not run.is_that_of(identity):
            _require_unheld(folder)
        yield


def hold_folds(
    run: Run, wanted: Sequence[int], observer: TrainingObserver, stack: ExitStack, *, embeddings: bool
) -> list[int]:
    """Hold those wanted folds that have work left and that no other process holds, until the stack is closed.

    Raises:
        HeldError: other processes hold all of them.
    """

    def has_work(index: int) -> bool:
        fold = run.fold(index)
        return not fold.is_done or fold.checkpoints_path.exists() or (embeddings and not fold.embeddings_path.is_file())

    open_folds = [index for index in wanted if has_work(index)]
    paths = [(index, _lock_path(run.folder, index)) for index in open_folds]
    others = stack.enter_context(hold_free(paths, lambda index, holder: observer.lock_taken_over(index, str(holder))))
    mine = [index for index in open_folds if index not in others]
    if others and not mine:
        told = [f"fold {index} is held by {holder or 'another process'}" for index, holder in others.items()]
        raise HeldError(
            f"{run.folder}: nothing is left to do for this process\n  " + "\n  ".join(told) + "\n"
            "  wait for it, or stop it: on SIGTERM it writes a checkpoint, and the same command goes on from there"
        )
    for index, holder in others.items():
        observer.fold_taken(index, str(holder or "another process"))
    return mine


def _require_unheld(folder: Path) -> None:
    """See that nobody is at work on a run that is to be deleted or changed.

    Raises:
        RunError: somebody is.
    """
    paths = [(int(path.name.split("-")[1].split(".")[0]), path) for path in sorted(folder.glob(".fold-*.lock"))]
    with hold_free(paths, lambda index, holder: None) as others:
        for index, holder in others.items():
            raise RunError(
                f"{folder}: fold {index} is held by {holder or 'another process'}\n"
                f"  stop it before this run is deleted or changed, or choose another --output"
            )


def _lock_path(folder: Path, index: int) -> Path:
    return folder / f".fold-{index}.lock"
