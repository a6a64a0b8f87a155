"""CREMA-D: 7,442 acted clips of 91 actors in 6 emotions (Cao et al. 2014, IEEE Trans. Affective Computing 5(4)).

A file is `AudioWAV/1001_DFA_ANG_XX.wav`: actor, sentence, emotion, level. The emotion listed is the one that the
actor was **asked to play**, as in the papers; what listeners heard stands in further columns where the repository's
`processedResults/summaryTable.csv` is there. It often differs, so a result should say which it used. Only the
sentence IEO was played at three levels; elsewhere the level is unspecified, and neutral has none.

Traps: `1076_MTI_SAD_XX` holds no signal, so a complete corpus lists 7,441 clips. `1040_ITH_SAD_X` is published
without its last letter and listed as `1040_ITH_SAD_XX`. `AudioMP3` repeats `AudioWAV`; the lossless file is taken.
A clone without Git LFS holds small text files in the place of audio; they are told apart by how they begin. The
names' grammar yields 20 ids more than were published, and nothing says which.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, Tree, left_out, one_file_each, read_rows, walk
from ser_cli.data.manifest import Utterance
from ser_cli.errors import count_of

EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
VOTED = {code[0]: emotion for code, emotion in EMOTIONS.items()}
"""What a listener may choose, by the letters of the summary table."""
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
ACTORS = tuple(str(actor) for actor in range(1001, 1092))
EMPTY = "1076_MTI_SAD_XX"
"""The published clip that holds no signal."""
MISNAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}
"""As published, and as it is meant."""
LISTED = 7441
"""Clips of a complete corpus: those published without the empty one."""
NEVER_PUBLISHED = 20
"""Ids that the grammar yields beyond the 7,442 published ones."""

Value = TypeVar("Value")

_NAME = re.compile(r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{1,2})")
_VOTES = {"voicevote": "voice_vote", "facevote": "face_vote", "multimodalvote": "multimodal_vote"}
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
"""A Git LFS pointer is smaller."""


@dataclass(frozen=True)
class _Actor:
    """What the demographics tell of an actor."""

    gender: str
    age: str


def read(source: Path) -> Listing:
    """List the clips under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    problems = list(tree.problems)
    others = empty = 0
    misnamed: set[tuple[str, str]] = set()
    pointers: list[str] = []
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        identity = MISNAMED.get(path.stem.upper(), path.stem.upper())
        match = _NAME.fullmatch(identity)
        if not match:
            others += 1
        elif fault := _fault_of(match):
            problems.append(f"{path}: {fault}")
        elif identity == EMPTY:
            empty += 1
        elif _is_pointer(path):
            pointers.append(identity)
        else:
            found.append((identity, path))
            if identity != path.stem.upper():
                misnamed.add((path.stem, identity))
    files = one_file_each(found)
    notes = [
        *left_out(others, "with a name of another kind"),
        *left_out(empty, f"of {EMPTY}, which is known to hold no signal,"),
        *(f"{name} is published under that wrong name, and listed as {right}" for name, right in sorted(misnamed)),
        *files.notes,
    ]
    # A clip may be a pointer in one format and audio in another.
    without_audio = {*pointers} - files.paths.keys()
    if without_audio:
        number = count_of(len(without_audio), "clip")
        problems.append(f"{source}: {number} only as Git LFS pointers, without audio; run `git lfs pull` there")
    notes += left_out(sum(i not in without_audio for i in pointers), "with a Git LFS pointer to a clip at hand")
    tables = _read_tables(tree, source)
    missing = _missing(files.paths)
    if missing:
        notes.append(f"{NEVER_PUBLISHED} of the missing ids were never published; nothing says which")
    return Listing(
        tuple(_utterance(identity, path, tables) for identity, path in files.paths.items()),
        (*problems, *files.problems, *tables.problems),
        (*notes, *tables.notes),
        missing,
    )


def _fault_of(match: re.Match[str]) -> str:
    """What is wrong with the fields of a name, or nothing."""
    if match["actor"] not in ACTORS:
        return f"actor {match['actor']} is not among {ACTORS[0]} to {ACTORS[-1]}"
    for what, known in (("sentence", SENTENCES), ("emotion", EMOTIONS), ("level", LEVELS)):
        if match[what] not in known:
            return f"{what} {match[what]} is not among {', '.join(known)}"
    return ""


def _is_pointer(path: Path) -> bool:
    """Whether a file is what Git puts in the place of a large one; a file that cannot be read is left to later."""
    try:
        if path.stat().st_size >= _POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _missing(paths: dict[str, Path]) -> tuple[str, ...]:
    """Ids of the grammar that are not there; none where the corpus is complete by number."""
    if len(paths) >= LISTED:
        return ()
    grammar = (
        f"{actor}_{sentence}_{emotion}_{level}"
        for actor in ACTORS
        for sentence in SENTENCES
        for emotion in EMOTIONS
        for level in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
    )
    return tuple(sorted({*grammar} - paths.keys() - {EMPTY}))


@dataclass(frozen=True)
class _Tables:
    """What the repository's tables tell."""

    actors: dict[str, _Actor]
    votes: dict[str, tuple[tuple[str, str], ...]]
    """For each clip, columns of the manifest: what most listeners heard, saw, or both."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def _read_tables(tree: Tree, source: Path) -> _Tables:
    problems: list[str] = []
    actors = _read_table("VideoDemographics.csv", tree, source, _actor_of, problems)
    votes = _read_table("summaryTable.csv", tree, source, _votes_of, problems)
    notes = [] if actors else ["no VideoDemographics.csv found, so gender and age are unknown"]
    if not votes:
        notes.append("no processedResults/summaryTable.csv found, so what listeners heard is unknown")
    return _Tables(actors, votes, tuple(problems), tuple(notes))


def _read_table(
    name: str, tree: Tree, source: Path, read_row: Callable[[dict[str, str]], tuple[str, Value]], problems: list[str]
) -> dict[str, Value]:
    """Read all copies of a table, below the source or beside it where the source is the folder of audio alone.

    A row that cannot be read, and one that contradicts another copy, is a problem.
    """
    beside = source.resolve().parent / name
    values: dict[str, Value] = {}
    contradicted: set[str] = set()
    for path in tree.named(name) or ([beside] if beside.is_file() else []):
        try:
            for number, row in read_rows(path):
                try:
                    key, value = read_row(row)
                except (KeyError, ValueError) as error:
                    problems.append(f"{path}: line {number}: cannot be read ({error})")
                    continue
                if values.setdefault(key, value) != value and key not in contradicted:
                    contradicted.add(key)
                    problems.append(f"{path}: line {number}: contradicts what was said of {key} before")
        except (OSError, csv.Error) as error:
            problems.append(f"{path}: cannot be read ({error})")
    return {key: value for key, value in values.items() if key not in contradicted}


def _actor_of(row: dict[str, str]) -> tuple[str, _Actor]:
    gender = row["sex"].lower()
    if gender not in ("female", "male"):
        raise ValueError(f"sex {row['sex']!r} is neither Female nor Male")
    age = row["age"]
    return row["actorid"], _Actor(gender, age if age.isdigit() else "")


def _votes_of(row: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A clip and what most listeners chose; a tie is written `F:S` in the table."""
    columns = []
    for header, column in _VOTES.items():
        chosen = row[header].upper().split(":")
        if all(letter in VOTED for letter in chosen):
            columns.append((column, "|".join(VOTED[letter] for letter in chosen)))
        elif row[header].lower() not in ("", "na", "nan"):
            raise ValueError(f"{row[header]!r} is not among {', '.join(VOTED)}")
    return row["filename"].upper(), tuple(columns)


def _utterance(identity: str, path: Path, tables: _Tables) -> Utterance:
    actor, sentence, emotion, level = identity.split("_")
    known = tables.actors.get(actor, _Actor("", ""))
    age = (("age", known.age),) if known.age else ()
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=EMOTIONS[emotion],
        speaker=actor,
        gender=known.gender,
        text=SENTENCES[sentence],
        extra=(("level", LEVELS[level]), ("sentence", sentence), *tables.votes.get(identity, ()), *age),
    )


CORPUS = Corpus(
    name="crema-d",
    title="Crowd-sourced Emotional Multimodal Actors Dataset, audio part",
    licence="ODbL 1.0",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    label_sets=(
        keep("6", *EMOTIONS.values(), source="the papers: the emotion that the actor was asked to play"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="AudioWAV/1001_DFA_ANG_XX.wav and so on, any audio extension; tables of the repository where they are there",
    how_to_get="`git clone` its homepage with Git LFS installed, or Kaggle's ejlok1/cremad (without the tables)",
)
