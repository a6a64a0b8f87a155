"""Tables, once as data, and as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ser_cli.console import visible

Value = str | int | float | None
Kind = Literal["text", "count", "rate", "difference"]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    """Its name in CSV files."""
    title: str
    """Its name for people."""
    kind: Kind = "rate"
    """A `rate` in [0, 1] is shown to people in per cent, a `difference` of rates with its sign."""

    @property
    def is_number(self) -> bool:
        """Whether its cells stand to the right."""
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """A table that can be written down in several ways."""

    name: str
    """Of its files, without their ending."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    @property
    def has_rates(self) -> bool:
        """Whether it tells how well something was recognised."""
        return any(column.kind in ("rate", "difference") for column in self.columns)

    def cells(self) -> list[tuple[str, ...]]:
        """What people see of each row."""
        return [tuple(_shown(v, c) for v, c in zip(row, self.columns, strict=True)) for row in self.rows]

    def plain(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows with the same digits for a program: minus as ASCII, thousands not separated."""
        rows = [
            tuple(
                cell.replace("−", "-").replace(",", "") if column.is_number else cell
                for cell, column in zip(cells, self.columns, strict=True)
            )
            for cells in self.cells()
        ]
        return tuple(column.title for column in self.columns), rows


def as_markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""
    rule = ["---:" if column.is_number else "---" for column in table.columns]
    lines = [[escape_markdown(column.title) for column in table.columns], rule]
    lines += [[escape_markdown(cell) for cell in row] for row in table.cells()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_latex(table: Table) -> str:
    r"""A `tabular` with the rules of the package booktabs, to be \input into a paper."""
    lines = [
        f"% {_one_line(table.title)}; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in table.columns)}}}",
        "\\toprule",
        " & ".join(escape_latex(column.title) for column in table.columns) + " \\\\",
        "\\midrule",
        *(" & ".join(escape_latex(cell) for cell in row) + " \\\\" for row in table.cells()),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """Comma-separated values in full precision, rates in [0, 1].

    Text stands as it is, even where a spreadsheet would take it for a formula: programs find the same ids again.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    writer.writerows([["" if value is None else value for value in row] for row in table.rows])
    return text.getvalue()


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, inside a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", _one_line(text))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"−": "$-$", "✓": r"$\surd$"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _shown(value: Value, column: Column) -> str:
    if value is None:
        return ""
    if column.kind == "text":
        return str(value)
    if column.kind == "count":
        return f"{value:,}"
    return signed_points(float(value)) if column.kind == "difference" else f"{100 * float(value):.1f}".replace("-", "−")


def signed_points(difference: float) -> str:
    """A difference of two rates in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def rate_columns(keys: Sequence[str] = ("wa", "ua", "macro_f1")) -> tuple[Column, ...]:
    """The columns of the three figures of the field."""
    return tuple(Column(key, RATE_TITLES[key]) for key in keys)


RATE_TITLES = {"wa": "WA %", "ua": "UA %", "macro_f1": "macro F1 %"}
