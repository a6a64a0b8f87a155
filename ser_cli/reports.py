"""Scores as tables for people and programs."""

from collections.abc import Sequence

from ser_cli.evaluation import RATES, RunScores
from ser_cli.files import write_atomically
from ser_cli.runs import Run, RunIdentity, write_json

HEADER = ("fold", "clips", "WA %", "UA %", "macro F1 %")

SELECTION_SENTENCES = {
    "validation": "Each fold's epoch was chosen on speakers held out of its training side.",
    "last": "Each fold was trained to its last epoch; nothing was chosen.",
    "test": (
        "Each fold's epoch was chosen ON ITS TEST SIDE, as some papers do: "
        "these figures are too high and no estimate of what new speakers would see."
    ),
}


def score_rows(scores: RunScores) -> list[tuple[str, ...]]:
    """One row per fold, then mean, standard deviation and pooled, in per cent with one decimal."""
    rows = [(str(index), str(s.n), *_percent([s.wa, s.ua, s.macro_f1])) for index, s in scores.folds]
    rows.append(("mean", "", *_percent([scores.mean[rate] for rate in RATES])))
    if scores.std is not None:
        rows.append(("std", "", *_percent([scores.std[rate] for rate in RATES])))
    pooled = scores.pooled
    rows.append(("pooled", str(pooled.n), *_percent([pooled.wa, pooled.ua, pooled.macro_f1])))
    return rows


def confusion_rows(scores: RunScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the pooled confusion matrix: counts, truth by row."""
    labels = scores.identity.labels
    rows = [(label, *(str(n) for n in row)) for label, row in zip(labels, scores.confusion, strict=True)]
    return ("truth \\ predicted", *labels), rows


def write_report(run: Run, scores: RunScores) -> None:
    """Write `scores.json` and `report.md` into the run directory."""
    write_json(run.scores_path, scores.as_json())
    identity = scores.identity
    header, rows = confusion_rows(scores)
    parts = [
        f"# {identity.dataset}, recipe {identity.recipe}, encoder {identity.encoder}",
        SELECTION_SENTENCES[scores.selected_by],
        _selection_sentence(identity),
        f"Protocol {identity.protocol} (hash {identity.protocol_hash[:12]}), seed {identity.seed}: {scores.rule}.",
        "WA is accuracy, UA the mean recall over the emotions; std is the sample standard deviation over folds.",
        _markdown(HEADER, score_rows(scores)),
        "Confusion, counts over all folds:",
        _markdown(header, rows),
    ]
    write_atomically(run.folder / "report.md", ("\n\n".join(parts) + "\n").encode())


def _selection_sentence(identity: RunIdentity) -> str:
    where = f"; only utterances with {' and '.join(identity.where)}" if identity.where else ""
    targets = "; learnt from the raters' votes, scored against their verdict" if identity.targets == "soft" else ""
    return f"Labels {identity.label_set}: {', '.join(identity.labels)}{where}{targets}."


def _percent(rates: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{100 * rate:.1f}" for rate in rates)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
