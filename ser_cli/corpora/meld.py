"""MELD: 13,708 utterances of a television series in 7 emotions (Poria et al. 2019, ACL).

A clip is `train_splits/dia0_utt0.mp4`, its label a row of `train_sent_emo.csv` with that dialogue and utterance.
The numbers **repeat** in train, dev and test, so an id names the part as well: `train_dia0_utt0`. The part is told
by the folder (`train_splits`, `dev_splits_complete`, `output_repeated_splits_test`, or `train`, `dev`, `test`) or by
the name itself in flat copies. A clip for which nothing tells it is a problem.

Left out with a word: `train_dia125_utt3` is broken and `dev_dia110_utt7` was never in the archive, so a complete
corpus lists 13,706; `final_videos_test*` repeats clips of the test part; a handful of published clips of dev and
test have no row. The tables are in UTF-8 or Windows-1252 (apostrophes). The same cast speaks in all three parts,
so the publisher's split tests heard voices. A dialogue is no session: its number stands in the column `dialog`.
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ser_cli.corpora.corpus import Corpus, Listing, keep
from ser_cli.corpora.files import (
    AUDIO_SUFFIXES,
    VIDEO_SUFFIXES,
    Tree,
    folders_of,
    left_out,
    one_file_each,
    read_rows,
    walk,
)
from ser_cli.data.manifest import Utterance
from ser_cli.errors import count_of

EMOTIONS = {
    "neutral": "neutral",
    "joy": "happy",
    "surprise": "surprised",
    "anger": "angry",
    "sadness": "sad",
    "disgust": "disgust",
    "fear": "fearful",
}
PARTITIONS = {"train": "Train", "dev": "Development", "test": "Test"}
BROKEN = frozenset({"train_dia125_utt3", "dev_dia110_utt7"})
"""Have a row, but no recording that can be used."""

_FOLDERS = {
    "train": "train",
    "train_splits": "train",
    "dev": "dev",
    "dev_splits": "dev",
    "dev_splits_complete": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "test_splits": "test",
    "output_repeated_splits_test": "test",
}
_NAME = re.compile(r"(?:(?P<part>train|dev|test)_)?dia(?P<dialog>\d+)_utt(?P<utterance>\d+)", re.IGNORECASE)
_COPY = re.compile(r"final_videos_test.*", re.IGNORECASE)
_SHOWN_IDS = 10
"""Ids that a note names."""


@dataclass(frozen=True)
class _Row:
    """What a table says of one utterance."""

    emotion: str
    speaker: str
    text: str
    further: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Tables:
    """What the publisher's tables say."""

    rows: dict[str, _Row]
    """By id."""
    doubtful: frozenset[str]
    """Ids whose row cannot be read or is contradicted by another one; they are a problem already."""
    parts: frozenset[str]
    """Parts that have a table."""
    problems: tuple[str, ...]


def read(source: Path) -> Listing:
    """List the labelled clips under a folder, as audio or as video, whatever the extension and however deep."""
    tree = walk(source)
    tables = _read_tables(tree, source)
    problems = [*tree.problems, *tables.problems]
    others = copies = broken = 0
    found: list[tuple[str, Path]] = []
    for path in tree.with_suffix(*AUDIO_SUFFIXES, *VIDEO_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        if not match:
            copies += bool(_COPY.fullmatch(path.stem))
            others += not _COPY.fullmatch(path.stem)
            continue
        part, fault = _part_of(match, path, source)
        identity = _identify(part, match["dialog"], match["utterance"])
        if fault:
            problems.append(f"{path}: {fault}")
        elif identity in BROKEN:
            broken += 1
        else:
            found.append((identity, path))
    files = one_file_each(found)
    without_row, more = _judge_unlabelled(files.paths, tables, source)
    notes = [
        *left_out(others, "with a name of another kind"),
        *left_out(copies, "of the test part under a second name (final_videos_test)"),
        *left_out(broken, f"of clips known to be broken ({', '.join(sorted(BROKEN))})"),
        *without_row,
        *files.notes,
    ]
    labelled = {identity: path for identity, path in files.paths.items() if identity in tables.rows}
    return Listing(
        tuple(_utterance(identity, path, tables.rows[identity]) for identity, path in labelled.items()),
        (*problems, *more, *files.problems),
        tuple(notes),
        tuple(sorted(tables.rows.keys() - dict(found).keys() - BROKEN)),
    )


def _identify(part: str, dialog: str, utterance: str) -> str:
    return f"{part}_dia{int(dialog)}_utt{int(utterance)}"


def _part_of(match: re.Match[str], path: Path, source: Path) -> tuple[str, str]:
    """The part that a clip belongs to, and what is wrong with it, or nothing."""
    told = (match["part"] or "").lower()
    # The nearest folder that tells it: people keep corpora in folders named test.
    folder = next((part for name in folders_of(path, source) if (part := _FOLDERS.get(name.lower()))), "")
    if told and folder and told != folder:
        return "", f"its name says {told}, its folder {folder}"
    if not told and not folder:
        return "", "neither its name nor a folder tells whether it is of train, dev or test"
    return told or folder, ""


def _read_tables(tree: Tree, source: Path) -> _Tables:
    """Read the tables below the source, or beside it where the source is the folder of clips alone."""
    rows: dict[str, _Row] = {}
    doubtful: set[str] = set()
    parts: set[str] = set()
    problems: list[str] = []
    for part in PARTITIONS:
        name = f"{part}_sent_emo.csv"
        beside = source.resolve().parent / name
        for path in tree.named(name) or ([beside] if beside.is_file() else []):
            parts.add(part)
            try:
                for number, values in read_rows(path):
                    fault = _take(part, values, rows, doubtful)
                    if fault:
                        problems.append(f"{path}: line {number}: {fault}")
            except (OSError, csv.Error) as error:
                problems.append(f"{path}: cannot be read ({error})")
    kept = {identity: row for identity, row in rows.items() if identity not in doubtful}
    return _Tables(kept, frozenset(doubtful), frozenset(parts), tuple(problems))


def _take(part: str, values: dict[str, str], rows: dict[str, _Row], doubtful: set[str]) -> str:
    """Add a row of a table to the others; the answer is what is wrong with it, or nothing."""
    try:
        identity = _identify(part, values["dialogue_id"], values["utterance_id"])
    except (KeyError, ValueError):
        return "no dialogue or utterance number"
    emotion = EMOTIONS.get(values.get("emotion", "").lower(), "")
    if not emotion or not values.get("speaker"):
        doubtful.add(identity)
        return f"{identity}: emotion {values.get('emotion', '')!r}, speaker {values.get('speaker', '')!r}"
    further = tuple((column, values[column]) for column in ("sentiment", "season", "episode") if values.get(column))
    row = rows.setdefault(identity, _Row(emotion, values["speaker"], values.get("utterance", ""), further))
    if (row.emotion, row.speaker) != (emotion, values["speaker"]) and identity not in doubtful:
        doubtful.add(identity)
        return f"{identity}: {emotion} of {values['speaker']}, another row says {row.emotion} of {row.speaker}"
    return ""


def _judge_unlabelled(paths: dict[str, Path], tables: _Tables, source: Path) -> tuple[list[str], list[str]]:
    """Notes and problems of clips without a row.

    Where their part has a table they were published so; where it has none, nothing tells their labels.
    """
    by_part: dict[str, list[str]] = defaultdict(list)
    for identity in paths:
        if identity not in tables.rows and identity not in tables.doubtful:
            by_part[identity.split("_")[0]].append(identity)
    notes: list[str] = []
    problems: list[str] = []
    for part, ids in by_part.items():
        if part in tables.parts:
            shown = ", ".join(ids[:_SHOWN_IDS]) + (" and more" if len(ids) > _SHOWN_IDS else "")
            notes += left_out(len(ids), f"without a row in {part}_sent_emo.csv ({shown})")
        else:
            number = count_of(len(ids), "clip")
            problems.append(f"{source}: no {part}_sent_emo.csv, so the labels of {number} are unknown")
    return notes, problems


def _utterance(identity: str, path: Path, row: _Row) -> Utterance:
    part, dialog, _ = identity.split("_")
    return Utterance(
        id=identity,
        path=str(path.absolute()),
        emotion=row.emotion,
        speaker=row.speaker,
        text=row.text,
        extra=(("partition", PARTITIONS[part]), ("dialog", f"{part}_{dialog}"), *row.further),
    )


CORPUS = Corpus(
    name="meld",
    title="Multimodal EmotionLines Dataset",
    licence="unclear: clips of a television series; some who pass it on name CC BY 4.0",
    homepage="https://affective-meld.github.io/",
    label_sets=(
        keep("7", *EMOTIONS.values(), source="the papers"),
        keep("4", "angry", "happy", "sad", "neutral", source="the emotions that most corpora share"),
    ),
    read=read,
    layout="train_splits/dia0_utt0.mp4 and so on, as video or audio, with train_sent_emo.csv and the other two tables",
    how_to_get="MELD.Raw.tar.gz (10.1 GB) from https://huggingface.co/datasets/declare-lab/MELD; unpack the three"
    " archives in it as well",
)
