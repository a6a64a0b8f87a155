"""IEMOCAP: 10,039 turns of ten actors in five sessions of two (Busso et al. 2008, Lang. Resources & Evaluation 42).

A turn is named `Ses01F_impro01_M003`: session 01; the actor who wore the markers in this dialog, F; the dialog
`impro01`, improvised (or `script01_1`, played from a text; some with a or b behind); the actor who **speaks**, M;
and the number of the turn. Half of all turns are spoken by the partner of the one who wears the markers, so the
speaker is read from the last field and never from the first, and never by its position: irregular dialogs such as
`Ses03M_impro05a` shift it.

Labels, scores and the raters' choices stand in `dialog/EmoEvaluation/Ses01F_impro01.txt`. Its subfolders hold the
same once more, rater by rater, and are not read. Of the raters' lines only those of the outside raters (`C-E2:`)
count; `C-F1:` and `C-M1:` are the actors about themselves. A flat copy may lack the folder's name: there every
text file that is named like a dialog is read and judged by its content, but never the recordings of the markers
(`MOCAP_*`), which are named alike and very large.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import (
    AUDIO_SUFFIXES,
    SESSION_FOLDER,
    Tree,
    folders_of,
    left_out,
    nearest_folder,
    one_file_each,
    read_text,
    walk,
)
from ser_cli.data.manifest import Utterance
from ser_cli.data.votes import COLUMN, count_votes, format_votes
from ser_cli.errors import count_of

EMOTIONS = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "sur": "surprised",
    "fea": "fearful",
    "dis": "disgust",
    "oth": "other",
    "xxx": "no-agreement",
}
RATED = {
    "anger": "angry",
    "happiness": "happy",
    "excited": "excited",
    "excitement": "excited",
    "sadness": "sad",
    "neutral": "neutral",
    "neutral state": "neutral",
    "frustration": "frustrated",
    "surprise": "surprised",
    "fear": "fearful",
    "disgust": "disgust",
    "other": "other",
}
"""What a rater may choose, in the words of the label files."""

_DIALOG = r"Ses0(?P<session>[1-5])[FM]_(?P<kind>impro|script)\d\d(?:_\d)?[ab]?"
_DIALOG_NAME = re.compile(_DIALOG)
_TURN_NAME = re.compile(rf"(?P<dialog>{_DIALOG})_(?P<gender>[FM])\d{{3}}")
_ALIKE = re.compile(r"Ses\d+[A-Z]_\w+_[A-Z]\d{3}")
_NUMBER = r"(?:\d+\.?\d*|nan)"
_LABEL_LINE = re.compile(
    rf"\[\s*(?P<start_s>{_NUMBER})\s*-\s*(?P<end_s>{_NUMBER})\s*\]\s+(?P<turn>\S+)\s+(?P<code>\w+)\s+"
    rf"\[\s*(?P<valence>{_NUMBER})\s*,\s*(?P<activation>{_NUMBER})\s*,\s*(?P<dominance>{_NUMBER})\s*\]",
    re.IGNORECASE,
)
_RATER_LINE = re.compile(r"C-(?P<rater>E\d+)\s*:\s*(?P<chosen>[^()]*)")
_SPOKEN_LINE = re.compile(r"(?P<turn>\S+)\s+\[[\d.]+\s*-\s*[\d.]+\]\s*:\s*(?P<text>.*)")


@dataclass(frozen=True)
class _Evaluation:
    """What an evaluation file says of one turn."""

    code: str
    numbers: tuple[tuple[str, str], ...]
    votes: str
    file: Path = field(compare=False)


@dataclass
class _LeftOut:
    """What of the evaluation files was left out on purpose."""

    repeated: int = 0
    broken: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """A sentence for each kind that there was."""
        notes = []
        if self.repeated:
            notes.append(f"{count_of(self.repeated, 'rater line')} that repeat a rater of the same turn left out")
        if self.broken:
            notes.append(f"{count_of(self.broken, 'line')} of evaluation files that cannot be read left out")
        if self.words:
            words = ", ".join(repr(word) for word in sorted(self.words))
            notes.append(f"{count_of(self.words.total(), 'choice')} of raters left out, in unknown words: {words}")
        return notes


@dataclass(frozen=True)
class _Labels:
    """What the label and transcript files say of all turns."""

    turns: dict[str, _Evaluation]
    doubtful: frozenset[str]
    """Turns whose evaluations are a problem; not among the turns."""
    texts: dict[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def read(source: Path) -> Listing:
    """List the evaluated turns under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    labels = _read_labels(tree, source)
    problems = [*tree.problems, *labels.problems]
    of_other_kind: Counter[str] = Counter()
    unlabelled: list[Path] = []
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        match = _TURN_NAME.fullmatch(path.stem)
        if _DIALOG_NAME.fullmatch(path.stem):
            of_other_kind["of a whole dialog"] += 1
        elif _ALIKE.fullmatch(path.stem) and not match:
            problems.append(f"{path}: its name is not built like Ses01F_impro01_M003")
        elif not match:
            of_other_kind["with a name of another kind"] += 1
        elif fault := _fault_of_folder(match, path, source):
            problems.append(f"{path}: {fault}")
        elif path.stem in labels.turns:
            found.append((path.stem, path))
        elif path.stem not in labels.doubtful:
            unlabelled.append(path)
    if unlabelled and not labels.turns and not labels.doubtful:
        problems.append(
            f"{source}: {count_of(len(unlabelled), 'recording')} and no evaluation file; "
            "give the folder that holds both sentences and dialog/EmoEvaluation"
        )
    else:
        problems += [f"{path}: no evaluation file has its turn" for path in unlabelled]
    files = one_file_each(found)
    without_votes = sum(not labels.turns[turn].votes for turn in files.paths)
    return Listing(
        tuple(_utterance(turn, path, labels) for turn, path in files.paths.items()),
        (*problems, *files.problems),
        (
            *(note for reason, number in of_other_kind.items() for note in left_out(number, reason)),
            *files.notes,
            *labels.notes,
            *([f"{count_of(without_votes, 'turn')} without rater lines kept without votes"] if without_votes else []),
        ),
        tuple(sorted(labels.turns.keys() - files.paths.keys())),
    )


def _fault_of_folder(match: re.Match[str], path: Path, source: Path) -> str:
    """In what a file's name and its folders disagree, or nothing."""
    folders = list(folders_of(path, source))
    session = nearest_folder(path, source, SESSION_FOLDER)
    if session and int(session[1]) != int(match["session"]):
        return f"its name says session {match['session']}, its folder {session[0]}"
    dialog = match.groupdict().get("dialog")
    if dialog and _DIALOG_NAME.fullmatch(folders[0]) and folders[0] != dialog:
        return f"its name says dialog {dialog}, its folder {folders[0]}"
    return ""


def _read_labels(tree: Tree, source: Path) -> _Labels:
    """Read the evaluations and the transcripts of all dialogs."""
    turns: dict[str, _Evaluation] = {}
    doubtful: dict[str, str] = {}
    spoken: dict[str, set[str]] = {}
    problems: list[str] = []
    left = _LeftOut()
    for path, may_evaluate in _files_of_dialogs(tree, source):
        match = _DIALOG_NAME.fullmatch(path.stem)
        if match and (fault := _fault_of_folder(match, path, source)):
            problems.append(f"{path}: {fault}")
            continue
        try:
            lines = read_text(path).split("\n")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        for line in filter(None, map(_SPOKEN_LINE.match, map(str.strip, lines))):
            spoken.setdefault(line["turn"], set()).add(line["text"].strip())
        for turn, evaluation in _evaluations(lines, path, left) if may_evaluate else ():
            if evaluation.code not in EMOTIONS:
                doubtful[turn] = f"{path}: turn {turn} has the unknown label {evaluation.code!r}"
            elif not _TURN_NAME.fullmatch(turn):
                doubtful[turn] = f"{path}: {turn!r} is not the name of a turn"
            elif turns.setdefault(turn, evaluation) != evaluation:
                doubtful[turn] = f"{path}: evaluates turn {turn} otherwise than {turns[turn].file} does"
    differing = sum(len(texts) > 1 for texts in spoken.values())
    notes = [f"{count_of(differing, 'turn')} with transcripts that differ kept without text"] if differing else []
    return _Labels(
        {turn: evaluation for turn, evaluation in turns.items() if turn not in doubtful},
        frozenset(doubtful),
        {turn: texts.pop() for turn, texts in spoken.items() if len(texts) == 1},
        (*problems, *doubtful.values()),
        (*notes, *left.notes()),
    )


def _files_of_dialogs(tree: Tree, source: Path) -> list[tuple[Path, bool]]:
    """The text files that are named like dialogs, each with whether evaluations are read from it."""
    files: list[tuple[Path, bool]] = []
    for path in tree.with_suffix(".txt"):
        folders = [folder.lower() for folder in folders_of(path, source)]
        if _DIALOG_NAME.fullmatch(path.stem) and not any(folder.startswith("mocap") for folder in folders):
            files.append((path, folders[0] == "emoevaluation"))
    if not any(official for _, official in files):
        return [(path, True) for path, _ in files]
    return files


def _evaluations(lines: Iterable[str], path: Path, left: _LeftOut) -> Iterator[tuple[str, _Evaluation]]:
    """The turns of an evaluation file, each with the rater lines below it; counts what is left out of them."""
    found: list[tuple[re.Match[str], dict[str, list[str]]]] = []
    raters: dict[str, list[str]] = {}
    for line in map(str.strip, lines):
        if line.startswith("["):
            # Rater lines below a broken line must not count for the turn before it.
            raters = {}
            if turn := _LABEL_LINE.match(line):
                found.append((turn, raters))
            else:
                left.broken += 1
        elif rated := _RATER_LINE.match(line):
            words = [word for word in (part.strip().lower() for part in rated["chosen"].split(";")) if word]
            left.words.update(word for word in words if word not in RATED)
            chosen = list(dict.fromkeys(RATED[word] for word in words if word in RATED))
            left.repeated += rated["rater"] in raters
            if chosen:
                raters.setdefault(rated["rater"], chosen)
    for turn, raters in found:
        numbers = tuple(
            (name, str(float(turn[name])))
            for name in ("valence", "activation", "dominance", "start_s", "end_s")
            if math.isfinite(float(turn[name]))
        )
        votes = format_votes(count_votes(list(raters.values())))
        yield turn["turn"], _Evaluation(turn["code"].lower(), numbers, votes, path)


def _utterance(turn: str, path: Path, labels: _Labels) -> Utterance:
    match = _TURN_NAME.fullmatch(turn)
    assert match  # only such turns are found
    evaluation = labels.turns[turn]
    session = f"0{match['session']}"
    return Utterance(
        id=turn,
        path=str(path.absolute()),
        emotion=EMOTIONS[evaluation.code],
        speaker=session + match["gender"],
        session=session,
        gender="female" if match["gender"] == "F" else "male",
        text=labels.texts.get(turn, ""),
        extra=(
            ("dialog", match["dialog"]),
            ("scenario", "improvised" if match["kind"] == "impro" else "scripted"),
            ("code", evaluation.code),
            *evaluation.numbers,
            *([(COLUMN, evaluation.votes)] if evaluation.votes else []),
        ),
    )


CORPUS = Corpus(
    name="iemocap",
    title="Interactive Emotional Dyadic Motion Capture Database",
    licence="restricted: a licence for research, signed with the University of Southern California",
    homepage="https://sail.usc.edu/iemocap/",
    label_sets=(
        keep(
            "4",
            *("angry", "happy", "sad", "neutral"),
            happy="excited",
            source="the papers: 5,531 turns, excited merged into happy",
        ),
        keep("4-no-excited", "angry", "happy", "sad", "neutral", source="excited left out: 4,490 turns"),
        keep(
            "5",
            *("angry", "happy", "sad", "neutral", "frustrated"),
            happy="excited",
            source="the four and frustrated: 7,380 turns",
        ),
        keep(
            "6",
            *("angry", "happy", "excited", "sad", "neutral", "frustrated"),
            source="every emotion of more than 500 turns: 7,380",
        ),
    ),
    read=read,
    layout="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav and Session1/dialog/EmoEvaluation/*.txt",
    how_to_get="on request, by the form on its homepage",
)
