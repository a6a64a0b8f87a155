"""The report of one run: its scores, what they rest on, and pictures of how it learnt."""

from collections.abc import Sequence

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.errors import CorpusError, RunError, UsageError, did_you_mean
from ser_cli.evaluation.pages import Picture, Report, Section
from ser_cli.evaluation.report_folder import write_text_alone
from ser_cli.evaluation.scores import RunScores, read_history, tested_predictions
from ser_cli.evaluation.sections import breakdown_sections, intervals_table, score_tiles, scores_table, task_sections
from ser_cli.evaluation.sentences import SELECTION_SENTENCES, few_speakers, labels_sentence, missing_folds_warning
from ser_cli.files import read_json_object
from ser_cli.runs.directory import Run
from ser_cli.runs.predictions import Prediction


def write_report(run: Run, scores: RunScores) -> None:
    """Write `scores.json` and `report.md`, without pictures, into the run directory."""
    write_text_alone(run.folder, describe_run(run, scores, pictures=False), scores.as_json())


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
    warnings += missing_folds_warning(scores.missing_folds)
    sentences = [
        *([SELECTION_SENTENCES[scores.selected_by]] if scores.selected_by != "test" else []),
        *scores.normalization.sentences(),
        labels_sentence(identity),
        f"Protocol {identity.protocol} (hash {identity.protocol_hash[:12]}), seed {identity.seed}: {scores.rule}.",
        "WA is accuracy, UA the mean recall over the emotions; std is the sample standard deviation over folds.",
    ]
    sections = [
        Section(
            "Scores",
            f"Intervals: {breakdown.intervals.sentence}.",
            (),
            (scores_table(scores), intervals_table(breakdown)),
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


def _environment(run: Run) -> list[tuple[str, str]]:
    """What the run was made with, as far as that was recorded."""
    try:
        told = read_json_object(run.environment_path)
        facts = [("command", told["command"]), ("device", told["device"]), ("ser", told["ser"])]
        return [(name, str(value)) for name, value in [*facts, ("torch", told["packages"]["torch"])]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
