"""Where prepared corpora live."""

import os
from pathlib import Path

import platformdirs

VARIABLE = "SER_HOME"
"""The environment variable that names the data home."""


def data_home() -> Path:
    """The folder of everything that `ser` keeps: `$SER_HOME`, else the platform's own place for user data."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_data_dir("ser"))


def corpus_folder(name: str) -> Path:
    """Where the prepared corpus of a name lives."""
    return data_home() / "corpora" / name


def source_folder(name: str) -> Path:
    """Where the recordings of a corpus live that the package renders by itself."""
    return data_home() / "sources" / name
