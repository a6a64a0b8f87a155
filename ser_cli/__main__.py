"""The console script `ser`, and `python -m ser_cli`."""

from ser_cli.cli import main

if __name__ == "__main__":
    main()
