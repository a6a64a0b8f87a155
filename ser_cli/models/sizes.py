"""How large a model is that a configuration asks for, found out before any memory is given to it."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ser_cli.errors import EncoderError
from ser_cli.models.folders import INDEX_NAME, MAX_SETTING, WEIGHTS_NAME, file_on_hub, require_harmless_index

MAX_VALUES_BESIDE = 4 * MAX_SETTING
"""Values of a model that no file of weights holds, such as the numbers of positions."""


def require_bearable(what: str, build: Callable[[], nn.Module], weights_bytes: int) -> None:
    """See that a model is no larger than the weights that come with it.

    A configuration of a few bytes can ask for more memory than there is. No published format stores a value in less
    than a byte, so that what has more values than its file has bytes cannot be meant.

    Args:
        what: the configuration, for the message.
        build: makes the model; is called where tensors have a shape and no memory.
        weights_bytes: of its weights.

    Raises:
        EncoderError: it is larger.
    """
    # Some layers draw random numbers there too, and what is built afterwards is to draw the same as without this.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build()
    values = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if values > weights_bytes + MAX_VALUES_BESIDE:
        raise EncoderError(
            f"{what} asks for a model of {values:,} values, and the weights beside it have {weights_bytes:,} bytes\n"
            f"  the two do not belong together: copy or download them again"
        )


def bytes_of_weights(name: str) -> int:
    """Size of the safetensors of a folder or a repository of the hub, whose files come to the cache.

    Args:
        name: of it, found harmless.
    """
    files = [WEIGHTS_NAME]
    if _file(name, WEIGHTS_NAME) is None and (index := _file(name, INDEX_NAME)) is not None:
        files = require_harmless_index(index)
    paths = [_file(name, file) for file in files]
    return sum(path.stat().st_size for path in paths if path is not None)


def _file(name: str, file: str) -> Path | None:
    if not Path(name).is_dir():
        return file_on_hub(name, file)
    path = Path(name) / file
    return path if path.is_file() else None
