"""What is said of a trained model on another corpus: which of its clips took part, what could not be mapped, scores."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ser_cli.errors import count_of
from ser_cli.evaluation.cross_corpus import CrossScores
from ser_cli.evaluation.pages import Report, Section
from ser_cli.evaluation.sections import breakdown_sections, score_tiles
from ser_cli.evaluation.sentences import changed_warnings, few_speakers
from ser_cli.evaluation.tables import Column, Table, rate_columns
from ser_cli.evaluation.tasks import rates_sentence, tasks_table
from ser_cli.runs.predictions import PROBABILITY_PREFIX

OUTSIDE_PREFIX = "outside_"
"""Of columns with the probability of a label that the chosen ones lack."""


def cross_predictions(found: CrossScores) -> bytes:
    """CSV: `id,fold,truth,predicted`, and a probability for each shared label and each that the chosen ones lack."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["id", "fold", "truth", "predicted", *(PROBABILITY_PREFIX + label for label in found.labels)]
    writer.writerow([*header, *(OUTSIDE_PREFIX + outside.label for outside in found.outside)])
    for p, outside in zip(found.predictions, found.outside_probabilities, strict=True):
        numbers = [f"{value:.6f}" for value in (*p.probabilities, *outside)]
        writer.writerow([p.id, p.fold, p.truth, p.predicted, *numbers])
    return text.getvalue().encode()


def mapping_sentences(found: CrossScores) -> list[str]:
    """Which clips were chosen, what could not be mapped, and what became of it."""
    chosen = found.choice
    where = f", only utterances with {' and '.join(chosen.where)}" if chosen.where else ""
    sentences = [
        f"Labels {chosen.label_set} of {found.dataset}: {', '.join(chosen.labels)}{where};"
        f" {chosen.clips:,} of {count_of(chosen.prepared, 'prepared clip')}.",
        *([f"Not chosen, by the corpus's own emotions: {_counted(chosen.not_chosen)}."] if chosen.not_chosen else []),
        f"Labels that both know: {', '.join(found.labels)}; the model chooses among these.",
    ]
    if found.merged:
        told = ", ".join(f"{label} as {target}" for label, target in found.merged.items())
        sentences.append(f"What the model tells apart and the chosen labels merge is counted together: {told}.")
    if found.left_out:
        sentences.append(f"Left out, since the model does not know their emotion: {_counted(found.left_out)}.")
    if found.mixtures:
        sentences.append(f"Left out, since nothing is tested on mixtures: {count_of(found.mixtures, 'clip')}.")
    if found.outside:
        told = ", ".join(
            f"{o.label} (mean probability {o.mean_probability:.3f}, first choice for {count_of(o.clips, 'clip')})"
            for o in found.outside
        )
        sentences.append(f"The model also knows what the chosen labels lack: {told}; not counted.")
    offered = [outside.label for outside in found.outside if outside.label in chosen.not_chosen]
    if offered:
        sentences.append(f"Of these {found.dataset} has {', '.join(offered)}, which --labels can choose.")
    absent = [entry.label for entry in found.breakdown.recall if not entry.n]
    if absent:
        sentences.append(f"No clip shows {' or '.join(absent)}, so UA is over the other emotions.")
    return sentences


def _counted(clips: Mapping[str, int]) -> str:
    return ", ".join(f"{emotion} {count:,}" for emotion, count in clips.items())


def cross_warnings(found: CrossScores) -> list[str]:
    """What makes the model look better than it is, or be another than its name says."""
    warnings = [heard_sentence(found)] if found.heard else []
    if "test" in found.selected_by:
        source = f" of {found.trained_on}" if found.trained_on else ""
        warnings.append(
            f"Each fold's epoch was chosen ON ITS TEST SIDE{source}, as some papers do: the scores of that run are too"
            f" high, and so are these as far as clips or speakers of its test side are heard here."
        )
    return [*warnings, *changed_warnings("The run of this model", found.changes)]


def heard_sentence(found: CrossScores) -> str:
    """That tested speakers were in training."""
    some = list(found.heard)
    shown = ", ".join(some[:5]) + (" …" if len(some) > 5 else "")
    return (
        f"{count_of(len(some), 'speaker')} of {found.dataset} ({shown}), {count_of(sum(found.heard.values()), 'clip')}"
        f" in all, were in this model's training: these figures say nothing about unheard speakers"
    )


def cross_table(found: CrossScores) -> Table:
    """One row per fold's model, then all folds together."""
    rows = [(f"fold {index}", s.n, s.wa, s.ua, s.macro_f1) for index, s in found.folds]
    pooled = found.breakdown.pooled
    if len(found.folds) > 1:
        rows.append(("ensemble", pooled.n, pooled.wa, pooled.ua, pooled.macro_f1))
    columns = (Column("model", "model", "text"), Column("n", "clips", "count"), *rate_columns())
    return Table("scores", "Scores of each fold's model, and of their mean probabilities", columns, tuple(rows))


def describe_cross(found: CrossScores, *, pictures: bool) -> Report:
    """Everything that is said of a model on another corpus."""
    intervals, chosen = found.breakdown.intervals, found.choice
    return Report(
        title=f"{Path(found.model).resolve().name} on {found.dataset}",
        sentences=(
            f"Trained on {found.trained_on or 'a corpus that the model does not name'}, tested on {found.dataset}.",
            *found.normalization.sentences(found.dataset),
            *mapping_sentences(found),
            "WA is accuracy, UA the mean recall over the emotions.",
        ),
        warnings=(*cross_warnings(found), *few_speakers(intervals.drawn)),
        tiles=score_tiles(found.breakdown),
        sections=found.normalization.captioned(
            (
                Section("Scores", f"Intervals: {intervals.sentence}.", (), (cross_table(found),)),
                *_task_sections(found),
                *breakdown_sections(found.breakdown, pictures=pictures),
            )
        ),
        facts=(
            ("model", found.model),
            ("corpus", found.dataset),
            ("labels of the model", ", ".join(found.model_labels)),
            ("labels of the corpus", f"{chosen.label_set}: {', '.join(chosen.labels)}"),
            *([("only utterances with", " and ".join(chosen.where))] if chosen.where else []),
            ("clips chosen", f"{chosen.clips:,} of {chosen.prepared:,} prepared"),
        ),
    )


def task_sentences(found: CrossScores) -> list[str]:
    """What each fold's model came to beside emotion."""
    return [f"fold {index}, tasks beside emotion: {rates_sentence(scores)}" for index, scores in found.tasks.items()]


def _task_sections(found: CrossScores) -> list[Section]:
    rows = [(f"fold {index}", scores) for index, scores in found.tasks.items()]
    return [Section("Tasks beside emotion", "", (), (tasks_table(rows),))] if rows else []
