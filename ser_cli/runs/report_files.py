"""The page, pictures and tables of a report: which of the files that lie in a folder are its own.

An index beside them names what was written, so that nothing else is ever deleted: people keep their own figures and
tables in folders of these names.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ser_cli.files import read_json, write_json

INDEX_NAME = ".report-files.json"
PAGE_NAME = "report.html"
REPORT_FOLDERS = {"figures": ("svg", "png"), "tables": ("md", "tex", "csv")}
"""What `ser evaluate` writes beside its report, by the ending of the files."""


@contextmanager
def replacing_report(folder: Path, names: Iterable[str], *, keeping: bool = False) -> Iterator[None]:
    """Write the files of a report; those of an earlier one that it does not have are deleted afterwards.

    Stopped at any point, the index names at least what lies there.

    Args:
        folder: of the report.
        names: of the files that are written, relative to it: the page, pictures and tables.
        keeping: leave those of an earlier report, which shows the same.
    """
    earlier, new = set(_indexed(folder)), set(names)
    if keeping:
        new |= earlier
    if earlier or new:
        write_json(folder / INDEX_NAME, sorted(earlier | new))
    yield
    _delete(folder, earlier - new)
    if new:
        write_json(folder / INDEX_NAME, sorted(new))
    else:
        (folder / INDEX_NAME).unlink(missing_ok=True)


def delete_report_files(folder: Path) -> None:
    """Delete the page, pictures and tables of an earlier report, and nothing else that lies beside them."""
    for name in REPORT_FOLDERS:
        if (folder / name).is_symlink():  # it may lead anywhere: what lies there is not this report's
            (folder / name).unlink()
    with replacing_report(folder, ()):
        pass


def _delete(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).parent.is_symlink():
            (folder / name).unlink(missing_ok=True)
    for name in REPORT_FOLDERS:
        with suppress(OSError):  # not there, or somebody keeps something in it
            (folder / name).rmdir()


def _indexed(folder: Path) -> list[str]:
    """What an index names; a damaged one, or one from elsewhere that leads out of the folder, names nothing."""
    try:
        names = read_json(folder / INDEX_NAME)
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str) and _is_own(name)] if isinstance(names, list) else []


def _is_own(name: str) -> bool:
    """Whether this is the name of a file that a report may have."""
    path = PurePosixPath(name)
    if name == PAGE_NAME:
        return True
    return (
        len(path.parts) == 2
        and path.parts[0] in REPORT_FOLDERS
        and path.name not in (".", "..")
        and path.suffix[1:] in REPORT_FOLDERS[path.parts[0]]
        and "\0" not in name
    )
