"""MSP-Podcast: clips of found speech from podcasts, in releases that grow (Lotfian & Busso 2019, IEEE TAC 10(4)).

The names of clips (`MSP-PODCAST_0001_0008`: podcast and clip) tell nothing; a table of consensus labels tells
emotion, scores from 1 to 7, speaker, gender and partition. It is called `labels_concensus.csv` [sic] up to release
1.9 and `labels_consensus.csv` since; some copies have it as JSON alone.

What this reader does about the traps:

- Many speakers are unknown. They all get the speaker `unknown`, so that nobody takes them for disjoint people.
- The development partition is called Validation in older releases; here it is always Development.
- Later releases bring the label files of earlier ones along, with other labels and partitions: what lies in a
  folder `Previous_releases…` is left out. Two releases under one source are a problem, and nothing is listed.
- The labels of Test3 are not published; its clips are left out with a note.
- How many clips there are depends on the release, which is kept with each clip. Of release 1.8 the class counts of
  its partitions are published; a note compares them.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import AUDIO_SUFFIXES, Tree, left_out, one_file_each, read_text, walk
from ser_cli.corpora.msp_labels import MAX_LABEL_BYTES, Labels, finite, heard_of, read_label_files, read_transcripts
from ser_cli.data.manifest import Utterance
from ser_cli.data.votes import COLUMN, count_votes, format_votes
from ser_cli.errors import count_of

EMOTIONS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprised",
    "F": "fearful",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": "no-agreement",
}
EIGHT = tuple(EMOTIONS.values())[:8]
PARTITIONS = {
    "train": "Train",
    "development": "Development",
    "validation": "Development",
    "test1": "Test1",
    "test2": "Test2",
    "test3": "Test3",
}
WITHHELD = "Test3"
UNKNOWN = "unknown"
PUBLISHED_1_8: dict[str, dict[str, int]] = {
    "Train": dict(zip("NHAS", (16518, 8564, 1839, 1680), strict=True)),
    "Development": dict(zip("NXHACDUSFO", (2529, 1454, 1320, 621, 547, 441, 382, 302, 130, 74), strict=True)),
    "Test1": dict(zip("NHXUCDASFO", (4702, 3475, 2955, 1029, 736, 709, 622, 505, 367, 226), strict=True)),
    "Test2": dict(zip("NHSA", (2260, 926, 161, 136), strict=True)),
}
"""Clips of each label in the partitions of release 1.8, as far as published (EmoBox and nkululeko metadata)."""

_CLIP = re.compile(r"MSP-PODCAST(?:_\d+)+", re.IGNORECASE)
_PREVIOUS = re.compile(r"previous|files_removed", re.IGNORECASE)
_RELEASE = re.compile(
    r"(?:(?:podcast|publish|release|corpus|readme)[ _-]*v?|^v?(?=[\d.]+$))([12]\.\d{1,2})(?!\d|\.\d|[a-z])",
    re.IGNORECASE,
)
_COLUMNS = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


@dataclass(frozen=True)
class _Row:
    """What the table of consensus labels says of one clip."""

    code: str
    scores: tuple[tuple[str, str], ...]
    speaker: str
    gender: str
    partition: str
    """As it stands there."""
    file: Path = field(compare=False)


@dataclass(frozen=True)
class _Table:
    """All clips of the consensus labels."""

    rows: dict[str, _Row]
    faults: dict[str, str]
    """Of clips whose rows are a problem; not among the rows."""
    problems: tuple[str, ...]
    withheld: frozenset[str] = frozenset()
    """Clips of the partition whose labels are not published; not among the rows."""


def read(source: Path) -> Listing:
    """List the labelled clips under a folder, whatever the audio extension and however deep they lie."""
    everything = walk(source)
    tree = replace(everything, paths=tuple(path for path in everything.paths if not _is_previous(path, source)))
    tables = tree.named("labels_consensus.csv", "labels_concensus.csv") or tree.named("labels_consensus.json")
    releases = _releases(tables, tree, source)
    if len(releases) > 1:
        fault = f"{source}: holds labels of the releases {' and '.join(releases)}; give the folder of one of them"
        return Listing((), (*tree.problems, fault))
    partitions, partition_problems = _read_partitions(tree.named("Partitions.txt", "Partition.txt"))
    raters = read_label_files(tree.named("labels.txt"))
    table = _checked(_read_tables(tables), raters, partitions)
    found, audio_problems, audio_notes = _find_audio(tree, source, table)
    files = one_file_each(found)
    votes = _read_votes(tree, raters)
    transcripts = read_transcripts(tree, source, files.paths)
    utterances = tuple(
        _utterance(
            path,
            table.rows[clip],
            text=transcripts.texts.get(clip, ""),
            more={"release": releases[0], COLUMN: votes.of_clip.get(clip, "")},
        )
        for clip, path in files.paths.items()
    )
    without_votes = sum(not votes.of_clip.get(clip) for clip in files.paths)
    previous = sum(path.suffix.lower() in AUDIO_SUFFIXES for path in set(everything.paths) - set(tree.paths))
    problems = [*tree.problems, *table.problems, *partition_problems, *raters.problems, *votes.problems]
    problems += [*filter(None, table.faults.values()), *audio_problems, *files.problems, *transcripts.problems]
    notes = [*audio_notes, *left_out(previous, "of previous releases"), *files.notes, *raters.notes, *votes.notes]
    notes += transcripts.notes
    if without_votes:
        notes.append(f"{count_of(without_votes, 'clip')} without rater lines kept without votes")
    if releases[0] == "1.8":
        notes += _compared_with_1_8(utterances)
    return Listing(utterances, tuple(problems), tuple(notes), tuple(sorted(table.rows.keys() - files.paths.keys())))


def _is_previous(path: Path, source: Path) -> bool:
    return any(_PREVIOUS.match(folder) for folder in path.relative_to(source).parts[:-1])


def _releases(tables: Sequence[Path], tree: Tree, source: Path) -> list[str]:
    """The releases that the tables of labels are of; one, `unknown`, where no name tells."""

    def first(names: Iterable[str]) -> set[str]:
        return {next((match[1] for name in names if (match := _RELEASE.search(name))), "")} - {""}

    def folders(path: Path) -> tuple[str, ...]:
        return (*reversed(path.relative_to(source).parts[:-1]), *reversed(source.resolve().parts))

    releases = set().union(*(first(folders(path)) for path in tables))
    if not releases:
        others = (path for path in tree.paths if path.suffix.lower() not in AUDIO_SUFFIXES)
        releases = set().union(*(first([path.name]) for path in others if not _CLIP.fullmatch(path.stem)))
    return sorted(releases) or [UNKNOWN]


def _read_tables(paths: Iterable[Path]) -> _Table:
    """Read the tables of consensus labels as one; copies that say the same count once."""
    rows: dict[str, _Row] = {}
    faults: dict[str, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            read = _rows_of_json if path.suffix.lower() == ".json" else _rows_of_csv
            entries = list(read(read_text(path, max_bytes=MAX_LABEL_BYTES)))
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        except (ValueError, csv.Error) as error:
            problems.append(f"{path}: not a table of labels ({error})")
            continue
        for file_name, values in entries:
            clip = PurePosixPath(file_name.replace("\\", "/")).stem
            named = zip(("activation", "valence", "dominance"), ("EmoAct", "EmoVal", "EmoDom"), strict=True)
            row = _Row(
                code=values["EmoClass"],
                scores=tuple((name, number) for name, column in named if (number := finite(values[column]))),
                speaker=UNKNOWN if values["SpkrID"].lower() in ("", UNKNOWN, "nan") else values["SpkrID"],
                gender={"male": "male", "female": "female"}.get(values["Gender"].lower(), ""),
                partition=values["Split_Set"],
                file=path,
            )
            if rows.setdefault(clip, row) != row:
                faults[clip] = f"{path}: labels {clip} otherwise than {rows[clip].file} or a line before"
    return _Table(rows, faults, tuple(problems))


def _rows_of_csv(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    if lacking := [name for name in ("FileName", "EmoClass", "SpkrID") if name.lower() not in columns]:
        raise ValueError(f"no column {', '.join(lacking)}")
    for values in reader:
        taken = {name: (values.get(columns.get(name.lower(), "")) or "").strip() for name in ("FileName", *_COLUMNS)}
        yield taken.pop("FileName"), taken


def _rows_of_json(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("no object with a clip for each key")
    for file_name, entry in table.items():
        values = entry[0] if isinstance(entry, list) and entry else entry
        if not isinstance(values, dict) or "EmoClass" not in values:
            raise ValueError(f"{file_name} has no EmoClass")
        yield file_name, {name: str(values.get(name, "")).strip() for name in _COLUMNS}


def _read_partitions(paths: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """The partition of each clip by the list of partitions, and what is wrong with the list."""
    partitions: dict[str, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            lines = read_text(path).split("\n")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        for line in lines:
            partition, separator, file_name = (part.strip() for part in line.partition(";"))
            clip = PurePosixPath(file_name).stem
            if separator and partitions.setdefault(clip, partition) != partition:
                # No partition is called so: the clip becomes a problem.
                partitions[clip] = f"{partitions[clip]} and {partition}"
    return partitions, problems


def _partition(name: str) -> str:
    """The one name of a partition; empty where it is none."""
    return PARTITIONS.get(re.sub(r"[ _-]", "", name).lower(), "")


def _checked(table: _Table, raters: Labels, partitions: Mapping[str, str]) -> _Table:
    """Take out the rows that are in doubt, and complete the partitions of the others."""
    rows: dict[str, _Row] = {}
    # Where the raters' file contradicts itself, its own problems tell.
    faults = {**dict.fromkeys(raters.contradictory, ""), **table.faults}
    withheld = {
        clip for clip, listed in partitions.items() if _partition(listed) == WITHHELD and clip not in table.rows
    }
    for clip, row in table.rows.items():
        listed = partitions.get(clip, "")
        partition = row.partition or listed
        rated = raters.turns.get(clip)
        if clip in faults:
            continue
        if not row.code and _partition(partition) == WITHHELD:
            withheld.add(clip)
        elif row.code not in EMOTIONS:
            faults[clip] = f"{row.file}: {clip} has the label {row.code!r}, which is not among {', '.join(EMOTIONS)}"
        elif rated and rated.code != row.code:
            faults[clip] = f"{row.file}: labels {clip} {row.code}, but {rated.file} {rated.code}"
        elif partition and not _partition(partition):
            faults[clip] = f"{row.file}: {clip} is in {partition!r}, which is not a partition"
        elif listed and _partition(listed) != _partition(partition):
            faults[clip] = f"{row.file}: puts {clip} into {partition}, but the list of partitions into {listed}"
        else:
            rows[clip] = replace(row, partition=_partition(partition))
    return _Table(rows, faults, table.problems, frozenset(withheld))


def _find_audio(tree: Tree, source: Path, table: _Table) -> tuple[list[tuple[str, Path]], list[str], list[str]]:
    """The recordings of the labelled clips, and what is wrong with the others or why they are left out."""
    found: list[tuple[str, Path]] = []
    unlabelled: list[Path] = []
    of_other_kind: Counter[str] = Counter()
    for path in tree.with_suffix(*AUDIO_SUFFIXES):
        if path.stem in table.rows:
            found.append((path.stem, path))
        elif path.stem in table.faults:
            continue
        elif path.stem in table.withheld:
            of_other_kind[f"of {WITHHELD}, whose labels are not published,"] += 1
        elif _CLIP.fullmatch(path.stem):
            unlabelled.append(path)
        else:
            of_other_kind["with a name of another kind"] += 1
    notes = [note for reason, number in of_other_kind.items() for note in left_out(number, reason)]
    if unlabelled and not table.rows and not table.faults:
        advice = "give the folder that holds Labels/labels_consensus.csv as well"
        return found, [f"{source}: {count_of(len(unlabelled), 'recording')} and no label; {advice}"], notes
    return found, [f"{path}: the table of labels lacks its clip" for path in unlabelled], notes


@dataclass(frozen=True)
class _Votes:
    """What the raters of the clips chose."""

    of_clip: dict[str, str]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _read_votes(tree: Tree, raters: Labels) -> _Votes:
    """The votes for each clip, from the raters' lines of labels.txt or else from labels_detailed.json."""
    if raters.turns:
        return _Votes({clip: turn.votes for clip, turn in raters.turns.items()})
    votes: dict[str, str] = {}
    problems: list[str] = []
    unknown = 0
    for path in tree.named("labels_detailed.json"):
        try:
            table = json.loads(read_text(path, max_bytes=MAX_LABEL_BYTES))
            for file_name, workers in table.items():
                heard = [heard_of(str(worker["EmoClass_Major"])) for worker in _workers(workers)]
                text = format_votes(count_votes([[emotion] for emotion in heard if emotion]))
                unknown += heard.count("")
                if votes.setdefault(PurePosixPath(file_name).stem, text) != text:
                    problems.append(f"{path}: has other raters for {file_name} than the file before")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path}: not a table of raters ({type(error).__name__}: {error})")
    notes = (f"{count_of(unknown, 'choice')} of raters left out, in unknown words",) if unknown else ()
    return _Votes(votes, tuple(problems), notes)


def _workers(entry: object) -> list[Mapping[str, object]]:
    """The raters of a clip: named ones, or a list, or a list under the key `Workers`."""
    if isinstance(entry, dict):
        return _workers(entry["Workers"]) if "Workers" in entry else list(entry.values())
    if isinstance(entry, list):
        return entry
    raise TypeError("raters are neither named nor a list")


def _compared_with_1_8(utterances: Iterable[Utterance]) -> list[str]:
    """How the clips of each partition compare with the published numbers of release 1.8."""
    code_of = {emotion: code for code, emotion in EMOTIONS.items()}
    found: dict[str, Counter[str]] = {partition: Counter() for partition in PUBLISHED_1_8}
    for utterance in utterances:
        partition = dict(utterance.extra).get("partition", "")
        if partition in found:
            found[partition][code_of[utterance.emotion]] += 1
    notes = []
    for partition, published in PUBLISHED_1_8.items():
        differing = [
            f"{found[partition][code]:,} {EMOTIONS[code]} of {number:,}"
            for code, number in published.items()
            if found[partition][code] != number
        ]
        verdict = "has " + ", ".join(differing) if differing else "has the published number of clips of each emotion"
        absent = not found[partition]
        notes.append(f"release 1.8: {partition} {'is not there' if absent else verdict}")
    return notes


def _utterance(path: Path, row: _Row, *, text: str, more: Mapping[str, str]) -> Utterance:
    return Utterance(
        id=path.stem,
        path=str(path.absolute()),
        emotion=EMOTIONS[row.code],
        speaker=row.speaker,
        gender=row.gender,
        text=text,
        extra=(
            *([("partition", row.partition)] if row.partition else []),
            ("code", row.code),
            *row.scores,
            *((name, value) for name, value in more.items() if value),
        ),
    )


CORPUS = Corpus(
    name="msp-podcast",
    title="MSP-Podcast",
    licence="restricted: a licence for research, signed with the University of Texas at Dallas",
    homepage="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
    label_sets=(
        keep("8", *EIGHT, source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the four that other corpora have too"),
    ),
    read=read,
    layout="Labels/labels_consensus.csv, Labels/labels.txt and Audios/MSP-PODCAST_0001_0008.wav",
    how_to_get="on request of an institution, by the form on its homepage",
)
