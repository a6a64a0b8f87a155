"""Scores as tables for people and programs, and as a report with pictures."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import CorpusError, RunError, UsageError, did_you_mean
from ser_cli.evaluation.breakdown import Breakdown
from ser_cli.evaluation.intervals import Interval, Resampled
from ser_cli.evaluation.pages import Picture, Report, Section, Tile, as_markdown_report, as_page
from ser_cli.evaluation.scores import RATES, FoldedScores, RunScores, read_history, tested_predictions
from ser_cli.evaluation.tables import Column, Table, Value, as_csv, as_latex, as_markdown, rate_columns, signed_points
from ser_cli.evaluation.tasks import NOTE
from ser_cli.files import read_json_object, write_atomically, write_json
from ser_cli.runs.directory import Run, RunIdentity
from ser_cli.runs.predictions import Prediction
from ser_cli.runs.report_files import (
    PAGE_NAME,
    REPORT_FOLDERS,
    delete_report_files,
    read_report_files,
    replacing_report,
)

SELECTION_SENTENCES = {
    "validation": "Each fold's epoch was chosen on speakers held out of its training side.",
    "validation_clips": (
        "Each fold's epoch was chosen on clips held out of its training side, of speakers who are heard in training"
        " too, which flatters the choice of the epoch."
    ),
    "last": "Each fold was trained to its last epoch; nothing was chosen.",
    "test": (
        "Each fold's epoch was chosen ON ITS TEST SIDE, as some papers do: "
        "these figures are too high and no estimate of what new speakers would see."
    ),
}

_CLIPS = Column("n", "clips", "count")


def confusion_rows(scores: RunScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the pooled confusion matrix: counts, truth by row."""
    labels = scores.identity.labels
    rows = [(label, *(str(n) for n in row)) for label, row in zip(labels, scores.confusion, strict=True)]
    return ("truth \\ predicted", *labels), rows


def scores_table(scores: FoldedScores) -> Table:
    """One row per fold, then mean, standard deviation and pooled."""
    rows: list[tuple[str | int | float | None, ...]] = [
        (str(index), s.n, s.wa, s.ua, s.macro_f1) for index, s in scores.folds
    ]
    rows.append(("mean", None, *(scores.mean[rate] for rate in RATES)))
    if scores.std is not None:
        rows.append(("std", None, *(scores.std[rate] for rate in RATES)))
    pooled = scores.pooled
    rows.append(("pooled", pooled.n, pooled.wa, pooled.ua, pooled.macro_f1))
    title = "Scores; std is the sample standard deviation over folds"
    return Table("scores", title, (Column("fold", "fold", "text"), _CLIPS, *rate_columns()), tuple(rows))


def write_report(run: Run, scores: RunScores) -> None:
    """Write `scores.json` and `report.md`, without pictures, into the run directory."""
    told = scores.as_json()
    if read_report_files(run.folder).shows != _hash_of(told):
        delete_report_files(run.folder)
    write_json(run.scores_path, told)
    text = as_markdown_report(describe_run(run, scores, pictures=False))
    write_atomically(run.folder / "report.md", _encoded(text))


def write_files(folder: Path, report: Report, scores: dict[str, Any], *, pictures: bool = True) -> Path | None:
    """Write a report in all its forms; the page's path is returned, None without pictures."""
    _require_own_folders(folder)
    files: dict[str, bytes] = {}
    for table in report.tables:
        for ending, write in (("md", lambda t: as_markdown(t) + "\n"), ("tex", as_latex), ("csv", as_csv)):
            files[f"tables/{table.name}.{ending}"] = _encoded(write(table))
    if pictures:
        for picture in report.pictures:
            files |= {f"figures/{picture.name}.svg": picture.svg, f"figures/{picture.name}.png": picture.png}
        files[PAGE_NAME] = _encoded(as_page(report))
    with replacing_report(folder, files, _hash_of(scores), keeping=not pictures):
        write_json(folder / "scores.json", scores)
        write_atomically(folder / "report.md", _encoded(as_markdown_report(report)))
        for name, content in files.items():
            write_atomically(folder / name, content)
    return folder / PAGE_NAME if pictures else None


def _hash_of(scores: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()


def _encoded(text: str) -> bytes:
    """Names of folders may hold bytes that are no UTF-8; they are written as escapes, such as those of Python."""
    return text.encode("utf-8", "backslashreplace")


def _require_own_folders(folder: Path) -> None:
    """See that nothing is written or deleted elsewhere: a run folder that came from elsewhere may hold links.

    Raises:
        RunError: pictures or tables would go to where a link leads.
    """
    for name in REPORT_FOLDERS:
        if (folder / name).is_symlink():
            raise RunError(
                f"{folder / name} is a link, and pictures and tables are written into the folder of the report alone\n"
                f"  remove the link, or choose another folder with --output"
            )


def describe_run(run: Run, scores: RunScores, *, pictures: bool, clips: Sequence[str] = ()) -> Report:
    """Everything that is said of a run.

    Args:
        run: where history, embeddings and predictions are.
        scores: of the run.
        pictures: draw them too.
        clips: ids whose frame attention is drawn; none chooses two.

    Raises:
        SerError: a clip's attention is not stored, or a file of the run is damaged.
    """
    identity, breakdown = scores.identity, scores.breakdown
    warnings = [SELECTION_SENTENCES["test"]] if scores.selected_by == "test" else []
    warnings += [f"Changed while the run went on: {change}." for change in scores.changes]
    if scores.missing_folds:
        missing = ", ".join(map(str, scores.missing_folds))
        warnings.append(f"Not done yet: fold {missing}; these figures cover the others.")
    sentences = [
        *([SELECTION_SENTENCES[scores.selected_by]] if scores.selected_by != "test" else []),
        *scores.normalization.sentences(),
        labels_sentence(identity),
        f"Protocol {identity.protocol} (hash {identity.protocol_hash[:12]}), seed {identity.seed}: {scores.rule}.",
        "WA is accuracy, UA the mean recall over the emotions; std is the sample standard deviation over folds.",
    ]
    sections = [
        Section(
            "Scores", f"Intervals: {breakdown.intervals.sentence}.", (), (scores_table(scores), _intervals(breakdown))
        ),
        *task_sections(scores),
        *breakdown_sections(breakdown, pictures=pictures),
        *(_run_pictures(run, scores, clips) if pictures else ()),
    ]
    return Report(
        title=f"{identity.dataset}, recipe {identity.recipe}, encoder {identity.encoder}",
        sentences=tuple(sentences),
        warnings=(*warnings, *few_speakers(breakdown.intervals.drawn)),
        tiles=score_tiles(breakdown),
        sections=scores.normalization.captioned(sections),
        facts=(
            ("run", run.folder.resolve().name),
            ("protocol hash", identity.protocol_hash),
            ("manifest hash", identity.manifest_hash),
            ("recipe hash", identity.recipe_hash),
            *_environment(run),
        ),
    )


def task_sections(scores: RunScores) -> list[Section]:
    """The tasks beside emotion; none where nothing else was to be learnt."""
    if scores.tasks is None:
        return []
    left_out = "".join(f" Left out: {sentence}." for sentence in scores.tasks.left_out)
    said = f"{scores.tasks.sentence()}. {NOTE}{left_out}"
    return [Section("Tasks beside emotion", said[0].upper() + said[1:], (), (scores.tasks.table(),))]


def breakdown_sections(breakdown: Breakdown, *, pictures: bool) -> list[Section]:
    """What any set of predictions has to show."""
    if pictures:
        from ser_cli.evaluation import pictures as drawn
    confusion = drawn.confusion_pictures(breakdown) if pictures else ()
    recall = (drawn.recall_picture(breakdown),) if pictures else ()
    speakers = (drawn.speaker_picture(breakdown),) if pictures and breakdown.speakers else ()
    genders = (drawn.gender_picture(breakdown),) if pictures and breakdown.genders else ()
    reliability = (drawn.reliability_picture(breakdown),) if pictures else ()
    sections = [
        Section(
            "Confusion", "Truth by row, prediction by column.", confusion, (_confusion(breakdown),), folded=pictures
        ),
        Section("Emotions", "", recall, (_recall(breakdown),), folded=pictures),
    ]
    if named := [name for name in ("speakers", "genders") if getattr(breakdown, name)]:
        tables = tuple(_groups(breakdown, name) for name in named)
        sections.append(Section(" and ".join(named).capitalize(), "", speakers + genders, tables, folded=pictures))
    ece = f"Expected calibration error {100 * breakdown.calibration.ece:.1f} %."
    sections.append(Section("Confidence", ece, reliability, (_calibration(breakdown),), folded=pictures))
    return sections


def difference_tile(name: str, value: float, bounds: Interval) -> Tile:
    """A difference of rates with its interval, in percentage points."""
    return Tile(name, signed_points(value), f"95 %: {signed_points(bounds.low)} to {signed_points(bounds.high)}")


def score_tiles(breakdown: Breakdown) -> tuple[Tile, ...]:
    """The figures at the top of the page."""
    pooled, intervals = breakdown.pooled, breakdown.intervals
    rows = (("WA", pooled.wa, intervals.wa), ("UA", pooled.ua, intervals.ua), ("macro F1", pooled.macro_f1,
            intervals.macro_f1))  # fmt: skip
    tiles = [
        Tile(name, f"{100 * rate:.1f} %", f"95 %: {100 * bounds.low:.1f} to {100 * bounds.high:.1f}")
        for name, rate, bounds in rows
    ]
    speakers = f"{len(breakdown.speakers):,} speakers" if breakdown.speakers else "speakers not known"
    tiles.append(Tile("clips", f"{pooled.n:,}", speakers))
    tiles.append(Tile("calibration error", f"{100 * breakdown.calibration.ece:.1f} %", "expected (ECE)"))
    return tuple(tiles)


def few_speakers(drawn: Resampled) -> list[str]:
    """A warning where intervals rest on few speakers."""
    if not drawn.are_few:
        return []
    return [f"Only {drawn.known} speakers are tested: the intervals are rough, and rather too narrow."]


def changed_warnings(what: str, changes: Sequence[str]) -> list[str]:
    """One warning where a run was gone on with although something had changed; none where nothing had."""
    return [f"{what} changed while it went on: {'; '.join(changes)}."] if changes else []


def told_of(sentences: Iterable[tuple[str, str]], kind: str = "") -> list[str]:
    """Each sentence once; see `told_by_sentence`."""
    return list(told_by_sentence(sentences, kind).values())


def selection_told(selected_by: Iterable[tuple[str, str]], kind: str = "", *, flattering: bool) -> list[str]:
    """How epochs were chosen, where that makes figures too high or where it does not.

    Args:
        selected_by: names, each with how its epochs were chosen.
        kind: of what the names are, to stand before them.
        flattering: what is told.
    """
    told = told_by_sentence(((name, SELECTION_SENTENCES[by]) for name, by in selected_by), kind)
    return [text for sentence, text in told.items() if (sentence == SELECTION_SENTENCES["test"]) == flattering]


def told_by_sentence(sentences: Iterable[tuple[str, str]], kind: str = "") -> dict[str, str]:
    """What is told of each sentence: itself where it holds for all, else behind the names of those it holds for.

    Args:
        sentences: names, each with what holds for it.
        kind: of what the names are, to stand before them.
    """
    names: dict[str, dict[str, None]] = {}
    for name, sentence in sentences:
        names.setdefault(sentence, {})[name] = None
    if len(names) == 1:
        return {sentence: sentence for sentence in names}
    return {sentence: f"{kind}{', '.join(of)}: {sentence}" for sentence, of in names.items()}


def interval_sentence(breakdown: Breakdown) -> str:
    """The intervals in one line, for a terminal."""
    bounds = [
        ("WA", breakdown.intervals.wa),
        ("UA", breakdown.intervals.ua),
        ("macro F1", breakdown.intervals.macro_f1),
    ]
    told = ", ".join(f"{name} {100 * b.low:.1f} to {100 * b.high:.1f} %" for name, b in bounds)
    return f"{told} ({breakdown.intervals.sentence})"


def _run_pictures(run: Run, scores: RunScores, clips: Sequence[str]) -> list[Section]:
    """What needs more of a run than its predictions: learning curves, embeddings, attention."""
    from ser_cli.evaluation import pictures as drawn
    from ser_cli.runs.embeddings import read_embeddings

    done = [index for index, _ in scores.folds]
    histories = {index: read_history(run.fold(index).history_path) for index in done}
    chosen = {index: int(run.fold(index).facts()["epoch"]) for index in done}
    sections = [Section("Training", "", (drawn.history_picture(histories, chosen),))]
    embedded = [index for index in done if run.fold(index).embeddings_path.is_file()]
    if embedded:
        first = embedded[0]
        found = read_embeddings(run.fold(first).embeddings_path)
        sections.append(Section("Embeddings", "", (drawn.embedding_picture(found, scores.identity.labels, first),)))
    attention = _attention_pictures(run, scores, clips, embedded)
    if attention:
        sections.append(Section("Frame attention", "Where in a clip the model looks.", attention))
    return sections


def _attention_pictures(
    run: Run, scores: RunScores, clips: Sequence[str], embedded: Sequence[int]
) -> tuple[Picture, ...]:
    """Of the chosen clips; of the surest right and the surest wrong one of a fold where none is chosen."""
    from ser_cli.data.store import open_corpus
    from ser_cli.evaluation import pictures as drawn
    from ser_cli.home import corpus_folder
    from ser_cli.runs.embeddings import read_embeddings

    predictions = {p.id: (index, p) for index, of_fold in tested_predictions(run).items() for p in of_fold}
    _require_clips(run, clips, predictions, embedded)
    ids = list(dict.fromkeys(clips)) or _telling_clips([p for i, p in predictions.values() if i in embedded[:1]])
    try:
        corpus = open_corpus(corpus_folder(scores.identity.dataset)) if ids else None
    except CorpusError:
        corpus = None
    stored = {index: read_embeddings(run.fold(index).embeddings_path) for index in {predictions[i][0] for i in ids}}
    pictures = []
    for number, identity in enumerate(ids, start=1):
        index, prediction = predictions[identity]
        found = stored[index].attention[identity]
        waveform = corpus.waveform(identity) if corpus and identity in corpus.by_id else None
        # Another recording under the same id is not this one.
        if waveform is not None and abs(len(waveform) / SAMPLE_RATE_HZ - found.duration_s) > 0.002:
            waveform = None
        pictures.append(drawn.attention_picture(number, prediction, found, waveform))
    return tuple(pictures)


def _require_clips(
    run: Run, clips: Sequence[str], predictions: dict[str, tuple[int, Prediction]], embedded: Sequence[int]
) -> None:
    for clip in clips:
        if clip not in predictions:
            raise UsageError(
                f"--clip {clip}: not tested in {run.folder}{did_you_mean(clip, predictions)}\n"
                f"  the ids are in the first column of fold-1/predictions.csv and the other folds'"
            )
        index = predictions[clip][0]
        if index not in embedded:
            raise RunError(
                f"--clip {clip}: its frame attention is not stored, there is no {run.fold(index).embeddings_path}\n"
                f"  store it: run the same `ser train` again with --embeddings; what is trained stays"
            )


def _telling_clips(predictions: Sequence[Prediction]) -> list[str]:
    ids = []
    for right in (True, False):
        among = [p for p in predictions if (p.truth == p.predicted) == right]
        ids += [max(among, key=lambda p: max(p.probabilities)).id] if among else []
    return ids


def _intervals(breakdown: Breakdown) -> Table:
    pooled, intervals = breakdown.pooled, breakdown.intervals
    rows = tuple(
        (name, getattr(pooled, key), getattr(intervals, key).low, getattr(intervals, key).high)
        for key, name in (("wa", "WA"), ("ua", "UA"), ("macro_f1", "macro F1"))
    )
    columns = (Column("score", "score", "text"), Column("value", "pooled %"), *_BOUNDS)
    return Table("intervals", "95 % confidence intervals of the pooled scores", columns, rows)


_BOUNDS = (Column("low", "from %"), Column("high", "to %"))


def _recall(breakdown: Breakdown) -> Table:
    rows = tuple(
        (r.label, r.n, r.recall, r.interval.low if r.interval else None, r.interval.high if r.interval else None)
        for r in breakdown.recall
    )
    columns = (Column("label", "emotion", "text"), _CLIPS, Column("recall", "recall %"), *_BOUNDS)
    return Table("recall", "Recall of each emotion with its 95 % interval", columns, rows)


def _confusion(breakdown: Breakdown) -> Table:
    columns = (Column("truth", "truth", "text"), *(Column(label, label, "count") for label in breakdown.labels))
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (label, *row) for label, row in zip(breakdown.labels, breakdown.confusion, strict=True)
    )
    return Table("confusion", "Confusion, counts over all folds", columns, rows)


def _groups(breakdown: Breakdown, which: str) -> Table:
    if which == "speakers":
        columns = (Column("speaker", "speaker", "text"), Column("gender", "gender", "text"), _CLIPS, *rate_columns())
        rows: tuple[tuple[Value, ...], ...] = tuple(
            (g.name, g.gender, g.n, g.wa, g.ua, g.macro_f1) for g in breakdown.speakers
        )
        return Table(which, "Scores of each speaker", columns, rows)
    columns = (Column("gender", "gender", "text"), Column("speakers", "speakers", "count"), _CLIPS, *rate_columns())
    rows = tuple((g.name, g.speakers, g.n, g.wa, g.ua, g.macro_f1) for g in breakdown.genders)
    return Table(which, "Scores of each gender", columns, rows)


def _calibration(breakdown: Breakdown) -> Table:
    columns = (Column("low", "above %"), Column("high", "up to %"), _CLIPS, Column("confidence", "confidence %"),
               Column("accuracy", "accuracy %"))  # fmt: skip
    rows = tuple((b.low, b.high, b.n, b.confidence, b.accuracy) for b in breakdown.calibration.bins)
    return Table("calibration", "Confidence and accuracy", columns, rows)


def labels_sentence(identity: RunIdentity) -> str:
    """Which emotions and utterances took part."""
    where = f"; only utterances with {' and '.join(identity.where)}" if identity.where else ""
    targets = "; learnt from the raters' votes, scored against their verdict" if identity.targets == "soft" else ""
    return f"Labels {identity.label_set}: {', '.join(identity.labels)}{where}{targets}."


def _environment(run: Run) -> list[tuple[str, str]]:
    """What the run was made with, as far as that was recorded."""
    try:
        told = read_json_object(run.environment_path)
        facts = [("command", told["command"]), ("device", told["device"]), ("ser", told["ser"])]
        return [(name, str(value)) for name, value in [*facts, ("torch", told["packages"]["torch"])]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
