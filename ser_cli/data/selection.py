"""Which utterances of a prepared corpus take part, and under which labels.

A corpus is prepared once, with everything in it; each command chooses from it. `--labels` names a label set of
the corpus or lists emotions; `--where` keeps the utterances that fulfil conditions on columns of the manifest;
`--targets soft` learns what the raters voted instead of their verdict alone.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ser_cli.corpora.corpus import LabelSet
from ser_cli.data import votes
from ser_cli.data.manifest import COLUMNS, Utterance, hash_manifest
from ser_cli.data.store import PreparedCorpus
from ser_cli.errors import CorpusError, UnknownNameError, UsageError, did_you_mean

_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_SHOWN_VALUES = 12


def select(
    corpus: PreparedCorpus,
    label_sets: Sequence[LabelSet],
    *,
    labels: str | None = None,
    where: Sequence[str] = (),
    soft: bool = False,
) -> PreparedCorpus:
    """Choose utterances and labels of a prepared corpus.

    Args:
        corpus: everything that was prepared.
        label_sets: the named choices of this corpus; empty for a user's own manifest.
        labels: a label set's name, or a list such as `angry,happy+excited,sad`, where `+` merges emotions under
            the name of the first; None for what the corpus was prepared with.
        where: conditions such as `scenario=improvised`, `speaker!=01F,01M` or `duration_s<=20`, all to be fulfilled.
        soft: learn the raters' votes.

    Returns:
        The corpus with the chosen utterances alone, each with its label as `emotion`.

    Raises:
        UnknownNameError: no label set or column has that name.
        UsageError: a list or a condition cannot be read, or names a value that does not occur.
        CorpusError: nothing is left, or there are no votes to learn from.
    """
    chosen = _chosen_set(corpus, label_sets, labels)
    label_of = chosen.label_of
    keeps = [_condition(text, corpus) for text in where]
    kept = [
        (utterance, audio)
        for utterance, audio in zip(corpus.utterances, corpus.audio, strict=True)
        if utterance.emotion in label_of and all(keep(utterance) for keep in keeps)
    ]
    if not kept:
        told = "".join(f" and --where {text!r}" for text in where)
        raise CorpusError(f"{corpus.name}: no utterance is left by --labels {chosen.name}{told}\n  loosen one of them")
    utterances = tuple(replace(utterance, emotion=label_of[utterance.emotion]) for utterance, _ in kept)
    audio = tuple(entry for _, entry in kept)
    preparation = replace(
        corpus.preparation,
        labels=chosen.labels,
        label_set=chosen.name,
        utterances=len(utterances),
        manifest_hash=hash_manifest(utterances, (entry.sha256 for entry in audio)),
    )
    selected = replace(
        corpus, preparation=preparation, utterances=utterances, audio=audio, where=tuple(text.strip() for text in where)
    )
    return replace(selected, soft_labels=_soft_labels(selected, label_of)) if soft else selected


def count_labels(corpus: PreparedCorpus, label_sets: Sequence[LabelSet]) -> dict[str, int]:
    """Utterances of each label that is told apart unless a command chooses others."""
    chosen = _chosen_set(corpus, label_sets, None)
    counts = Counter(chosen.label_of.get(utterance.emotion) for utterance in corpus.utterances)
    return {label: counts[label] for label in chosen.labels}


def _chosen_set(corpus: PreparedCorpus, label_sets: Sequence[LabelSet], labels: str | None) -> LabelSet:
    declared = corpus.preparation
    if labels is None and not declared.label_set:
        return LabelSet(",".join(declared.labels), {label: (label,) for label in declared.labels})
    return find_label_set(corpus.name, corpus.utterances, label_sets, labels or declared.label_set)


def find_label_set(
    corpus: str, utterances: Sequence[Utterance], label_sets: Sequence[LabelSet], wanted: str
) -> LabelSet:
    """The label set that `--labels` means.

    Args:
        corpus: its name.
        utterances: with the corpus's own emotions.
        label_sets: the named choices.
        wanted: one of their names, or a list of emotions.

    Raises:
        UnknownNameError: it is neither a label set nor a list.
        UsageError: the list names an emotion that does not occur, or fewer than two.
    """
    named = next((labelled for labelled in label_sets if labelled.name == wanted), None)
    if named is not None:
        return named
    occurring = sorted({utterance.emotion for utterance in utterances})
    if "," not in wanted and "+" not in wanted:
        raise UnknownNameError(
            "label set",
            wanted,
            [labelled.name for labelled in label_sets],
            f"or list emotions, such as {','.join(occurring[:3])}; those of {corpus}: {', '.join(occurring)}",
        )
    parts = [
        # An emotion may hold a plus of its own.
        (part.strip(),) if part.strip() in occurring else tuple(emotion.strip() for emotion in part.split("+"))
        for part in wanted.split(",")
    ]
    for emotions in parts:
        for emotion in emotions:
            if emotion not in occurring:
                raise UsageError(
                    f"--labels {wanted}: {corpus} has no emotion {emotion!r}{did_you_mean(emotion, occurring)}\n"
                    f"  it has: {', '.join(occurring)}"
                )
    every = [emotion for emotions in parts for emotion in emotions]
    if len(parts) < 2 or len(every) != len(set(every)):
        raise UsageError(f"--labels {wanted}: at least two labels are needed, and each emotion is named once")
    return LabelSet(wanted, {emotions[0]: emotions for emotions in parts})


def value_of(utterance: Utterance, column: str) -> str:
    """The text of a column of the manifest; empty where the utterance has none."""
    if column in COLUMNS:
        return str(getattr(utterance, column))
    return dict(utterance.extra).get(column, "")


def _condition(text: str, corpus: PreparedCorpus) -> Callable[[Utterance], bool]:
    """The test that one `--where` stands for."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--where {text!r}: expected COLUMN=VALUE, COLUMN!=VALUE, or a comparison with a number;"
            f" such as scenario=improvised or duration_s<=20"
        )
    column, sign, wanted = match.groups()
    columns = [*COLUMNS, *sorted({name for utterance in corpus.utterances for name, _ in utterance.extra})]
    if column not in columns:
        raise UnknownNameError("column", column, columns, f"in --where {text!r}; columns of {corpus.name}'s manifest")
    if sign in _COMPARISONS:
        return _comparison(text, column, _COMPARISONS[sign], wanted)
    occurring = sorted({value_of(utterance, column) for utterance in corpus.utterances})
    # A value may hold a comma of its own.
    values = {wanted.strip()} if wanted.strip() in occurring else {value.strip() for value in wanted.split(",")}
    for value in sorted(values - set(occurring)):
        shown = ", ".join(filter(None, occurring[:_SHOWN_VALUES])) + (" …" if len(occurring) > _SHOWN_VALUES else "")
        raise UsageError(
            f"--where {text!r}: no utterance of {corpus.name} has the {column} {value!r}"
            f"{did_you_mean(value, occurring)}\n  there are: {shown}"
        )
    if sign == "=":
        return lambda utterance: value_of(utterance, column) in values
    return lambda utterance: value_of(utterance, column) not in values


def _comparison(
    text: str, column: str, compare: Callable[[float, float], bool], wanted: str
) -> Callable[[Utterance], bool]:
    """A comparison of numbers; an utterance whose column holds none does not fulfil it."""
    try:
        bound = float(wanted)
    except ValueError:
        raise UsageError(f"--where {text!r}: {wanted!r} is not a number to compare {column} with") from None

    def fulfils(utterance: Utterance) -> bool:
        try:
            return compare(float(value_of(utterance, column)), bound)
        except ValueError:
            return False

    return fulfils


def _soft_labels(corpus: PreparedCorpus, label_of: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """Soft labels of all utterances; the verdict stands where no rater voted for any of the labels."""
    soft = {}
    for utterance in corpus.utterances:
        cast = votes.parse_votes(value_of(utterance, votes.COLUMN))
        share = votes.soft_label(cast, label_of, corpus.labels)
        if share is not None:
            soft[utterance.id] = share
    if not soft:
        named = {emotion for u in corpus.utterances for emotion in votes.parse_votes(value_of(u, votes.COLUMN))}
        told = f"; votes name {', '.join(sorted(named)[:8])}" if named else ""
        raise CorpusError(
            f"--targets soft: no utterance of {corpus.name} has a vote for any of {', '.join(corpus.labels)}{told}\n"
            f"  a manifest gives votes in a column {votes.COLUMN}, such as angry:2 neutral:1; or use --targets hard"
        )
    return {u.id: soft[u.id] if u.id in soft else corpus.target(u.id) for u in corpus.utterances}
