"""Fetching the recordings of an openly licensed corpus, once, whole, and from where a broken download stopped.

The bytes are brought by `http_get` of huggingface_hub, which comes with transformers: it asks only for what is
missing, starts over where a server ignores that, tries again after a break and follows proxies and redirects.
pypdl does not resume a download in one piece, and pooch does not resume at all. What is added here is what it leaves
to its caller: the place, the room on the disk, the publisher's size and MD5, and careful unpacking.

`http_get` writes 10 MiB at a time; so much at most is fetched again after a kill.
"""

import errno
import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from filelock import FileLock

from ser_cli.console import silenced
from ser_cli.corpora.corpus import Corpus, Download
from ser_cli.errors import SerError
from ser_cli.files import read_json
from ser_cli.home import VARIABLE, data_home, source_folder
from ser_cli.preparation.unpacking import harmless_members, in_words, require_short_directory, write_members

Progress = Callable[[int, int], None]
"""Told the bytes there are and the bytes in all, 0 where the server does not say."""

MARKER = ".downloaded.json"
"""In a complete source folder: what it was unpacked from."""

ALWAYS_ALLOWED_BYTES = 2**30

AFRESH = (
    "run the same command again to fetch it afresh, and if this stays so, see at the homepage of the corpus whether"
    " there is a new edition"
)
BY_HAND = "fetch the archive by hand, unpack it and give its folder with --source"


def download_corpus(name: str, download: Download, progress: Progress | None = None) -> Path:
    """Fetch and unpack the recordings of a corpus, unless an earlier call did.

    The archive lies in `$SER_HOME/downloads` until it is unpacked, as `NAME.zip.part` while it is under way, where a
    later call goes on. Other processes that want the same corpus wait for their turn.

    Args:
        name: as in `--dataset`.
        download: what its publisher offers.
        progress: called as bytes arrive.

    Returns:
        The source folder; it is there whole or not at all.

    Raises:
        SerError: the server, the disk or the archive fails; the archive is not the publisher's, or not safe to unpack.
    """
    folder = source_folder(name)
    archive = data_home() / "downloads" / f"{name}.zip"
    part = archive.with_name(f"{archive.name}.part")
    if _is_there(name, folder, download):
        return folder
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_name(f".{name}.lock")):
            # Asked again: another process may have brought it while this one waited.
            if not _is_there(name, folder, download):
                if not archive.is_file():
                    _fetch(name, download, part, progress)
                    part.replace(archive)
                _require_as_published(name, download, archive)
                _unpack(name, download, archive, folder)
                archive.unlink()
    except OSError as error:
        raise SerError(
            f"cannot download {name}: cannot write {error.filename or data_home()}: {error.strerror or error}\n"
            f"  free space, or choose another place with {VARIABLE}; the same command then goes on where it stopped"
        ) from error
    return folder


def describe_download(corpus: Corpus) -> list[str]:
    """What a person should know before the recordings are fetched; the licence above all."""
    assert corpus.download is not None
    size = corpus.download.size_bytes
    return [
        f"{corpus.name}: {corpus.title}",
        f"  licence: {corpus.licence}",
        f"  homepage: {corpus.homepage}",
        f"  archive: {corpus.download.url} ({'size unknown' if size is None else in_words(size)})",
        *([] if corpus.download.md5 else ["  its publisher gives no checksum; the archive's own are checked"]),
        f"  goes to: {source_folder(corpus.name)} ({in_words(corpus.download.unpacked_bytes)} unpacked)",
    ]


def most_bytes(download: Download) -> int:
    """How much an archive may unpack to, and how large one of unknown size may be.

    Four times what is declared leaves room for a new edition of the corpus, and 1 GiB is harmless anywhere.
    """
    return max(4 * download.unpacked_bytes, ALWAYS_ALLOWED_BYTES)


def _is_there(name: str, folder: Path, download: Download) -> bool:
    """Whether the source folder was left by an earlier download of the same archive."""
    if not folder.exists():
        return False
    try:
        marker = read_json(folder / MARKER)
    except (OSError, ValueError):
        marker = None
    if marker == _marker(download):
        return True
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            return False
    except OSError:  # not readable, so surely not ours to replace
        pass
    # Never replaced: it may hold somebody's own recordings.
    raise SerError(
        f"cannot download {name}: {folder} is there already, and not from {download.url}\n"
        f"  expected no folder, or the one that an earlier download of the same archive left\n"
        f"  move it away, or use what it holds with --source {folder}"
    )


def _marker(download: Download) -> dict[str, str | None]:
    return {"url": download.url, "md5": download.md5}


def _fetch(name: str, download: Download, part: Path, progress: Progress | None) -> None:
    """Bring the whole archive to `part`, from where an earlier call stopped."""
    size = download.size_bytes
    present = part.stat().st_size if part.exists() else 0
    if size is not None and present > size:
        part.unlink()
        present = 0
    _require_space(name, fetched=max((size or 0) - present, 0), unpacked=download.unpacked_bytes)
    if present == size:
        return
    meter = _Meter(name, download, progress)
    try:
        with part.open("ab") as file:
            status = _get(name, download.url, file, meter)
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and present:
                # All of it is there already, or the server has another archive by now: afresh tells which.
                file.truncate(0)
                file.seek(0)
                status = _get(name, download.url, file, meter)
    except _WrongSizeError:
        part.unlink()
        raise
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
    if status is not None:
        raise _unavailable(name, download.url, status)
    if not part.exists():
        raise SerError(
            f"cannot download {name} from {download.url}: the server sends an empty file\n"
            f"  run the same command again later, or {BY_HAND}"
        )


def _get(name: str, url: str, file: BinaryIO, meter: "_Meter") -> int | None:
    """Append what is missing of a file; the HTTP status where the server refuses.

    Raises:
        SerError: the server cannot be reached, or breaks off again and again.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import logging

    try:
        with silenced(logging):
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers={"Accept-Encoding": "identity"},  # a zip gains nothing, and ranges of gzip fit no other
                displayed_filename=name,
                tqdm_class=cast(Any, meter),
            )
    except HfHubHTTPError as error:
        return error.response.status_code
    except OfflineModeIsEnabled as error:
        raise SerError(
            f"cannot download {name} from {url}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, and the downloader of"
            f" huggingface_hub then asks no server at all\n"
            f"  unset it for this command, or {BY_HAND}"
        ) from error
    except SerError:
        raise
    except Exception as error:  # the hub lets errors of its HTTP library through, which changes from version to version
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SerError(
            f"cannot download {name} from {url}: {reason}\n"
            f"  run the same command again, it goes on where it stopped; or {BY_HAND}"
        ) from error
    return None


def _unavailable(name: str, url: str, status: int) -> SerError:
    try:
        answer = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        answer = str(status)
    passing = status >= 500 or status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
    advice = (
        "run the same command again later, it goes on where it stopped"
        if passing
        else "the archive may have moved: look at the homepage of the corpus"
    )
    return SerError(f"cannot download {name} from {url}: the server answers {answer}\n  {advice}; or {BY_HAND}")


class _WrongSizeError(SerError):
    """What the server offers is not the archive; a kind of its own, so that `_fetch` deletes what came of it."""

    def __init__(self, name: str, download: Download, found: str) -> None:
        if download.size_bytes is None:
            expected = f"at most {most_bytes(download):,} were expected"
        else:
            expected = f"its publisher tells {download.size_bytes:,}"
        super().__init__(
            f"cannot download {name}: {download.url} has {found} bytes, {expected}\n"
            f"  what there was of it was deleted; {AFRESH}; or {BY_HAND}"
        )


@dataclass
class _Meter:
    """What `http_get` takes for a progress bar: tells our own, and stops an archive that is not what was promised.

    It is made with the size that the server tells, before the first byte is written.
    """

    name: str
    download: Download
    progress: Progress | None
    done: int = 0
    total: int = 0

    def __call__(self, *, total: int | None, initial: int, **_: object) -> Self:
        """Begin, as the class of a bar does."""
        expected = self.download.size_bytes
        if total is not None:
            if expected not in {None, total}:
                raise _WrongSizeError(self.name, self.download, f"{total:,}")
            if expected is None:
                self._refuse_more_than(most_bytes(self.download), total)
                _require_space(self.name, fetched=total - initial, unpacked=self.download.unpacked_bytes)
        self.total = expected or total or 0
        self.done = 0
        self.update(initial)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, number: int) -> None:
        """Count bytes that are about to be written; fewer than none where they were thrown away."""
        self.done += number
        self._refuse_more_than(self.total or most_bytes(self.download), self.done)
        if self.progress:
            self.progress(self.done, self.total)

    def _refuse_more_than(self, limit_bytes: int, size_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise _WrongSizeError(self.name, self.download, f"at least {size_bytes:,}")


def _require_space(name: str, *, fetched: int, unpacked: int) -> None:
    free = shutil.disk_usage(data_home()).free
    if free < fetched + unpacked:
        to_fetch = f"{in_words(fetched)} to download and " if fetched else ""
        raise SerError(
            f"cannot download {name}: {data_home()} has {in_words(free)} of free space,"
            f" {in_words(fetched + unpacked)} are needed ({to_fetch}{in_words(unpacked)} unpacked)\n"
            f"  free some, or choose another place with {VARIABLE}"
        )


def _require_as_published(name: str, download: Download, archive: Path) -> None:
    """Delete and refuse an archive that differs from what its publisher tells of it."""
    size = archive.stat().st_size
    if download.size_bytes is not None and size != download.size_bytes:
        archive.unlink()
        raise _WrongSizeError(name, download, f"{size:,}")
    if download.md5 is None:
        return
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != download.md5:
        archive.unlink()
        raise SerError(
            f"cannot download {name}: what came from {download.url} has the MD5 {found}, its publisher tells"
            f" {download.md5}\n"
            f"  it was deleted; {AFRESH}; or {BY_HAND}"
        )


def _unpack(name: str, download: Download, archive: Path, folder: Path) -> None:
    """Unpack beside the source folder, then rename.

    Raises:
        SerError: the archive is damaged or not safe, and was deleted; or the disk has no room for it.
    """
    unpacking = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unpacking, ignore_errors=True)  # left by a process that was killed
    try:
        require_short_directory(archive)
        with zipfile.ZipFile(archive) as zipped:
            members = harmless_members(zipped, most_bytes(download))
            _require_space(name, fetched=0, unpacked=sum(member.file_size for member in members))
            write_members(zipped, members, unpacking, most_bytes(download))
        (unpacking / MARKER).write_text(json.dumps(_marker(download)), encoding="utf-8")
        if folder.exists():  # empty; Windows does not rename over it
            folder.rmdir()
        unpacking.rename(folder)
    # zipfile tells damage in all these ways: packed in a way unknown to it, names that are not UTF-8 (a ValueError),
    # members before the start of the file (EINVAL of a seek).
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        archive.unlink()
        raise SerError(
            f"cannot unpack {name}, from {download.url}: {str(error) or 'the archive ends too early'}\n"
            f"  expected a whole zip file of plain files inside its own folder, at most"
            f" {in_words(most_bytes(download))} unpacked\n"
            f"  it was deleted; run the same command again to fetch it afresh, or {BY_HAND}"
        ) from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
