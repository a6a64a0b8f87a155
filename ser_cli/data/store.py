"""A prepared corpus on disk: the manifest and all waveforms in one file that processes share.

    $SER_HOME/corpora/NAME/
      manifest.csv    one row per utterance
      audio.f32       every waveform after the other, float32 little-endian, 16 kHz mono
      audio.csv       id, offset and length in samples, SHA-256 of the samples, rate and channels of the source
      skipped.csv     what was left out and why
      report.json     what a complete corpus would hold and what was found
      prepared.json   written last: its presence says that the rest is whole

`audio.f32` is mapped, not read: training touches it at memory speed, and any number of processes on one
machine share a single copy of it in memory. Float32 keeps what the decoder gave, without clipping.
"""

import csv
import io
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.manifest import MAX_BYTES, Utterance, read_prepared_manifest, speaker_of
from ser_cli.errors import CorpusError
from ser_cli.files import read_json_object, read_table, write_atomically

FORMAT_VERSION = 2

MANIFEST_NAME = "manifest.csv"
AUDIO_NAME = "audio.f32"
INDEX_NAME = "audio.csv"
SKIPPED_NAME = "skipped.csv"
REPORT_NAME = "report.json"
MARKER_NAME = "prepared.json"

MAX_REPORT_BYTES = 256 << 20
"""It lists every recording that is missing."""

AUDIO_DTYPE = np.dtype("<f4")


@dataclass(frozen=True)
class StoredAudio:
    """Where one waveform lies in `audio.f32`, and what it came from."""

    id: str
    offset: int
    """In samples."""
    samples: int
    sha256: str
    """Of the decoded samples: equal for recordings that sound the same, whatever their container."""
    source_rate_hz: int
    source_channels: int


@dataclass(frozen=True)
class Preparation:
    """What `prepared.json` holds: how a corpus came about."""

    format_version: int
    name: str
    corpus: str
    """The reader's name, or `manifest`."""
    labels: tuple[str, ...]
    """The emotions that are told apart unless a command chooses others: a user's own, or a label set's."""
    label_set: str
    """The label set's name or list, as `--labels` takes it; empty for a user's own manifest."""
    source: str
    """The folder of the recordings."""
    manifest: str
    """The user's own manifest; empty for a known corpus."""
    fingerprint: str
    """Over names, sizes and times of the source files: equal means that nothing needs to be done again."""
    manifest_hash: str
    utterances: int
    skipped: int
    """Recordings that could not be used."""
    doubtful: int
    """Files that were left out because their identity is in doubt."""
    program_version: str


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that is ready for training."""

    folder: Path
    preparation: Preparation
    utterances: tuple[Utterance, ...]
    """Sorted by id."""
    audio: tuple[StoredAudio, ...]
    """In the order of `utterances`."""
    where: tuple[str, ...] = ()
    """The conditions by which these utterances were chosen; see `data/selection.py`."""
    soft_labels: Mapping[str, NDArray[np.float32]] | None = None
    """(classes,) per id where a model is to learn the raters' votes; None where it learns `emotion` alone."""
    audio_state: tuple[int, ...] = ()
    """Of the file of the waveforms when the corpus was opened; another one is not read. Empty for any."""

    @property
    def name(self) -> str:
        """The name that `--dataset` takes."""
        return self.preparation.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The declared emotions, in the order of the model's outputs."""
        return self.preparation.labels

    @cached_property
    def by_id(self) -> dict[str, Utterance]:
        """Utterances by id."""
        return {utterance.id: utterance for utterance in self.utterances}

    @cached_property
    def speaker_numbers(self) -> dict[tuple[str, str], int]:
        """A number for each `speaker_of`, the same in every process."""
        return {speaker: n for n, speaker in enumerate(dict.fromkeys(map(speaker_of, self.utterances)))}

    @cached_property
    def _audio_by_id(self) -> dict[str, StoredAudio]:
        return {entry.id: entry for entry in self.audio}

    @cached_property
    def _samples(self) -> NDArray[np.float32]:
        with self._open_audio() as file:
            return np.memmap(file, dtype=AUDIO_DTYPE, mode="r")

    def _open_audio(self) -> BinaryIO:
        """Open the waveforms.

        Raises:
            CorpusError: they are others than those that the index tells of.
        """
        path = self.folder / AUDIO_NAME
        try:
            file = path.open("rb")
        except OSError as error:
            raise CorpusError(f"{path} cannot be read ({error.strerror})\n  prepare {self.name} again") from None
        if self.audio_state and _state_of(os.fstat(file.fileno())) != self.audio_state:
            file.close()
            raise CorpusError(
                f"{self.folder} was prepared anew while this command read it, and its clips may lie elsewhere now\n"
                "  run the same command again; what was finished is kept"
            )
        return file

    def length(self, identity: str) -> int:
        """Samples of an utterance."""
        return self._audio_by_id[identity].samples

    def audio_hash(self, identity: str) -> str:
        """SHA-256 of the decoded samples of an utterance."""
        return self._audio_by_id[identity].sha256

    def waveform(self, identity: str) -> NDArray[np.float32]:
        """(samples,) of an utterance; a read-only view of the mapped file."""
        entry = self._audio_by_id[identity]
        return self._samples[entry.offset : entry.offset + entry.samples]

    def stretch(self, identity: str, start: int, samples: int) -> NDArray[np.float32]:
        """(samples,) of an utterance from a sample on; read for itself, since a map keeps all it touched resident."""
        offset = self._audio_by_id[identity].offset + start
        with self._open_audio() as file:
            return np.fromfile(file, AUDIO_DTYPE, samples, offset=AUDIO_DTYPE.itemsize * offset)

    def target(self, identity: str) -> NDArray[np.float32]:
        """(classes,) what a model is to learn of an utterance: the votes where they were chosen, else one-hot."""
        if self.soft_labels is not None:
            return self.soft_labels[identity]
        row = np.zeros(len(self.labels), dtype=np.float32)
        row[self.labels.index(self.by_id[identity].emotion)] = 1
        return row


def write_audio_index(path: Path, entries: list[StoredAudio]) -> None:
    """Write `audio.csv` into a folder that is still being prepared."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(StoredAudio.__dataclass_fields__)
    writer.writerows([[getattr(entry, name) for name in StoredAudio.__dataclass_fields__] for entry in entries])
    path.write_text(text.getvalue(), encoding="utf-8")


def write_preparation(folder: Path, preparation: Preparation) -> None:
    """Write `prepared.json`, whole or not at all."""
    text = json.dumps(asdict(preparation), indent=1, ensure_ascii=False)
    write_atomically(folder / MARKER_NAME, text.encode())


def read_report(folder: Path) -> dict[str, Any]:
    """What `report.json` of a prepared corpus says; see `data/completeness.py`.

    Raises:
        CorpusError: it is missing or damaged.
    """
    try:
        return read_json_object(folder / REPORT_NAME, MAX_REPORT_BYTES)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder / REPORT_NAME}: cannot be read ({error}); prepare the corpus again") from None


def read_preparation(folder: Path) -> Preparation | None:
    """What `prepared.json` of a folder says, or None where nothing whole was prepared."""
    try:
        values = read_json_object(folder / MARKER_NAME)
        if values["format_version"] != FORMAT_VERSION or not isinstance(values["labels"], list):
            return None
        preparation = Preparation(**{**values, "labels": tuple(map(str, values["labels"]))})
        texts = ("name", "corpus", "label_set", "source", "manifest", "fingerprint", "manifest_hash")
        numbers = ("utterances", "skipped", "doubtful")
        whole = all(isinstance(values[key], str) for key in texts) and all(type(values[key]) is int for key in numbers)
        return preparation if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_corpus(folder: Path) -> PreparedCorpus:
    """Open a prepared corpus.

    Raises:
        CorpusError: nothing whole was prepared there, or its files no longer fit together.
    """
    preparation = read_preparation(folder)
    if preparation is None:
        raise CorpusError(
            f"dataset {folder.name!r} is not prepared: no {folder / MARKER_NAME}\n"
            f"  prepare it first: ser prepare --dataset {folder.name} --source FOLDER"
        )
    damaged = CorpusError(
        f"{folder}: manifest and audio do not fit together\n  prepare it again: {_command(preparation)} --force"
    )
    try:
        status = (folder / AUDIO_NAME).stat()  # before the index: where both are replaced meanwhile, it shows
        utterances = read_prepared_manifest(folder / MANIFEST_NAME)
        audio = _read_audio_index(folder / INDEX_NAME)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged from error
    if any(entry.offset < 0 or entry.samples < 1 for entry in audio):
        raise damaged
    end = max((entry.offset + entry.samples for entry in audio), default=0)
    if [u.id for u in utterances] != [a.id for a in audio] or status.st_size < end * AUDIO_DTYPE.itemsize:
        raise damaged
    return PreparedCorpus(folder, preparation, utterances, audio, audio_state=_state_of(status))


def _state_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one in its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _command(preparation: Preparation) -> str:
    """The command that prepared a corpus."""
    named = ["--dataset", preparation.name]
    if preparation.manifest:
        labels = ",".join(preparation.labels)
        named = ["--manifest", preparation.manifest, "--name", preparation.name, "--labels", labels]
    skipping = ["--skip-unreadable"] if preparation.skipped else []
    return shlex.join(["ser", "prepare", *named, "--source", preparation.source, *skipping])


def _read_audio_index(path: Path) -> tuple[StoredAudio, ...]:
    _, rows = read_table(path, MAX_BYTES)
    return tuple(
        StoredAudio(
            row["id"],
            int(row["offset"]),
            int(row["samples"]),
            row["sha256"],
            int(row["source_rate_hz"]),
            int(row["source_channels"]),
        )
        for row in rows
    )


__all__ = [
    "SAMPLE_RATE_HZ",
    "Preparation",
    "PreparedCorpus",
    "StoredAudio",
    "open_corpus",
    "read_preparation",
    "read_report",
    "write_preparation",
]
