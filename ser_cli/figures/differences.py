"""Two runs on the same folds."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ser_cli.figures.style import ACCENT, CONTRAST, GRID, new_figure, percent_axis, plain, styled


def draw_differences(
    names: tuple[str, str], folds: Sequence[tuple[int, float, float]], pooled: tuple[float, float]
) -> Figure:
    """Rates of two runs as joined dots, a row per fold and one for all clips.

    Args:
        names: of the runs.
        folds: index, and the rate of each run in [0, 1].
        pooled: the rate of each run over all clips.
    """
    rows = [(f"fold {index}", first, second) for index, first, second in folds] + [("pooled", *pooled)]
    values = [value for _, first, second in rows for value in (first, second)]
    with styled():
        figure = new_figure(5.6, 1.3 + 0.3 * len(rows))
        axes = figure.add_subplot()
        for row, (_, first, second) in enumerate(rows):
            axes.plot([first, second], [row, row], color=GRID, linewidth=4, zorder=1, solid_capstyle="butt")
            axes.plot(first, row, "o", color=ACCENT, markersize=7, zorder=3)
            axes.plot(second, row, "D", color=CONTRAST, markersize=6, zorder=2)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05))
        percent_axis(axes, "x")
        axes.set_xlabel("%")
        axes.set_title("UA")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", label=plain(name, most=60))
            for name, color, marker in zip(names, (ACCENT, CONTRAST), "oD", strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center")
    return figure
