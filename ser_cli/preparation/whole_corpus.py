"""Prepare a corpus: decode each of its recordings once, and store all of them where training reads them."""

import csv
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ser_cli import __version__
from ser_cli.corpora import CORPORA, LabelSet
from ser_cli.data.completeness import conflicting, describe_completeness, identical_recordings
from ser_cli.data.manifest import Utterance, hash_manifest, read_prepared_manifest, write_manifest
from ser_cli.data.selection import count_labels, select
from ser_cli.data.store import (
    AUDIO_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    SAMPLE_RATE_HZ,
    SKIPPED_NAME,
    Preparation,
    PreparedCorpus,
    StoredAudio,
    open_corpus,
    read_preparation,
    read_report,
    write_audio_index,
    write_preparation,
)
from ser_cli.errors import (
    SHOWN_PROBLEMS,
    CorpusError,
    ProblemsError,
    SerError,
    UnknownNameError,
    UsageError,
    count_of,
)
from ser_cli.files import write_atomically
from ser_cli.home import corpus_folder, data_home, hold_corpus
from ser_cli.preparation.decoding import Progress, decode_into, estimate_bytes, forget_journal
from ser_cli.preparation.sources import DATASET_NAME, Source, list_known_corpus, list_manifest, require_own_name
from ser_cli.preparation.unpacking import in_words

MISSING_NAME = "missing.txt"
"""Every id that a complete corpus has and this one lacks, as far as they are known."""


@dataclass(frozen=True)
class PreparationResult:
    """A prepared corpus and what it took."""

    corpus: PreparedCorpus
    repeated: bool
    """False where everything was there already."""
    report: dict[str, Any]
    """What a complete corpus holds and what was found; see `data/completeness.py`."""

    @property
    def labels(self) -> dict[str, int]:
        """Utterances of each label that training tells apart unless told otherwise."""
        return count_labels(self.corpus, _label_sets(self.corpus.preparation.corpus))


def _label_sets(reader: str) -> tuple[LabelSet, ...]:
    """The named label sets of a reader; none for a user's own manifest."""
    return CORPORA[reader].label_sets if reader in CORPORA else ()


@dataclass(frozen=True)
class Choice:
    """What a command takes of a prepared corpus; see `data/selection.py`."""

    labels: str | None = None
    where: tuple[str, ...] = ()
    soft: bool = False


def prepare(
    source: Source, *, skip_unreadable: bool = False, force: bool = False, progress: Progress | None = None
) -> PreparationResult:
    """Decode every recording of a source once and store the corpus under the data home.

    Runs again only where a source file, its label or its speaker changed. The corpus appears whole, by one
    rename, or not at all; what was decoded before an interruption is not decoded again.

    Raises:
        ProblemsError: recordings that cannot be used, all of them listed, unless `skip_unreadable`.
        CorpusError: another corpus of that name is prepared and `force` was not given, or nothing is left.
        SerError: the data home cannot be written.
    """
    folder = corpus_folder(source.name)
    fingerprint = source.fingerprint
    with hold_corpus(source.name):
        existing = read_preparation(folder)
        if existing and not force:
            _require_same(source, existing, fingerprint)
            if existing.skipped and not skip_unreadable:
                raise CorpusError(
                    f"dataset {source.name!r} was prepared without {count_of(existing.skipped, 'recording')}, listed in"
                    f" {folder / SKIPPED_NAME}\n  take it as it is with --skip-unreadable, or mend them and use --force"
                )
            if source.labels_chosen and source.label_set != existing.label_set:
                write_preparation(folder, replace(existing, labels=source.labels, label_set=source.label_set))
            return PreparationResult(open_corpus(folder), repeated=False, report=read_report(folder))
        building = folder.parent / f".{folder.name}.part"
        try:
            _build(building, source, fingerprint, skip_unreadable, progress)
            _put_in_place(building, folder)
        except OSError as error:
            raise SerError(
                f"cannot store {source.name} in {folder.parent}: {error.strerror or error}\n"
                f"  free space there, or choose another place with SER_HOME; what was decoded is kept"
            ) from error
    return PreparationResult(open_corpus(folder), repeated=True, report=read_report(folder))


def require_free_name(source: Source) -> None:
    """See that `prepare` would not refuse a source for what is prepared under its name.

    Raises:
        CorpusError: another corpus of that name is prepared.
    """
    if existing := read_preparation(corpus_folder(source.name)):
        _require_same(source, existing, source.fingerprint)


def _require_same(source: Source, existing: Preparation, fingerprint: str) -> None:
    if existing.fingerprint != fingerprint:
        raise CorpusError(_taken(source, existing))


def open_dataset(
    dataset: str | None,
    manifest: Path | None,
    choice: Choice = Choice(),
    progress: Progress | None = None,
    *,
    may_prepare: bool = True,
) -> PreparedCorpus:
    """Open what a command names of a corpus, preparing what can be prepared without being told where it lies.

    The demo corpus is rendered, a manifest's recordings are decoded, where that was not done before.

    Args:
        dataset: name of a prepared corpus.
        manifest: a user's own manifest, in the place of a name.
        choice: which utterances and labels.
        progress: told how decoding goes on.
        may_prepare: False only opens what is there.

    Raises:
        UsageError: neither or both are given, the name cannot be one, or the choice does not fit the corpus.
        UnknownNameError: there is no such dataset, label set or column.
        CorpusError: the dataset is not prepared, or its name belongs to another manifest.
    """
    if (dataset is None) == (manifest is None):
        raise UsageError("give either --dataset NAME or --manifest FILE")
    whole = _open_manifest(manifest, progress, may_prepare) if manifest else _open_named(dataset, progress, may_prepare)
    label_sets = _label_sets(whole.preparation.corpus)
    return select(whole, label_sets, labels=choice.labels, where=choice.where, soft=choice.soft)


def _open_named(dataset: str | None, progress: Progress | None, may_prepare: bool) -> PreparedCorpus:
    assert dataset is not None
    if not DATASET_NAME.fullmatch(dataset):
        raise UsageError(f"{dataset!r} cannot name a dataset; a name has letters, digits, '.', '_' and '-'")
    if read_preparation(corpus_folder(dataset)) is None:
        if dataset not in CORPORA:
            known = {*CORPORA, *prepared_datasets()}
            raise UnknownNameError("dataset", dataset, known, "your own recordings: ser prepare --manifest FILE.csv")
        if CORPORA[dataset].render is not None:
            if not may_prepare:
                raise CorpusError(
                    f"dataset {dataset!r} is not prepared, and --dry-run writes nothing\n"
                    f"  prepare it first: ser prepare --dataset {dataset}"
                )
            return prepare(list_known_corpus(dataset, None), progress=progress).corpus
    return open_corpus(corpus_folder(dataset))


def prepared_datasets() -> list[str]:
    """Names of the corpora that are prepared, sorted."""
    folder = corpus_folder("")
    names = [path.name for path in folder.iterdir() if DATASET_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(name for name in names if read_preparation(corpus_folder(name)))


def _open_manifest(manifest: Path, progress: Progress | None, may_prepare: bool) -> PreparedCorpus:
    name = _prepared_as(manifest)
    prepared = read_preparation(corpus_folder(name))
    if prepared is None:
        require_own_name(name, manifest)
    if prepared is None and not may_prepare:
        command = f"ser prepare --manifest {shlex.quote(str(manifest))}"
        raise CorpusError(f"{manifest} is not prepared yet\n  prepare it first: {command}")
    if prepared is None:
        return prepare(list_manifest(manifest), progress=progress).corpus
    # Name, folder and labels were chosen when it was prepared; they stand, for the same manifest.
    same = prepared.manifest == str(manifest.resolve())
    if not same:
        raise CorpusError(_taken(list_manifest(manifest), prepared))
    labels = prepared.labels if _labels_were_chosen(name, prepared) else None
    source = list_manifest(manifest, Path(prepared.source), name, labels)
    return prepare(source, skip_unreadable=prepared.skipped > 0, progress=progress).corpus


def _labels_were_chosen(name: str, prepared: Preparation) -> bool:
    """Whether labels are others than the emotions that occurred: these follow the manifest, those stand."""
    try:
        utterances = read_prepared_manifest(corpus_folder(name) / MANIFEST_NAME)
    except (OSError, ValueError, TypeError, KeyError):
        return True
    return prepared.labels != tuple(sorted({utterance.emotion for utterance in utterances}))


def _prepared_as(manifest: Path) -> str:
    """The name under which a manifest was prepared; the file's own where it was not."""
    path = str(manifest.resolve())
    found = {name: read_preparation(corpus_folder(name)) for name in prepared_datasets()}
    names = [name for name, prepared in found.items() if prepared and prepared.manifest == path]
    return manifest.stem if manifest.stem in names or not names else names[0]


def _taken(source: Source, existing: Preparation) -> str:
    """Why a name cannot be used, and the command that goes on."""
    before = f"from {existing.manifest}" if existing.manifest else f"from {existing.source}"
    if not source.manifest:
        command = f"ser prepare --dataset {source.name} --source {shlex.quote(str(source.folder))} --force"
        return (
            f"dataset {source.name!r} is already prepared, {before}, with other files, or files that changed since\n"
            f"  replace it: {command}"
        )
    manifest = Path(source.manifest)
    command = f"ser prepare --manifest {shlex.quote(source.manifest)}"
    # As the options were, where they are not what is taken without them.
    if source.folder.resolve() != manifest.parent:
        command += f" --source {shlex.quote(str(source.folder))}"
    if source.labels != tuple(sorted({utterance.emotion for utterance in source.listing.utterances})):
        command += f" --labels {shlex.quote(','.join(source.labels))}"
    name = f" --name {source.name}" if source.name != manifest.stem else ""
    return (
        f"dataset {source.name!r} is already prepared, {before}, with other files, rows or labels, or files that"
        f" changed since\n"
        f"  replace it: {command}{name} --force\n"
        f"  or keep both: {command} --name OTHER, then --dataset OTHER"
    )


def _unusable(source: Source, problems: Sequence[str], subject: str, advice: str) -> ProblemsError:
    """All recordings that cannot be used, told together; a long list goes to a file as a whole."""
    full_list = None
    if len(problems) > SHOWN_PROBLEMS:
        full_list = data_home() / "problems" / f"{source.name}.txt"
        write_atomically(full_list, ("\n".join(problems) + "\n").encode())
    return ProblemsError(subject, problems, advice, full_list=full_list)


def _path_of(problem: str) -> str:
    """The path that a sentence `PATH: what is wrong` is about; a path may hold the sign too."""
    parts = problem.split(": ")
    paths = (": ".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((path for path in paths if os.path.lexists(path)), parts[0])


def _build(building: Path, source: Source, fingerprint: str, skip_unreadable: bool, progress: Progress | None) -> None:
    """Decode everything into a folder that nobody reads yet, its marker last."""
    listing = source.listing
    _require_room(building, listing.utterances)
    stored, unusable = decode_into(building, listing.utterances, progress)
    paths = {utterance.id: utterance.path for utterance in listing.utterances}
    skipped = [(paths[identity], reason) for identity, reason in unusable.items()]
    if skipped and not skip_unreadable:
        advice = "mend or remove them, or go on without them: --skip-unreadable; each is recorded"
        raise _unusable(source, [reason for _, reason in skipped], str(source.folder), advice)
    decoded = [
        replace(u, duration_s=stored[u.id].samples / SAMPLE_RATE_HZ) for u in listing.utterances if u.id in stored
    ]
    kept, conflicts = _without_conflicts(decoded, stored)
    doubtful = [(_path_of(problem), problem) for problem in listing.problems] + conflicts
    if not kept:
        subject = f"{source.folder}: not one of {count_of(len(listing.utterances), 'recording')} can be used"
        reasons = [reason for _, reason in (*skipped, *doubtful)]
        raise _unusable(source, reasons, subject, "mend these recordings or their labels, and prepare again")
    audio = [stored[utterance.id] for utterance in kept]
    missing = sorted({*listing.missing, *unusable, *({u.id for u in decoded} - {u.id for u in kept})})
    report = describe_completeness(
        kept,
        audio,
        counts=source.counts,
        label_sets=_label_sets(source.corpus),
        missing=missing,
        skipped=skipped,
        doubtful=doubtful,
        notes=listing.notes,
    )
    with (building / SKIPPED_NAME).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *skipped, *doubtful])
    write_atomically(building / REPORT_NAME, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(building / MISSING_NAME, "".join(f"{identity}\n" for identity in missing).encode())
    write_manifest(building / MANIFEST_NAME, kept)
    write_audio_index(building / INDEX_NAME, audio)
    forget_journal(building)
    preparation = Preparation(
        format_version=FORMAT_VERSION,
        name=source.name,
        corpus=source.corpus,
        labels=source.labels,
        label_set=source.label_set,
        source=str(source.folder.resolve()),
        manifest=source.manifest,
        fingerprint=fingerprint,
        manifest_hash=hash_manifest(kept, (entry.sha256 for entry in audio)),
        utterances=len(kept),
        skipped=len(skipped),
        doubtful=len(doubtful),
        program_version=__version__,
    )
    write_preparation(building, preparation)


def _require_room(building: Path, utterances: Sequence[Utterance]) -> None:
    """See beforehand that the disk holds the decoded corpus, by the headers of a few recordings.

    Raises:
        SerError: it does not.
    """
    needed = estimate_bytes(utterances) - sum(path.stat().st_size for path in building.glob(AUDIO_NAME))
    free = shutil.disk_usage(building.parent).free
    if needed > free:
        raise SerError(
            f"cannot store the decoded recordings in {building.parent}: about {in_words(needed)} are needed,"
            f" {in_words(free)} are free\n  free space there, or choose another place with SER_HOME"
        )


def _without_conflicts(
    utterances: Sequence[Utterance], stored: dict[str, StoredAudio]
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Leave out recordings that are the same, sample by sample, and are said to differ in speaker or emotion."""
    by_id = {utterance.id: utterance for utterance in utterances}
    doubtful: list[tuple[str, str]] = []
    for ids in identical_recordings(utterances, stored):
        group = [by_id[identity] for identity in ids]
        if told := conflicting(group):
            names = ", ".join(ids)
            doubtful += [(u.path, f"{u.path}: the same recording stands there as {names}, with {told}") for u in group]
    left_out = {path for path, _ in doubtful}
    return [utterance for utterance in utterances if utterance.path not in left_out], doubtful


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename a finished folder to its place, moving what stood there out of the way first."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        folder.rename(old / folder.name)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        building.rename(folder)
