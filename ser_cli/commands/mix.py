"""`ser mix`: mix clips of a corpus to hear what training hears, or to train on."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ser_cli.commands import completion, options
from ser_cli.commands.progress import counting_bar
from ser_cli.console import Console
from ser_cli.errors import UsageError, count_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ser_cli.data.mixup import MixPlan
    from ser_cli.data.store import PreparedCorpus
    from ser_cli.recipe_settings import MixupSettings

EXAMPLES = options.examples(
    "ser mix --dataset demo --count 20 --output mixed",
    "ser mix --dataset demo --method lam --from angry --into sad --fold 1 --split train --output angry-in-sad",
)


DRAWN = 20
"""Mixtures, unless --count asks for others."""


Method = Literal["eam", "lam", "mixup"]
"""The rule by which clips are mixed."""

Split = Literal["train", "validation", "test"]
"""A side of a fold."""


def mix(
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of the mixtures; must be new or empty.")
    ],
    dataset: options.Dataset = None,
    manifest: options.Manifest = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default=str(DRAWN), help="How many mixtures to draw.")
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            metavar="eam|lam|mixup",
            show_default="eam",
            help="Energy-adaptive (a segment), label-adaptive or conventional (whole clips).",
        ),
    ] = None,
    snr_range: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", show_default="-5,10", help="Of eam: signal-to-noise ratio, in decibels."),
    ] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default="0.5",
            help="Of eam: longest segment, as a share of the first clip, up to 0.5.",
        ),
    ] = None,
    lam_lambda: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            metavar="WEIGHT",
            show_default="0.5",
            help="Of lam: weight of the first waveform (metadata.csv tells that of the second label).",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(metavar="A", show_default="0.2", help="Of mixup: parameter of the Beta distribution."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="EMOTION", help="Lay only clips of this emotion over others.")
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="EMOTION", help="Lay others only over clips of this emotion.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Mix these pairs: CSV with source_a, source_b, and start_a_s, start_b_s, length_s, snr_db"
            " where they are not to be drawn.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay the plan.csv of an earlier call, byte for byte.")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(min=1, metavar="I", help="Mix only clips of this fold's side, counted from 1.")
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            metavar="train|validation|test",
            help="The side of --fold whose clips are mixed; as in training where 2 speakers choose the epoch.",
        ),
    ] = "train",
    folds: Annotated[int | None, typer.Option(metavar="K", help="Number of folds, as for `ser train`.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Folds by name, as for `ser train`.", autocompletion=completion.complete_protocol
        ),
    ] = None,
    labels: options.Labels = None,
    where: options.Where = None,
    targets: Annotated[
        Literal["hard", "soft"],
        typer.Option(metavar="hard|soft", help="Mix labels of the raters' verdicts, or the shares of their votes."),
    ] = "hard",
    with_originals: Annotated[
        bool,
        typer.Option(
            "--with-originals",
            help="Write the clips themselves too, and manifest.csv, a corpus to train on with --targets soft.",
        ),
    ] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write index.html to listen and look.")] = True,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", show_default="0", help="Of everything random, dealt folds as well."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace mixtures that lie in the output folder.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Mix clips and their labels, to hear and see what augmentation does, or to train on.

    Writes FLAC files at 16 kHz, metadata.csv (what each is made of, the ratio asked for and measured, the soft
    label), plan.csv to repeat it, and index.html. Prints the path of metadata.csv. A mixture whose peak would clip
    is lowered as a whole, and the gain is recorded.
    """
    from ser_cli.recipe_settings import MixupSettings

    console = Console(quiet, verbose)
    of_method: dict[Method, dict[str, object]] = {
        "eam": {"--snr-range": snr_range, "--max-overlap": max_overlap},
        "lam": {"--lambda": lam_lambda},
        "mixup": {"--alpha": alpha},
    }
    drawn = {"--count": count, "--from": from_, "--into": into}
    seeded = {"--seed": seed} if fold is None else {}
    chosen = _require_that_all_acts(
        method, of_method, drawn, seeded, replayed=plan is not None, paired=pairs is not None
    )
    snr_min_db, snr_max_db = _range_of(snr_range) if snr_range is not None else (None, None)
    asked = {
        "method": chosen,
        "snr_min_db": snr_min_db,
        "snr_max_db": snr_max_db,
        "max_overlap": _within(max_overlap, "--max-overlap", 0.5),
        "lam_lambda": _within(lam_lambda, "--lambda", 1.0, below=True),
        "mixup_alpha": _within(alpha, "--alpha", float("inf"), below=True),
    }
    settings = MixupSettings.model_validate(options.given(asked))
    with counting_bar(console, "preparing", "clip") as progress:
        corpus = options.open_chosen(
            dataset, manifest, labels, where, progress, soft=targets == "soft", may_prepare=not dry_run
        )
    ids = _clips_of(console, corpus, fold, split, folds, protocol, seed or 0)
    choice = _Choice(count or DRAWN, pairs, plan, from_, into)
    plans = _plans(corpus, ids, settings, seed or 0, choice)
    if with_originals and targets == "hard":
        _say_lost_votes(console, corpus, ids)
    if dry_run:
        from ser_cli.mixtures.output_folder import files_beside, require_free

        require_free(output, force=force, writing=files_beside(originals=with_originals, page=page))
        console.say(f"{count_of(len(plans), 'mixture')} of {count_of(len(ids), 'clip')} would be written to {output}")
        if json:
            told = {"dataset": corpus.name, "output": str(output), "mixtures": len(plans), "clips": len(ids)}
            console.result_json(told)
        return
    _write(console, corpus, plans, output, originals=ids if with_originals else (), page=page, force=force, json=json)


def _write(
    console: Console,
    corpus: "PreparedCorpus",
    plans: "tuple[MixPlan, ...]",
    output: Path,
    *,
    originals: "tuple[str, ...]",
    page: bool,
    force: bool,
    json: bool,
) -> None:
    from ser_cli.mixtures.output_folder import MANIFEST_NAME, METADATA_NAME, PAGE_NAME, PLAN_NAME
    from ser_cli.mixtures.page import SHOWN_MIXTURES, write_page
    from ser_cli.mixtures.writing import describe, write_mixtures

    finish = (lambda folder, clips: write_page(corpus, clips, folder)) if page else None
    with counting_bar(console, "mixing", "clip") as progress:
        clips, originals_lowered = write_mixtures(
            corpus, plans, output, originals=originals, force=force, finish=finish, progress=progress
        )
    console.say(f"{corpus.name}: {describe(clips)}")
    if originals_lowered:
        console.say(f"originals: {count_of(originals_lowered, 'clip')} of more than full scale lowered as a whole")
    if page:
        more = f", the first {SHOWN_MIXTURES} of them" if len(clips) > SHOWN_MIXTURES else ""
        console.say(f"listen and look{more}: {output / PAGE_NAME}")
    if originals:
        from ser_cli.preparation.sources import free_name

        name = free_name(output.resolve().name)
        console.say(
            f"train on it: ser prepare --manifest {shlex.quote(str(output / MANIFEST_NAME))} --name {name},"
            f" then ser train --dataset {name} --targets soft"
        )
    if not json:
        console.result(str(output / METADATA_NAME))
        return
    console.result_json(
        {
            "metadata": str(output / METADATA_NAME),
            "plan": str(output / PLAN_NAME),
            "page": str(output / PAGE_NAME) if page else None,
            "manifest": str(output / MANIFEST_NAME) if originals else None,
            "mixtures": len(clips),
            "lowered": sum(clip.gain_db < 0 for clip in clips),
            "originals": len(originals),
            "originals_lowered": originals_lowered,
        }
    )


@dataclass(frozen=True)
class _Choice:
    """What is mixed: drawn clips, unless a file names pairs or whole plans."""

    count: int
    pairs: Path | None
    plan: Path | None
    from_: str | None
    into: str | None


def _plans(
    corpus: "PreparedCorpus",
    ids: "tuple[str, ...]",
    settings: "MixupSettings",
    seed: int,
    choice: _Choice,
) -> "tuple[MixPlan, ...]":
    from ser_cli.mixtures.choosing import draw_plans, pair_plans, replay_plans

    if choice.plan is not None:
        return replay_plans(corpus, ids, choice.plan)
    if choice.pairs is not None:
        return pair_plans(corpus, ids, choice.pairs, settings, seed)
    return draw_plans(
        corpus,
        ids,
        choice.count,
        settings,
        seed,
        interfering_emotion=choice.from_,
        dominant_emotion=choice.into,
    )


def _clips_of(
    console: Console,
    corpus: "PreparedCorpus",
    fold: int | None,
    split: Split,
    folds: int | None,
    protocol: str | None,
    seed: int,
) -> "tuple[str, ...]":
    """The clips that may be mixed: all of the corpus, or one side of a fold."""
    if fold is None:
        if folds is not None or protocol is not None or split != "train":
            raise UsageError("--folds, --protocol and --split go with --fold, which says whose side is meant")
        return _unmixed(console, corpus, [utterance.id for utterance in corpus.utterances])
    from ser_cli.data.folds import check_folds, make_folds
    from ser_cli.data.protocols import choose_protocol
    from ser_cli.recipe_settings import SelectionSettings

    chosen = choose_protocol(corpus, protocol, folds, seed)
    made = make_folds(chosen, corpus, validation_speakers=SelectionSettings().validation_speakers, seed=seed)
    check_folds(made, corpus, chosen)
    if fold > len(made):
        raise UsageError(f"--fold {fold}: protocol {chosen.name} has folds 1 to {len(made)}")
    deals = "ser train --select validation" + (f" --seed {seed}" if seed else "")
    console.say(f"{corpus.name}: {split} side of fold {fold}, protocol {chosen.name}, as `{deals}` deals them")
    return _unmixed(console, corpus, dict(made[fold - 1].sides)[split])


def _say_lost_votes(console: Console, corpus: "PreparedCorpus", ids: "Sequence[str]") -> None:
    from ser_cli.data import votes
    from ser_cli.data.selection import value_of

    differing = sum(len(votes.parse_votes(value_of(corpus.by_id[identity], votes.COLUMN))) > 1 for identity in ids)
    if differing:
        console.warn(
            f"the raters of {count_of(differing, 'clip')} voted for several emotions, and only their verdict is"
            " written; --targets soft writes their votes"
        )


def _unmixed(console: Console, corpus: "PreparedCorpus", ids: "Sequence[str]") -> "tuple[str, ...]":
    """The clips that are no mixtures themselves: of a mixture of mixtures two voices would be forgotten.

    Raises:
        UsageError: all are.
    """
    from ser_cli.data.manifest import is_mixture

    left = tuple(identity for identity in ids if not is_mixture(corpus.by_id[identity]))
    if not left:
        raise UsageError(f"{corpus.name}: every clip is a mixture already; mix the corpus that they were made of")
    if found := len(ids) - len(left):
        console.say(f"{corpus.name}: {count_of(found, 'clip')} left out, mixtures already")
    return left


def _require_that_all_acts(
    method: Method | None,
    of_method: "Mapping[Method, Mapping[str, object]]",
    drawn: "Mapping[str, object]",
    seeded: "Mapping[str, object]",
    *,
    replayed: bool,
    paired: bool,
) -> Method:
    """The rule of mixing, once no option is given that would change nothing.

    Args:
        method: that was asked for.
        of_method: the options of each rule.
        drawn: options of what is drawn.
        seeded: options of how it is drawn.
        replayed: whether --plan was given.
        paired: whether --pairs was given.

    Raises:
        UsageError: one is.
    """
    if replayed and paired:
        raise UsageError("--plan replays everything, --pairs chooses pairs: give one of them")
    if replayed:
        rules = {name: value for options_of in of_method.values() for name, value in options_of.items()}
        _require_unasked("--plan replays what an earlier call drew", {**drawn, "--method": method, **rules, **seeded})
    if paired:
        _require_unasked("--pairs names the clips", drawn)
    chosen = method or "eam"
    for other, options_of in of_method.items():
        if other != chosen:
            _require_unasked(f"the rule is {chosen}, and of --method {other}", options_of)
    return chosen


def _require_unasked(what: str, given: "Mapping[str, object]") -> None:
    """See that nothing is asked for that would change nothing.

    Raises:
        UsageError: something is.
    """
    asked = [name for name, value in given.items() if value is not None]
    if asked:
        raise UsageError(f"{what}: {', '.join(asked)} would change nothing; leave out one or the other")


def _range_of(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--snr-range {text}: expected two numbers in decibels, such as -5,10") from None
    from ser_cli.recipe_settings import MAX_MIXING_SNR_DB as MOST

    if not -MOST <= low <= high <= MOST:
        raise UsageError(f"--snr-range {text}: the lower end comes first, both between -{MOST:g} and {MOST:g} dB")
    return low, high


def _within(value: float | None, option: str, most: float, *, below: bool = False) -> float | None:
    if value is None:
        return None
    if not 0 < value <= most or (below and value == most):
        bound = f"below {most:g}" if below else f"at most {most:g}"
        raise UsageError(f"{option} {value:g}: must be above 0 and {bound}")
    return value
