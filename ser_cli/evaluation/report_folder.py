"""A report written in all its forms: text, page, pictures, and tables for people and programs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser_cli.errors import RunError
from ser_cli.evaluation.pages import Report, as_markdown_report, as_page
from ser_cli.evaluation.tables import as_csv, as_latex, as_markdown
from ser_cli.files import write_atomically, write_json
from ser_cli.runs.report_files import (
    PAGE_NAME,
    REPORT_FOLDERS,
    delete_report_files,
    read_report_files,
    replacing_report,
)


def write_files(
    folder: Path,
    report: Report,
    scores: dict[str, Any],
    *,
    pictures: bool = True,
    beside: Mapping[str, bytes] | None = None,
) -> Path | None:
    """Write a report in all its forms.

    Args:
        folder: of the report.
        report: what it says.
        scores: for `scores.json`.
        pictures: draw pictures and the page that holds them.
        beside: further files of this report, by name, which the next one in this folder replaces too.

    Returns:
        The path of the page; None without pictures.
    """
    _require_own_folders(folder)
    files = dict(beside or {})
    for table in report.tables:
        for ending, write in (("md", lambda t: as_markdown(t) + "\n"), ("tex", as_latex), ("csv", as_csv)):
            files[f"tables/{table.name}.{ending}"] = _encoded(write(table))
    if pictures:
        for picture in report.pictures:
            files |= {f"figures/{picture.name}.svg": picture.svg, f"figures/{picture.name}.png": picture.png}
        files[PAGE_NAME] = _encoded(as_page(report))
    with replacing_report(folder, files, _hash_of(scores), keeping=not pictures):
        write_json(folder / "scores.json", scores)
        write_atomically(folder / "report.md", _encoded(as_markdown_report(report)))
        for name, content in files.items():
            write_atomically(folder / name, content)
    return folder / PAGE_NAME if pictures else None


def write_text_alone(folder: Path, report: Report, scores: dict[str, Any]) -> None:
    """Write scores and text; pictures and tables that are there stay where they show the same scores."""
    if read_report_files(folder).shows != _hash_of(scores):
        delete_report_files(folder)
    write_json(folder / "scores.json", scores)
    write_atomically(folder / "report.md", _encoded(as_markdown_report(report)))


def _hash_of(scores: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()


def _encoded(text: str) -> bytes:
    """Names of folders may hold bytes that are no UTF-8; they are written as escapes, such as those of Python."""
    return text.encode("utf-8", "backslashreplace")


def _require_own_folders(folder: Path) -> None:
    """See that nothing is written or deleted elsewhere: a run folder that came from elsewhere may hold links.

    Raises:
        RunError: pictures or tables would go to where a link leads.
    """
    for name in REPORT_FOLDERS:
        if (folder / name).is_symlink():
            raise RunError(
                f"{folder / name} is a link, and pictures and tables are written into the folder of the report alone\n"
                f"  remove the link, or choose another folder with --output"
            )
