"""One look for all pictures: colours that colour-blind people tell apart, readable at the width of a column."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ser_cli.console import visible

INK = "#24292e"
MUTED = "#6a737c"
GRID = "#dfe3e7"
PAPER = "#fdfdfe"
"""The four colours that a dark page exchanges; see `as_themed_svg`."""

ACCENT = "#0072b2"
CONTRAST = "#d55e00"
GENDER_COLORS = {"female": "#cc79a7", "male": "#0072b2", "": "#6a737d"}

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#e6d72a", "#6b6b6b")
"""After Okabe and Ito (2008): their black is a grey and their yellow darker here, to be seen on either background."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

DARK = {INK: "#e6e9ec", MUTED: "#a0a8b0", GRID: "#3a4047", PAPER: "#1b1e22"}

_SETTINGS: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text: small files, searchable, and any script that the reader's fonts have
    "svg.hashsalt": "ser",  # the same data gives the same bytes
}


@contextmanager
def styled() -> Iterator[None]:
    """Within this, figures are made and saved in the common look; the caller's own settings stay as they were."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A PNG has only the glyphs of the built-in font; the SVG shows the name all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that keeps its labels inside."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(text: str, most: int = 24) -> str:
    """Text from a user for a picture: no formula is read from it, and a long name is shortened."""
    text = " ".join(visible(text).split())
    shortened = text if len(text) <= most else text[: most - 1] + "…"
    return shortened.replace("$", r"\$")


def colors_for(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, repeated where there are more names than colours."""
    return dict(zip(names, islice(cycle(PALETTE), len(names)), strict=True))


def markers_for(names: Sequence[str]) -> dict[str, str]:
    """A marker for each name, so that colour is never the only difference."""
    return dict(zip(names, islice(cycle(MARKERS), len(names)), strict=True))


def percent_axis(axes: Axes, which: str) -> None:
    """Show rates in [0, 1] from 0 to 100 %."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")


def as_svg(figure: Figure) -> bytes:
    """The figure as an SVG file."""
    with styled():
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def as_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as a PNG file."""
    with styled():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return file.getvalue()


def as_themed_svg(svg: bytes) -> bytes:
    """The same SVG with its neutral colours taken from the reader's light or dark theme."""
    text = svg.decode()
    names = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
    text = re.sub("|".join(names), lambda match: f"var({names[match[0]]})", text)
    light = ";".join(f"{names[color]}:{color}" for color in names)
    dark = ";".join(f"{names[color]}:{DARK[color]}" for color in names)
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda match: match[1] + style, text, count=1).encode()
