"""What every reader of a corpus declares and returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.data.manifest import Utterance

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".au", ".w64", ".caf"})
"""What libsndfile decodes and corpora are found in; compared in lower case."""


@dataclass(frozen=True)
class Listing:
    """What a reader found under a folder, before any audio is decoded."""

    utterances: tuple[Utterance, ...]
    """Sorted by id, so that nothing depends on the order of a directory listing."""
    problems: tuple[str, ...] = ()
    """Files whose identity is in doubt; each a sentence that names the file."""
    notes: tuple[str, ...] = ()
    """What was left out on purpose and why, for the person who reads the report."""


@dataclass(frozen=True)
class Corpus:
    """A corpus that is known by name."""

    name: str
    title: str
    licence: str
    homepage: str
    labels: tuple[str, ...]
    read: Callable[[Path], Listing]
    """Lists the utterances under a source folder."""
    expected_utterances: int
    layout: str
    """One line that tells what a folder of this corpus looks like."""
    render: Callable[[Path], None] | None = field(default=None)
    """Writes the recordings of a corpus that the package makes by itself; None for real ones."""


def audio_files(source: Path) -> list[Path]:
    """All audio files below a folder, sorted by path; hidden files and AppleDouble twins (`._x`) left out."""
    return sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
