"""Runs that tested the same clips in the same folds: what two are compared by, and what several are averaged over."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ser_cli.data.protocols import DEALT
from ser_cli.errors import RunError, count_of
from ser_cli.evaluation.breakdown import Person, read_people
from ser_cli.evaluation.scores import RunScores, tested_predictions
from ser_cli.evaluation.sentences import changed_warnings, selection_told, told_of
from ser_cli.runs.directory import Run
from ser_cli.runs.predictions import Prediction


def predictions_of_all(runs: Sequence[Run], done_to_them: str) -> list[list[Prediction]]:
    """The predictions of each run, all in one order of the same clips: by fold, then by id.

    Args:
        runs: two or more.
        done_to_them: what they are wanted for, as a participle: `compared`.

    Raises:
        RunError: protocol, labels, folds, tested clips or their emotions differ.
    """
    first, *others = runs
    for other in others:
        _require_alike(first, other, done_to_them)
    predicted = [_in_order(run) for run in runs]
    for other, said in zip(others, predicted[1:], strict=True):
        _require_same_clips((first, other), (predicted[0], said), done_to_them)
    return predicted


def names_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """The folders' names, or their paths where two of those are equal."""
    names = tuple(run.folder.resolve().name for run in runs)
    return names if len(set(names)) == len(names) else tuple(str(run.folder) for run in runs)


def people_of_all(runs: Sequence[Run]) -> dict[str, Person]:
    """Who speaks in each clip, by its id; of what runs say differently, the first is believed.

    Raises:
        RunError: a table of folds is damaged.
    """
    return {name: person for run in reversed(runs) for name, person in read_people(run.folds_path).items()}


def runs_as_json(names: Sequence[str], scores: Sequence[RunScores]) -> dict[str, Any]:
    """What the runs share, and what each is by itself; rates in [0, 1]."""
    identity = scores[0].identity
    return {
        "dataset": identity.dataset,
        "labels": list(identity.labels),
        "protocol": identity.protocol,
        "protocol_hash": identity.protocol_hash,
        "runs": [
            {"run": name, "recipe": s.identity.recipe, "encoder": s.identity.encoder, "seed": s.identity.seed,
             "label_set": s.identity.label_set, "where": list(s.identity.where), "targets": s.identity.targets,
             "selected_by": s.selected_by, "protocol_rule": s.rule, "changes": list(s.changes),
             **s.normalization.as_json(), "pooled": asdict(s.pooled), "mean": s.mean, "std": s.std}
            for name, s in zip(names, scores, strict=True)
        ],
    }  # fmt: skip


def origin_sentences(names: Sequence[str], scores: Sequence[RunScores]) -> list[str]:
    """How the protocol divides the corpus, and how epochs were chosen where that flatters nobody."""
    rules = [(name, f"{s.rule}.") for name, s in zip(names, scores, strict=True)]
    sentences = [f"Protocol {scores[0].identity.protocol}: {rule}" for rule in told_of(rules)]
    return sentences + _selection(names, scores, flattering=False)


def origin_warnings(names: Sequence[str], scores: Sequence[RunScores]) -> list[str]:
    """What makes a run look better than it is."""
    warnings = _selection(names, scores, flattering=True)
    # A run may be held against itself: it changed once.
    for name, of_run in dict(zip(names, scores, strict=True)).items():
        warnings += changed_warnings(name, of_run.changes)
    return warnings


def _selection(names: Sequence[str], scores: Sequence[RunScores], *, flattering: bool) -> list[str]:
    """How the epochs of the runs were chosen."""
    selected_by = ((name, s.selected_by) for name, s in zip(names, scores, strict=True))
    return selection_told(selected_by, flattering=flattering)


def _require_alike(first: Run, second: Run, done_to_them: str) -> None:
    one, other = first.identity(), second.identity()
    what = f"{first.folder} and {second.folder} cannot be {done_to_them}"
    if one.dataset != other.dataset:
        raise RunError(
            f"{what}: they are of different corpora, {one.dataset} and {other.dataset}\n"
            f"  take runs on one corpus, with one protocol"
        )
    if one.protocol_hash != other.protocol_hash:
        raise RunError(
            f"{what}: their protocols differ, {one.protocol} (hash {one.protocol_hash[:12]}) and {other.protocol}"
            f" (hash {other.protocol_hash[:12]})\n"
            f"  {_protocol_advice(one.protocol, other.protocol)}"
        )
    if one.labels != other.labels:
        raise RunError(
            f"{what}: their labels differ, {', '.join(one.labels)} and {', '.join(other.labels)}\n"
            f"  take runs with one choice of labels: train again with --labels {one.label_set}"
        )
    done, others = first.done_folds(), second.done_folds()
    if done != others:
        missing = sorted(set(done) ^ set(others))
        raise RunError(
            f"{what}: fold {', '.join(map(str, missing))} is done in one of them only\n"
            f"  run the same `ser train` again, which trains what is not done"
        )


def _protocol_advice(wanted: str, other: str) -> str:
    """How a run comes to the folds of another, as `ser train` takes it."""
    if wanted == other:
        return f"both are called {wanted} and divide other speakers: train both with one corpus and one --where"
    any_seed = ", with any --seed" if DEALT.fullmatch(wanted) else ""
    return f"take runs with one protocol: train again with --protocol {wanted}{any_seed}"


def _in_order(run: Run) -> list[Prediction]:
    return [p for of_fold in tested_predictions(run).values() for p in sorted(of_fold, key=lambda p: p.id)]


def _require_same_clips(
    runs: tuple[Run, Run], predicted: tuple[Sequence[Prediction], Sequence[Prediction]], done_to_them: str
) -> None:
    tested = [{(p.fold, p.id): p.truth for p in predictions} for predictions in predicted]
    different = sorted(set(tested[0]) ^ set(tested[1]))
    what = f"{runs[0].folder} and {runs[1].folder} cannot be {done_to_them}"
    if different:
        raise RunError(
            f"{what}: {count_of(len(different), 'clip')} of {len({*tested[0], *tested[1]}):,} are tested in one of"
            f" them only, or in another fold, such as {different[0][1]}\n"
            f"  train both with one corpus, one --where and one protocol"
        )
    relabelled = [key for key, truth in tested[0].items() if tested[1][key] != truth]
    if relabelled:
        fold, identity = relabelled[0]
        raise RunError(
            f"{what}: {count_of(len(relabelled), 'clip')} changed emotion, such as {identity} of fold {fold},"
            f" {tested[0][fold, identity]} and {tested[1][fold, identity]}\n  train both with one corpus"
        )
