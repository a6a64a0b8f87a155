"""Which pictures a report has, and what stands below them; how they are drawn is in `figures/`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ser_cli.evaluation.breakdown import Breakdown
from ser_cli.evaluation.pages import Picture
from ser_cli.figures.attention import draw_attention
from ser_cli.figures.calibration import draw_reliability
from ser_cli.figures.curves import History, draw_learning_curves
from ser_cli.figures.differences import draw_differences
from ser_cli.figures.embedding import MOST_POINTS, draw_embeddings, embed_in_two_dimensions
from ser_cli.figures.matrices import draw_confusion
from ser_cli.figures.rates import MOST_ROWS, Rate, draw_rates, gender_color
from ser_cli.figures.style import as_png, as_svg, as_themed_svg
from ser_cli.metrics import CALIBRATION_BINS
from ser_cli.runs.embeddings import FoldEmbeddings, FrameAttention
from ser_cli.runs.predictions import Prediction


def confusion_pictures(breakdown: Breakdown) -> tuple[Picture, ...]:
    """Shares and counts."""
    told = {
        True: ("confusion-normalized", "Share of each emotion's clips; the diagonal is its recall."),
        False: ("confusion-counts", "Clips, all folds together; coloured by the share of the row."),
    }
    return tuple(
        _render(*told[normalized], draw_confusion(breakdown.confusion, breakdown.labels, normalized=normalized))
        for normalized in (True, False)
    )


def recall_picture(breakdown: Breakdown) -> Picture:
    """The recall of each emotion with its interval."""
    rates = [
        Rate(
            name=entry.label,
            rate=entry.recall,
            low=entry.interval.low if entry.interval else None,
            high=entry.interval.high if entry.interval else None,
            note=f"{entry.n:,} clips",
        )
        for entry in breakdown.recall
        if entry.recall is not None
    ]
    ua = breakdown.pooled.ua
    figure = draw_rates(rates, "Recall of each emotion, %", mean=ua, mean_name=f"UA {100 * ua:.1f}")
    return _render("recall", f"Bars: {breakdown.intervals.sentence}.", figure)


def speaker_picture(breakdown: Breakdown) -> Picture:
    """UA of each speaker."""
    speakers = breakdown.speakers
    rates = [Rate(s.name, s.ua, color=gender_color(s.gender), note=f"{s.n:,} clips") for s in speakers]
    genders = sorted({speaker.gender for speaker in speakers} - {""})
    figure = draw_rates(
        rates,
        "UA of each speaker, %",
        mean=float(np.mean([rate.rate for rate in rates])),
        mean_name="mean over speakers",
        legend=[(gender, gender_color(gender)) for gender in genders],
    )
    fewer = f" The {MOST_ROWS // 2} lowest and the {MOST_ROWS // 2} highest." if len(rates) > MOST_ROWS else ""
    return _render("speakers", f"Over the emotions that each speaker shows.{fewer}", figure)


def gender_picture(breakdown: Breakdown) -> Picture:
    """UA of each gender."""
    rates = [Rate(g.name, g.ua, color=gender_color(g.name), note=f"{g.speakers:,} speakers") for g in breakdown.genders]
    return _render("genders", "All clips of each gender together.", draw_rates(rates, "UA by gender, %"))


def reliability_picture(breakdown: Breakdown) -> Picture:
    """Accuracy over confidence."""
    caption = (
        f"Clips in {CALIBRATION_BINS} intervals of equal width by the probability of the predicted emotion; on the"
        f" dashed line a model is right as often as it says. ECE is the mean distance, weighted by clips."
    )
    return _render("reliability", caption, draw_reliability(breakdown.calibration))


def history_picture(histories: Mapping[int, History], chosen: Mapping[int, int]) -> Picture:
    """Learning curves."""
    caption = "Each loss before it is weighted, mean over the steps of an epoch; steep ones on a logarithmic scale."
    return _render("learning-curves", caption, draw_learning_curves(histories, chosen))


def embedding_picture(found: FoldEmbeddings, labels: Sequence[str], fold: int, seed: int = 0) -> Picture:
    """The map of one fold's embeddings."""
    chosen = np.arange(len(found.ids))
    if len(chosen) > MOST_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), MOST_POINTS, replace=False))
    points = embed_in_two_dimensions(found.embedding[chosen], seed)
    figure = draw_embeddings(points, [found.sides[i] for i in chosen], [found.emotions[i] for i in chosen], labels)
    drawn = f", {MOST_POINTS:,} of {len(found.ids):,} clips drawn at random" if len(chosen) < len(found.ids) else ""
    caption = (
        f"Fold {fold}: one t-SNE map of training and test{drawn}, so that places mean the same on both sides. "
        f"Distances between far groups mean nothing."
    )
    return _render("embeddings", caption, figure)


def attention_picture(
    number: int, prediction: Prediction, found: FrameAttention, waveform: NDArray[np.float32] | None
) -> Picture:
    """The frame attention of one clip."""
    right = "rightly" if prediction.predicted == prediction.truth else f"wrongly, it is {prediction.truth}"
    confidence = 100 * max(prediction.probabilities)
    title = f"{prediction.id}: {prediction.predicted} at {confidence:.0f} %, {right}"
    below = "" if waveform is not None else " The prepared corpus is not at hand, so the waveform is missing."
    caption = (
        f"{prediction.id}: share of each frame in the embedding over the waveform; dashed, what every frame would"
        f" have if all had the same.{below}"
    )
    figure = draw_attention(found.times_s, found.share, title, found.duration_s, waveform)
    return _render(f"attention-{number}", caption, figure)


def difference_picture(
    names: tuple[str, str], folds: Sequence[tuple[int, float, float]], pooled: tuple[float, float]
) -> Picture:
    """UA of two runs, fold by fold."""
    caption = "UA of each fold; the last row is all clips together."
    return _render("differences", caption, draw_differences(names, folds, pooled))


def _render(name: str, caption: str, figure: Figure) -> Picture:
    svg = as_svg(figure)
    return Picture(name, caption, svg, as_png(figure), as_themed_svg(svg))
