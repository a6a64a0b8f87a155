"""Files that are whole or absent."""

import os
import tempfile
from pathlib import Path

from ser_cli.errors import SerError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it and rename it, so that no reader ever sees half of it.

    Raises:
        SerError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read; a result follows the user's umask.
            temporary.chmod(0o666 & ~_current_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SerError(
            f"cannot write {path}: {error.strerror or error}\n  free space or choose another folder with --output"
        ) from error


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
