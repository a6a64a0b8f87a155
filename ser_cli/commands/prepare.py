"""`ser prepare`: decode a corpus once and store it for training."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ser_cli.commands import completion, options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import UsageError, count_of

if TYPE_CHECKING:
    from ser_cli.corpora import Corpus
    from ser_cli.preparation.sources import Source
    from ser_cli.preparation.whole_corpus import PreparationResult

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
        typer.Option(
            metavar="NAME|A,B,…",
            help="What training tells apart unless told otherwise: a corpus's label set, such as 4, or a manifest's"
            " emotions in order (default: the papers' set; those that occur, sorted).",
            autocompletion=completion.complete_labels,
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch the recordings of an openly licensed corpus first; resumes."),
    ] = False,
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

    Prints the path of the manifest, and on stderr what a complete corpus would hold and what was found. The data
    home is the folder named by SER_HOME, else the platform's place for user data. Running it again does nothing
    where nothing changed; interrupted, it goes on where it was.
    """
    from ser_cli.commands.completeness import say_report
    from ser_cli.preparation import whole_corpus as preparation

    console = Console(quiet, verbose)
    if (dataset is None) == (manifest is None):
        raise UsageError("give either --dataset NAME or --manifest FILE")
    listed = _list(console, dataset, manifest, source, name, labels, download=download, dry_run=dry_run)
    if listed is None:
        if json:
            console.result_json(_recordings_to_come(dataset or "", download=download))
        return
    for note in listed.listing.notes:
        console.say(f"{listed.name}: {note}")
    console.detail(f"labels: {', '.join(listed.labels)}; source: {listed.folder}")
    if dry_run:
        if not force:
            preparation.require_free_name(listed)
        _say_listing(console, listed)
        if json:
            console.result_json(_listing_as_json(listed))
        return
    with counting_bar(console, f"decoding {listed.name}", "clip") as progress:
        result = preparation.prepare(listed, skip_unreadable=skip_unreadable, force=force, progress=progress)
    if not result.repeated:
        console.say(f"{listed.name}: already prepared, nothing changed")
    say_report(console, result)
    if json:
        console.result_json(_as_json(result))
    else:
        console.result(str(result.corpus.folder / "manifest.csv"))


def _list(
    console: Console,
    dataset: str | None,
    manifest: Path | None,
    source: Path | None,
    name: str | None,
    labels: str | None,
    *,
    download: bool,
    dry_run: bool,
) -> "Source | None":
    """What is to be prepared, fetched first where that was asked for; None where a dry run cannot tell more."""
    from ser_cli.corpora import find_corpus
    from ser_cli.preparation import sources

    if manifest is not None:
        if download:
            raise UsageError("--download goes with --dataset; a manifest's recordings are yours")
        return sources.list_manifest(manifest, source, name, options.parse_labels(labels))
    assert dataset is not None
    corpus = find_corpus(dataset)
    if name:
        raise UsageError("--name goes with --manifest; a known corpus has its own")
    if download:
        if source is not None:
            raise UsageError("--download brings the recordings, --source says where they are: give one of them")
        _fetch(console, corpus, dry_run=dry_run)
    if dry_run and source is None and (download or corpus.render):
        console.say(f"{dataset}: its recordings would be {'fetched' if download else 'rendered'}, then decoded")
        return None
    return sources.list_known_corpus(dataset, source, labels)


def _fetch(console: Console, corpus: "Corpus", *, dry_run: bool) -> None:
    """Show the licence, then bring the recordings."""
    from ser_cli.corpora import CORPORA
    from ser_cli.preparation.downloading import describe_download, download_corpus

    if corpus.render is not None:
        raise UsageError(
            f"{corpus.name} is not downloaded: the program makes its recordings itself\n"
            f"  prepare it: ser prepare --dataset {corpus.name}"
        )
    if corpus.download is None:
        open_ones = ", ".join(known.name for known in CORPORA.values() if known.download)
        raise UsageError(
            f"{corpus.name} cannot be downloaded by a program: {corpus.how_to_get or corpus.homepage}"
            f" ({corpus.licence})\n  then: ser prepare --dataset {corpus.name} --source DIR\n"
            f"  openly licensed at a stable address: {open_ones}"
        )
    for line in describe_download(corpus):
        console.say(line)
    if not dry_run:
        with counting_bar(console, f"fetching {corpus.name}", "B") as progress:
            download_corpus(corpus.name, corpus.download, progress)


def _recordings_to_come(dataset: str, *, download: bool) -> dict[str, Any]:
    """What a dry run tells a program of a corpus whose recordings are not there yet."""
    from ser_cli.corpora import find_corpus
    from ser_cli.home import source_folder

    corpus = find_corpus(dataset)
    told: dict[str, Any] = {
        "dataset": corpus.name,
        "recordings": "fetched" if download else "rendered",
        "title": corpus.title,
        "licence": corpus.licence,
        "homepage": corpus.homepage,
        "source": str(source_folder(corpus.name)),
    }
    if not download or corpus.download is None:
        return told
    return told | {
        "archive": corpus.download.url,
        "archive_bytes": corpus.download.size_bytes,
        "unpacked_bytes": corpus.download.unpacked_bytes,
        "md5": corpus.download.md5,
    }


def _say_listing(console: Console, listed: "Source") -> None:
    found = len(listed.listing.utterances)
    counts = Counter(utterance.emotion for utterance in listed.listing.utterances)
    console.say(f"{listed.name}: {count_of(found, 'recording')} would be decoded")
    console.say("  " + ", ".join(f"{emotion} {number}" for emotion, number in sorted(counts.items())))
    for problem in listed.listing.problems:
        console.warn(problem)


def _listing_as_json(listed: "Source") -> dict[str, Any]:
    return {
        "dataset": listed.name,
        "utterances": len(listed.listing.utterances),
        "expected": listed.counts.utterances if listed.counts else None,
        "labels": list(listed.labels),
        "problems": list(listed.listing.problems),
        "notes": list(listed.listing.notes),
        "missing_ids": list(listed.listing.missing),
    }


def _as_json(result: "PreparationResult") -> dict[str, Any]:
    """The report with what a program asks first."""
    corpus, report = result.corpus, result.report
    preparation = corpus.preparation
    return {
        "dataset": corpus.name,
        "manifest": str(corpus.folder / "manifest.csv"),
        "speakers": sum(bool(cell["found"]) for cell in report["speaker"].values()),
        "hours": report["duration"]["hours"],
        "label_set": preparation.label_set,
        "labels": result.labels,
        "manifest_hash": preparation.manifest_hash,
        "already_prepared": not result.repeated,
        **report,
    }
