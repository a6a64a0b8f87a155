"""Rates of labels, speakers and genders as dots on a common scale, with their intervals where they have one."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ser_cli.figures.style import ACCENT, GENDER_COLORS, MUTED, new_figure, percent_axis, plain, styled

MOST_ROWS = 60
"""Of one picture; a corpus with a thousand speakers shows the lowest and the highest."""


@dataclass(frozen=True)
class Rate:
    """One row of the picture."""

    name: str
    rate: float
    low: float | None = None
    """Of its confidence interval."""
    high: float | None = None
    color: str = ACCENT
    note: str = ""
    """Written at the right end, such as the number of clips."""


def draw_rates(
    rates: Sequence[Rate],
    title: str,
    *,
    mean: float | None = None,
    mean_name: str = "",
    legend: Sequence[tuple[str, str]] = (),
) -> Figure:
    """Rows of rates in [0, 1], the first on top.

    Args:
        rates: at least one.
        title: says what is shown, with its unit.
        mean: drawn as a line through all rows.
        mean_name: what that line is called.
        legend: name and colour of each kind of row.
    """
    shown = _fewer(rates)
    with styled():
        figure = new_figure(
            5.4, 1.25 + (0.26 if len(shown) < 15 else 0.21) * len(shown) + (0.25 if legend or mean_name else 0)
        )
        axes = figure.add_subplot()
        for row, rate in enumerate(shown):
            if rate.low is not None and rate.high is not None:
                axes.plot([rate.low, rate.high], [row, row], color=rate.color, alpha=0.55, linewidth=3.2, zorder=2,
                          solid_capstyle="butt")  # fmt: skip
            axes.plot(rate.rate, row, "o", color=rate.color, markersize=6, zorder=3)
            axes.text(
                1.02, row, rate.note, va="center", fontsize=8.5, color=MUTED, transform=axes.get_yaxis_transform()
            )
        if mean is not None:
            axes.axvline(mean, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.set_yticks(range(len(shown)), [plain(rate.name) for rate in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-0.01, 1.01)
        percent_axis(axes, "x")
        axes.set_xlabel("%")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(title, pad=8)
        handles = [Line2D([], [], color=color, marker="o", linestyle="", label=plain(name)) for name, color in legend]
        if mean is not None:
            handles.append(Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=mean_name))
        if handles:
            figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    return figure


def gender_color(gender: str) -> str:
    """The colour of a gender; grey for one that is not known."""
    return GENDER_COLORS.get(gender, GENDER_COLORS[""])


def _fewer(rates: Sequence[Rate]) -> Sequence[Rate]:
    if len(rates) <= MOST_ROWS:
        return rates
    ordered = sorted(rates, key=lambda rate: rate.rate)
    return [*ordered[: MOST_ROWS // 2], *ordered[-MOST_ROWS // 2 :]]
