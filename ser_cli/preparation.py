"""Prepare a corpus: list its recordings, decode each once, store all of them where training reads them."""

import csv
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from ser_cli import __version__
from ser_cli.corpora import CORPORA, Corpus, Listing, find_corpus
from ser_cli.data.audio import Recording, read_recording
from ser_cli.data.manifest import Utterance, hash_manifest, read_user_manifest, write_manifest
from ser_cli.data.store import (
    AUDIO_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    MARKER_NAME,
    SKIPPED_NAME,
    Preparation,
    PreparedCorpus,
    StoredAudio,
    open_corpus,
    read_preparation,
    write_audio_index,
)
from ser_cli.errors import (
    SHOWN_PROBLEMS,
    AudioError,
    CorpusError,
    ProblemsError,
    SerError,
    UnknownNameError,
    UsageError,
    count_of,
)
from ser_cli.files import write_atomically
from ser_cli.home import corpus_folder, data_home, source_folder

MANIFEST_CORPUS = "manifest"
"""Stands for the reader's name where a user's own manifest was prepared."""

DECODED_AT_ONCE = 64
"""Recordings in memory together: enough to keep every core busy, few enough for any machine."""

Progress = Callable[[int, int], None]
"""Told how many of how many recordings are decoded."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Source:
    """What is to be prepared: listed, not yet decoded."""

    name: str
    corpus: str
    labels: tuple[str, ...]
    folder: Path
    listing: Listing
    expected_utterances: int | None = None
    manifest: str = ""
    """The user's own manifest; empty for a known corpus."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over labels and over path, size and time of every file."""
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, self.labels]).encode())
        for utterance in self.listing.utterances:
            try:
                status = Path(utterance.path).stat()
                state = [status.st_size, status.st_mtime_ns]
            except OSError:
                state = []
            row = [asdict(utterance), state]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class PreparationResult:
    """A prepared corpus and what it took."""

    corpus: PreparedCorpus
    repeated: bool
    """False where everything was there already."""
    missing: int
    """Utterances that a complete corpus has and this one lacks."""


def list_known_corpus(name: str, source: Path | None) -> Source:
    """List a corpus that is known by name.

    Args:
        name: as in `--dataset`.
        source: folder of its recordings; None for a corpus that the package renders by itself.

    Raises:
        UnknownNameError: there is no such corpus.
        UsageError: the folder is not given.
        CorpusError: the folder is missing or holds no recording of this corpus.
    """
    corpus = find_corpus(name)
    if source is None:
        if corpus.render is None:
            raise UsageError(
                f"dataset {name!r} needs its recordings: give their folder with --source\n"
                f"  layout: {corpus.layout}\n  to be had at: {corpus.homepage} ({corpus.licence})"
            )
        source = _rendered(corpus)
    _require_folder(source)
    listing = corpus.read(source)
    if not listing.utterances:
        found = "; ".join([*listing.notes, *listing.problems[:3]]) or "no audio file at all"
        raise CorpusError(f"no recording of {name} found under {source}\n  expected: {corpus.layout}\n  found: {found}")
    return Source(name, name, corpus.labels, source, listing, corpus.expected_utterances)


def list_manifest(
    manifest: Path, source: Path | None = None, name: str | None = None, labels: Sequence[str] | None = None
) -> Source:
    """List a user's own recordings.

    Args:
        manifest: CSV file; see `data/manifest.py` for its columns.
        source: folder that paths start from; the manifest's own where None.
        name: what `--dataset` will call it; the file's name without its suffix where None.
        labels: the declared emotions in the order of the model's outputs; those that occur, sorted, where None.

    Raises:
        UsageError: the name cannot be a folder's, or is a known corpus's; the manifest is unusable.
        ProblemsError: rows of the manifest that are wrong.
    """
    name = name or manifest.stem
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a dataset: use letters, digits, '.', '_' and '-' with --name")
    if name in CORPORA:
        raise UsageError(f"{name!r} is the name of a known corpus; choose another with --name")
    folder = manifest.parent if source is None else source
    _require_folder(folder)
    utterances = read_user_manifest(manifest, folder, labels)
    declared = tuple(labels) if labels else tuple(sorted({utterance.emotion for utterance in utterances}))
    if len(set(declared)) != len(declared) or len(declared) < 2:
        raise UsageError(
            f"{manifest}: labels {', '.join(declared)}; at least two different emotions are needed, each named once"
        )
    return Source(name, MANIFEST_CORPUS, declared, folder, Listing(utterances), manifest=str(manifest.resolve()))


def prepare(
    source: Source, *, skip_unreadable: bool = False, force: bool = False, progress: Progress | None = None
) -> PreparationResult:
    """Decode every recording of a source once and store the corpus under the data home.

    Runs again only where a source file, its label or its speaker changed. The corpus appears whole, by one
    rename, or not at all.

    Raises:
        ProblemsError: recordings that cannot be used, all of them listed, unless `skip_unreadable`.
        CorpusError: another corpus of that name is prepared and `force` was not given, or nothing is left.
        SerError: the data home cannot be written.
    """
    folder = corpus_folder(source.name)
    fingerprint = source.fingerprint
    missing = max(0, (source.expected_utterances or 0) - len(source.listing.utterances))
    with _locked(source.name):
        existing = read_preparation(folder)
        if existing and not force:
            if existing.fingerprint != fingerprint:
                raise CorpusError(_taken(source, existing))
            if existing.skipped and not skip_unreadable:
                raise CorpusError(
                    f"dataset {source.name!r} was prepared without {count_of(existing.skipped, 'recording')}, listed in"
                    f" {folder / SKIPPED_NAME}\n  take it as it is with --skip-unreadable, or mend them and use --force"
                )
            return PreparationResult(open_corpus(folder), repeated=False, missing=missing)
        if source.listing.problems and not skip_unreadable:
            raise _unusable(source, source.listing.problems)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            _build(building, source, fingerprint, skip_unreadable, progress)
            building.chmod(0o755)
            _put_in_place(building, folder)
        except OSError as error:
            raise SerError(
                f"cannot store {source.name} in {folder.parent}: {error.strerror or error}\n"
                f"  free space there, or choose another place with SER_HOME"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return PreparationResult(open_corpus(folder), repeated=True, missing=missing)


def open_dataset(
    dataset: str | None, manifest: Path | None, progress: Progress | None = None, *, may_prepare: bool = True
) -> PreparedCorpus:
    """Open the corpus that a command names, preparing what can be prepared without being told where it lies.

    The demo corpus is rendered, a manifest's recordings are decoded, where that was not done before.

    Args:
        dataset: name of a prepared corpus.
        manifest: a user's own manifest, in the place of a name.
        progress: told how decoding goes on.
        may_prepare: False only opens what is there.

    Raises:
        UsageError: neither or both are given, or the name cannot be one.
        UnknownNameError: there is no such dataset.
        CorpusError: the dataset is not prepared, or its name belongs to another manifest.
    """
    if (dataset is None) == (manifest is None):
        raise UsageError("give either --dataset NAME or --manifest FILE")
    if manifest is not None:
        return _open_manifest(manifest, progress, may_prepare)
    assert dataset is not None
    if not _NAME.fullmatch(dataset):
        raise UsageError(f"{dataset!r} cannot name a dataset; a name has letters, digits, '.', '_' and '-'")
    if read_preparation(corpus_folder(dataset)) is None:
        if dataset not in CORPORA:
            known = [*CORPORA, *prepared_datasets()]
            raise UnknownNameError("dataset", dataset, known, "your own recordings: ser prepare --manifest FILE.csv")
        if CORPORA[dataset].render is not None:
            if not may_prepare:
                raise CorpusError(
                    f"dataset {dataset!r} is not prepared\n  prepare it first: ser prepare --dataset {dataset}"
                )
            return prepare(list_known_corpus(dataset, None), progress=progress).corpus
    return open_corpus(corpus_folder(dataset))


def prepared_datasets() -> list[str]:
    """Names of the corpora that are prepared, sorted."""
    folder = corpus_folder("")
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(name for name in names if read_preparation(corpus_folder(name)))


def _open_manifest(manifest: Path, progress: Progress | None, may_prepare: bool) -> PreparedCorpus:
    prepared = read_preparation(corpus_folder(manifest.stem))
    if prepared is None and not may_prepare:
        raise CorpusError(f"{manifest} is not prepared yet\n  prepare it first: ser prepare --manifest {manifest}")
    if prepared is None:
        return prepare(list_manifest(manifest), progress=progress).corpus
    # The folder and the labels were chosen when it was prepared; they stand, for the same manifest.
    same = prepared.manifest == str(manifest.resolve())
    source = list_manifest(manifest, Path(prepared.source), labels=prepared.labels) if same else list_manifest(manifest)
    if not same:
        raise CorpusError(_taken(source, prepared))
    return prepare(source, skip_unreadable=prepared.skipped > 0, progress=progress).corpus


def _taken(source: Source, existing: Preparation) -> str:
    """Why a name cannot be used, and the command that goes on."""
    before = f"from {existing.manifest}" if existing.manifest else f"from {existing.source}"
    if not source.manifest:
        command = f"ser prepare --dataset {source.name} --source {source.folder} --force"
        return f"dataset {source.name!r} is already prepared, {before}, with other files\n  replace it: {command}"
    return (
        f"dataset {source.name!r} is already prepared, {before}, with other files, rows or labels\n"
        f"  replace it: ser prepare --manifest {source.manifest} --force\n"
        f"  or keep both: ser prepare --manifest {source.manifest} --name OTHER, then --dataset OTHER"
    )


def _unusable(source: Source, problems: Sequence[str]) -> ProblemsError:
    """All recordings that cannot be used, told together; a long list goes to a file as a whole."""
    full_list = None
    if len(problems) > SHOWN_PROBLEMS:
        full_list = data_home() / "problems" / f"{source.name}.txt"
        write_atomically(full_list, ("\n".join(problems) + "\n").encode())
    advice = "mend or remove them, or go on without them: --skip-unreadable; each is recorded"
    return ProblemsError(str(source.folder), problems, advice, full_list=full_list)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a corpus against other processes that would prepare it at the same time."""
    folder = corpus_folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise SerError(
            f"cannot write to the data home {folder.parent}: {error.strerror}\n  choose another with SER_HOME"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _build(building: Path, source: Source, fingerprint: str, skip_unreadable: bool, progress: Progress | None) -> None:
    """Decode everything into a folder that nobody reads yet."""
    kept: list[Utterance] = []
    entries: list[StoredAudio] = []
    unusable: list[tuple[str, str]] = []
    offset = 0
    with (building / AUDIO_NAME).open("wb") as file:
        for utterance, recording in _decode(source.listing.utterances, progress):
            if isinstance(recording, AudioError):
                unusable.append((utterance.path, str(recording)))
                continue
            data = recording.waveform.astype("<f4", copy=False).tobytes()
            file.write(data)
            samples = len(recording.waveform)
            entries.append(
                StoredAudio(
                    utterance.id,
                    offset,
                    samples,
                    hashlib.sha256(data).hexdigest(),
                    recording.source_rate_hz,
                    recording.source_channels,
                )
            )
            kept.append(replace(utterance, duration_s=samples / 16_000))
            offset += samples
        file.flush()
        os.fsync(file.fileno())
    if unusable and not skip_unreadable:
        raise _unusable(source, [reason for _, reason in unusable])
    if not kept:
        raise CorpusError(f"{source.folder}: not one of {count_of(len(unusable), 'recording')} can be used")
    skipped = [*unusable, *((problem.split(": ")[0], problem) for problem in source.listing.problems)]
    with (building / SKIPPED_NAME).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *skipped])
    write_manifest(building / MANIFEST_NAME, kept)
    write_audio_index(building / INDEX_NAME, entries)
    preparation = Preparation(
        format_version=FORMAT_VERSION,
        name=source.name,
        corpus=source.corpus,
        labels=source.labels,
        source=str(source.folder.resolve()),
        manifest=source.manifest,
        fingerprint=fingerprint,
        manifest_hash=hash_manifest(kept, (entry.sha256 for entry in entries)),
        utterances=len(kept),
        skipped=len(skipped),
        notes=source.listing.notes,
        program_version=__version__,
    )
    text = json.dumps(asdict(preparation), indent=1, ensure_ascii=False)
    (building / MARKER_NAME).write_text(text, encoding="utf-8")


def _decode(
    utterances: Sequence[Utterance], progress: Progress | None
) -> Iterator[tuple[Utterance, Recording | AudioError]]:
    """Decode in order, a few at a time on all cores; libsndfile and soxr release the interpreter lock."""

    def attempt(utterance: Utterance) -> Recording | AudioError:
        try:
            return read_recording(Path(utterance.path))
        except AudioError as error:
            return error

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(utterances), DECODED_AT_ONCE):
            chunk = utterances[start : start + DECODED_AT_ONCE]
            yield from zip(chunk, pool.map(attempt, chunk), strict=True)
            if progress:
                progress(min(start + DECODED_AT_ONCE, len(utterances)), len(utterances))


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename a finished folder to its place, moving what stood there out of the way first."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        folder.rename(old / folder.name)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        building.rename(folder)


def _rendered(corpus: Corpus) -> Path:
    """The recordings of a corpus that the package renders, rendered if they are not there yet."""
    assert corpus.render is not None
    folder = source_folder(corpus.name)
    with _locked(corpus.name):
        try:
            if not folder.is_dir() or len(corpus.read(folder).utterances) != corpus.expected_utterances:
                folder.mkdir(parents=True, exist_ok=True)
                corpus.render(folder)
        except OSError as error:
            raise SerError(
                f"cannot write to the data home {folder}: {error.strerror}\n  choose another with SER_HOME"
            ) from error
    return folder


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the source folder {folder} {what}; give the folder of the recordings with --source")
