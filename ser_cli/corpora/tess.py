"""TESS: 2,800 acted clips of two women in 7 emotions (Dupuis & Pichora-Fuller 2010, University of Toronto).

A file is `OAF_angry/OAF_back_angry.wav`: speaker OAF (the older woman, 64 years) or YAF (the younger one, 26), a
word out of 200, and the emotion; `ps` is pleasant surprise. Every clip says "Say the word ...". The folders spell
the emotions in several ways (`OAF_Pleasant_surprise`, `YAF_pleasant_surprised`, `OAF_Fear`).

One file of OAF is published as `OA_bite_neutral`; it is listed as `OAF_bite_neutral`, so that no third speaker
appears. The archive of Kaggle holds everything twice, in a folder of folders. A folder that contradicts a name
about the speaker or the emotion is a problem. A split that does not part the two women tests heard voices.
"""

import re
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, folders_of, left_out, one_file_each, walk
from ser_cli.data.manifest import Utterance

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",
    "sad": "sad",
}
AGES = {"OAF": "64", "YAF": "26"}
MISNAMED = {"OA_bite_neutral": "OAF_bite_neutral"}
"""As published, and as it is meant."""

_SPELLINGS = {
    **{code: code for code in EMOTIONS},
    "pleasant_surprise": "ps",
    "pleasant_surprised": "ps",
    "surprise": "ps",
    "surprised": "ps",
}
_NAME = re.compile(r"(?P<speaker>[a-z]+)_(?P<word>[a-z'-]+)_(?P<emotion>[a-z_ ]+)", re.IGNORECASE)
_FOLDER = re.compile(
    rf"(?P<speaker>{'|'.join(AGES)})?[_ -]?(?P<emotion>{'|'.join(_SPELLINGS).replace('_', '[_ ]')})?", re.IGNORECASE
)


def read(source: Path) -> Listing:
    """List the clips under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    problems = list(tree.problems)
    others = 0
    misnamed: set[str] = set()
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        stem = MISNAMED.get(path.stem, path.stem)
        match = _NAME.fullmatch(stem)
        if not match:
            others += 1
            continue
        speaker, word, emotion = match["speaker"].upper(), match["word"].lower(), _code_of(match["emotion"])
        if fault := _fault_of(speaker, emotion, path, source):
            problems.append(f"{path}: {fault}")
            continue
        found.append((f"{speaker}_{word}_{emotion}", path))
        if stem != path.stem:
            misnamed.add(path.stem)
    files = one_file_each(found)
    notes = [f"{name} is published under that wrong name, and listed as {MISNAMED[name]}" for name in sorted(misnamed)]
    return Listing(
        tuple(_utterance(identity, path) for identity, path in files.paths.items()),
        (*problems, *files.problems),
        (*left_out(others, "with a name of another kind"), *notes, *files.notes),
        _missing(files.paths),
    )


def _code_of(spelling: str) -> str:
    """The code of an emotion in one of its spellings; an unknown spelling stays as it is."""
    return _SPELLINGS.get(spelling.lower().replace(" ", "_"), spelling)


def _fault_of(speaker: str, emotion: str, path: Path, source: Path) -> str:
    """What is wrong with what a name says, or nothing."""
    if speaker not in AGES:
        return f"speaker {speaker} is not among {', '.join(AGES)}"
    if emotion not in EMOTIONS:
        return f"emotion {emotion!r} is not among {', '.join(EMOTIONS)}"
    # The nearest folder that tells a thing counts: OAF_angry, or OAF with angry in it.
    folders = [match for name in folders_of(path, source) if (match := _FOLDER.fullmatch(name))]
    told_speaker = next((match["speaker"].upper() for match in folders if match["speaker"]), speaker)
    told_emotion = next((_code_of(match["emotion"]) for match in folders if match["emotion"]), emotion)
    if told_speaker != speaker:
        return f"its name says speaker {speaker}, its folder {told_speaker}"
    if told_emotion != emotion:
        return f"its name says {emotion}, its folder {told_emotion}"
    return ""


def _missing(paths: dict[str, Path]) -> tuple[str, ...]:
    """Ids that are not there although their word is: every word was spoken by both speakers in every emotion."""
    words = {identity.split("_")[1] for identity in paths}
    complete = {f"{speaker}_{word}_{emotion}" for speaker in AGES for word in words for emotion in EMOTIONS}
    return tuple(sorted(complete - paths.keys()))


def _utterance(identity: str, path: Path) -> Utterance:
    speaker, word, emotion = identity.split("_")
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=EMOTIONS[emotion],
        speaker=speaker,
        gender="female",
        text=f"Say the word {word}",
        extra=(("age", AGES[speaker]), ("word", word)),
    )


CORPUS = Corpus(
    name="tess",
    title="Toronto emotional speech set",
    licence="CC BY-NC-ND 4.0",
    homepage="https://tspace.library.utoronto.ca/handle/1807/24487",
    label_sets=(
        keep("7", *EMOTIONS.values(), source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="OAF_angry/OAF_back_angry.wav and so on, with or without folders, any audio extension",
    how_to_get="from its homepage, or the Kaggle data set ejlok1/toronto-emotional-speech-set-tess",
)
