"""What reports say of their figures in words: each sentence is written once, here."""

from collections.abc import Iterable, Sequence

from ser_cli.evaluation.breakdown import Breakdown
from ser_cli.evaluation.intervals import Resampled
from ser_cli.runs.directory import RunIdentity

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


def selection_told(selected_by: Iterable[tuple[str, str]], kind: str = "", *, flattering: bool) -> list[str]:
    """How epochs were chosen, where that makes figures too high or where it does not.

    Args:
        selected_by: names, each with how its epochs were chosen.
        kind: of what the names are, to stand before them.
        flattering: what is told.
    """
    told = told_by_sentence(((name, SELECTION_SENTENCES[by]) for name, by in selected_by), kind)
    return [text for sentence, text in told.items() if (sentence == SELECTION_SENTENCES["test"]) == flattering]


def told_of(sentences: Iterable[tuple[str, str]], kind: str = "") -> list[str]:
    """Each sentence once; see `told_by_sentence`."""
    return list(told_by_sentence(sentences, kind).values())


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


def changed_warnings(what: str, changes: Sequence[str]) -> list[str]:
    """One warning where a run was gone on with although something had changed; none where nothing had."""
    return [f"{what} changed while it went on: {'; '.join(changes)}."] if changes else []


def few_speakers(drawn: Resampled) -> list[str]:
    """A warning where intervals rest on few speakers."""
    if not drawn.are_few:
        return []
    if drawn.of_one:
        return ["Only one speaker is tested, so the intervals tell nothing of other speakers and are much too narrow."]
    told = "one speaker is" if drawn.known == 1 else f"{drawn.known} speakers are"
    return [f"Only {told} tested: the intervals are rough, and rather too narrow."]


def too_few(drawn: Resampled) -> str:
    """`4 speakers are too few`, for sentences."""
    return "one speaker is too few" if drawn.known == 1 else f"{drawn.known} speakers are too few"


def missing_folds_warning(missing: Sequence[int]) -> list[str]:
    """A warning where figures are of some folds; none where they are of all."""
    return [f"Not done yet: fold {', '.join(map(str, missing))}; these figures cover the others."] if missing else []


def interval_sentence(breakdown: Breakdown) -> str:
    """The intervals in one line, for a terminal."""
    bounds = [
        ("WA", breakdown.intervals.wa),
        ("UA", breakdown.intervals.ua),
        ("macro F1", breakdown.intervals.macro_f1),
    ]
    told = ", ".join(f"{name} {100 * b.low:.1f} to {100 * b.high:.1f} %" for name, b in bounds)
    return f"{told} ({breakdown.intervals.sentence})"


def labels_sentence(identity: RunIdentity) -> str:
    """Which emotions and utterances took part."""
    where = f"; only utterances with {' and '.join(identity.where)}" if identity.where else ""
    targets = "; learnt from the raters' votes, scored against their verdict" if identity.targets == "soft" else ""
    return f"Labels {identity.label_set}: {', '.join(identity.labels)}{where}{targets}."


def labels_sentences(runs: Iterable[tuple[str, RunIdentity]]) -> list[str]:
    """The same of several runs, by their names: runs that tested the same clips may have learnt from others."""
    return told_of((name, labels_sentence(identity)) for name, identity in runs)
