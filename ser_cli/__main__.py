"""The console script `ser`, and `python -m ser_cli`."""

import os
import sys

if "_SER_COMPLETE" in os.environ:
    # TAB draws nothing. Typer would load rich to render the markup of help texts, of which there is none here, and
    # zsh and fish would wait for 0.26 s in the place of 0.18 s; None says that a module is not there.
    sys.modules["rich"] = None  # type: ignore[assignment]

from ser_cli.cli import main as run_app


def main() -> None:
    """Run `ser` as a program of its own."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # How long torch's threads spin while they wait for each other (libgomp reads it when torch is loaded). Its
        # default holds the cores so long that a second training on the machine stalls this one. One epoch on two
        # cores: 7.6 s alone and 27.7 s beside another training; with a thousand turns 7.9 to 8.5 s and 16.3 s.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    run_app()


if __name__ == "__main__":
    main()
