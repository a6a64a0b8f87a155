"""Holding the folds of a run against other processes, on this machine and on others that share its disk.

The system's lock on a file (`filelock`) is let go of when its process dies, however it dies. It does not reach every
network file system, so the file also says who holds it and shows a sign of life every few seconds.
"""

import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ser_cli.errors import RunError
from ser_cli.files import read_bounded, write_json
from ser_cli.repeating import repeating

SIGN_OF_LIFE_S = 10.0
"""How often a holder touches what it holds."""
DEAD_AFTER_S = 60.0
"""Without a sign of life, a holder on another machine counts as gone."""


@dataclass(frozen=True)
class Holder:
    """Who holds a fold."""

    process: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class HeldError(RunError):
    """Another process holds what is wanted."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(f"held by {holder or 'another process'}")
        self.holder = holder


@contextmanager
def hold(path: Path, taken_over: Callable[[Holder], None]) -> Iterator[None]:
    """Hold a file against other processes.

    Args:
        path: of the lock; beside it `PATH.holder` says who holds it.
        taken_over: called where the last holder is gone without having let go.

    Raises:
        HeldError: another process holds it.
        RunError: it cannot be locked.
    """
    told = path.with_name(f"{path.name}.holder")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HeldError(_read(told)) from None
    except (OSError, NotImplementedError) as error:
        raise no_locks(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        last = _read(told)
        if last is not None:
            if last.host != socket.gethostname() and _silence_s(told) < DEAD_AFTER_S:
                raise HeldError(last)
            taken_over(last)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        own = Holder(os.getpid(), socket.gethostname(), since)
        write_json(told, asdict(own))
        try:
            with _signs_of_life(told):
                yield
        finally:
            if _read(told) == own:
                told.unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: Path, name: str) -> Iterator[None]:
    """Hold a folder by the lock of a name for a moment, after waiting for whoever does; the folder is made.

    Raises:
        RunError: it cannot be written to or locked.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except NotImplementedError:
        raise no_locks(folder, "flock is not supported") from None
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written to ({error.strerror or error})\n  choose another folder with --output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def no_locks(path: Path, reason: str) -> RunError:
    """What is said where a file system has no locks, or this one cannot be taken."""
    return RunError(
        f"{path}: cannot be locked ({reason}), so that two processes might train the same fold\n"
        f"  choose a folder on a file system with locks, such as a local disk: --output DIR"
    )


def _silence_s(told: Path) -> float:
    """Seconds since the last sign of life, both ends by the clock of the disk's machine; infinite once it is gone."""
    try:
        with tempfile.NamedTemporaryFile(dir=told.parent, prefix=".clock.") as now:
            return Path(now.name).stat().st_mtime - told.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextmanager
def hold_free(
    paths: Sequence[tuple[int, Path]], taken_over: Callable[[int, Holder], None]
) -> Iterator[dict[int, Holder | None]]:
    """Hold those of some numbered files that no other process holds; gives the holders of the others by number."""
    held_by_others: dict[int, Holder | None] = {}
    with ExitStack() as stack:
        for index, path in paths:
            try:
                stack.enter_context(hold(path, lambda holder, index=index: taken_over(index, holder)))  # type: ignore[misc]
            except HeldError as error:
                held_by_others[index] = error.holder
        yield held_by_others


def _signs_of_life(path: Path) -> AbstractContextManager[None]:
    """Touch a file every few seconds, in a thread: a step of training may take long."""

    def touch() -> bool:
        try:
            os.utime(path)
        except OSError:
            return False  # deleted with its run; there is nothing left to hold
        return True

    return repeating(touch, SIGN_OF_LIFE_S, "sign of life")


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(read_bounded(path, 4096)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
