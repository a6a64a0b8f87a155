"""The tables, tiles and sections that any scored set of predictions has in a report."""

from ser_cli.evaluation.breakdown import Breakdown
from ser_cli.evaluation.intervals import Interval
from ser_cli.evaluation.pages import Section, Tile
from ser_cli.evaluation.scores import RATES, FoldedScores, RunScores
from ser_cli.evaluation.tables import Column, Table, Value, rate_columns, signed_points
from ser_cli.evaluation.tasks import NOTE

_CLIPS = Column("n", "clips", "count")

_BOUNDS = (Column("low", "from %"), Column("high", "to %"))


def confusion_rows(scores: RunScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the pooled confusion matrix: counts, truth by row."""
    labels = scores.identity.labels
    rows = [(label, *(str(n) for n in row)) for label, row in zip(labels, scores.confusion, strict=True)]
    return ("truth \\ predicted", *labels), rows


def scores_table(scores: FoldedScores) -> Table:
    """One row per fold, then mean, standard deviation and pooled."""
    rows: list[tuple[str | int | float | None, ...]] = [
        (str(index), s.n, s.wa, s.ua, s.macro_f1) for index, s in scores.folds
    ]
    rows.append(("mean", None, *(scores.mean[rate] for rate in RATES)))
    if scores.std is not None:
        rows.append(("std", None, *(scores.std[rate] for rate in RATES)))
    pooled = scores.pooled
    rows.append(("pooled", pooled.n, pooled.wa, pooled.ua, pooled.macro_f1))
    title = "Scores; std is the sample standard deviation over folds"
    return Table("scores", title, (Column("fold", "fold", "text"), _CLIPS, *rate_columns()), tuple(rows))


def intervals_table(breakdown: Breakdown) -> Table:
    """The pooled rates, each with its interval."""
    pooled, intervals = breakdown.pooled, breakdown.intervals
    rows = tuple(
        (name, getattr(pooled, key), getattr(intervals, key).low, getattr(intervals, key).high)
        for key, name in (("wa", "WA"), ("ua", "UA"), ("macro_f1", "macro F1"))
    )
    columns = (Column("score", "score", "text"), Column("value", "pooled %"), *_BOUNDS)
    return Table("intervals", "95 % confidence intervals of the pooled scores", columns, rows)


def task_sections(scores: RunScores) -> list[Section]:
    """The tasks beside emotion; none where nothing else was to be learnt."""
    if scores.tasks is None:
        return []
    left_out = "".join(f" Left out: {sentence}." for sentence in scores.tasks.left_out)
    said = f"{scores.tasks.sentence()}. {NOTE}{left_out}"
    return [Section("Tasks beside emotion", said[0].upper() + said[1:], (), (scores.tasks.table(),))]


def breakdown_sections(breakdown: Breakdown, *, pictures: bool) -> list[Section]:
    """What any set of predictions has to show."""
    if pictures:
        from ser_cli.evaluation import pictures as drawn
    confusion = drawn.confusion_pictures(breakdown) if pictures else ()
    recall = (drawn.recall_picture(breakdown),) if pictures else ()
    speakers = (drawn.speaker_picture(breakdown),) if pictures and breakdown.speakers else ()
    genders = (drawn.gender_picture(breakdown),) if pictures and breakdown.genders else ()
    reliability = (drawn.reliability_picture(breakdown),) if pictures else ()
    sections = [
        Section(
            "Confusion", "Truth by row, prediction by column.", confusion, (_confusion(breakdown),), folded=pictures
        ),
        Section("Emotions", "", recall, (_recall(breakdown),), folded=pictures),
    ]
    if named := [name for name in ("speakers", "genders") if getattr(breakdown, name)]:
        tables = tuple(_groups(breakdown, name) for name in named)
        sections.append(Section(" and ".join(named).capitalize(), "", speakers + genders, tables, folded=pictures))
    ece = f"Expected calibration error {100 * breakdown.calibration.ece:.1f} %."
    sections.append(Section("Confidence", ece, reliability, (_calibration(breakdown),), folded=pictures))
    return sections


def difference_tile(name: str, value: float, bounds: Interval) -> Tile:
    """A difference of rates with its interval, in percentage points."""
    return Tile(name, signed_points(value), f"95 %: {signed_points(bounds.low)} to {signed_points(bounds.high)}")


def score_tiles(breakdown: Breakdown) -> tuple[Tile, ...]:
    """The figures at the top of the page."""
    pooled, intervals = breakdown.pooled, breakdown.intervals
    rows = (("WA", pooled.wa, intervals.wa), ("UA", pooled.ua, intervals.ua), ("macro F1", pooled.macro_f1,
            intervals.macro_f1))  # fmt: skip
    tiles = [
        Tile(name, f"{100 * rate:.1f} %", f"95 %: {100 * bounds.low:.1f} to {100 * bounds.high:.1f}")
        for name, rate, bounds in rows
    ]
    speakers = f"{len(breakdown.speakers):,} speakers" if breakdown.speakers else "speakers not known"
    tiles.append(Tile("clips", f"{pooled.n:,}", speakers))
    tiles.append(Tile("calibration error", f"{100 * breakdown.calibration.ece:.1f} %", "expected (ECE)"))
    return tuple(tiles)


def _recall(breakdown: Breakdown) -> Table:
    rows = tuple(
        (r.label, r.n, r.recall, r.interval.low if r.interval else None, r.interval.high if r.interval else None)
        for r in breakdown.recall
    )
    columns = (Column("label", "emotion", "text"), _CLIPS, Column("recall", "recall %"), *_BOUNDS)
    return Table("recall", "Recall of each emotion with its 95 % interval", columns, rows)


def _confusion(breakdown: Breakdown) -> Table:
    columns = (Column("truth", "truth", "text"), *(Column(label, label, "count") for label in breakdown.labels))
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (label, *row) for label, row in zip(breakdown.labels, breakdown.confusion, strict=True)
    )
    return Table("confusion", "Confusion, counts over all folds", columns, rows)


def _groups(breakdown: Breakdown, which: str) -> Table:
    if which == "speakers":
        columns = (Column("speaker", "speaker", "text"), Column("gender", "gender", "text"), _CLIPS, *rate_columns())
        rows: tuple[tuple[Value, ...], ...] = tuple(
            (g.name, g.gender, g.n, g.wa, g.ua, g.macro_f1) for g in breakdown.speakers
        )
        return Table(which, "Scores of each speaker", columns, rows)
    columns = (Column("gender", "gender", "text"), Column("speakers", "speakers", "count"), _CLIPS, *rate_columns())
    rows = tuple((g.name, g.speakers, g.n, g.wa, g.ua, g.macro_f1) for g in breakdown.genders)
    return Table(which, "Scores of each gender", columns, rows)


def _calibration(breakdown: Breakdown) -> Table:
    columns = (Column("low", "above %"), Column("high", "up to %"), _CLIPS, Column("confidence", "confidence %"),
               Column("accuracy", "accuracy %"))  # fmt: skip
    rows = tuple((b.low, b.high, b.n, b.confidence, b.accuracy) for b in breakdown.calibration.bins)
    return Table("calibration", "Confidence and accuracy", columns, rows)
