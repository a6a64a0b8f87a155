"""Choose which clips of a corpus are mixed, where and how strongly: drawn, by given pairs, or replayed."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ser_cli.data.audio import SAMPLE_RATE_HZ
from ser_cli.data.manifest import is_mixture
from ser_cli.data.mixup import METHODS, MixPlan, plan_mixtures
from ser_cli.data.store import PreparedCorpus, open_corpus
from ser_cli.errors import ProblemsError, UsageError, count_of, did_you_mean
from ser_cli.files import read_lines, read_text, separator_told
from ser_cli.recipe_settings import MAX_MIXING_SNR_DB, MixupSettings

GIVEN_COLUMNS = ("start_a_s", "start_b_s", "length_s", "snr_db")
"""Of a file of pairs: what is drawn unless a row tells it."""


def draw_plans(
    corpus: PreparedCorpus,
    ids: Sequence[str],
    count: int,
    settings: MixupSettings,
    seed: int,
    *,
    interfering_emotion: str | None = None,
    dominant_emotion: str | None = None,
) -> tuple[MixPlan, ...]:
    """Draw mixtures of clips.

    Every clip is the dominant one once before any is a second time.

    Args:
        corpus: where the clips are.
        ids: the clips that may be mixed.
        count: how many mixtures.
        settings: how; the share is not asked.
        seed: of all that is drawn.
        interfering_emotion: only clips of this emotion are laid over others.
        dominant_emotion: only clips of this emotion are laid over.

    Raises:
        UsageError: an emotion does not occur, or there are no two clips to mix.
    """
    dominants = _of_emotion(corpus, ids, dominant_emotion, "--into")
    partners = _of_emotion(corpus, ids, interfering_emotion, "--from")
    if len(set(partners)) == 1:  # it is never mixed with itself
        dominants = [identity for identity in dominants if identity != partners[0]]
    if not dominants:
        raise UsageError(f"nothing to mix: only one clip is left; choose other emotions, or {_other_clips(corpus)}")
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(dominants))
    chosen = [dominants[index] for _ in range(rounds) for index in rng.permutation(len(dominants))][:count]
    plans = tuple(plan for plan in _plan(corpus, chosen, partners, rng, settings) if plan is not None)
    assert len(plans) == count, "each of them has a partner"
    return plans


def pair_plans(
    corpus: PreparedCorpus, ids: Sequence[str], path: Path, settings: MixupSettings, seed: int
) -> tuple[MixPlan, ...]:
    """Plan mixtures of chosen pairs, drawing what the file leaves open.

    Args:
        corpus: where the clips are.
        ids: the clips that may be mixed.
        path: CSV with the columns source_a (dominant) and source_b, and for `eam` also start_a_s, start_b_s,
            length_s and snr_db where they are not to be drawn.
        settings: how to draw the rest.
        seed: of that.

    Raises:
        UsageError: the file cannot be read.
        ProblemsError: pairs that cannot be mixed, all of them.
    """
    rng = np.random.default_rng(seed)
    allowed = set(ids)
    plans: list[MixPlan] = []
    problems: list[str] = []
    for number, row in _read_csv(path, ("source_a", "source_b"), GIVEN_COLUMNS):
        named = (row["source_a"], row["source_b"])
        try:
            _require_allowed(named, corpus, allowed)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        (plan,) = _plan(corpus, [named[0]], [named[1]], rng, settings)
        if plan is None:
            problems.append(f"line {number}: {named[0]} is to be mixed with itself")
            continue
        try:
            plans.append(_with_given(plan, row, corpus))
        except (ValueError, OverflowError) as error:
            problems.append(f"line {number}: {error}")
    return _complete(path, plans, problems)


def replay_plans(corpus: PreparedCorpus, ids: Sequence[str], path: Path) -> tuple[MixPlan, ...]:
    """Read a plan that `write_mixtures` wrote.

    Raises:
        UsageError: the file cannot be read.
        ProblemsError: rows that do not fit the corpus, all of them.
    """
    allowed = set(ids)
    plans: list[MixPlan] = []
    problems: list[str] = []
    columns = tuple(MixPlan.__dataclass_fields__)
    for number, row in _read_csv(path, columns):
        try:
            plan = MixPlan(
                row["method"],
                row["dominant"],
                row["interfering"],
                int(row["dominant_start"]),
                int(row["interfering_start"]),
                int(row["length"]),
                float(row["snr_db"]),
                float(row["share"]),
            )
            _require_fit(plan, corpus, allowed)
        except (ValueError, OverflowError) as error:
            problems.append(f"line {number}: {error}")
        else:
            plans.append(plan)
    return _complete(path, plans, problems)


def _plan(
    corpus: PreparedCorpus,
    dominants: Sequence[str],
    partners: Sequence[str],
    rng: np.random.Generator,
    settings: MixupSettings,
) -> tuple[MixPlan | None, ...]:
    return plan_mixtures(
        dominants,
        partners,
        corpus.length,
        rng,
        method=settings.method,
        share=1.0,
        snr_range_db=(settings.snr_min_db, settings.snr_max_db),
        max_overlap=settings.max_overlap,
        lam_lambda=settings.lam_lambda,
        mixup_alpha=settings.mixup_alpha,
    )


def _of_emotion(corpus: PreparedCorpus, ids: Sequence[str], emotion: str | None, option: str) -> list[str]:
    if emotion is not None and emotion not in corpus.labels:
        raise UsageError(
            f"{option} {emotion}: not among the labels {', '.join(corpus.labels)}{did_you_mean(emotion, corpus.labels)}"
        )
    chosen = [identity for identity in ids if emotion in (None, corpus.by_id[identity].emotion)]
    if not chosen:
        raise UsageError(f"{option} {emotion}: no clip of that emotion is left; {_other_clips(corpus)}")
    return chosen


def _other_clips(corpus: PreparedCorpus) -> str:
    """How to come to other clips."""
    loosen = f"loosen --where {shlex.join(corpus.where)}, or " if corpus.where else ""
    return f"{loosen}choose another --fold or --split"


def _with_given(plan: MixPlan, row: dict[str, str], corpus: PreparedCorpus) -> MixPlan:
    """A drawn plan with what a row fixes."""
    given = {column: float(row[column]) for column in GIVEN_COLUMNS if row.get(column)}
    if given and plan.method != "eam":
        raise ValueError(f"{next(iter(given))} is of the method eam alone; {plan.method} adds whole clips")
    if not all(np.isfinite(value) for value in given.values()):
        raise ValueError(f"{given} are not all finite numbers")
    length = round(given["length_s"] * SAMPLE_RATE_HZ) if "length_s" in given else plan.length
    starts = []
    for column, identity, drawn in (
        ("start_a_s", plan.dominant, plan.dominant_start),
        ("start_b_s", plan.interfering, plan.interfering_start),
    ):
        room = max(0, corpus.length(identity) - length)
        starts.append(round(given[column] * SAMPLE_RATE_HZ) if column in given else min(drawn, room))
    snr_db = given.get("snr_db", plan.snr_db)
    fixed = replace(plan, dominant_start=starts[0], interfering_start=starts[1], length=length, snr_db=snr_db)
    _require_fit(fixed, corpus, {plan.dominant, plan.interfering})
    return fixed


def _require_fit(plan: MixPlan, corpus: PreparedCorpus, allowed: set[str]) -> None:
    if plan.method not in METHODS:
        raise ValueError(f"method {plan.method!r} is not among {', '.join(METHODS)}")
    _require_allowed((plan.dominant, plan.interfering), corpus, allowed)
    for identity, start in ((plan.dominant, plan.dominant_start), (plan.interfering, plan.interfering_start)):
        length = corpus.length(identity)
        if start < 0 or plan.length < 1 or start + plan.length > length:
            raise ValueError(
                f"{identity} lasts {length / SAMPLE_RATE_HZ:.3f} s; a segment of {plan.length / SAMPLE_RATE_HZ:.3f} s"
                f" from {start / SAMPLE_RATE_HZ:.3f} s does not lie inside it"
            )
    if not -MAX_MIXING_SNR_DB <= plan.snr_db <= MAX_MIXING_SNR_DB:
        raise ValueError(f"snr_db {plan.snr_db:g} is not between -{MAX_MIXING_SNR_DB:g} and {MAX_MIXING_SNR_DB:g} dB")
    if not 0 <= plan.share <= 1:
        raise ValueError(f"share {plan.share:g} is not between 0 and 1")


def _require_allowed(named: Sequence[str], corpus: PreparedCorpus, allowed: set[str]) -> None:
    for identity in named:
        if identity not in corpus.by_id:
            if identity in open_corpus(corpus.folder).by_id:
                raise ValueError(f"{identity} is left out by --labels or --where")
            raise ValueError(f"{identity} is no clip of {corpus.name}{did_you_mean(identity, allowed)}")
        if is_mixture(corpus.by_id[identity]):
            raise ValueError(f"{identity} is a mixture already, and its second voice would be forgotten")
        if identity not in allowed:
            raise ValueError(f"{identity} is not on the chosen side")


def _complete(path: Path, plans: list[MixPlan], problems: list[str]) -> tuple[MixPlan, ...]:
    if problems:
        raise ProblemsError(str(path), problems, "correct the lines and run again", usage=True)
    if not plans:
        raise UsageError(f"{path}: no row to mix")
    return tuple(plans)


def _read_csv(path: Path, needed: Sequence[str], drawn: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    try:
        lines = read_lines(read_text(path))
        _, header = next(lines, (1, []))
        header = [column.strip() for column in header]
        if repeated := {column for column in header if header.count(column) > 1}:
            raise ValueError(f"column {min(repeated)!r} stands there twice")
        rows = []
        for number, line in lines:
            if len(line) != len(header):
                raise ValueError(f"line {number} has {count_of(len(line), 'value')} for {len(header)} columns")
            rows.append((number, dict(zip(header, (value.strip() for value in line), strict=True))))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); give a CSV file") from None
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error}); save it as comma-separated text") from None
    for column in needed:
        if column not in header:
            near = separator_told(header) or did_you_mean(column, header)
            raise UsageError(f"{path}: no column {column!r}{near}\n  needed: {', '.join(needed)}")
    # A misspelt column would be drawn instead of read, and nobody would see it.
    for column in header:
        if column not in (*needed, *drawn) and (meant := get_close_matches(column.casefold(), drawn, n=1)):
            raise UsageError(
                f"{path}: column {column!r} is read by nothing; did you mean {meant[0]}?\n"
                f"  read: {', '.join((*needed, *drawn))}; rename it, also if it is a note of yours"
            )
    return rows
