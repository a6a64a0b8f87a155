"""The Typer app: the verbs in the order of the work, and what becomes of errors."""

import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ser_cli import __version__
from ser_cli.commands import ablate, evaluate, mix, predict, prepare, train
from ser_cli.console import discard_stdout, print_error
from ser_cli.errors import SerError, Stopped

CTRL_C = 130
READER_GONE = 141
"""As of any program that writes into a pipe which nobody reads any more: 128 and SIGPIPE."""


class SerGroup(TyperGroup):
    """Turns a `SerError` into its message and exit code; anything else is a fault and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except SerError as error:
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            discard_stdout()  # the reader has seen enough, such as `| head`
            raise typer.Exit(READER_GONE) from None
        except KeyboardInterrupt as interrupt:
            print_error("interrupted; what was finished is kept, the same command goes on from there")
            raise typer.Exit(interrupt.exit_code if isinstance(interrupt, Stopped) else CTRL_C) from None


app = typer.Typer(
    name="ser",
    cls=SerGroup,
    help="Speech emotion recognition: prepare a corpus, train by speaker-independent cross-validation, evaluate.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _add(verb: Callable[..., None], examples: str) -> None:
    """Add a verb with its docstring as help, one line per paragraph: the terminal's width breaks them."""
    paragraphs = inspect.cleandoc(verb.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(help=text, epilog=examples)(verb)


_add(prepare.prepare, prepare.EXAMPLES)
_add(mix.mix, mix.EXAMPLES)
_add(train.train, train.EXAMPLES)
_add(evaluate.evaluate, evaluate.EXAMPLES)
_add(ablate.ablate, ablate.EXAMPLES)
_add(predict.predict, predict.EXAMPLES)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ser {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options of `ser` itself."""


def main() -> None:
    """Run `ser` as a program."""
    _open_closed_streams()
    app(prog_name="ser")


def _open_closed_streams() -> None:
    """Give a process that was started without them (`>&-`) standard streams that lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order, and so as the lowest that is free, it gets the number that such a stream has.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
