"""What would be needed to repeat a run."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from ser_cli import __version__
from ser_cli.files import write_json

PACKAGES = ("torch", "torchaudio", "transformers", "accelerate", "safetensors", "numpy", "soundfile", "soxr")


def write_environment(path: Path, arithmetic: Mapping[str, object]) -> None:
    """Record what would be needed to repeat this: versions, machine, command, and what decides the last digits.

    Args:
        path: of the file.
        arithmetic: device, precision, threads; see `devices.describe_arithmetic`.
    """
    write_json(
        path,
        {
            "ser": __version__,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            **arithmetic,
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )
