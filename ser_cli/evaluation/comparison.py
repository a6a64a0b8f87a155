"""Two runs on the same folds: how far apart they are, and whether that could be chance."""

from dataclasses import dataclass
from typing import Any

from ser_cli.errors import count_of
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES, Resampled
from ser_cli.evaluation.normalization import CAPTION
from ser_cli.evaluation.pages import Picture, Report, Section, Tile
from ser_cli.evaluation.paired import PairedDifference, folds_won, paired_differences
from ser_cli.evaluation.same_folds import (
    names_of,
    origin_sentences,
    origin_warnings,
    people_of_all,
    predictions_of_all,
    runs_as_json,
)
from ser_cli.evaluation.scores import RunScores, evaluate_run
from ser_cli.evaluation.sections import difference_tile
from ser_cli.evaluation.sentences import few_speakers, labels_sentences, missing_folds_warning, too_few
from ser_cli.evaluation.tables import Column, Table
from ser_cli.runs.directory import Run

COMPARED = ("wa", "ua")
TITLES = {"wa": "WA", "ua": "UA"}


@dataclass(frozen=True)
class Difference(PairedDifference):
    """What the second run has more than the first."""

    folds_won: tuple[int, int, int]
    """Folds in which the first run is ahead, the second, and neither."""


@dataclass(frozen=True)
class Comparison:
    """Two runs, the second held against the first."""

    names: tuple[str, str]
    scores: tuple[RunScores, RunScores]
    differences: dict[str, Difference]
    """By rate: `wa` and `ua`."""
    drawn: Resampled
    only_first: int
    """Clips that the first run alone recognises."""
    only_second: int
    p_mcnemar: float
    """Two-sided, exact."""

    def as_json(self) -> dict[str, Any]:
        """What `ser evaluate RUN_A RUN_B --json` prints; rates in [0, 1]."""
        first, second = self.scores
        return {
            **runs_as_json(self.names, self.scores),
            "missing_folds": first.missing_folds,
            "folds": [
                {"fold": index, **{rate: [getattr(a, rate), getattr(b, rate)] for rate in COMPARED}}
                for (index, a), (_, b) in zip(first.folds, second.folds, strict=True)
            ],
            "difference": {
                rate: {
                    "value": found.value,
                    "low": found.interval.low,
                    "high": found.interval.high,
                    "folds_won": dict(zip(("first", "second", "tied"), found.folds_won, strict=True)),
                }
                for rate, found in self.differences.items()
            },
            "bootstrap": {
                "level": LEVEL, "method": "paired percentile bootstrap", "resamples": RESAMPLES,
                "resampled": self.drawn.kind, "units": self.drawn.units,
            },
            "mcnemar": {"only_first": self.only_first, "only_second": self.only_second, "p": self.p_mcnemar},
        }  # fmt: skip


def compare_runs(first: Run, second: Run, *, seed: int = 0) -> Comparison:
    """Hold a second run against a first, on the same clips of the same folds.

    Difference of the pooled WA and UA with the 95 % percentile interval of a paired bootstrap (both runs see the
    same draw of speakers, or of clips where speakers are not known), and McNemar's exact test: of the clips that
    one run alone recognises, b and c, p = 2 P(X <= min(b, c)) for X ~ Binomial(b + c, 1/2), at most 1.

    Raises:
        RunError: protocol, labels, folds, tested clips or their emotions differ.
    """
    predicted = predictions_of_all((first, second), "compared")
    name, other_name = names_of((first, second))
    scores = (evaluate_run(first), evaluate_run(second))
    people = people_of_all((first, second))
    speakers = {p.id: people[p.id].speaker for p in predicted[0] if p.id in people}
    labels = scores[0].identity.labels
    found, units = paired_differences(predicted[:1], predicted[1:], labels, speakers, COMPARED, seed=seed)
    differences = {
        rate: Difference(
            of_rate.value,
            of_rate.interval,
            folds_won(
                [
                    (getattr(a, rate), getattr(b, rate))
                    for (_, a), (_, b) in zip(scores[0].folds, scores[1].folds, strict=True)
                ]
            ),
        )
        for rate, of_rate in found.items()
    }
    only_first, only_second = (
        sum(a.predicted == a.truth != b.predicted for a, b in zip(*pair, strict=True))
        for pair in (predicted, predicted[::-1])
    )
    return Comparison(
        names=(name, other_name),
        scores=scores,
        differences=differences,
        drawn=units.resampled,
        only_first=only_first,
        only_second=only_second,
        p_mcnemar=mcnemar_exact(only_first, only_second),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test; 1 where the runs never differ."""
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def comparison_sentences(found: Comparison) -> list[str]:
    """What the figures mean."""
    sentences = []
    for rate, difference in found.differences.items():
        low, high = difference.interval.low, difference.interval.high
        ahead = found.names[1] if difference.value > 0 else found.names[0]
        if low <= 0 <= high:
            sentences.append(f"{TITLES[rate]}: the interval holds 0, so the difference may well be chance.")
        elif found.drawn.are_few:
            sentences.append(
                f"{TITLES[rate]}: the interval does not hold 0, but {too_few(found.drawn)} to tell whether {ahead}"
                " is ahead."
            )
        else:
            sentences.append(f"{TITLES[rate]}: {ahead} is ahead, and the interval does not hold 0.")
    sentences.append(
        f"McNemar's exact test: {count_of(found.only_first, 'clip')} recognised by {found.names[0]} alone,"
        f" {found.only_second:,} by {found.names[1]} alone; p = {_p(found.p_mcnemar)}."
        f" It takes clips as independent; those of one speaker are not, so trust the interval more."
    )
    first, second = (scores.normalization for scores in found.scores)
    if first.by == second.by:
        sentences += first.sentences()
    sentences.append(f"Intervals: 95 % paired percentile bootstrap, {RESAMPLES:,} resamples of {found.drawn.told}.")
    return sentences + origin_sentences(found.names, found.scores)


def comparison_warnings(found: Comparison) -> list[str]:
    """What makes one run look better than it is."""
    warnings = origin_warnings(found.names, found.scores)
    warnings += missing_folds_warning(found.scores[0].missing_folds)
    warnings += few_speakers(found.drawn)
    more = [name for name, s in zip(found.names, found.scores, strict=True) if s.normalization.by_speaker]
    if len(more) == 1:
        (less,) = set(found.names) - set(more)
        warnings.append(
            f"{more[0]} is normalised by speaker and {less} is not: it hears each tested clip against all unlabelled"
            f" clips of its speaker, the other hears each clip on its own. They do not have the same information, so"
            f" the difference is no merit of the model alone."
        )
    return warnings


def differences_table(found: Comparison) -> Table:
    """Each rate of both runs, the difference, its interval, and the folds that each run wins."""
    rows = tuple(
        (
            TITLES[rate],
            *(getattr(scores.pooled, rate) for scores in found.scores),
            difference.value,
            difference.interval.low,
            difference.interval.high,
            "{}:{}".format(*difference.folds_won[:2]),
        )
        for rate, difference in found.differences.items()
    )
    columns = (
        Column("score", "score", "text"),
        Column("first", f"{found.names[0]} %"),
        Column("second", f"{found.names[1]} %"),
        Column("difference", "difference", "difference"),
        Column("low", "from", "difference"),
        Column("high", "to", "difference"),
        Column("folds_won", "folds won", "text"),
    )
    return Table("differences", "Pooled scores and their difference in percentage points", columns, rows)


def describe_comparison(found: Comparison, *, pictures: bool) -> Report:
    """Everything that is said of two runs."""
    first, second = found.scores
    drawn: tuple[Picture, ...] = ()
    if pictures:
        from ser_cli.evaluation.pictures import difference_picture

        folds = [(index, a.ua, b.ua) for (index, a), (_, b) in zip(first.folds, second.folds, strict=True)]
        drawn = (difference_picture(found.names, folds, (first.pooled.ua, second.pooled.ua)),)
    columns = [Column("fold", "fold", "text")]
    for rate in COMPARED:
        columns += [Column(f"{rate}_{n}", f"{TITLES[rate]} {name}") for n, name in enumerate(found.names, start=1)]
    rows = tuple(
        (str(index), *(getattr(scores, rate) for rate in COMPARED for scores in (a, b)))
        for (index, a), (_, b) in zip(first.folds, second.folds, strict=True)
    )
    tiles = [
        difference_tile(f"{TITLES[rate]}, second over first", d.value, d.interval)
        for rate, d in found.differences.items()
    ]
    sections = (
        Section("Difference", "", drawn, (differences_table(found),)),
        Section("Folds", "", (), (Table("folds", "Each fold, %", tuple(columns), rows),)),
    )
    tiles.append(Tile("McNemar", f"p = {_p(found.p_mcnemar)}", f"{found.only_first} against {found.only_second} clips"))
    return Report(
        title=f"{found.names[1]} against {found.names[0]}",
        sentences=(
            *comparison_sentences(found),
            *labels_sentences((name, s.identity) for name, s in zip(found.names, found.scores, strict=True)),
        ),
        warnings=tuple(comparison_warnings(found)),
        tiles=tuple(tiles),
        sections=sections if first.normalization.by != second.normalization.by
        else first.normalization.captioned(sections),
        facts=(
            ("dataset", first.identity.dataset),
            ("protocol", f"{first.identity.protocol}, hash {first.identity.protocol_hash}"),
            *((f"{n} run", _described(name, s)) for n, name, s in zip(("first", "second"), found.names, found.scores,
                                                                       strict=True)),
        ),
    )  # fmt: skip


def _described(name: str, scores: RunScores) -> str:
    identity = scores.identity
    normalized = f", {CAPTION}" if scores.normalization.by_speaker else ""
    return f"{name}: recipe {identity.recipe}, encoder {identity.encoder}, seed {identity.seed}{normalized}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
