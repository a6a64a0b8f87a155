"""RAVDESS: 1,440 acted speech clips of 24 actors in 8 emotions (Livingstone & Russo 2018, PLoS ONE 13(5)).

File names are seven two-digit fields: modality - channel - emotion - intensity - statement - repetition -
actor. Only audio (03) of speech (01) is read. Odd actors are male, even ones female. Neutral has no strong
intensity, so it has 96 clips where every other emotion has 192.
"""

import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, audio_files
from ser_cli.data.manifest import Utterance
from ser_cli.errors import count_of

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
_AUDIO_ONLY = "03"
_SPEECH = "01"


def read(source: Path) -> Listing:
    """List the speech clips under a folder, whatever the audio extension and however deep they lie."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    for path in audio_files(source):
        match = _NAME.fullmatch(path.stem)
        if not match:
            left_out["with a name of another kind"] += 1
        elif match[1] != _AUDIO_ONLY:
            left_out["from video"] += 1
        elif match[2] != _SPEECH:
            left_out["of song"] += 1
        elif fault := _fault_of(match):
            problems.append(f"{path}: {fault}")
        else:
            by_stem[path.stem].append(path)
    copies = 0
    utterances = []
    for stem, paths in sorted(by_stem.items()):
        # The Kaggle archive holds every clip twice, in Actor_XX and in a folder of folders.
        if len({_content_hash(path) for path in paths} if len(paths) > 1 else paths) > 1:
            problems.append(f"{paths[0]}: differs from {paths[1]}, which has the same name")
            continue
        copies += len(paths) - 1
        utterances.append(_utterance(stem, paths[0]))
    if copies:
        left_out["that repeat a clip byte for byte under the same name"] = copies
    notes = tuple(f"{count_of(number, 'file')} {reason} left out" for reason, number in left_out.items())
    return Listing(tuple(utterances), tuple(problems), notes)


def _fault_of(match: re.Match[str]) -> str:
    """What is wrong with the fields of a name, or nothing."""
    if match[3] not in EMOTIONS:
        return f"emotion code {match[3]} is not among 01 to 08"
    if match[4] not in INTENSITIES or match[5] not in STATEMENTS:
        return f"intensity {match[4]} or statement {match[5]} is not among 01 and 02"
    if not 1 <= int(match[7]) <= ACTORS:
        return f"actor {match[7]} is not among 01 to {ACTORS}"
    return ""


def _utterance(stem: str, path: Path) -> Utterance:
    _, _, emotion, intensity, statement, repetition, actor = stem.split("-")
    return Utterance(
        id=stem,
        path=str(path.resolve()),
        emotion=EMOTIONS[emotion],
        speaker=actor,
        gender="male" if int(actor) % 2 else "female",
        text=STATEMENTS[statement],
        extra=(("intensity", INTENSITIES[intensity]), ("repetition", repetition)),
    )


def _content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


CORPUS = Corpus(
    name="ravdess",
    title="Ryerson Audio-Visual Database of Emotional Speech and Song, speech part",
    licence="CC BY-NC-SA 4.0",
    homepage="https://zenodo.org/records/1188976",
    labels=tuple(EMOTIONS.values()),
    read=read,
    expected_utterances=1440,
    layout="Actor_01/03-01-06-01-02-01-01.wav and so on, any audio extension",
)
