"""Who speaks in which recording, as the user tells it: for models that hear each against others of the same voice."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ser_cli.data.manifest import UNKNOWN_SPEAKER
from ser_cli.errors import UsageError
from ser_cli.prediction.recording_tables import RecordingTable, absolute, read_recording_table
from ser_cli.prediction.recordings import Missing, Shard, Source

ALL, FOLDER = "all", "folder"
"""All recordings of a call are one speaker's, or those of each folder; anything else names a table."""

WAYS = (
    f"{ALL} where all recordings are one speaker's, {FOLDER} where those of each folder are, or a CSV file with columns"
    " path and speaker"
)
"""To say who speaks, as the end of a sentence."""

Speaker = tuple[str, str]
"""A key: the name, or nothing and the recording of a speaker who is not known."""


@dataclass(frozen=True)
class Speakers:
    """Tells who speaks in a recording."""

    table: RecordingTable | None = None
    """None where the folders tell, or nothing has to."""
    by_folder: bool = False

    def of(self, recording: str) -> Speaker | None:
        """Who speaks; None where the table does not tell.

        As in a manifest, a recording of the speaker `unknown` is the only one of its own.
        """
        if self.table is None:
            return (str(Path(absolute(recording)).parent) if self.by_folder else ALL, "")
        name = self.table.of(recording)
        if name == UNKNOWN_SPEAKER:
            return ("", absolute(recording))
        return (name, "") if name else None

    @property
    def untold(self) -> str:
        """What is wrong with a recording without a speaker."""
        table = self.table.path if self.table else ""
        return f"has no speaker in {table}, and the model hears each recording against others of the same voice"


def read_speakers(told: str) -> Speakers:
    """Understand what `--speakers` says: `all`, `folder`, or the path of a table.

    Raises:
        UsageError: it is none of these, or the table cannot be used.
    """
    if told in (ALL, FOLDER):
        return Speakers(by_folder=told == FOLDER)
    if not os.path.lexists(told):
        raise UsageError(f"--speakers {told}: no such file; expected {WAYS}")
    return Speakers(read_recording_table(Path(told), "--speakers", "speaker"))


@dataclass(frozen=True)
class SpokenRecordings:
    """A list of recordings held as a whole, since what is said of one depends on the others of its speaker."""

    speakers: Speakers
    whole: tuple[Source, ...]
    part: tuple[Source, ...]
    """The shard of which something is to be said."""

    def to_hear(self, part: Iterable[Source]) -> dict[str, Speaker]:
        """All recordings by the speakers who occur in a part, each once however often and in what way it is named."""
        wanted = {self.speakers.of(source) for source in part if isinstance(source, str)}
        once = {absolute(source): source for source in self.whole if isinstance(source, str)}
        spoken = {source: self.speakers.of(source) for source in once.values()}
        return {source: speaker for source, speaker in spoken.items() if speaker and speaker in wanted}

    @property
    def hash(self) -> str:
        """SHA-256 over the recordings that are heard and their speakers: a list of answers depends on all of them."""
        told = sorted((absolute(recording), *speaker) for recording, speaker in self.to_hear(self.part).items())
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def list_spoken(speakers: Speakers, sources: Iterable[Source], shard: Shard | None) -> SpokenRecordings:
    """Hold a list; a recording whose speaker is not told becomes one that is missing.

    Args:
        speakers: tells who speaks.
        sources: the whole list.
        shard: the part of which something is to be said; None for the whole.
    """
    whole = tuple(
        source if isinstance(source, Missing) or speakers.of(source) else Missing(source, speakers.untold)
        for source in sources
    )
    return SpokenRecordings(speakers, whole, whole[slice(*shard.bounds(len(whole)))] if shard else whole)
