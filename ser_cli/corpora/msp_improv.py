"""MSP-IMPROV: 8,438 turns of twelve actors in six sessions of two (Busso et al. 2017, IEEE TAC 8(1)).

A turn is named `MSP-IMPROV-S08A-F03-S-FM02`: target sentence 08 and the emotion A that its scene was made for; the
actor who **speaks**, F03, the woman of session 03; the scenario; who plays the target role (F) and the partner (M);
and the number of the turn. Scenarios: S improvised, T the target sentence within the improvisation, R the target
sentence read, P the natural talk between takes.

What this reader does not fall for: `S08` is a sentence, not a session; the letter behind it is the emotion that was
intended, kept as `intended`, and not what was heard; the speaker is the fourth field, whoever plays the target role.
The label comes from `Evalution.txt` [sic] or `Evaluation.txt` alone (see msp_labels.py), which names videos,
`UTD-IMPROV-….avi`. The raw scale of activation may run from aroused to calm; a note tells which way it runs here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, SESSION_FOLDER, left_out, nearest_folder, one_file_each, walk
from ser_cli.corpora.msp_labels import Turn, read_label_files, read_transcripts
from ser_cli.data.manifest import Utterance
from ser_cli.data.votes import COLUMN
from ser_cli.errors import count_of

EMOTIONS = {
    "A": "angry",
    "H": "happy",
    "S": "sad",
    "N": "neutral",
    "O": "other",
    "X": "no-agreement",
}
SCENARIOS = {"S": "improvised", "T": "improvised", "R": "read", "P": "natural"}
SENTENCES = 20
SESSIONS = 6

_TURN = re.compile(
    r"(?:MSP|UTD)-IMPROV-(?P<turn>S(?P<sentence>\d\d)(?P<intended>[AHNS])-(?P<gender>[FM])(?P<session>\d\d)"
    r"-(?P<scenario>[PRST])-[FM][FM]\d\d)"
)
_ALIKE = re.compile(r"(?:MSP|UTD)-IMPROV-.*", re.IGNORECASE)


def read(source: Path) -> Listing:
    """List the evaluated turns under a folder, whatever the audio extension and however deep they lie."""
    tree = walk(source)
    labels = read_label_files(tree.named("Evalution.txt", "Evaluation.txt"))
    faults = {name: fault for name, turn in labels.turns.items() if (fault := _fault_of_label(name, turn))}
    turns = {name: turn for name, turn in labels.turns.items() if name not in faults}
    problems = [*tree.problems, *labels.problems, *faults.values()]
    of_other_kind = 0
    unlabelled: list[Path] = []
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        match = _TURN.fullmatch(path.stem)
        name = f"MSP-IMPROV-{match['turn']}" if match else path.stem
        if not _ALIKE.fullmatch(path.stem):
            of_other_kind += 1
        elif fault := _fault_of_name(path.stem) or _fault_of_folder(path, source):
            problems.append(f"{path}: {fault}")
        elif name in turns:
            found.append((name, path))
        elif name not in labels.contradictory and name not in faults:
            unlabelled.append(path)
    if unlabelled and not labels.turns:
        problems.append(
            f"{source}: {count_of(len(unlabelled), 'recording')} and no label; "
            "give the folder that holds Evalution.txt as well"
        )
    else:
        problems += [f"{path}: the evaluation file lacks its turn" for path in unlabelled]
    files = one_file_each(found)
    transcripts = read_transcripts(tree, source, files.paths)
    utterances = tuple(
        _utterance(name, path, turns[name], transcripts.texts.get(name, "")) for name, path in files.paths.items()
    )
    without_votes = sum(not turns[name].raters for name in files.paths)
    return Listing(
        utterances,
        (*problems, *files.problems, *transcripts.problems),
        (
            *left_out(of_other_kind, "with a name of another kind"),
            *files.notes,
            *labels.notes,
            *transcripts.notes,
            *([f"{count_of(without_votes, 'turn')} without rater lines kept without votes"] if without_votes else []),
            *_direction_of_activation(utterances),
        ),
        tuple(sorted(turns.keys() - files.paths.keys())),
    )


def _fault_of_name(name: str) -> str:
    """What is wrong with the name of a turn, or nothing."""
    match = _TURN.fullmatch(name)
    if not match:
        return f"{name} is not built like MSP-IMPROV-S08A-F03-S-FM02"
    if not 1 <= int(match["sentence"]) <= SENTENCES:
        return f"sentence {match['sentence']} is not among 01 to {SENTENCES}"
    if not 1 <= int(match["session"]) <= SESSIONS:
        return f"session {match['session']} is not among 01 to 0{SESSIONS}"
    return ""


def _fault_of_folder(path: Path, source: Path) -> str:
    """Whether a file's name and the folder of its session disagree."""
    match = _TURN.fullmatch(path.stem)
    folder = nearest_folder(path, source, SESSION_FOLDER)
    if match and folder and int(folder[1]) != int(match["session"]):
        return f"its name says session {match['session']}, its folder {folder[0]}"
    return ""


def _fault_of_label(name: str, turn: Turn) -> str:
    """What is wrong with a turn of the evaluation file as a whole sentence, or nothing."""
    if fault := _fault_of_name(name):
        return f"{turn.file}: {fault}"
    if turn.code not in EMOTIONS:
        return f"{turn.file}: {name} has the label {turn.code}, which is not among {', '.join(EMOTIONS)}"
    return ""


def _direction_of_activation(utterances: Sequence[Utterance]) -> list[str]:
    """Which way the raw scale of activation runs: anger is aroused, sadness is not."""
    values: dict[str, list[float]] = {"angry": [], "sad": []}
    for utterance in utterances:
        activation = dict(utterance.extra).get("activation")
        if activation and utterance.emotion in values:
            values[utterance.emotion].append(float(activation))
    if not values["angry"] or not values["sad"]:
        return []
    angry, sad = fmean(values["angry"]), fmean(values["sad"])
    means = f"activation is {angry:.2f} on average for angry and {sad:.2f} for sad turns"
    if angry == sad:
        return [f"{means}: which way its scale runs is open"]
    return [f"{means}: high values mean {'calm' if angry < sad else 'aroused'}"]


def _utterance(name: str, path: Path, turn: Turn, text: str) -> Utterance:
    match = _TURN.fullmatch(name)
    assert match  # only such turns are found
    return Utterance(
        id=name,
        path=str(path.absolute()),
        emotion=EMOTIONS[turn.code],
        speaker=match["gender"] + match["session"],
        session=match["session"],
        gender="female" if match["gender"] == "F" else "male",
        text=text,
        extra=(
            ("scenario", SCENARIOS[match["scenario"]]),
            ("scenario_code", match["scenario"]),
            ("sentence", match["sentence"]),
            ("intended", EMOTIONS[match["intended"]]),
            ("code", turn.code),
            *turn.scores,
            *([(COLUMN, turn.votes)] if turn.raters else []),
        ),
    )


CORPUS = Corpus(
    name="msp-improv",
    title="MSP-IMPROV",
    licence="restricted: a licence for research, signed with the University of Texas at Dallas",
    homepage="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
    label_sets=(keep("4", "angry", "happy", "sad", "neutral", source="the papers: 7,798 turns"),),
    read=read,
    layout="Evalution.txt and Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav",
    how_to_get="on request of an institution, by the form on its homepage",
)
