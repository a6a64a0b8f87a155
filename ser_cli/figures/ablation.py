"""The cells of a grid: their rates and their differences to one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ser_cli.figures.style import ACCENT, CONTRAST, MUTED, new_figure, plain, styled


@dataclass(frozen=True)
class Row:
    """One cell; all rates in [0, 1]."""

    name: str
    values: Sequence[float]
    """Of each fold and seed; none where the cell was not run."""
    mean: float | None
    paper: float | None
    difference: tuple[float, float, float] | None
    """To the reference, and its interval; None for the reference itself, and where nothing is known."""


def draw_ablation(rows: Sequence[Row], rate: str, reference: str) -> Figure:
    """Two panels with a row per cell: the rate of folds, mean and paper; the difference to the reference."""
    with styled():
        figure = new_figure(7.4, 1.5 + 0.34 * len(rows))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for row, cell in enumerate(rows):
            left.plot(cell.values, [row] * len(cell.values), "o", color=ACCENT, markersize=3.5, alpha=0.35)
            if cell.mean is not None:
                left.plot(cell.mean, row, "o", color=ACCENT, markersize=8)
            if cell.paper is not None:
                left.plot(cell.paper, row, "D", color=CONTRAST, markersize=6, fillstyle="none")
            if cell.difference is not None:
                value, low, high = cell.difference
                right.plot([low, high], [row, row], color=ACCENT, linewidth=2)
                right.plot(value, row, "o", color=ACCENT, markersize=6)
        right.axvline(0, color=MUTED, linewidth=1, linestyle="--")
        left.set_yticks(range(len(rows)), [plain(cell.name, most=32) for cell in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)
        _finish(left, f"{rate}, %")
        _finish(right, f"over {plain(reference)}, points")
        shapes = [("fold", ACCENT, "o", 3.5, "full"), ("mean", ACCENT, "o", 8, "full")]
        if any(cell.paper is not None for cell in rows):
            shapes.append(("paper", CONTRAST, "D", 6, "none"))
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markersize=size, fillstyle=fill, label=name)  # type: ignore[arg-type]
            for name, color, marker, size, fill in shapes
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.1f}".removesuffix(".0"))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
