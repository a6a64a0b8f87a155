"""`ser prepare`: decode a corpus once and store it for training."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ser_cli.commands import options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import UsageError, count_of

if TYPE_CHECKING:
    from ser_cli.preparation import PreparationResult
    from ser_cli.sources import Source

EXAMPLES = options.examples(
    "ser prepare --dataset ravdess --source ~/corpora/ravdess",
    "ser prepare --manifest calls.csv --labels angry,neutral",
)


def prepare(
    dataset: options.Dataset = None,
    manifest: options.Manifest = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the recordings; for a manifest, where its paths start (default: its own).",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What --dataset will call a manifest's corpus (default: its file name)."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="The emotions of a manifest, in order (default: those that occur, sorted)."),
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="Go on without recordings that cannot be used; record which."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a corpus that is already prepared.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Decode a corpus once to 16 kHz mono and store it where training reads it at memory speed.

    Prints the path of the manifest. The data home is the folder named by SER_HOME, else the platform's place for
    user data. Running it again does nothing where nothing changed.
    """
    from ser_cli import preparation, sources
    from ser_cli.corpora import find_corpus

    console = Console(quiet, verbose)
    if (dataset is None) == (manifest is None):
        raise UsageError("give either --dataset NAME or --manifest FILE")
    if dataset is not None:
        if name or labels:
            raise UsageError("--name and --labels go with --manifest; a known corpus has its own")
        if dry_run and source is None and find_corpus(dataset).render:
            console.say(f"{dataset}: its recordings would be rendered, then decoded")
            return
        listed = sources.list_known_corpus(dataset, source)
    else:
        assert manifest is not None
        listed = sources.list_manifest(manifest, source, name, options.parse_labels(labels))
    for note in listed.listing.notes:
        console.say(f"{listed.name}: {note}")
    console.detail(f"labels: {', '.join(listed.labels)}; source: {listed.folder}")
    if dry_run:
        _say_listing(console, listed)
        if json:
            console.result_json(_listing_as_json(listed))
        return
    with counting_bar(console, f"decoding {listed.name}", "clip") as progress:
        result = preparation.prepare(listed, skip_unreadable=skip_unreadable, force=force, progress=progress)
    _say_result(console, result, listed)
    if json:
        console.result_json(_as_json(result, listed))
    else:
        console.result(str(result.corpus.folder / "manifest.csv"))


def _say_listing(console: Console, listed: "Source") -> None:
    found = len(listed.listing.utterances)
    counts = Counter(utterance.emotion for utterance in listed.listing.utterances)
    console.say(f"{listed.name}: {count_of(found, 'recording')} would be decoded")
    console.say("  " + ", ".join(f"{label} {counts[label]}" for label in listed.labels))
    for problem in listed.listing.problems:
        console.warn(problem)


def _listing_as_json(listed: "Source") -> dict[str, Any]:
    return {
        "dataset": listed.name,
        "utterances": len(listed.listing.utterances),
        "expected": listed.expected_utterances,
        "labels": list(listed.labels),
        "problems": list(listed.listing.problems),
        "notes": list(listed.listing.notes),
    }


def _say_result(console: Console, result: "PreparationResult", listed: "Source") -> None:
    from ser_cli.data.manifest import total_hours

    corpus = result.corpus
    if not result.repeated:
        console.say(f"{corpus.name}: already prepared, nothing changed")
    counts = Counter(utterance.emotion for utterance in corpus.utterances)
    speakers = {utterance.speaker for utterance in corpus.utterances}
    formats = Counter((a.source_rate_hz, a.source_channels) for a in corpus.audio)
    console.table(
        f"{corpus.name}:",
        {
            "clips": f"{len(corpus.utterances):,} ({total_hours(corpus.utterances):.2f} h)",
            "speakers": len(speakers),
            "emotions": ", ".join(f"{label} {counts[label]}" for label in corpus.labels),
            "as found": ", ".join(
                f"{number:,} at {rate} Hz with {count_of(channels, 'channel')}"
                for (rate, channels), number in sorted(formats.items())
            ),
        },
    )
    if corpus.preparation.skipped:
        console.warn(
            f"{count_of(corpus.preparation.skipped, 'recording')} left out; "
            f"which and why: {corpus.folder / 'skipped.csv'}"
        )
    if result.missing:
        console.warn(
            f"a complete {corpus.name} has {listed.expected_utterances:,} clips; {result.missing:,} were not found"
        )


def _as_json(result: "PreparationResult", listed: "Source") -> dict[str, Any]:
    from ser_cli.data.manifest import total_hours

    corpus = result.corpus
    counts = Counter(utterance.emotion for utterance in corpus.utterances)
    return {
        "dataset": corpus.name,
        "manifest": str(corpus.folder / "manifest.csv"),
        "utterances": len(corpus.utterances),
        "expected": listed.expected_utterances,
        "missing": result.missing,
        "skipped": corpus.preparation.skipped,
        "hours": round(total_hours(corpus.utterances), 4),
        "speakers": len({utterance.speaker for utterance in corpus.utterances}),
        "labels": {label: counts[label] for label in corpus.labels},
        "notes": list(corpus.preparation.notes),
        "manifest_hash": corpus.preparation.manifest_hash,
        "already_prepared": not result.repeated,
    }
