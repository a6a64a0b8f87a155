"""Where prepared corpora live."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ser_cli.errors import SerError

VARIABLE = "SER_HOME"
"""The environment variable that names the data home."""


def data_home() -> Path:
    """The folder of everything that `ser` keeps: `$SER_HOME`, else the platform's own place for user data."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("ser"))


def corpus_folder(name: str) -> Path:
    """Where the prepared corpus of a name lives."""
    return data_home() / "corpora" / name


def source_folder(name: str) -> Path:
    """Where the recordings of a corpus live that was downloaded, or that the package renders by itself."""
    return data_home() / "sources" / name


@contextmanager
def hold_corpus(name: str) -> Iterator[None]:
    """Hold a corpus against other processes that would prepare it at the same time; waits for its turn.

    Raises:
        SerError: the data home cannot be written.
    """
    from filelock import FileLock

    folder = corpus_folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise SerError(
            f"cannot write to the data home {folder.parent}: {error.strerror}\n  choose another with SER_HOME"
        ) from error
    try:
        yield
    finally:
        lock.release()
