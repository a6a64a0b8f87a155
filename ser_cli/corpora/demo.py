"""Demo: a small synthetic emotional-speech corpus that the package renders by itself.

Eight voices say eight pseudo-sentences in four emotions: 256 clips of 0.8 to 2.5 seconds, made by
source-filter synthesis with numpy alone (`synthesis.py`).

It proves nothing about real speech. It is there for trying out the tool without a download, and for tests:
a score on it says that the program works, and nothing about emotion in people's voices.

The emotions differ in the *directions* that the literature reports; the sizes are our own choice, larger and
more regular than people's:

- anger: high energy, flat spectral tilt, fast, raised F0 with a wide range, irregular periods, clear vowels;
- happiness: the highest F0 level, a wide range, fast, rather high and lively energy, the formants of a smile;
- sadness: low F0 level and narrow range, slow, low and even energy, steep tilt, breathy, slurred, pauses;
- neutral: the middle.

Every voice has habits of its own in pitch, vocal tract, tilt, rate, loudness and breath, and every take
expresses its emotion more or less strongly; so no single measure tells the emotion, and neighbouring emotions
overlap. What is said does not depend on the emotion.

References:
    Banse and Scherer (1996), Acoustic profiles in vocal emotion expression, J. Pers. Soc. Psychol. 70(3).
    Juslin and Laukka (2003), Communication of emotions in vocal expression and music performance,
        Psychol. Bull. 129(5).
    Scherer (2003), Vocal communication of emotion: a review of research paradigms, Speech Commun. 40.
    Murray and Arnott (1993), Toward the simulation of emotion in synthetic speech, J. Acoust. Soc. Am. 93(2):
        tense and slurred articulation.
    Tartter (1980), Happy talk: perceptual and acoustic effects of smiling on speech, Percept. Psychophys. 27.
"""

import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, walk
from ser_cli.corpora.source_filter import SAMPLE_RATE_HZ
from ser_cli.corpora.synthesis import Correlates, Voice, synthesise
from ser_cli.data.manifest import Utterance
from ser_cli.files import write_atomically

LABELS = ("neutral", "happy", "sad", "angry")

SENTENCES = (
    "ba di mo lu ne",
    "sa go li ta mu",
    "ne ko da bi",
    "fu ma te lo gi",
    "lo pi na so",
    "te ga nu bi la",
    "mi so ka du",
    "da le fo mi ku",
)
"""What take 1, 2, … says; the same for every voice and every emotion, as in acted corpora."""

TAKES = len(SENTENCES)
"""Recordings of each voice in each emotion."""


SPEAKERS = (
    Voice("s01", "female", 208.0, 1.16, 4.9, 1.5, -8.4, -27.0),
    Voice("s02", "female", 182.0, 1.12, 4.4, -2.0, -7.9, -25.5),
    Voice("s03", "male", 122.0, 1.02, 4.5, -0.5, -8.5, -28.0),
    Voice("s04", "male", 101.0, 0.99, 5.0, 2.0, -8.1, -26.0),
    Voice("s05", "female", 226.0, 1.17, 4.4, -1.5, -8.2, -26.0),
    Voice("s06", "female", 194.0, 1.14, 5.0, 1.5, -8.0, -27.5),
    Voice("s07", "male", 136.0, 1.05, 4.5, 0.5, -7.8, -26.5),
    Voice("s08", "male", 109.0, 0.98, 4.8, -1.5, -8.5, -25.5),
)


CORRELATES = {
    "neutral": Correlates(
        f0_level_st=0.0,
        f0_range_st=2.5,
        rate=1.0,
        level_db=0.0,
        level_range_db=2.0,
        tilt_db=0.0,
        jitter_percent=1.0,
        breath_db=0.0,
        pause_probability=0.06,
        articulation=1.0,
        formant_scale=1.0,
    ),
    "happy": Correlates(
        f0_level_st=6.5,
        f0_range_st=8.0,
        rate=1.18,
        level_db=5.0,
        level_range_db=10.0,
        tilt_db=2.4,
        jitter_percent=0.8,
        breath_db=0.0,
        pause_probability=0.03,
        articulation=1.05,
        formant_scale=1.07,
    ),
    "sad": Correlates(
        f0_level_st=-2.0,
        f0_range_st=1.0,
        rate=0.78,
        level_db=-5.0,
        level_range_db=0.5,
        tilt_db=-2.8,
        jitter_percent=1.4,
        breath_db=9.0,
        pause_probability=0.2,
        articulation=0.6,
        formant_scale=0.98,
    ),
    "angry": Correlates(
        f0_level_st=2.0,
        f0_range_st=5.5,
        rate=1.2,
        level_db=9.5,
        level_range_db=4.0,
        tilt_db=5.0,
        jitter_percent=2.2,
        breath_db=-3.0,
        pause_probability=0.02,
        articulation=1.2,
        formant_scale=1.0,
    ),
}
"""The profile of each emotion; `neutral` is what the others are measured from."""

# How far a take strays from its profile. Strength is a factor on what sets the emotion apart from neutral.
STRENGTH_MEAN, STRENGTH_SPREAD = 1.0, 0.10
F0_SPREAD_ST, RATE_SPREAD = 0.8, 0.06
LEVEL_SPREAD_DB, LEVEL_RANGE_SPREAD_DB, TILT_SPREAD_DB, BREATH_SPREAD_DB = 0.8, 1.0, 0.2, 1.5


def spoken_text(voice: Voice, emotion: str, take: int) -> str:
    """The syllables of a recording; they depend on the take alone, so that text does not tell the emotion.

    Args:
        voice: who speaks.
        emotion: one of `LABELS`.
        take: counted from 1 to `TAKES`.
    """
    del voice, emotion
    return SENTENCES[take - 1]


def render_utterance(voice: Voice, emotion: str, take: int) -> NDArray[np.float32]:
    """Synthesise one recording.

    The same arguments give the same samples, whatever was rendered before.

    Args:
        voice: who speaks; one of `SPEAKERS`.
        emotion: one of `LABELS`.
        take: counted from 1 to `TAKES`.

    Returns:
        (samples,) at `SAMPLE_RATE_HZ`, at most 0.95 in magnitude, on the grid of 16-bit PCM. Levels are not
        normalised: they are part of the emotion and of the voice.
    """
    seed = np.random.SeedSequence((SPEAKERS.index(voice), LABELS.index(emotion), take))
    rng = np.random.default_rng(seed)
    manner = _draw_manner(CORRELATES[emotion], rng)
    return synthesise(voice, manner, spoken_text(voice, emotion, take).split(), rng)


def render(folder: Path) -> None:
    """Write all recordings as `s01/s01-happy-3.flac`, 16-bit, each whole or absent.

    Args:
        folder: made where it is missing; recordings of the same name are replaced.

    Raises:
        SerError: the folder cannot be written to, or the disk is full.
    """
    import soundfile

    for voice in SPEAKERS:
        for emotion in LABELS:
            for take in range(1, TAKES + 1):
                content = io.BytesIO()
                # As integers: libsndfile would scale floats by 32767 and so leave the grid.
                pcm = (render_utterance(voice, emotion, take) * 32768.0).astype(np.int16)
                soundfile.write(content, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
                write_atomically(folder / voice.id / f"{voice.id}-{emotion}-{take}.flac", content.getvalue())


LAYOUT = "s01/s01-happy-3.flac: speaker s01 to s08, emotion, take 1 to 8; written by ser itself"

_NAME = re.compile(rf"(?P<speaker>s\d\d)-(?P<emotion>{'|'.join(LABELS)})-(?P<take>[1-{TAKES}])")


def read(source: Path) -> Listing:
    """List the recordings below a folder that `render` wrote.

    Args:
        source: the folder that holds `s01` to `s08`.

    Returns:
        One utterance per recording, sorted by id; every other audio file is a problem.
    """
    voices = {voice.id: voice for voice in SPEAKERS}
    utterances: list[Utterance] = []
    problems: list[str] = []
    for path in walk(source).with_suffix(*AUDIO_SUFFIXES):
        place = path.relative_to(source).as_posix()
        match = _NAME.fullmatch(path.stem)
        voice = voices.get(match["speaker"]) if match else None
        # The whole place is compared, so that a copy in another folder cannot repeat an id.
        if match is None or voice is None or place != f"{voice.id}/{path.stem}.flac":
            problems.append(f"{place}: not a recording of demo; expected names such as s01/s01-happy-3.flac")
            continue
        utterances.append(
            Utterance(
                id=path.stem,
                path=str(path),
                emotion=match["emotion"],
                speaker=voice.id,
                gender=voice.gender,
                text=spoken_text(voice, match["emotion"], int(match["take"])),
            )
        )
    there = {utterance.id for utterance in utterances}
    complete = (f"{v.id}-{emotion}-{take}" for v in SPEAKERS for emotion in LABELS for take in range(1, TAKES + 1))
    return Listing(
        tuple(sorted(utterances, key=lambda utterance: utterance.id)),
        tuple(problems),
        missing=tuple(sorted(set(complete) - there)),
    )


CORPUS = Corpus(
    name="demo",
    title="Demo: synthetic emotional speech, rendered by ser itself",
    licence="made by this program; no rights reserved",
    homepage="",
    label_sets=(keep("4", *LABELS),),
    read=read,
    layout=LAYOUT,
    render=render,
)


def _draw_manner(profile: Correlates, rng: np.random.Generator) -> Correlates:
    """How one take realises the profile of its emotion: more or less strongly, and with some chance."""
    neutral = CORRELATES["neutral"]
    strength = max(0.2, rng.normal(STRENGTH_MEAN, STRENGTH_SPREAD))

    def expressed(name: str) -> float:
        middle = getattr(neutral, name)
        return float(middle + strength * (getattr(profile, name) - middle))

    return Correlates(
        f0_level_st=expressed("f0_level_st") + rng.normal(0.0, F0_SPREAD_ST),
        f0_range_st=max(0.3, expressed("f0_range_st") * np.exp(rng.normal(0.0, 0.25))),
        rate=max(0.6, expressed("rate")) * np.exp(rng.normal(0.0, RATE_SPREAD)),
        level_db=expressed("level_db") + rng.normal(0.0, LEVEL_SPREAD_DB),
        level_range_db=max(0.0, expressed("level_range_db") + rng.normal(0.0, LEVEL_RANGE_SPREAD_DB)),
        tilt_db=expressed("tilt_db") + rng.normal(0.0, TILT_SPREAD_DB),
        jitter_percent=max(0.3, expressed("jitter_percent") * np.exp(rng.normal(0.0, 0.3))),
        breath_db=expressed("breath_db") + rng.normal(0.0, BREATH_SPREAD_DB),
        pause_probability=max(0.0, expressed("pause_probability")),
        articulation=expressed("articulation") * np.exp(rng.normal(0.0, 0.06)),
        formant_scale=expressed("formant_scale") * np.exp(rng.normal(0.0, 0.01)),
    )
