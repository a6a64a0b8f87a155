"""Answers of `ser predict` on their way: to standard output, or into a file that goes on where it stopped."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ser_cli.console import Console
from ser_cli.errors import count_of

if TYPE_CHECKING:
    from ser_cli.prediction.answers import Answer, Resumption
    from ser_cli.prediction.classifiers import OpenedModel
    from ser_cli.prediction.clips import Windows
    from ser_cli.prediction.hearing import HeardSpeakers
    from ser_cli.prediction.recordings import Source
    from ser_cli.prediction.speakers import SpokenRecordings
    from ser_cli.prediction.transcripts import Transcripts

TOLD_EVERY_S = 60.0
"""Between two lines about how far a long list is."""


class AnswerWriter:
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
        self.json, self.header = json, header

    def to_stdout(self, sources: "Iterator[Source]", batch_size: int) -> tuple[int, int]:
        """How many recordings failed, and how many there were."""
        from ser_cli.prediction.answers import Columns, as_json, as_tsv, tsv_header

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may hold what a locale cannot write
        labels, cut = self.opened.classifier.labels, self.windows is not None
        line: Callable[[Answer], str] = partial(as_tsv, windows=cut)
        if self.json:
            line = lambda answer: as_json(answer, labels)  # noqa: E731
        elif sys.stdout.isatty():
            columns = Columns(labels, windows=cut)
            self.console.result(columns.header())
            line = columns.line
        elif self.header:
            self.console.result(tsv_header(labels, windows=cut))
        return self._run(sources, batch_size, lambda answer: self.console.result(line(answer)))

    def to_file(self, sources: "Iterator[Source]", batch_size: int, output: Path, *, force: bool) -> tuple[int, int]:
        """The same, with those of an earlier call; what it could not classify is tried again behind the rest."""
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
            line = partial(as_json, labels=labels) if self.json else partial(as_tsv, windows=cut is not None)

            def write(text: str) -> None:
                file.write(text.encode() + b"\n")
                file.flush()

            if self.header and not earlier.kept:
                write(tsv_header(labels, windows=cut is not None))
            failed, done = self._run(remaining, batch_size, lambda answer: write(line(answer)), done=earlier.done)
            return failed + self._try_again(earlier, batch_size, line), done

    @property
    def tries_again(self) -> bool:
        """Whether a file goes on with what failed: not where other answers in it depend on what could be read."""
        return self.spoken is None

    @property
    def of_what_failed(self) -> str:
        """What becomes of the recordings of a file that could not be classified, as a line of advice."""
        if self.tries_again:
            return "the same command tries them again"
        return "they are tried again only with --force: what is said of the others depends on which can be read"

    def _try_again(self, earlier: "Resumption", batch_size: int, line: "Callable[[Answer], str]") -> int:
        """Classify once more what failed in an earlier call; how many fail still."""
        failures = earlier.failures
        if not failures or not self.tries_again:
            return len(failures)
        self.console.say(f"trying {count_of(len(failures), 'recording')} again that could not be classified before")
        failed = 0

        def lines() -> "Iterator[list[bytes]]":
            nonlocal failed
            for answers in _by_recording(self._answers((failure.source for failure in failures), batch_size)):
                failed += any(answer.error for answer in answers)
                yield [line(answer).encode() + b"\n" for answer in answers]

        earlier.mend(lines())
        return failed

    def _answers(
        self, sources: "Iterator[Source]", batch_size: int, heard: "HeardSpeakers | None" = None
    ) -> "Iterator[Answer]":
        from ser_cli.prediction.streams import predict_recordings

        return predict_recordings(
            self.opened.classifier,
            sources,
            batch_size=batch_size,
            windows=self.windows,
            transcripts=self.transcripts,
            heard=heard,
        )

    def _run(
        self, sources: "Iterator[Source]", batch_size: int, write: "Callable[[Answer], None]", done: int = 0
    ) -> tuple[int, int]:
        """How many failed, and how many there are with those that were done before."""
        heard = None
        if self.spoken is not None:
            left = tuple(sources)
            heard, sources = self._hear(self.spoken, left, batch_size), iter(left)
        failed, before, began, told = 0, done, time.monotonic(), time.monotonic()
        previous: Answer | None = None
        answers = self._answers(sources, batch_size, heard)
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


def _by_recording(answers: "Iterator[Answer]") -> "Iterator[list[Answer]]":
    """Answers about the same recording together."""
    group: list[Answer] = []
    for answer in answers:
        if group and not _continues(answer, group[-1]):
            yield group
            group = []
        group.append(answer)
    if group:
        yield group


def _continues(answer: "Answer", previous: "Answer") -> bool:
    """Whether two answers are about one recording, cut into windows."""
    return previous.start_s is not None and answer.path == previous.path and answer.start_s != 0


def _prefetched(sources: "Iterator[Source]") -> "Iterator[Source]":
    """The same stream, its first part taken now: that settles what is done already."""
    from itertools import chain, islice

    first = list(islice(sources, 1))
    return chain(first, sources)
