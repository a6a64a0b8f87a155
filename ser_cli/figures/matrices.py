"""Confusion matrices."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ser_cli.figures.style import PAPER, new_figure, plain, styled

_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.04, 0.95, 256)))
_ON_LIGHT, _ON_DARK = "#12161a", "#ffffff"


def draw_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], *, normalized: bool) -> Figure:
    """A confusion matrix with a figure in every cell.

    Args:
        confusion: (labels, labels) counts, truth by row.
        labels: names of rows and columns.
        normalized: show each row's shares in per cent, so that its diagonal is the recall; else the counts.
    """
    counts = np.asarray(confusion, dtype=float)
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
    shown = 100 * shares if normalized else counts
    size = max(3.6, 1.3 + 0.49 * len(labels))
    with styled():
        figure = new_figure(size, size)
        axes = figure.add_subplot()
        # Both pictures are coloured by share: a class with more clips is not a better one.
        axes.pcolormesh(shares, cmap=_BLUES, vmin=0, vmax=1, edgecolors=PAPER, linewidth=1.5)
        for row, column in np.ndindex(counts.shape):
            value = shown[row, column]
            axes.text(
                column + 0.5,
                row + 0.5,
                "·" if counts[row, column] == 0 else f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=10 if value < 1000 else 8,
                color=_ON_DARK if shares[row, column] > 0.55 else _ON_LIGHT,
            )
        ticks = np.arange(len(labels)) + 0.5
        names = [plain(label) for label in labels]
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
        axes.set_title("Share of each row, %" if normalized else "Clips")
    return figure
