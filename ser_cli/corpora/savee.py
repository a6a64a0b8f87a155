"""SAVEE: 480 acted clips of four men in 7 emotions (Surrey Audio-Visual Expressed Emotion, Haq & Jackson 2009).

In the official tree a clip is `AudioData/DC/a01.wav`, and its speaker is told by the folder alone; in flat copies
it is `ALL/DC_a01.wav`. Either way the id is `DC_a01`, so that a corpus found in both forms counts once. The letters
are the emotion: a anger, d disgust, f fear, h happiness, n neutral, sa sadness, su surprise. They are read up to the
digits, because `sa` and `su` begin alike. A speaker has 15 clips of each emotion and 30 neutral ones.

A flat name in the folder of another speaker is a problem, and so is an official name outside every speaker's folder.
"""

import re
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, folders_of, left_out, one_file_each, walk
from ser_cli.data.manifest import Utterance

EMOTIONS = {
    "a": "angry",
    "d": "disgust",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
SPEAKERS = ("DC", "JE", "JK", "KL")

_NAME = re.compile(r"(?:(?P<flat>[a-z]{2})_|(?P<joined>dc|je|jk|kl))?(?P<emotion>[a-z]{1,2})(?P<number>\d\d)", re.I)


def read(source: Path) -> Listing:
    """List the clips under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    problems = list(tree.problems)
    others = 0
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        if not match:
            others += 1
            continue
        folder = next((name.upper() for name in folders_of(path, source) if name.upper() in SPEAKERS), "")
        told = (match["flat"] or match["joined"] or "").upper()
        emotion = match["emotion"].lower()
        if fault := _fault_of(told, folder, emotion, int(match["number"])):
            problems.append(f"{path}: {fault}")
        else:
            found.append((f"{told or folder}_{emotion}{match['number']}", path))
    files = one_file_each(found)
    return Listing(
        tuple(_utterance(identity, path) for identity, path in files.paths.items()),
        (*problems, *files.problems),
        (*left_out(others, "with a name of another kind"), *files.notes),
        tuple(identity for identity in _published() if identity not in files.paths),
    )


def _fault_of(told: str, folder: str, emotion: str, number: int) -> str:
    """What is wrong with a name, or nothing.

    Args:
        told: the speaker that the name tells, if any.
        folder: the speaker that a folder tells, if any.
        emotion: the letters before the number.
        number: of the clip among those of its speaker and emotion.
    """
    if told and told not in SPEAKERS:
        return f"speaker {told} is not among {', '.join(SPEAKERS)}"
    if not told and not folder:
        return f"neither its name nor a folder tells the speaker ({', '.join(SPEAKERS)})"
    if told and folder and told != folder:
        return f"its name says speaker {told}, its folder {folder}"
    if emotion not in EMOTIONS:
        return f"emotion code {emotion} is not among {', '.join(EMOTIONS)}"
    if not 1 <= number <= _clips_of(emotion):
        return f"number {number:02d} is not among 01 to {_clips_of(emotion)}"
    return ""


def _clips_of(emotion: str) -> int:
    """How many clips a speaker has of an emotion."""
    return 30 if emotion == "n" else 15


def _published() -> list[str]:
    """The ids of the complete corpus, sorted."""
    return sorted(
        f"{speaker}_{emotion}{number:02d}"
        for speaker in SPEAKERS
        for emotion in EMOTIONS
        for number in range(1, _clips_of(emotion) + 1)
    )


def _utterance(identity: str, path: Path) -> Utterance:
    speaker, clip = identity.split("_")
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=EMOTIONS[clip[:-2]],
        speaker=speaker,
        gender="male",
    )


CORPUS = Corpus(
    name="savee",
    title="Surrey Audio-Visual Expressed Emotion database, audio part",
    licence="for research only, after registration",
    homepage="http://personal.ee.surrey.ac.uk/Personal/P.Jackson/SAVEE/",
    label_sets=(
        keep("7", *EMOTIONS.values(), source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="AudioData/DC/a01.wav and so on, or ALL/DC_a01.wav in flat copies; any audio extension",
    how_to_get="register at http://personal.ee.surrey.ac.uk/Personal/P.Jackson/SAVEE/Register.html; take AudioData.zip",
)
