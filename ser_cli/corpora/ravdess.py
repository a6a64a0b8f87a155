"""RAVDESS: 1,440 acted speech clips of 24 actors in 8 emotions (Livingstone & Russo 2018, PLoS ONE 13(5)).

File names are seven two-digit fields: modality - channel - emotion - intensity - statement - repetition -
actor. Only audio (03) of speech (01) is read. Odd actors are male, even ones female. Neutral has no strong
intensity, so it has 96 clips where every other emotion has 192.
"""

import re
from collections import Counter
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Download, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, left_out, nearest_folder, one_file_each, walk
from ser_cli.data.manifest import Utterance

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
INTENSITIES = {"01": "normal", "02": "strong"}
ACTORS = 24

_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
_FOLDER = re.compile(r"actor[_ -]?(\d+)", re.IGNORECASE)
_AUDIO_ONLY = "03"
_SPEECH = "01"


def read(source: Path) -> Listing:
    """List the speech clips under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    of_other_kind: Counter[str] = Counter()
    problems = list(tree.problems)
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        if not match:
            of_other_kind["with a name of another kind"] += 1
        elif match[1] != _AUDIO_ONLY:
            of_other_kind["from video"] += 1
        elif match[2] != _SPEECH:
            of_other_kind["of song"] += 1
        elif fault := _fault_of(match, path, source):
            problems.append(f"{path}: {fault}")
        else:
            found.append((path.stem, path))
    # The Kaggle archive holds every clip twice, in Actor_XX and in a folder of folders.
    files = one_file_each(found)
    notes = [note for reason, number in of_other_kind.items() for note in left_out(number, reason)]
    return Listing(
        tuple(_utterance(stem, path) for stem, path in files.paths.items()),
        (*problems, *files.problems),
        (*notes, *files.notes),
        tuple(stem for stem in _published() if stem not in files.paths),
    )


def _fault_of(match: re.Match[str], path: Path, source: Path) -> str:
    """What is wrong with the fields of a name, or nothing."""
    if match[3] not in EMOTIONS:
        return f"emotion code {match[3]} is not among 01 to 08"
    if match[4] not in INTENSITIES or match[5] not in STATEMENTS:
        return f"intensity {match[4]} or statement {match[5]} is not among 01 and 02"
    if not 1 <= int(match[7]) <= ACTORS:
        return f"actor {match[7]} is not among 01 to {ACTORS}"
    if match[3] == "01" and match[4] == "02":
        return "neutral has no strong intensity"
    folder = nearest_folder(path, source, _FOLDER)
    if folder and int(folder[1]) != int(match[7]):
        return f"its name says actor {match[7]}, its folder {folder[0]}"
    return ""


def _published() -> list[str]:
    """The ids of the complete corpus, sorted."""
    return sorted(
        f"03-01-{emotion}-{intensity}-{statement}-{repetition}-{actor:02d}"
        for actor in range(1, ACTORS + 1)
        for emotion in EMOTIONS
        for intensity in (INTENSITIES if emotion != "01" else ("01",))
        for statement in STATEMENTS
        for repetition in ("01", "02")
    )


def _utterance(stem: str, path: Path) -> Utterance:
    _, _, emotion, intensity, statement, repetition, actor = stem.split("-")
    return Utterance(
        id=stem,
        path=str(path.absolute()),
        emotion=EMOTIONS[emotion],
        speaker=actor,
        gender="male" if int(actor) % 2 else "female",
        text=STATEMENTS[statement],
        extra=(("intensity", INTENSITIES[intensity]), ("repetition", repetition)),
    )


CORPUS = Corpus(
    name="ravdess",
    title="Ryerson Audio-Visual Database of Emotional Speech and Song, speech part",
    licence="CC BY-NC-SA 4.0",
    homepage="https://zenodo.org/records/1188976",
    label_sets=(
        keep("8", *EMOTIONS.values(), source="the papers"),
        keep("emobox", *EMOTIONS.values(), source="EmoBox keeps the same eight"),
        keep("7", *(e for e in EMOTIONS.values() if e != "calm"), neutral="calm", source="calm merged into neutral"),
        keep("4", "neutral", "happy", "sad", "angry", neutral="calm", source="calm merged into neutral"),
    ),
    read=read,
    layout="Actor_01/03-01-06-01-02-01-01.wav and so on, any audio extension",
    how_to_get="`ser prepare --dataset ravdess --download`, or Audio_Speech_Actors_01-24.zip from its homepage",
    download=Download(
        url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
        size_bytes=208_468_073,
        unpacked_bytes=590_000_000,
        md5="bc696df654c87fed845eb13823edef8a",
    ),
)
