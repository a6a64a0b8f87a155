"""A report as one self-contained page: nothing is fetched, every name is escaped, light and dark, wide and narrow."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html

from ser_cli.console import visible
from ser_cli.evaluation.tables import Table, as_markdown, escape_markdown


@dataclass(frozen=True)
class Picture:
    """A picture in the forms that are written."""

    name: str
    """Of its files, without their ending."""
    caption: str
    svg: bytes
    png: bytes
    themed_svg: bytes
    """For the page: its neutral colours follow the reader's theme."""


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: bool = False
    """Whether the page shows its tables only when asked, below the pictures."""


@dataclass(frozen=True)
class Tile:
    """One figure, large, at the top."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a report says, before it is a page."""

    title: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...]
    """What it came from: names and values."""

    @property
    def pictures(self) -> list[Picture]:
        """Of all sections."""
        return [picture for section in self.sections for picture in section.pictures]

    @property
    def tables(self) -> list[Table]:
        """Of all sections."""
        return [table for section in self.sections for table in section.tables]


def escape(text: str) -> str:
    """Text for an element or an attribute of the page; control characters are shown, since HTML has none."""
    return escape_html(visible(text))


def as_page(report: Report) -> str:
    """The report as HTML that a browser opens from disk."""
    anchors = [(f"part-{number}", section) for number, section in enumerate(report.sections, start=1)]
    links = "".join(f'<a href="#{anchor}">{escape(section.title)}</a>' for anchor, section in anchors)
    body = [
        f"<header><h1>{escape(report.title)}</h1>",
        *(f'<p class="warning">{escape(text)}</p>' for text in report.warnings),
        '<div class="tiles">' + "".join(map(_tile, report.tiles)) + "</div>" if report.tiles else "",
        *(f"<p>{escape(text)}</p>" for text in report.sentences),
        f"<nav>{links}</nav></header>",
        *(_section(anchor, section) for anchor, section in anchors),
        "<footer><h2>Where it comes from</h2><dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts),
        "</dl></footer>",
    ]
    return _PAGE.format(title=escape(report.title), style=_STYLE, body="\n".join(filter(None, body)))


def as_markdown_report(report: Report) -> str:
    """The report as Markdown, its pictures as links to `figures/`."""
    parts = [f"# {escape_markdown(report.title)}"]
    parts += [f"**{escape_markdown(text)}**" for text in report.warnings]
    parts += [escape_markdown(text) for text in report.sentences]
    for section in report.sections:
        parts.append(f"## {escape_markdown(section.title)}")
        if section.text:
            parts.append(escape_markdown(section.text))
        parts += [f"![{escape_markdown(p.caption)}](figures/{p.name}.png)" for p in section.pictures]
        parts += [f"{escape_markdown(table.title)}\n\n{as_markdown(table)}" for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _tile(tile: Tile) -> str:
    note = f"<small>{escape(tile.note)}</small>" if tile.note else ""
    return f'<div class="tile"><span>{escape(tile.name)}</span><strong>{escape(tile.value)}</strong>{note}</div>'


def _section(anchor: str, section: Section) -> str:
    tables = "".join(map(_table, section.tables))
    if section.folded and tables:
        tables = f"<details><summary>as a table</summary>{tables}</details>"
    pictures = "".join(map(_picture, section.pictures))
    return (
        f'<section id="{anchor}"><h2>{escape(section.title)}</h2>'
        + (f"<p>{escape(section.text)}</p>" if section.text else "")
        + (f'<div class="pictures">{pictures}</div>' if pictures else "")
        + f"{tables}</section>"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.themed_svg).decode()
    width, height = _size(picture.themed_svg)
    caption = escape(picture.caption)
    return (
        f'<figure><div class="scroll"><img src="data:image/svg+xml;base64,{data}" alt="{caption}"'
        f' width="{width}" height="{height}" style="min-width:{min(round(0.66 * width), 470)}px"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _size(svg: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels of what matplotlib wrote in points."""
    match = re.search(rb'<svg\b[^>]*\bwidth="([\d.]+)pt"', svg), re.search(rb'<svg\b[^>]*\bheight="([\d.]+)pt"', svg)
    width, height = (round(float(found[1]) * 4 / 3) if found else 640 for found in match)
    return width, height


def _table(table: Table) -> str:
    classes = [' class="number"' if column.is_number else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(c.title)}</th>' for c, kind in zip(table.columns, classes, strict=True)
    )
    rows = "".join(f"<tr>{_cells(row, classes)}</tr>" for row in table.cells())
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(row: Sequence[str], classes: Sequence[str]) -> str:
    first = f'<th scope="row">{escape(row[0])}</th>'
    return first + "".join(f"<td{kind}>{escape(v)}</td>" for v, kind in zip(row[1:], classes[1:], strict=True))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root{--ink:#24292e;--muted:#5d666f;--line:#dfe3e7;--paper:#fdfdfe;--tile:#f3f5f7;--accent:#0b65a3;--warn:#fff2dc}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--muted:#a0a8b0;--line:#3a4047;--paper:#1b1e22;--tile:#24282d;
--accent:#6cb6ee;--warn:#4a3510}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1.5rem 1.25rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
p{max-width:46rem;margin:.5rem 0;overflow-wrap:anywhere}
a{color:var(--accent)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin-top:1rem}
.warning{background:var(--warn);padding:.6rem .8rem;border-radius:.4rem;max-width:none}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.7rem;margin:1rem 0}
.tile{background:var(--tile);border-radius:.5rem;padding:.7rem .9rem;display:flex;flex-direction:column}
.tile span,.tile small{color:var(--muted);font-size:.85rem}
.tile strong{font-size:1.55rem;font-weight:600;line-height:1.35;font-variant-numeric:tabular-nums}
.pictures{display:flex;flex-wrap:wrap;gap:1.2rem;align-items:flex-start}
figure{margin:.6rem 0;min-width:0;max-width:100%}
figure img{display:block;max-width:100%;height:auto}
figcaption,caption{color:var(--muted);font-size:.88rem;text-align:left}
figcaption{max-width:40rem;margin-top:.3rem}
caption{padding-bottom:.35rem}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;margin:.9rem 0;font-size:.93rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .75rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap;font-weight:400}
thead th{font-weight:600}
.number{text-align:right}
summary{cursor:pointer;color:var(--accent);margin:.5rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;font-size:.9rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:34rem){body{padding:1rem .9rem 2rem}th,td{padding:.28rem .38rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
"""
