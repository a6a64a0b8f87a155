"""What every reader of a corpus declares and returns."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from ser_cli.data.manifest import Utterance


@dataclass(frozen=True)
class Listing:
    """What a reader found under a folder, before any audio is decoded."""

    utterances: tuple[Utterance, ...]
    """Sorted by id, so that nothing depends on the order of a directory listing."""
    problems: tuple[str, ...] = ()
    """Files whose identity is in doubt, each a sentence `PATH: what is wrong`; they are left out and counted."""
    notes: tuple[str, ...] = ()
    """What was left out on purpose and why, for the person who reads the report."""
    missing: tuple[str, ...] = ()
    """Ids that a complete corpus has and this one lacks, as far as its grammar or its label files tell; sorted."""


@dataclass(frozen=True)
class LabelSet:
    """A named choice of emotions: which of a corpus's own are kept, and which are merged."""

    name: str
    merged: Mapping[str, tuple[str, ...]]
    """For each label, in the order of the model's outputs, the corpus's own emotions that it stands for."""
    source: str = ""
    """Whose choice it is."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the model's outputs."""
        return tuple(self.merged)

    @property
    def label_of(self) -> dict[str, str]:
        """The label of each of the corpus's own emotions; others are left out."""
        return {emotion: label for label, emotions in self.merged.items() for emotion in emotions}


def keep(name: str, *emotions: str, source: str = "", **merged: str) -> LabelSet:
    """A label set that keeps emotions under their own names; `happy="excited"` merges further ones into a label."""
    return LabelSet(name, {e: (e, *merged[e].split()) if e in merged else (e,) for e in emotions}, source)


@dataclass(frozen=True)
class Download:
    """Where the recordings of an openly licensed corpus can be had."""

    url: str
    size_bytes: int | None
    """Of the archive, None where its publisher does not tell."""
    unpacked_bytes: int
    """About; to see beforehand whether the disk has room."""
    md5: str | None
    """Of the archive, None where its publisher does not tell."""


@dataclass(frozen=True)
class ExpectedCounts:
    """How many utterances a complete corpus has."""

    source: str
    """Who counted them."""
    utterances: int
    emotion: Mapping[str, int | None]
    """By the corpus's own emotions; empty where unknown, as are those below; None where a name is known and its
    number is not."""
    session: Mapping[str, int | None]
    speaker: Mapping[str, int | None]


@dataclass(frozen=True)
class Corpus:
    """A corpus that is known by name."""

    name: str
    title: str
    licence: str
    homepage: str
    label_sets: tuple[LabelSet, ...]
    """The standard one first: that of the papers."""
    read: Callable[[Path], Listing]
    """Lists the utterances under a source folder."""
    layout: str
    """One line that tells what a folder of this corpus looks like."""
    how_to_get: str = ""
    """A sentence for people who do not have it yet."""
    download: Download | None = None
    render: Callable[[Path], None] | None = None
    """Writes the recordings of a corpus that the package makes by itself; None for real ones."""

    @property
    def counts(self) -> ExpectedCounts | None:
        """How many utterances a complete corpus has; None where nobody counted."""
        return expected_counts(self.name)


@cache
def expected_counts(corpus: str) -> ExpectedCounts | None:
    """Read `counts/NAME.json`, or nothing where there is none."""
    file = resources.files("ser_cli.corpora.counts") / f"{corpus}.json"
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return ExpectedCounts(
        values["source"], values["utterances"], *(values.get(key, {}) for key in ("emotion", "session", "speaker"))
    )
