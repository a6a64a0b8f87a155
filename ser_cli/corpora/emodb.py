"""EmoDB: 535 acted clips of ten speakers in 7 emotions, in German (Burkhardt et al. 2005, Interspeech).

A file is `wav/03a01Wa.wav`: speaker 03, sentence a01, emotion W, version a. The letters stand for German words:
W Wut (anger), L Langeweile (boredom), E Ekel (disgust), A Angst (**fear**, not anger), F Freude (happiness),
T Trauer (sadness), N neutral. The position tells a letter's meaning, so names in another case are read as well.

The archive also holds the folders `labsilb`, `lablaut` and `silb`: phonetic labels, no audio. Not every speaker
spoke every sentence in every emotion and the rest was selected by listening, so the names cannot tell what is
missing. Release 2.0 has more clips than the 535 of the papers; that is noted, as results do not compare.
"""

import re
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Download, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, left_out, one_file_each, walk
from ser_cli.data.manifest import Utterance

EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgust",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
GENDERS = {
    "03": "male",
    "08": "female",
    "09": "female",
    "10": "male",
    "11": "male",
    "12": "male",
    "13": "female",
    "14": "female",
    "15": "male",
    "16": "female",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
PUBLISHED = 535
"""Clips of the first release, that of the papers."""

_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[a-z]\d\d)(?P<emotion>[a-z])(?P<version>[a-z])", re.IGNORECASE)


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
        speaker, sentence, emotion, version = match.groups()
        identity = f"{speaker}{sentence.lower()}{emotion.upper()}{version.lower()}"
        if fault := _fault_of(identity):
            problems.append(f"{path}: {fault}")
        else:
            found.append((identity, path))
    files = one_file_each(found)
    notes = [*left_out(others, "with a name of another kind"), *files.notes]
    if len(files.paths) > PUBLISHED:
        notes.append(
            f"{len(files.paths)} clips, more than the {PUBLISHED} of the first release: "
            "release 2.0, whose results do not compare with those of papers on the first"
        )
    return Listing(
        tuple(_utterance(identity, path) for identity, path in files.paths.items()),
        (*problems, *files.problems),
        tuple(notes),
    )


def _fault_of(identity: str) -> str:
    """What is wrong with the fields of a name, or nothing."""
    if identity[:2] not in GENDERS:
        return f"speaker {identity[:2]} is not among {', '.join(GENDERS)}"
    if identity[2:5] not in SENTENCES:
        return f"sentence {identity[2:5]} is not among {', '.join(SENTENCES)}"
    if identity[5] not in EMOTIONS:
        return f"emotion letter {identity[5]} is not among {', '.join(EMOTIONS)}"
    return ""


def _utterance(identity: str, path: Path) -> Utterance:
    speaker, sentence, emotion, version = identity[:2], identity[2:5], identity[5], identity[6]
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=EMOTIONS[emotion],
        speaker=speaker,
        gender=GENDERS[speaker],
        text=SENTENCES[sentence],
        extra=(("sentence", sentence), ("version", version)),
    )


CORPUS = Corpus(
    name="emodb",
    title="Berlin Database of Emotional Speech",
    licence="unclear: its publishers and those who pass it on name CC0, CC BY 4.0 and research use",
    homepage="http://emodb.bilderbar.info/",
    label_sets=(
        keep("7", *EMOTIONS.values(), source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="wav/03a01Wa.wav and so on, any audio extension",
    how_to_get="`ser prepare --dataset emodb --download`, or download.zip from its homepage",
    download=Download(
        url="http://emodb.bilderbar.info/download/download.zip",
        size_bytes=None,
        unpacked_bytes=60_000_000,
        md5=None,
    ),
)
