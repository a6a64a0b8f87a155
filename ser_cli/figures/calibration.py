"""The reliability diagram."""

from matplotlib.figure import Figure

from ser_cli.figures.style import ACCENT, CONTRAST, MUTED, new_figure, percent_axis, styled
from ser_cli.metrics import Calibration


def draw_reliability(calibration: Calibration) -> Figure:
    """Accuracy over confidence: on the diagonal, a model that is right as often as it says.

    The bars below show how many clips each of the intervals of confidence has.
    """
    filled = [interval for interval in calibration.bins if interval.n]
    width = 1 / len(calibration.bins)
    clips = sum(interval.n for interval in filled)
    with styled():
        figure = new_figure(4.6, 5.0)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for interval in filled:
            assert interval.confidence is not None and interval.accuracy is not None
            upper.plot(
                [interval.confidence] * 2,
                [interval.confidence, interval.accuracy],
                color=CONTRAST,
                linewidth=5,
                alpha=0.35,
                solid_capstyle="butt",
            )
        upper.plot(
            [interval.confidence for interval in filled],
            [interval.accuracy for interval in filled],
            color=ACCENT,
            marker="o",
            markersize=5,
        )
        upper.text(0.03, 0.95, f"ECE {100 * calibration.ece:.1f} %", transform=upper.transAxes, va="top")
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy, %", title="Reliability")
        upper.grid()
        lower.bar(
            [(interval.low + interval.high) / 2 for interval in calibration.bins],
            [interval.n / clips for interval in calibration.bins],
            width=0.86 * width,
            color=ACCENT,
            alpha=0.7,
        )
        lower.set(xlabel="confidence, %", ylabel="clips, %")
        lower.grid(axis="y")
        for axes, which in ((upper, "x"), (upper, "y"), (lower, "x"), (lower, "y")):
            percent_axis(axes, which)
        figure.align_ylabels()
    return figure
