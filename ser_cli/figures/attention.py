"""Frame attention over a waveform."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ser_cli.figures.style import ACCENT, CONTRAST, MUTED, new_figure, plain, styled

_COLUMNS = 1200
"""Of the drawn waveform: its smallest and largest value in each."""


def draw_attention(
    times_s: NDArray[np.float32],
    attention: NDArray[np.float32],
    title: str,
    duration_s: float,
    waveform: NDArray[np.float32] | None = None,
    sample_rate: int = 16_000,
) -> Figure:
    """The share of each frame in the embedding, over the waveform where it is at hand.

    Args:
        times_s: (frames,) middle of each frame in seconds.
        attention: (frames,) weights that sum to 1.
        title: says which clip, what it is and what was predicted.
        duration_s: of the clip; silence at its ends may have no frames.
        waveform: (samples,) at `sample_rate`; None draws the attention alone.
        sample_rate: in hertz.
    """
    times = np.asarray(times_s, dtype=float)
    with styled():
        figure = new_figure(8.4, 2.5)
        axes = figure.add_subplot()
        if waveform is not None:
            peak = float(np.abs(waveform).max()) or 1.0
            clock, low, high = _envelope(waveform / peak, sample_rate)
            axes.fill_between(clock, low, high, color=MUTED, alpha=0.45, linewidth=0)
        axes.set(ylim=(-1.05, 1.05), yticks=[], xlabel="s")
        axes.set_xlim(0, duration_s)
        weights = axes.twinx()
        weights.fill_between(times, 0, 100 * attention, step="mid", color=CONTRAST, alpha=0.22, linewidth=0)
        weights.plot(times, 100 * attention, color=CONTRAST, drawstyle="steps-mid", linewidth=1.4)
        weights.axhline(100 / len(times), color=ACCENT, linewidth=1, linestyle=(0, (4, 3)))
        weights.set_ylim(0, 1.1 * max(100 * float(attention.max()), 200 / len(times)))
        weights.set_ylabel("share of a frame, %")
        weights.spines["right"].set_visible(True)
        axes.set_title(plain(title, most=110))
    return figure


def _envelope(
    waveform: NDArray[np.float32], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Time, smallest and largest value of each drawn column."""
    columns = min(_COLUMNS, len(waveform))
    starts = np.linspace(0, len(waveform), columns, endpoint=False).astype(int)
    return starts / sample_rate, np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
