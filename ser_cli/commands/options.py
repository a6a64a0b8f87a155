"""Options that verbs share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="Corpus by name; `demo` prepares itself.")
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Your own recordings: a CSV file with the columns path, emotion, speaker.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say where each setting came from.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def parse_labels(text: str | None) -> list[str] | None:
    """Emotions of a comma-separated list, in its order."""
    return None if text is None else [label.strip() for label in text.split(",") if label.strip()]


def examples(*commands: str) -> str:
    """The end of a verb's help: commands that run as they stand."""
    return "\n\n".join(["Examples:", *commands])
