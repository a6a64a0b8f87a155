"""`ser predict`: label recordings with a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ser_cli.commands import completion, options
from ser_cli.console import Console
from ser_cli.errors import SerError, UsageError, count_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ser_cli.prediction.classifiers import OpenedModel
    from ser_cli.prediction.clips import Windows
    from ser_cli.prediction.speakers import Speakers
    from ser_cli.prediction.transcripts import Transcripts

EXAMPLES = options.examples(
    "ser predict --model runs/demo clip.wav calls/", "ser predict --model runs/demo --window 4 --hop 1 meeting.flac"
)

BATCH_SIZE = 16
"""Clips at a time, unless --batch-size asks for others."""


Export = Literal["onnx"]
"""Formats that a model is written in."""


def predict(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="RUN|DIR|HUB-ID",
            help="Run folder (its folds are averaged), one of its fold folders, or an audio classification checkpoint"
            " of transformers. Several runs or fold folders, each behind a --model of its own, are averaged too; every"
            " model counts the same.",
            autocompletion=completion.complete_model,
        ),
    ],
    audio: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AUDIO", help="Files, folders, patterns in quotes; `-` reads paths from standard input."
        ),
    ] = None,
    fold: Annotated[
        list[int] | None,
        typer.Option(metavar="I", help="Use only this fold, counted from 1; several are averaged."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(metavar="S", help="Cut recordings into windows of so many seconds.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(metavar="S", help="From one window's start to the next (default: the window).")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What the recordings say, for a model that reads it: CSV with columns path and text; relative paths"
            " start in the working folder, or in that of FILE.",
        ),
    ] = None,
    speakers: Annotated[
        str | None,
        typer.Option(
            metavar="all|folder|FILE",
            help="Who speaks, for a model that hears each recording against others of the same voice: one speaker in"
            " all, one in each folder, or CSV with columns path and speaker, its paths as those of --texts.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Take part I of N of the list, for an array of jobs.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write there, and go on there where an earlier call stopped."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default=str(BATCH_SIZE), help="Clips at a time.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="auto", help="auto, cpu, cuda, cuda:1, mps.")
    ] = None,
    header: Annotated[bool, typer.Option("--header", help="Begin with a line that names the columns.")] = False,
    export: Annotated[
        Export | None,
        typer.Option(metavar="onnx", help="Write the model of one fold to --output in this format; no AUDIO needed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write --output anew, whatever made it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Label recordings with a trained model, or write the model for other programs.

    One line per recording as it is done: path, label, and the probability of each label, separated by tabs; on a
    terminal a table. Any format, rate and number of channels. A recording that cannot be read gets a line with
    `error` and the reason, the others go on, and the exit status is 1.

    A recording is heard as a whole, up to 120 s. Testing parts clips above the recipe's training.max_clip_s into
    windows and averages what is said of them, so that predictions.csv tells other probabilities of such a clip. With
    --window each recording gets one line per window, with its start and end in seconds, whatever its length; they
    are empty where there is an error.

    With --output the same command goes on where it was stopped, and tries again what could not be read.

    A model that normalises by speaker needs --speakers: it hears all recordings once before it says anything of them.
    """
    console = Console(quiet, verbose)
    given = {"--window": window, "--hop": hop, "--texts": texts, "--speakers": speakers, "--shard": shard}
    given |= {"--batch-size": batch_size, "--device": device, "--json": json, "--header": header}
    _require_read(given, export=export is not None, force=force, output=output)
    windows = _check(console, model, audio or [], window, hop, export, output)
    from ser_cli.prediction.recordings import is_recording, list_recordings, parse_shard
    from ser_cli.prediction.speakers import list_spoken

    part = parse_shard(shard) if shard else None
    if output is not None and output.is_dir():
        raise UsageError(f"--output {output}: is a folder; expected the path of a file")
    if output is not None and not export and is_recording(output):
        raise UsageError(f"--output {output}: that is the name of a recording, and answers are text; name it .tsv")
    from ser_cli.dependencies import require_working_torch

    require_working_torch()
    from ser_cli.commands.answering import AnswerWriter
    from ser_cli.devices import choose_device
    from ser_cli.prediction.classifiers import open_models

    opened = open_models(model, fold or (), choose_device("cpu" if export else device or "auto"))
    if export:
        assert output is not None
        _export(console, opened, output, force=force)
        return
    _say_model(console, opened)
    transcripts = _transcripts(opened, model, texts)
    told = _speakers(opened, model, speakers)
    spoken = list_spoken(told, list_recordings(audio or []), part) if told else None
    sources = iter(spoken.part) if spoken else list_recordings(audio or [], part)
    view = AnswerWriter(console, opened, windows, transcripts, spoken, json=json, header=header)
    at_a_time = batch_size or BATCH_SIZE
    if output is None:
        failed, done = view.to_stdout(sources, at_a_time)
    else:
        failed, done = view.to_file(sources, at_a_time, output, force=force)
    if not done:
        console.say("no recording was named")
    if output is not None:
        console.result(str(output))
    if failed:
        raise SerError(
            f"{failed:,} of {count_of(done, 'recording')} could not be classified; their lines say `error` and why"
            + ("" if output is None else f"\n  {view.of_what_failed}")
        )


def _require_read(given: "Mapping[str, object]", *, export: bool, force: bool, output: Path | None) -> None:
    """See that nothing is asked for that would change nothing.

    Args:
        given: options that writing a model does not read.
        export: whether a model is to be written.
        force: whether a file may be written anew.
        output: that file.

    Raises:
        UsageError: something is.
    """
    asked = [name for name, value in given.items() if value is not None and value is not False]
    if export and asked:
        raise UsageError(f"--export writes the model, and {', '.join(asked)} would change nothing; leave it out")
    if force and output is None:
        raise UsageError("--force writes --output anew, and no file is named; give --output FILE, or leave --force out")
    if given["--header"] and given["--json"]:
        raise UsageError("--header names columns, and each line of --json names what it tells; leave one of them out")


def _check(
    console: Console,
    models: list[str],
    audio: list[str],
    window: float | None,
    hop: float | None,
    export: Export | None,
    output: Path | None,
) -> "Windows | None":
    """What the options ask for, before anything heavy is loaded."""
    if export:
        if len(models) > 1:
            raise UsageError(
                "--export writes one model, and several are named; give one --model, with --fold if it is a run"
            )
        if audio:
            raise UsageError("--export writes the model and takes no AUDIO; predict in a command of its own")
        if output is None:
            raise UsageError("--export needs a file to write: --output model.onnx")
        return None
    if not audio:
        raise UsageError("no AUDIO: name files, folders or patterns, or `-` to read paths from standard input")
    if window is None:
        if hop is not None:
            raise UsageError(f"--hop {hop}: belongs to --window; give both, such as --window 4 --hop 1")
        return None
    hop = window if hop is None else hop
    for name, value in (("--window", window), ("--hop", hop)):
        if not 0.025 <= value <= 120:
            raise UsageError(f"{name} {value}: expected seconds from 0.025 to 120, such as --window 4 --hop 1")
    if hop > window:
        console.warn(f"--hop {hop:g} is above --window {window:g}: of each {hop:g} s, {hop - window:g} s are not heard")
    from ser_cli.prediction.clips import Windows

    return Windows(window, hop)


def _transcripts(opened: "OpenedModel", models: list[str], path: Path | None) -> "Transcripts | None":
    """What the recordings say, where the model reads it.

    Raises:
        UsageError: it reads texts and there are none, or there are and it reads none.
    """
    if path is None and opened.classifier.reads_texts:
        raise UsageError(
            f"{_of_them(models)} reads what is said beside how it is said, and a recording brings no transcript\n"
            f"  give them as CSV with columns path and text: --texts FILE"
        )
    if path is None:
        return None
    if not opened.classifier.reads_texts:
        reads = "reads" if len(models) == 1 else "read"
        raise UsageError(f"--texts {path}: {_each(models, 'hear')} alone and {reads} no text; leave it out")
    from ser_cli.prediction.transcripts import read_transcripts

    return read_transcripts(path)


def _speakers(opened: "OpenedModel", models: list[str], told: str | None) -> "Speakers | None":
    """Who speaks, where the model hears each recording against others of the same voice.

    Raises:
        UsageError: it does and nothing is told, or it does not and something is.
    """
    from ser_cli.prediction.speakers import WAYS, read_speakers

    if told is None and opened.classifier.normalizes_by_speaker:
        raise UsageError(
            f"{_of_them(models)} hears each recording against others of the same voice, and does not know who speaks\n"
            f"  say it with --speakers: {WAYS}"
        )
    if told is None:
        return None
    if not opened.classifier.normalizes_by_speaker:
        raise UsageError(f"--speakers {told}: {_each(models, 'hear')} each recording on its own; leave it out")
    return read_speakers(told)


def _of_them(models: list[str]) -> str:
    """Whom a message is about that one model of several brings."""
    return f"--model {models[0]}: it" if len(models) == 1 else f"one of the models {', '.join(models)}"


def _each(models: list[str], verb: str) -> str:
    """What one model does, or every one of several."""
    return f"the model {models[0]} {verb}s" if len(models) == 1 else f"the models {', '.join(models)} {verb}"


def _say_model(console: Console, opened: "OpenedModel") -> None:
    labels = opened.classifier.labels
    console.detail(f"{opened.description}; labels {', '.join(labels)}")
    for caution in opened.cautions:
        console.warn(caution)


def _export(console: Console, opened: "OpenedModel", output: Path, *, force: bool) -> None:
    from ser_cli.prediction.classifiers import Ensemble
    from ser_cli.prediction.exporting import export_onnx

    ensemble = opened.classifier
    if not isinstance(ensemble, Ensemble):
        raise UsageError("--export writes models that `ser train` made; published ones: optimum-cli export onnx")
    if len(ensemble.members) > 1:
        raise UsageError(f"--export writes one model, and this run has {len(ensemble.members)}; choose one: --fold 1")
    if output.exists() and not force:
        raise SerError(f"--output {output} exists; name another file, or write it anew with --force")
    export_onnx(ensemble.members[0], output)
    console.result(str(output))
