"""`ser predict`: label recordings with a trained model."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_cli.commands import completion, options
from ser_cli.console import Console
from ser_cli.errors import SerError, UsageError, count_of

if TYPE_CHECKING:
    from ser_cli.prediction.answers import Answer
    from ser_cli.prediction.classifiers import OpenedModel
    from ser_cli.prediction.clips import Windows
    from ser_cli.prediction.hearing import HeardSpeakers
    from ser_cli.prediction.recordings import Source
    from ser_cli.prediction.speakers import Speakers, SpokenRecordings
    from ser_cli.prediction.transcripts import Transcripts

EXAMPLES = options.examples(
    "ser predict --model runs/demo clip.wav calls/", "ser predict --model runs/demo --window 4 --hop 1 meeting.flac"
)

TOLD_EVERY_S = 60.0
"""Between two lines about how far a long list is."""


class Export(StrEnum):
    """Formats that a model is written in."""

    ONNX = "onnx"


def predict(
    model: Annotated[
        str,
        typer.Option(
            metavar="RUN|DIR|HUB-ID",
            help="Run folder (its folds are averaged), one of its fold folders, or an audio classification checkpoint"
            " of transformers.",
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
        typer.Option(metavar="I", help="Use this fold alone, counted from 1; may be given several times."),
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
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Clips at a time.")] = 16,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
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

    With --window each recording gets one line per window, with its start and end in seconds, whatever its length.

    A model that normalises by speaker needs --speakers: it hears all recordings once before it says anything of them.
    """
    console = Console(quiet, verbose)
    windows = _check(audio or [], window, hop, export, output)
    from ser_cli.prediction.recordings import list_recordings, parse_shard
    from ser_cli.prediction.speakers import list_spoken

    part = parse_shard(shard) if shard else None
    if output is not None and output.is_dir():
        raise UsageError(f"--output {output}: is a folder; expected the path of a file")
    from ser_cli.dependencies import require_working_torch

    require_working_torch()
    from ser_cli.devices import choose_device
    from ser_cli.prediction.classifiers import open_model

    opened = open_model(model, fold or (), choose_device("cpu" if export else device))
    if export:
        assert output is not None
        _export(console, opened, output, force=force)
        return
    _say_model(console, opened)
    transcripts = _transcripts(opened, model, texts)
    told = _speakers(opened, model, speakers)
    spoken = list_spoken(told, list_recordings(audio or []), part) if told else None
    sources = iter(spoken.part) if spoken else list_recordings(audio or [], part)
    view = _Writer(console, opened, windows, transcripts, spoken, json=json, header=header)
    try:
        if output is None:
            failed, done = view.to_stdout(sources, batch_size)
        else:
            failed, done = view.to_file(sources, batch_size, output, force=force)
    except BrokenPipeError:
        # The reader has seen enough, such as `| head`; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    if output is not None:
        console.result(str(output))
    if failed:
        raise SerError(
            f"{failed:,} of {count_of(done, 'recording')} could not be classified; their lines say `error` and why"
        )


def _check(
    audio: list[str], window: float | None, hop: float | None, export: Export | None, output: Path | None
) -> "Windows | None":
    """What the options ask for, before anything heavy is loaded."""
    if export:
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
    from ser_cli.prediction.clips import Windows

    return Windows(window, hop)


def _transcripts(opened: "OpenedModel", model: str, path: Path | None) -> "Transcripts | None":
    """What the recordings say, where the model reads it.

    Raises:
        UsageError: it reads texts and there are none, or there are and it reads none.
    """
    if path is None and opened.classifier.reads_texts:
        raise UsageError(
            f"--model {model}: it reads what is said beside how it is said, and a recording brings no transcript\n"
            f"  give them as CSV with columns path and text: --texts FILE"
        )
    if path is None:
        return None
    if not opened.classifier.reads_texts:
        raise UsageError(f"--texts {path}: the model {model} hears alone and reads no text; leave it out")
    from ser_cli.prediction.transcripts import read_transcripts

    return read_transcripts(path)


def _speakers(opened: "OpenedModel", model: str, told: str | None) -> "Speakers | None":
    """Who speaks, where the model hears each recording against others of the same voice.

    Raises:
        UsageError: it does and nothing is told, or it does not and something is.
    """
    from ser_cli.prediction.speakers import WAYS, read_speakers

    if told is None and opened.classifier.normalizes_by_speaker:
        raise UsageError(
            f"--model {model}: it hears each recording against others of the same voice, and does not know who speaks\n"
            f"  say it with --speakers: {WAYS}"
        )
    if told is None:
        return None
    if not opened.classifier.normalizes_by_speaker:
        raise UsageError(f"--speakers {told}: the model {model} hears each recording on its own; leave it out")
    return read_speakers(told)


def _say_model(console: Console, opened: "OpenedModel") -> None:
    labels = opened.classifier.labels
    console.detail(f"{opened.description}; labels {', '.join(labels)}")
    if opened.missing_folds:
        console.warn(
            f"fold {', '.join(map(str, opened.missing_folds))} of the run is not done; predicting with the others"
        )


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


class _Writer:
    """Puts answers where they belong, one whole line at a time."""

    def __init__(
        self,
        console: Console,
        opened: "OpenedModel",
        windows: "Windows | None",
        transcripts: "Transcripts | None",
        spoken: "SpokenRecordings | None",
        *,
        json: bool,
        header: bool,
    ) -> None:
        self.console, self.opened, self.windows = console, opened, windows
        self.transcripts, self.spoken = transcripts, spoken
        self.json, self.header = json, header and not json

    def to_stdout(self, sources: "Iterator[Source]", batch_size: int) -> tuple[int, int]:
        """How many recordings failed, and how many there were."""
        from ser_cli.prediction.answers import Columns, as_json, as_tsv, tsv_header

        labels, cut = self.opened.classifier.labels, self.windows is not None
        line: Callable[[Answer], str] = as_tsv
        if self.json:
            line = lambda answer: as_json(answer, labels)  # noqa: E731
        elif sys.stdout.isatty():
            columns = Columns(labels, windows=cut)
            self.console.result(columns.header())
            line = columns.line
        elif self.header:
            self.console.result(tsv_header(labels, windows=cut))
        return self._run(sources, batch_size, lambda answer: self.console.result(line(answer)), 0, 0)

    def to_file(self, sources: "Iterator[Source]", batch_size: int, output: Path, *, force: bool) -> tuple[int, int]:
        """The same, with those that an earlier call classified."""
        from ser_cli.prediction.answers import AnswerFile, Resumption, as_json, as_tsv, tsv_header

        labels, cut = self.opened.classifier.labels, self.windows
        facts = {
            "model": self.opened.fingerprint,
            "labels": labels,
            "format": "json" if self.json else "tsv",
            "header": self.header,
            "window_s": cut.window_s if cut else None,
            "hop_s": cut.hop_s if cut else None,
            **({"texts": self.transcripts.hash} if self.transcripts else {}),
            **({"speakers": self.spoken.hash} if self.spoken else {}),
        }
        with AnswerFile(output, facts).open(force=force) as file:
            earlier = Resumption(file, json_lines=self.json, windows=cut is not None, header=self.header)
            remaining = _prefetched(earlier.remaining(sources))
            if earlier.done:
                self.console.say(f"{output} has {count_of(earlier.done, 'recording')} already; going on after them")

            def write(text: str) -> None:
                file.write(text.encode() + b"\n")
                file.flush()

            if self.header and not earlier.kept:
                write(tsv_header(labels, windows=cut is not None))
            return self._run(
                remaining,
                batch_size,
                lambda answer: write(as_json(answer, labels) if self.json else as_tsv(answer)),
                earlier.failed,
                earlier.done,
            )

    def _run(
        self,
        sources: "Iterator[Source]",
        batch_size: int,
        write: "Callable[[Answer], None]",
        failed: int,
        done: int,
    ) -> tuple[int, int]:
        from ser_cli.prediction.streams import predict_recordings

        heard = None
        if self.spoken is not None:
            left = tuple(sources)
            heard, sources = self._hear(self.spoken, left, batch_size), iter(left)
        before, began, told = done, time.monotonic(), time.monotonic()
        previous: Answer | None = None
        answers = predict_recordings(
            self.opened.classifier,
            sources,
            batch_size=batch_size,
            windows=self.windows,
            transcripts=self.transcripts,
            heard=heard,
        )
        for answer in answers:
            write(answer)
            failed += bool(answer.error)
            done += not (previous and _continues(answer, previous))
            previous = answer
            if (now := time.monotonic()) - told > TOLD_EVERY_S:
                told = now
                self.console.say(f"{count_of(done, 'recording')}, {(done - before) / (now - began):.1f} per second")
        return failed, done

    def _hear(self, spoken: "SpokenRecordings", sources: "Sequence[Source]", batch_size: int) -> "HeardSpeakers | None":
        """What the speakers of some recordings have in common; nothing where nothing is left to be said."""
        from ser_cli.prediction.classifiers import Ensemble
        from ser_cli.prediction.hearing import hear

        ensemble, to_hear = self.opened.classifier, spoken.to_hear(sources)
        assert isinstance(ensemble, Ensemble)
        if not to_hear:
            return None
        told = time.monotonic()

        def say(done: int) -> None:
            nonlocal told
            if (now := time.monotonic()) - told > TOLD_EVERY_S:
                told = now
                self.console.say(f"heard {done:,} of {count_of(len(to_hear), 'recording')}")

        heard = hear(
            ensemble,
            to_hear,
            spoken.speakers.of,
            batch_size=batch_size,
            windows=self.windows,
            transcripts=self.transcripts,
            progress=say,
        )
        self.console.say(
            f"heard {count_of(heard.recordings, 'recording')} of {count_of(int((heard.clips > 0).sum()), 'speaker')};"
            f" each answer is relative to the recordings of its own speaker"
        )
        if alone := int((heard.clips == 1).sum()):
            self.console.warn(
                f"{count_of(alone, 'speaker')} with one recording alone: it is heard half against itself and half"
                f" against the voices that the model was trained on; give more recordings of a speaker where there are"
                f" any"
            )
        return heard


def _continues(answer: "Answer", previous: "Answer") -> bool:
    """Whether two answers are about one recording, cut into windows."""
    return previous.start_s is not None and answer.path == previous.path and answer.start_s != 0


def _prefetched(sources: "Iterator[Source]") -> "Iterator[Source]":
    """The same stream, its first part taken now: that settles what is done already."""
    from itertools import chain, islice

    first = list(islice(sources, 1))
    return chain(first, sources)
