"""ESD: 35,000 acted clips of twenty speakers in 5 emotions, in Mandarin and English (Zhou et al. 2021, ICASSP).

A file is `0011/Angry/0011_000351.wav`, in the older release with a folder more: `Angry/train/`, `Angry/evaluation/`
or `Angry/test/`. Speakers 0001 to 0010 speak Mandarin, 0011 to 0020 English. A speaker has 1,750 clips: the same 350
sentences of their language in each emotion, 350 numbers after one another, so that clips 000001 and 000351 say the
same. The column `sentence` is that number, 001 to 350: the text is shared by all speakers of a language.

The emotion is that of the folder. The speaker's text file (`0011/0011.txt`: id, text, emotion) must agree; it alone
tells the emotion where all clips of a speaker lie in one folder. These files come in GB 2312, UTF-16, UTF-8 and
Latin-1, some with Chinese words for the emotions and some with lines that are not three fields; those are counted.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import (
    AUDIO_SUFFIXES,
    Tree,
    folders_of,
    left_out,
    nearest_folder,
    one_file_each,
    read_text,
    walk,
)
from ser_cli.data.manifest import Utterance
from ser_cli.errors import count_of

EMOTIONS = ("angry", "happy", "neutral", "sad", "surprised")
WORDS = {
    **{emotion: emotion for emotion in EMOTIONS},
    "surprise": "surprised",
    "中立": "neutral",
    "快乐": "happy",
    "伤心": "sad",
    "生气": "angry",
    "惊喜": "surprised",
}
"""Emotions as folders and text files spell them, in lower case."""
SPEAKERS = tuple(f"{number:04d}" for number in range(1, 21))
MANDARIN = SPEAKERS[:10]
MANDARIN_ENCODINGS = ("utf-8", "gb18030")
ENCODINGS = ("utf-8", "cp1252", "latin-1")
"""Of the speakers' text files, where neither a byte order mark nor zero bytes tell."""
MALE = tuple(f"{number:04d}" for number in (4, 5, 6, 8, 10, 11, 12, 13, 14, 20))
SENTENCES = 350
"""Of each language; every speaker says each of them in each emotion."""
CLIPS = SENTENCES * len(EMOTIONS)

_NAME = re.compile(r"(?P<speaker>\d{4})_(?P<number>\d{6})")
_SPEAKER = re.compile(r"00\d\d")
"""The name of a speaker's folder and text file."""


@dataclass(frozen=True)
class _Texts:
    """What the speakers' text files say, by id."""

    lines: dict[str, tuple[str, str]]
    """Text and emotion."""
    contradicted: frozenset[str]
    """Ids of which two lines say different things; they are a problem already."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read(source: Path) -> Listing:
    """List the clips under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    texts = _read_texts(tree)
    problems = [*tree.problems, *texts.problems]
    others = 0
    found: list[tuple[str, Path]] = []
    told: dict[str, set[str]] = defaultdict(set)
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        if not match:
            others += 1
            continue
        if fault := _fault_of(match, path, source):
            problems.append(f"{path}: {fault}")
            continue
        found.append((path.stem, path))
        told[path.stem].update(WORDS[n] for n in map(str.lower, folders_of(path, source)) if n in WORDS)
    files = one_file_each(found)
    utterances = []
    for identity, path in files.paths.items():
        text, written = texts.lines.get(identity, ("", ""))
        if identity in texts.contradicted:
            continue
        if len(told[identity]) > 1:
            problems.append(f"{path}: its folders say {' and '.join(sorted(told[identity]))}")
            continue
        emotion = next(iter(told[identity]), written)
        if not emotion:
            problems.append(f"{path}: neither a folder nor {identity[:4]}.txt tells its emotion")
        elif written and written != emotion:
            problems.append(f"{path}: its folder says {emotion}, {identity[:4]}.txt {written}")
        else:
            utterances.append(_utterance(identity, path, emotion, text))
    complete = (f"{speaker}_{number:06d}" for speaker in SPEAKERS for number in range(1, CLIPS + 1))
    return Listing(
        tuple(utterances),
        (*problems, *files.problems),
        (*left_out(others, "with a name of another kind"), *texts.notes, *files.notes),
        tuple(identity for identity in complete if identity not in files.paths),
    )


def _fault_of(match: re.Match[str], path: Path, source: Path) -> str:
    """What is wrong with the fields of a name, or nothing."""
    if match["speaker"] not in SPEAKERS:
        return f"speaker {match['speaker']} is not among {SPEAKERS[0]} to {SPEAKERS[-1]}"
    if not 1 <= int(match["number"]) <= CLIPS:
        return f"number {match['number']} is not among 000001 to {CLIPS:06d}"
    folder = nearest_folder(path, source, _SPEAKER)
    if folder and folder[0] != match["speaker"]:
        return f"its name says speaker {match['speaker']}, its folder {folder[0]}"
    return ""


def _read_texts(tree: Tree) -> _Texts:
    """Read the text files of all speakers; lines that are not three fields are counted."""
    lines: dict[str, tuple[str, str]] = {}
    contradicted: set[str] = set()
    problems: list[str] = []
    malformed = 0
    for path in tree.with_suffix(".txt"):
        if not _SPEAKER.fullmatch(path.stem):
            continue
        try:
            text = read_text(path, MANDARIN_ENCODINGS if path.stem in MANDARIN else ENCODINGS)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        for line in text.split("\n"):
            fields = [field.strip() for field in line.split("\t") if field.strip()]
            if len(fields) != 3 or not _NAME.fullmatch(fields[0]) or fields[2].lower() not in WORDS:
                malformed += bool(fields)
                continue
            identity, said = fields[0], (fields[1], WORDS[fields[2].lower()])
            if lines.setdefault(identity, said)[1] != said[1] and identity not in contradicted:
                contradicted.add(identity)
                problems.append(f"{path}: says {said[1]} of {identity}, another line {lines[identity][1]}")
    note = f"{count_of(malformed, 'line')} of text files that cannot be read left out"
    return _Texts(lines, frozenset(contradicted), tuple(problems), (note,) if malformed else ())


def _utterance(identity: str, path: Path, emotion: str, text: str) -> Utterance:
    speaker, number = identity.split("_")
    sentence = (int(number) - 1) % SENTENCES + 1
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=emotion,
        speaker=speaker,
        gender="male" if speaker in MALE else "female",
        text=text,
        extra=(("language", "Mandarin" if speaker in MANDARIN else "English"), ("sentence", f"{sentence:03d}")),
    )


CORPUS = Corpus(
    name="esd",
    title="Emotional Speech Database",
    licence="for academic use, after a form",
    homepage="https://github.com/HLTSingapore/Emotional-Speech-Data",
    label_sets=(
        keep("5", *EMOTIONS, source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="0001/Angry/0001_000351.wav (or Angry/train/ and so on) and 0001/0001.txt, any audio extension",
    how_to_get="fill in the form on its homepage; the archive is 2.4 GB",
)
