"""The folder that mixtures are written into: what in it is theirs, and how old ones give way to new ones."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ser_cli.data.manifest import SOURCE_A, SOURCE_B
from ser_cli.errors import SerError, UsageError

METADATA_NAME = "metadata.csv"
PLAN_NAME = "plan.csv"
MANIFEST_NAME = "manifest.csv"
PAGE_NAME = "index.html"
AUDIO, ORIGINALS = "audio", "originals"

RECORDINGS = {AUDIO: r"mix-\d{4,}\.flac", ORIGINALS: r"\d{6,}\.flac"}
"""Folders of recordings, and what the recordings in them are called."""
HALF_NAME = f".{METADATA_NAME}"
"""What `metadata.csv` is called while old mixtures give way to new ones: nothing reads half of each as a whole."""
BUILDING_NAME = ".mix.part"
GENERATOR = '<meta name="generator" content="ser mix">'
"""Stands near the beginning of every page."""
HEAD_CHARACTERS = 10_000
"""In which a file says whose it is."""


def require_free(output: Path, *, force: bool, writing: Sequence[str] = ()) -> None:
    """See that mixtures may be written to a folder.

    Args:
        output: the folder.
        force: replace mixtures that lie there.
        writing: files that are written beside them, `manifest.csv` or the page.

    Raises:
        UsageError: it holds something else, or mixtures that are not to be replaced.
    """
    if output.is_symlink() and not output.exists():
        raise UsageError(f"{output} is a link that leads nowhere; choose another --output")
    # Hidden names are what a stopped call left, or what the system keeps in every folder.
    if not output.exists() or (output.is_dir() and all(path.name.startswith(".") for path in output.iterdir())):
        return
    described = (output / METADATA_NAME).is_file() or (output / HALF_NAME).is_file()
    if not described or not (output / PLAN_NAME).is_file():
        raise UsageError(f"{output} exists and holds something else than mixtures; choose another --output")
    if not force:
        raise UsageError(f"{output} holds mixtures already; choose another --output, or replace them with --force")
    for name in writing:
        if os.path.lexists(output / name) and not _is_own(output / name):
            raise UsageError(f"{output / name} was not written by `ser mix`; move it away, or choose another --output")


def files_beside(*, originals: bool, page: bool) -> list[str]:
    """What is written beside metadata, plan and recordings, by what is asked for."""
    return [name for name, wanted in ((MANIFEST_NAME, originals), (PAGE_NAME, page)) if wanted]


def _is_own(path: Path) -> bool:
    """Whether `manifest.csv` or the page in a folder of mixtures is theirs: people keep files of these names too."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(HEAD_CHARACTERS)
    except OSError:
        return False
    if path.name == PAGE_NAME:
        return GENERATOR in start
    return {SOURCE_A, SOURCE_B} <= set(start.partition("\n")[0].split(","))


@contextmanager
def building(output: Path) -> Iterator[Path]:
    """A new folder whose files are those of the mixtures once the block has ended; without an error, or not at all.

    A folder that is not there yet appears whole, by one rename. In one that is there, old mixtures give way to the
    new ones and everything else stays; `metadata.csv` comes last. A link is followed to the folder that it leads to.

    Raises:
        SerError: the folder cannot be written, or another process is writing it.
    """
    # `.` has no name of its own, and a link cannot be replaced by a folder.
    there = output.resolve()
    part = there / BUILDING_NAME if there.is_dir() else there.with_name(f".{there.name}.part")
    with _held(part.with_suffix(".lock"), output):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            yield part
            if there.is_dir():
                _move_into(part, there)
            else:
                part.rename(there)
        except OSError as error:
            raise _unwritable(output, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _held(path: Path, output: Path) -> Iterator[None]:
    """Hold a lock against other processes that would write the same folder; its file is gone afterwards."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise SerError(
            f"--output {output}: another process is writing it\n  wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _unwritable(output: Path, error: OSError) -> SerError:
    return SerError(f"cannot write {output}: {error.strerror or error}\n  free space there, or choose another --output")


def _move_into(part: Path, output: Path) -> None:
    """Put new mixtures in the place of old ones; a call that is stopped here leaves what `--force` goes on over."""
    half = output / HALF_NAME
    (part / METADATA_NAME).replace(half)
    (output / METADATA_NAME).unlink(missing_ok=True)
    (part / PLAN_NAME).replace(output / PLAN_NAME)
    _delete_old(output)
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        target = output / path.relative_to(part)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
    half.replace(output / METADATA_NAME)


def _delete_old(output: Path) -> None:
    """Delete what an earlier call wrote beside metadata and plan, and nothing else that lies in the folder."""
    for path in (output / MANIFEST_NAME, output / PAGE_NAME):
        if _is_own(path):
            path.unlink()
    for name, recording in RECORDINGS.items():
        folder = output / name
        if folder.is_symlink():  # it may lead anywhere: what lies there is not of these mixtures
            folder.unlink()
            continue
        for path in folder.glob("*.flac"):
            if re.fullmatch(recording, path.name):
                path.unlink()
        with suppress(OSError):
            folder.rmdir()
