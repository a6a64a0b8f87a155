"""What is said where clips are heard against others of the same voice: such figures rest on more than each clip."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ser_cli.data.manifest import Utterance, speaker_of
from ser_cli.errors import count_of
from ser_cli.evaluation.pages import Section

RULE = "Normalised by speaker: from each clip's embedding the mean over all clips of its speaker is taken"
SENTENCE = f"{RULE}, for tested speakers over their own unlabelled clips."
CAPTION = "normalised by speaker"
"""Behind the title of each table with rates."""


@dataclass(frozen=True)
class Normalization:
    """What the clips of a run, or of a model on another corpus, are heard against."""

    by: str = "clip"
    """`clip`, or `speaker`."""
    lone_speakers: int = 0
    """Tested speakers of whom there is a single clip; 0 where each clip is heard on its own."""

    @property
    def by_speaker(self) -> bool:
        """Whether the figures rest on other clips of the tested speakers."""
        return self.by == "speaker"

    def sentences(self, corpus: str = "") -> list[str]:
        """What a reader has to know; nothing where each clip is heard on its own.

        Args:
            corpus: the name of one that the model was not trained on; empty for a run.
        """
        if not self.by_speaker:
            return []
        told = f"{RULE}, here over the speaker's unlabelled clips in {corpus}." if corpus else SENTENCE
        return [told, *([self.lone_sentence] if self.lone_speakers else [])]

    @property
    def lone_sentence(self) -> str:
        """What becomes of tested speakers of whom there is a single clip."""
        have = "has" if self.lone_speakers == 1 else "have"
        return (
            f"{count_of(self.lone_speakers, 'tested speaker')} {have} one clip; it is then heard half way against the"
            f" mean of training."
        )

    def captioned(self, sections: Iterable[Section]) -> tuple[Section, ...]:
        """The same parts of a report, said above each table with rates."""
        if not self.by_speaker:
            return tuple(sections)
        return tuple(
            replace(section, tables=tuple(replace(t, title=f"{t.title}; {CAPTION}") if t.has_rates else t
                                          for t in section.tables))
            for section in sections
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """What `--json` and `scores.json` tell of it."""
        return {"normalized_by": self.by, "speakers_with_one_clip": self.lone_speakers}


def normalization_of(by: str, tested: Iterable[str], speakers: Mapping[str, str]) -> Normalization:
    """What some tested clips are heard against.

    Args:
        by: `clip` or `speaker`.
        tested: ids of the clips.
        speakers: who speaks in each clip of the corpus, by id; a clip of unknown speaker is alone of its own.
    """
    if by != "speaker":
        return Normalization(by)
    keys = {identity: speaker_of(Utterance(identity, "", "", speaker)) for identity, speaker in speakers.items()}
    clips = Counter(keys.values())
    return Normalization(by, len({keys[i] for i in tested if i in keys and clips[keys[i]] == 1}))
