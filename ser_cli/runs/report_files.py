"""The page, pictures and tables of a report: which of the files that lie in a folder are its own.

An index beside them names what was written and which scores it shows, so that nothing else is ever deleted: people
keep their own figures and tables in folders of these names.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ser_cli.files import path_fault, read_json_object, write_json

INDEX_NAME = ".report-files.json"
PAGE_NAME = "report.html"
PREDICTIONS_NAME = "predictions.csv"
"""Of a report on another corpus; a fold's own lies in the folder of the fold, where no report is written."""
REPORT_FOLDERS = {"figures": ("svg", "png"), "tables": ("md", "tex", "csv")}
"""What `ser evaluate` writes beside its report, by the ending of the files."""


class ReportFiles(NamedTuple):
    """What an index tells."""

    names: frozenset[str]
    """Of the files, relative to the folder."""
    shows: str
    """The hash of the scores that all of them show; empty while they are written."""


@contextmanager
def replacing_report(folder: Path, names: Iterable[str], shows: str, *, keeping: bool = False) -> Iterator[None]:
    """Write the files of a report; those of an earlier one that it does not have are deleted afterwards.

    Stopped at any point, the index names at least what lies there, and that it shows nothing whole.

    Args:
        folder: of the report.
        names: of the files that are written, relative to it: the page, pictures and tables.
        shows: hash of the scores.
        keeping: leave those of an earlier report that shows the same.
    """
    there, new = read_report_files(folder), frozenset(names)
    if keeping and there.shows == shows:
        new |= there.names
    write_json(folder / INDEX_NAME, {"files": sorted(there.names | new), "shows": ""})
    yield
    _delete(folder, there.names - new)
    write_json(folder / INDEX_NAME, {"files": sorted(new), "shows": shows})


def delete_report_files(folder: Path, *, links: bool = False) -> None:
    """Delete the page, pictures and tables of an earlier report, and nothing else that lies beside them.

    Args:
        folder: of the report.
        links: delete links in the place of its folders too, and nothing of where they lead.
    """
    for path in (folder / name for name in REPORT_FOLDERS):
        if links and path.is_symlink():
            path.unlink()
    _delete(folder, read_report_files(folder).names)
    (folder / INDEX_NAME).unlink(missing_ok=True)


def read_report_files(folder: Path) -> ReportFiles:
    """What is known of the report in a folder.

    Of one without an index, or with a damaged one, the page alone is known. Names in an index from elsewhere that
    lead out of the folder, or to what no report has, are left out.
    """
    try:
        told = read_json_object(folder / INDEX_NAME)
        names, shows = told.get("files"), told.get("shows")
    except (OSError, ValueError):
        names, shows = [PAGE_NAME], ""
    own = (name for name in names if isinstance(name, str) and _is_own(name)) if isinstance(names, list) else ()
    return ReportFiles(frozenset(own), shows if isinstance(shows, str) else "")


def _delete(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).parent.is_symlink():  # it may lead anywhere
            with suppress(OSError):  # a folder has the name, or it is longer than any file's
                (folder / name).unlink(missing_ok=True)
    for name in REPORT_FOLDERS:
        with suppress(OSError):  # not there, or somebody keeps something in it
            (folder / name).rmdir()


def _is_own(name: str) -> bool:
    """Whether this is the name of a file that a report may have."""
    path = PurePosixPath(name)
    if name in (PAGE_NAME, PREDICTIONS_NAME):
        return True
    return (
        not path_fault(name)
        and len(path.parts) == 2
        and path.parts[0] in REPORT_FOLDERS
        and path.suffix[1:] in REPORT_FOLDERS[path.parts[0]]
    )
