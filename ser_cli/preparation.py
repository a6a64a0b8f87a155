"""Prepare a corpus: decode each of its recordings once, and store all of them where training reads them."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ser_cli import __version__
from ser_cli.corpora import CORPORA
from ser_cli.data.audio import Recording, read_recording
from ser_cli.data.manifest import Utterance, hash_manifest, write_manifest
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
from ser_cli.home import corpus_folder, data_home, hold_corpus
from ser_cli.sources import DATASET_NAME, Source, list_known_corpus, list_manifest

DECODED_AT_ONCE = 64
"""Recordings in memory together: enough to keep every core busy, few enough for any machine."""

Progress = Callable[[int, int], None]
"""Told how many of how many recordings are decoded."""


@dataclass(frozen=True)
class PreparationResult:
    """A prepared corpus and what it took."""

    corpus: PreparedCorpus
    repeated: bool
    """False where everything was there already."""
    missing: int
    """Utterances that a complete corpus has and this one lacks."""


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
    with hold_corpus(source.name):
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
    if not DATASET_NAME.fullmatch(dataset):
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
    names = [path.name for path in folder.iterdir() if DATASET_NAME.fullmatch(path.name)] if folder.is_dir() else []
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
