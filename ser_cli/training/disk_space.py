"""Whether a disk can hold what a training is going to write, found before it starts."""

import os
import shutil
import tempfile
from pathlib import Path

from ser_cli.errors import RunError

SPARE_BYTES = 16 << 20
"""For everything beside weights: tables, logs, reports."""


def require_place(folder: Path) -> None:
    """See that a folder is there to be written to, or could be made; nothing is written.

    Raises:
        RunError: it is not, or could not.
    """
    nearest = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    if not nearest.is_dir():
        raise RunError(f"{folder}: {nearest} is no folder\n  choose another folder with --output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: {nearest} cannot be written to\n  choose another folder with --output")


def require_space(folder: Path, largest_file: int, files: int, *, already: int = 0) -> None:
    """Find out whether a folder can be written to and has room.

    Args:
        folder: is made where it does not exist.
        largest_file: bytes of the largest file.
        files: how many of that size lie there at once.
        already: bytes of these that lie there now.

    Raises:
        RunError: it cannot be written to, its disk has too little space, or files may not become that large.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written to ({error.strerror or error})\n  choose another folder with --output"
        ) from error
    limit = _file_size_limit()
    if limit is not None and largest_file > limit:
        raise RunError(
            f"{folder}: a checkpoint takes {_megabytes(largest_file)}, and this process may write files of at most"
            f" {_megabytes(limit)}\n  raise the limit (ulimit -f), or take a smaller encoder"
        )
    needed = max(largest_file * files - already, largest_file) + SPARE_BYTES
    if free < needed:
        raise RunError(
            f"{folder}: training needs {_megabytes(needed)} more for checkpoints and the model, and its disk has"
            f" {_megabytes(free)} free\n  free space, or choose a folder on another disk with --output"
        )


def _file_size_limit() -> int | None:
    if os.name != "posix":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:.3f} MB"
