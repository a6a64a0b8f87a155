"""What is said when the memory of a device is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ser_cli.encoder_settings import BUILT_IN_ENCODER
from ser_cli.errors import SerError
from ser_cli.recipe import Recipe


class MemoryFullError(SerError):
    """Training does not fit into the memory of the device."""


def is_memory_full(error: RuntimeError) -> bool:
    """Whether an error of torch says so, of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def advising_when_memory_is_full(device: torch.device, recipe: Recipe) -> Iterator[None]:
    """Turn a full memory inside the block into a sentence with the settings that can be lowered.

    Raises:
        MemoryFullError: the memory was full.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_memory_full(error):
            raise
        training, encoder = recipe.training, recipe.encoder
        advice = [
            f"lower training.batch_size ({training.batch_size}; raise training.accumulate with it),"
            f" training.max_clip_s ({training.max_clip_s:g}) or training.max_batch_s ({training.max_batch_s:g})"
        ]
        if encoder.name != BUILT_IN_ENCODER and not encoder.checkpoint_activations:
            advice.append("set encoder.checkpoint_activations=true: less memory for more time")
        if not training.retry_smaller:
            advice.append("set training.retry_smaller=true to have batches parted when they do not fit")
        raise MemoryFullError(
            f"the memory of {device} is full: {str(error).strip().splitlines()[0]}\n  " + "\n  or ".join(advice)
        ) from error
