"""The label files that MSP-IMPROV and MSP-Podcast share: a line for each turn, then one for each of its raters.

    UTD-IMPROV-S01A-F01-S-FM01.avi; N; A:3.000000; V:3.500000; D:3.000000 ; N:NaN;
    rater-01-p; Neutral; Neutral,Calm; A:3.000000; V:4.000000; D:3.000000; N:4.000000;

A turn line has the consensus as a letter; a rater line has one primary word, then secondary words of any kind
(semicolons among them), then scores. What these files really hold, and what is made of it:

- Scores may be `NaN` or absent: such a score is left out of the turn.
- `D:3.000000 ;` has a space before its semicolon; naturalness may be absent altogether.
- The same rater may stand twice in a turn: only the first line counts, the others are counted in a note.
- A line that is neither of the two is counted in a note; rater lines after a broken turn line belong to no turn.
- MSP-IMPROV names the video (`UTD-IMPROV-….avi`), not the recording (`MSP-IMPROV-….wav`).
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.corpora.files import Tree, read_text
from ser_cli.data.votes import count_votes, format_votes
from ser_cli.errors import count_of

SCORES = {"A": "activation", "V": "valence", "D": "dominance", "N": "naturalness"}
PRIMARY = {
    "angry": "angry",
    "sad": "sad",
    "happy": "happy",
    "surprise": "surprised",
    "surprised": "surprised",
    "fear": "fearful",
    "disgust": "disgust",
    "contempt": "contempt",
    "neutral": "neutral",
}
"""What a rater may choose, beside `Other` and `Other-` with words of their own."""

MAX_LABEL_BYTES = 1 << 30
"""The label file of MSP-Podcast 1.12 is larger than what is read as text elsewhere."""

_FILE = re.compile(r"([\w-]+)\.[A-Za-z0-9]{2,4}")
_RATER = re.compile(r"(?!MSP-|UTD-)[\w-]+")
_CONSENSUS = re.compile(r"[A-Z]")
_SCORE = re.compile(rf"([{''.join(SCORES)}])\s*:\s*(\S+)")


@dataclass(frozen=True)
class Turn:
    """What a label file says of one turn."""

    code: str
    """The letter of the consensus."""
    scores: tuple[tuple[str, str], ...]
    """The finite ones among activation, valence, dominance and naturalness."""
    raters: tuple[str, ...]
    """The emotion that each rater heard."""
    file: Path = field(compare=False, default=Path())
    """Where this was read, for messages."""

    @property
    def votes(self) -> str:
        """The text of the manifest's column; empty without raters."""
        return format_votes(count_votes([[heard] for heard in self.raters]))


@dataclass(frozen=True)
class Labels:
    """All turns of some label files."""

    turns: dict[str, Turn]
    """By the name of the recording without its suffix."""
    contradictory: frozenset[str]
    """Names that stand there more than once with different values; not among the turns."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_label_files(paths: Iterable[Path]) -> Labels:
    """Read label files as one; copies that say the same count once."""
    turns: dict[str, Turn] = {}
    contradictory: dict[str, str] = {}
    problems: list[str] = []
    repeated = unread = 0
    for path in paths:
        try:
            text = read_text(path, max_bytes=MAX_LABEL_BYTES)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        found, repeated_here, unread_here = _parse(text, path)
        repeated += repeated_here
        unread += unread_here
        for name, turn in found:
            first = turns.setdefault(name, turn)
            if first != turn:
                where = "another line of it" if first.file == path else str(first.file)
                contradictory[name] = f"{path}: labels {name} otherwise than {where}"
    notes = []
    if repeated:
        notes.append(f"{count_of(repeated, 'rater line')} that repeat a rater of the same turn left out")
    if unread:
        notes.append(f"{count_of(unread, 'line')} of the label files that name neither a turn nor a rater left out")
    kept = {name: turn for name, turn in turns.items() if name not in contradictory}
    return Labels(kept, frozenset(contradictory), (*problems, *contradictory.values()), tuple(notes))


def _parse(text: str, path: Path) -> tuple[list[tuple[str, Turn]], int, int]:
    """The turns of a label file in its order, the number of repeated raters and that of lines of another kind."""
    found: list[tuple[str, str, tuple[tuple[str, str], ...], dict[str, str]]] = []
    raters: dict[str, str] | None = None
    repeated = unread = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        name, said, *rest = (*(part.strip() for part in line.split(";")), "")
        file = _FILE.fullmatch(name)
        if file and _CONSENSUS.fullmatch(said):
            raters = {}
            found.append((re.sub("^UTD-", "MSP-", file[1]), said, _scores_of(rest), raters))
        elif not _RATER.fullmatch(name):
            raters = None
            unread += 1
        elif raters is None or not heard_of(said):
            unread += 1
        elif name in raters:
            repeated += 1
        else:
            raters[name] = heard_of(said)
    turns = [(name, Turn(code, scores, tuple(heard.values()), path)) for name, code, scores, heard in found]
    return turns, repeated, unread


def heard_of(primary: str) -> str:
    """The emotion of a rater's primary word; empty where it is none of theirs."""
    word = primary.strip().lower()
    return "other" if word.startswith("other") else PRIMARY.get(word, "")


def finite(text: str) -> str:
    """A number in its shortest form; empty where it is missing, NaN or no number."""
    try:
        value = float(text)
    except ValueError:
        return ""
    return str(value) if math.isfinite(value) else ""


def _scores_of(fields: Iterable[str]) -> tuple[tuple[str, str], ...]:
    matches = filter(None, map(_SCORE.fullmatch, fields))
    return tuple((SCORES[match[1]], number) for match in matches if (number := finite(match[2])))


@dataclass(frozen=True)
class Transcripts:
    """What was said, by the name of the recording without its suffix."""

    texts: dict[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read_transcripts(tree: Tree, source: Path, names: Collection[str]) -> Transcripts:
    """Read the text files that are named like recordings: one each, those written by people before recognised ones.

    Text files in folders of alignments are none. Files of one recording that differ give no text: which one is
    right cannot be known.
    """
    by_name: dict[str, list[tuple[bool, Path]]] = defaultdict(list)
    for path in tree.with_suffix(".txt"):
        if path.stem in names:
            folder = path.relative_to(source).parent.as_posix().lower()
            if "align" not in folder:
                by_name[path.stem].append(("human" not in folder, path))
    texts: dict[str, str] = {}
    problems: list[str] = []
    differing = 0
    for name, ranked in by_name.items():
        versions: set[str] = set()
        for rank, path in ranked:
            if rank == min(ranked)[0]:
                try:
                    versions.add(" ".join(read_text(path).split()))
                except OSError as error:
                    problems.append(f"{path}: cannot be read ({error.strerror})")
        differing += len(versions) > 1
        texts[name] = versions.pop() if len(versions) == 1 else ""
    notes = [f"{count_of(differing, 'clip')} with transcripts that differ kept without text"] if differing else []
    return Transcripts(texts, tuple(problems), tuple(notes))
