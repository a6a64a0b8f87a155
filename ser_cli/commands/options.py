"""Options that verbs share, declared once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_cli.commands import completion
from ser_cli.errors import UsageError

if TYPE_CHECKING:
    from ser_cli.data.store import PreparedCorpus

Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Corpus by name; `demo` prepares itself.",
        autocompletion=completion.complete_dataset,
    ),
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Your own recordings: a CSV file with the columns path, emotion, speaker.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|A,B+C,…",
        help="Label set of the corpus, such as 4, or emotions in order; + merges (default: the papers').",
        autocompletion=completion.complete_labels,
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Keep utterances whose column fulfils it: scenario=improvised, speaker!=01F,01M, duration_s<=20;"
        " may be given several times.",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Number of folds: a shipped protocol with K, else drawn by --seed from speakers or sessions.",
    ),
]
Fold = Annotated[
    list[int] | None,
    typer.Option(metavar="I", help="Train only this fold, counted from 1; may be given several times."),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Folds by name, such as ravdess-6-balanced, `seeded`, `seeded-sessions`, or as dealt folds are called.",
        autocompletion=completion.complete_protocol,
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Passes over the training side.")]
BatchSize = Annotated[int | None, typer.Option(min=2, metavar="N", help="Clips per step.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")]
ResumeAnyway = Annotated[
    bool,
    typer.Option(
        "--resume-anyway", help="Go on with it although recipe, corpus or versions have changed; reports say so."
    ),
]
CheckpointEvery = Annotated[
    str,
    typer.Option(
        metavar="auto|200steps|10m",
        help="How often each fold is saved (auto: for at most 2 % of the time, but every 10 minutes at least).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors and what would mislead untold.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say more: where settings came from, what was opened, the counts behind scores."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def open_chosen(
    dataset: str | None,
    manifest: Path | None,
    labels: str | None,
    where: list[str] | None,
    progress: Callable[[int, int], None],
    *,
    soft: bool = False,
    may_prepare: bool = True,
) -> "PreparedCorpus":
    """Open what `--dataset`, `--manifest`, `--labels` and `--where` name; see `preparation.open_dataset`."""
    from ser_cli.preparation.whole_corpus import Choice, open_dataset

    choice = Choice(labels, tuple(where or ()), soft=soft)
    return open_dataset(dataset, manifest, choice, progress, may_prepare=may_prepare)


def given(values: Mapping[str, object]) -> dict[str, object]:
    """Of options by the setting that each stands for, those that were given."""
    return {key: value for key, value in values.items() if value is not None}


def settings_asked(values: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """The settings that options of their own ask for.

    Args:
        values: of the options, by dotted key; None where one was not given.
        overrides: of `--set`.

    Raises:
        UsageError: `--set` asks for another value of one of them.
    """
    from ser_cli.recipe import parse_overrides

    asked = given(values)
    for key, value in parse_overrides(overrides).items():
        if key in asked and asked[key] != value:
            raise UsageError(f"--set {key}={value}: an option of its own asks for {asked[key]}; give one of them")
    return asked


def parse_labels(text: str | None) -> list[str] | None:
    """Emotions of a comma-separated list, in its order."""
    return None if text is None else [label.strip() for label in text.split(",") if label.strip()]


def examples(*commands: str) -> str:
    """The end of a verb's help: commands that run as they stand."""
    return "\n\n".join(["Examples:", *commands])
