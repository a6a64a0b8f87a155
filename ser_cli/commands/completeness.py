"""The completeness report as a person reads it: what was found, what a complete corpus holds, what differs."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ser_cli.console import Console
from ser_cli.errors import SHOWN_PROBLEMS, count_of

if TYPE_CHECKING:
    from ser_cli.preparation.whole_corpus import PreparationResult

BAR_WIDTH = 30
LONG_S = 60
"""Clips beyond this are named: a turn of speech is seldom so long."""
LISTED_GROUPS = 14
"""Speakers or sessions that are listed one by one; more are summed up."""


def say_report(console: Console, result: "PreparationResult") -> None:
    """Tell a person what `ser prepare` found."""
    corpus, report = result.corpus, result.report
    expected = f" of {report['expected']:,}" if report["expected"] is not None else ""
    durations = report["duration"]
    rows = {
        "clips": f"{report['utterances']:,}{expected} ({durations['hours']:.2f} h)",
        "emotions": _counts(report["emotion"]),
    }
    label_set = corpus.preparation.label_set
    if label_set:
        rows[f"labels {label_set}"] = ", ".join(f"{label} {number:,}" for label, number in result.labels.items())
        others = [
            f"{name} ({sum(labelled.values()):,} clips)"
            for name, labelled in report["label_sets"].items()
            if name != label_set
        ]
        if others:
            rows["other labels"] = ", ".join(others)
    if report["session"]:
        rows["sessions"] = _groups(report["session"])
    rows["speakers"] = _groups(report["speaker"])
    rows["genders"] = ", ".join(f"{gender} {number:,}" for gender, number in report["gender"].items())
    rows["as found"] = _formats(report)
    rows["durations"] = (
        f"{durations['min_s']:.2f} to {durations['max_s']:.2f} s, mean {durations['mean_s']:.2f}, "
        f"median {durations['median_s']:.2f}, 95 % up to {durations['p95_s']:.2f}"
    )
    console.table(f"{corpus.name}:", rows)
    for name, source in report["label_sources"].items():
        console.detail(f"  labels {name}: {source}")
    _say_histogram(console, durations["histogram"])
    for clip in report["longest"]:
        if clip["duration_s"] > LONG_S:
            console.say(f"  very long: {clip['id']} lasts {clip['duration_s']:.1f} s")
    for clip in report["rare_formats"]:
        channels = count_of(clip["channels"], "channel")
        console.say(f"  unlike the others: {clip['id']} has {clip['sample_rate_hz']} Hz and {channels}")
    for ids in report["identical"][:SHOWN_PROBLEMS]:
        console.say(f"  the same recording under several names, of one speaker and emotion: {', '.join(ids)}")
    if len(report["identical"]) > SHOWN_PROBLEMS:
        console.say(f"  and {count_of(len(report['identical']) - SHOWN_PROBLEMS, 'more such group')}, in report.json")
    _warn(console, result)


def _warn(console: Console, result: "PreparationResult") -> None:
    corpus, report = result.corpus, result.report
    skipped_file = corpus.folder / "skipped.csv"
    if report["skipped"]:
        console.warn(f"{count_of(report['skipped'], 'recording')} left out; which and why: {skipped_file}")
    if report["doubtful"]:
        console.warn(
            f"{count_of(report['doubtful'], 'file')} left out because their identity is in doubt;"
            f" all of them: {skipped_file}"
        )
        for problem in report["doubtful_files"][:SHOWN_PROBLEMS]:
            console.say(f"  {problem['reason']}")
    if report["missing"]:
        console.warn(
            f"a complete {corpus.name} has {report['expected']:,} clips; {report['missing']:,} were not found"
            f" ({report['expected_source'].rstrip('.')})"
        )
    if report["extra"]:
        console.warn(f"{count_of(report['extra'], 'clip')} more than the {report['expected']:,} of {corpus.name}")
    differing = {
        name: cell
        for table in ("emotion", "session", "speaker")
        for name, cell in report[table].items()
        if cell["expected"] is not None and cell["found"] != cell["expected"]
    }
    if differing and not report["missing"] and not report["extra"]:
        console.warn(f"the numbers differ from the published ones: {_counts(differing)}")
    if report["missing_ids"]:
        more = (
            f" …; all: {corpus.folder / 'missing.txt'}"
            if report["missing_ids_known"] > len(report["missing_ids"])
            else ""
        )
        console.warn(f"missing: {', '.join(report['missing_ids'])}{more}")
    unknown = report["missing"] - report["missing_ids_known"]
    if unknown > 0:
        console.warn(
            f"of {unknown:,} missing clips the ids cannot be told: neither a grammar nor a label file has them"
        )


def _counts(table: Mapping[str, Mapping[str, int | None]]) -> str:
    return ", ".join(f"{name} {_cell(cell)}" for name, cell in table.items())


def _cell(cell: Mapping[str, int | None]) -> str:
    """A number, and what was expected where that differs."""
    found, expected = cell["found"], cell["expected"]
    return f"{found:,}" if expected in (None, found) else f"{found:,} of {expected:,}"


def _groups(table: Mapping[str, Mapping[str, int | None]]) -> str:
    """Speakers or sessions: one by one where they are few, else how many have how many clips."""
    there = {name: cell for name, cell in table.items() if cell["found"]}
    number = f"{len(there)}" if len(there) == len(table) else f"{len(there)} of {len(table)}"
    sizes = Counter(_cell(cell) for cell in there.values())
    if len(sizes) == 1:
        return f"{number} with {next(iter(sizes))} clips each"
    if len(there) <= LISTED_GROUPS:
        return f"{number}: {_counts(there)}"
    found = [cell["found"] or 0 for cell in there.values()]
    differing = {name: cell for name, cell in table.items() if cell["expected"] not in (None, cell["found"])}
    shown = dict(list(differing.items())[:SHOWN_PROBLEMS])
    more = "" if not differing else f"; {_counts(shown)}{' …' if len(differing) > len(shown) else ''}"
    return f"{number} with {min(found):,} to {max(found):,} clips each{more}"


def _formats(report: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{number:,} at {rate} Hz" for rate, number in report["sample_rates"].items())
    channels = ", ".join(
        f"{number:,} with {count_of(int(channel), 'channel')}" for channel, number in report["channels"].items()
    )
    return f"{rates}; {channels}"


def _say_histogram(console: Console, bins: list[dict[str, Any]]) -> None:
    filled = [index for index, one in enumerate(bins) if one["clips"]]
    most = max(one["clips"] for one in bins)
    for one in bins[filled[0] : filled[-1] + 1]:
        upper = f"to {one['to_s']:>2}" if one["to_s"] is not None else "up   "
        bar = "█" * round(BAR_WIDTH * one["clips"] / most)
        console.say(f"    {one['from_s']:>2} {upper} s  {bar} {one['clips']:,}")
