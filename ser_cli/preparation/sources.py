"""What is to be prepared: the recordings of a known corpus or of a user's manifest, listed and not yet decoded."""

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ser_cli.corpora import CORPORA, Corpus, ExpectedCounts, Listing, find_corpus
from ser_cli.data.selection import find_label_set
from ser_cli.data.store import FORMAT_VERSION
from ser_cli.data.user_manifest import read_user_manifest, require_manifest
from ser_cli.errors import CorpusError, SerError, UsageError
from ser_cli.home import hold_corpus, source_folder

MANIFEST_CORPUS = "manifest"
"""Stands for the reader's name where a user's own manifest was prepared."""

DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def free_name(wanted: str) -> str:
    """A name that a user's own dataset may have, close to the wanted one."""
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._") or "recordings"
    return f"my-{legal}" if legal in CORPORA else legal


@dataclass(frozen=True)
class Source:
    """What is to be prepared: listed, not yet decoded."""

    name: str
    corpus: str
    labels: tuple[str, ...]
    """The emotions that are told apart unless a command chooses others."""
    folder: Path
    listing: Listing
    label_set: str = ""
    """The label set's name or list; empty for a user's own manifest, whose labels are all its emotions."""
    manifest: str = ""
    """The user's own manifest; empty for a known corpus."""
    labels_chosen: bool = True
    """False where a known corpus goes with the papers' labels because none were named."""

    @property
    def counts(self) -> ExpectedCounts | None:
        """What a complete corpus holds; None where nobody counted."""
        return CORPORA[self.corpus].counts if self.corpus in CORPORA else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over path, size and time of every file, what was left out, and a manifest's own labels."""
        decisive = [FORMAT_VERSION, self.labels if self.manifest else (), self.listing.problems]
        digest = hashlib.sha256(json.dumps(decisive).encode())
        for utterance in self.listing.utterances:
            try:
                status = Path(utterance.path).stat()
                state = [status.st_size, status.st_mtime_ns]
            except OSError:
                state = []
            row = [asdict(utterance), state]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def list_known_corpus(name: str, source: Path | None, labels: str | None = None) -> Source:
    """List a corpus that is known by name.

    Args:
        name: as in `--dataset`.
        source: folder of its recordings; None for one that was downloaded or that the package renders by itself.
        labels: the label set that is meant unless a command chooses another; None for the papers'.

    Raises:
        UnknownNameError: there is no such corpus or label set.
        UsageError: the folder is not given.
        CorpusError: the folder is missing or holds no recording of this corpus.
    """
    corpus = find_corpus(name)
    if source is None:
        source = _rendered(corpus) if corpus.render else _downloaded(corpus)
    _require_folder(source)
    listing = corpus.read(source)
    if not listing.utterances:
        found = [*listing.problems[:3], *listing.notes] or ["no audio file at all"]
        told = "\n  found: ".join([f"no recording of {name} found under {source}\n  expected: {corpus.layout}", *found])
        raise CorpusError(told)
    chosen = find_label_set(name, listing.utterances, corpus.label_sets, labels or corpus.label_sets[0].name)
    return Source(name, name, chosen.labels, source, listing, label_set=chosen.name, labels_chosen=labels is not None)


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
    require_manifest(manifest)
    name = name or manifest.stem
    require_own_name(name, manifest, source)
    folder = manifest.parent if source is None else source
    _require_folder(folder)
    read = read_user_manifest(manifest, folder, labels)
    declared = tuple(labels) if labels else tuple(sorted({utterance.emotion for utterance in read.utterances}))
    if len(set(declared)) != len(declared) or len(declared) < 2:
        raise UsageError(
            f"{manifest}: labels {', '.join(declared)}; at least two different emotions are needed, each named once"
        )
    return Source(
        name,
        MANIFEST_CORPUS,
        declared,
        folder,
        Listing(read.utterances, notes=read.notes),
        manifest=str(manifest.resolve()),
    )


def require_own_name(name: str, manifest: Path, source: Path | None = None) -> None:
    """See that a user's own dataset can have a name.

    Args:
        name: that it is to have.
        manifest: of it, for the command that is advised.
        source: folder of its recordings, likewise.

    Raises:
        UsageError: it cannot be a folder's, or is a known corpus's.
    """
    if not DATASET_NAME.fullmatch(name):
        fault = f"{name!r} cannot name a dataset: a name has letters, digits, '.', '_' and '-'"
    elif name in CORPORA:
        fault = f"{name!r} is the name of a known corpus, and cannot be that of {manifest} too"
    else:
        return
    other, told = free_name(name), f" --source {shlex.quote(str(source))}" if source is not None else ""
    raise UsageError(
        f"{fault}\n  name it otherwise: ser prepare --manifest {shlex.quote(str(manifest))}{told} --name {other},"
        f" then --dataset {other}"
    )


def _rendered(corpus: Corpus) -> Path:
    """The recordings of a corpus that the package renders, rendered if they are not there yet."""
    assert corpus.render is not None
    folder = source_folder(corpus.name)
    with hold_corpus(corpus.name):
        try:
            if not folder.is_dir() or corpus.read(folder).missing:
                folder.mkdir(parents=True, exist_ok=True)
                corpus.render(folder)
        except OSError as error:
            raise SerError(
                f"cannot write to the data home {folder}: {error.strerror}\n  choose another with SER_HOME"
            ) from error
    return folder


def _downloaded(corpus: Corpus) -> Path:
    """Where `--download` left the recordings of a corpus."""
    folder = source_folder(corpus.name)
    if not folder.is_dir():
        download = " or --download" if corpus.download else ""
        raise UsageError(
            f"dataset {corpus.name!r} needs its recordings: give their folder with --source{download}\n"
            f"  layout: {corpus.layout}\n  to be had at: {corpus.homepage} ({corpus.licence})"
        )
    return folder


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the source folder {folder} {what}; give the folder of the recordings with --source")
