"""Learning curves, each loss apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ser_cli.figures.style import ACCENT, CONTRAST, MUTED, new_figure, percent_axis, plain, styled

History = Mapping[str, Sequence[float | None]]
"""Columns of a fold's history, one value per epoch."""

SELECTION_TITLES = {"selection_ua": "UA on the choosing side, %", "selection_wa": "WA on the choosing side, %"}
_WIDE = 30
"""A loss that falls by more than this factor is drawn on a logarithmic scale."""

_NO_LOSS = {"epoch", "learning_rate", "is_best", "seconds", "waiting_share", "clips_per_s"}


def loss_columns(history: History) -> list[str]:
    """The losses that a history has, their weighted sum first."""
    return [name for name in history if name not in _NO_LOSS and not name.startswith("selection_")]


def draw_learning_curves(histories: Mapping[int, History], chosen: Mapping[int, int]) -> Figure:
    """A panel for the weighted sum, one for each loss, and one for the score that chooses the epoch.

    Args:
        histories: of each fold, by its index; a fold that went on with other losses may lack some.
        chosen: the tested epoch of each fold.
    """
    panels = [
        (name, name) for name in dict.fromkeys(name for each in histories.values() for name in loss_columns(each))
    ]
    panels += [
        (name, title)
        for name, title in SELECTION_TITLES.items()
        if any(value is not None for each in histories.values() for value in each.get(name, ()))
    ][:1]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with styled():
        figure = new_figure(2.9 * columns, 2.35 * rows + 0.4)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, (name, title) in zip(grid.flat, panels, strict=False):
            values = {index: each[name] for index, each in histories.items() if _has_values(each.get(name, ()))}
            _draw_panel(axes, name, values, chosen)
            axes.set_title("weighted sum" if name == "total" else plain(title, most=30))
            if name.startswith("selection_"):
                percent_axis(axes, "y")
        for position, axes in enumerate(grid.flat):
            if position >= len(panels):
                axes.set_visible(False)
            elif position + columns >= len(panels):
                axes.set_xlabel("epoch")
                axes.tick_params(labelbottom=True)
        handles = [Line2D([], [], color=MUTED, alpha=0.6, linewidth=1, label="each fold")]
        if len(histories) > 1:
            handles.append(Line2D([], [], color=ACCENT, label="mean over folds"))
        handles.append(Line2D([], [], color=CONTRAST, marker="o", markersize=5, linestyle="", label="tested epoch"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _draw_panel(axes: Axes, name: str, values: Mapping[int, Sequence[float | None]], chosen: Mapping[int, int]) -> None:
    for index, column in values.items():
        curve = _as_numbers(column)
        axes.plot(np.arange(1, len(curve) + 1), curve, color=MUTED, alpha=0.6, linewidth=0.9)
        epoch = chosen.get(index, 0)
        if 1 <= epoch <= len(curve):
            axes.plot(epoch, curve[epoch - 1], "o", color=CONTRAST, markersize=4, zorder=4)
    if len(values) > 1:
        shortest = min(len(column) for column in values.values())
        mean = np.mean([_as_numbers(column)[:shortest] for column in values.values()], axis=0)
        axes.plot(np.arange(1, shortest + 1), mean, color=ACCENT, zorder=3)
    lowest = min(np.nanmin(_as_numbers(column)) for column in values.values())
    highest = max(np.nanmax(_as_numbers(column)) for column in values.values())
    if not name.startswith("selection_") and lowest > 0 and highest > _WIDE * lowest:
        axes.set_yscale("log")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)


def _has_values(column: Sequence[float | None]) -> bool:
    return any(value is not None for value in column)


def _as_numbers(column: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in column])
