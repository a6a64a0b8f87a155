"""What is said when the memory of a device is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ser_cli.encoder_settings import BUILT_IN_ENCODER, VGGISH_ENCODER
from ser_cli.errors import SerError
from ser_cli.processes import number_of_processes
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
        longest = (
            f"lower training.max_batch_s ({training.max_batch_s:g})"
            if training.max_batch_s
            else "set training.max_batch_s, the longest batch in seconds"
        )
        advice = [
            f"lower training.batch_size ({training.batch_size}; raise training.accumulate with it) or"
            f" training.max_clip_s ({training.max_clip_s:g})",
            longest,
        ]
        transformer = encoder.name not in (BUILT_IN_ENCODER, VGGISH_ENCODER)
        if transformer and encoder.frozen != "everything" and not encoder.checkpoint_activations:
            advice.append("set encoder.checkpoint_activations=true: less memory for more time")
        if not training.retry_smaller and number_of_processes() == 1:
            advice.append("set training.retry_smaller=true to have batches parted when they do not fit")
        raise MemoryFullError(
            f"the memory of {device} is full: {str(error).strip().splitlines()[0]}\n  "
            + "\n  or ".join(advice)
            + "\n  with --resume-anyway, which goes on from the last checkpoint, or with --force to begin anew"
        ) from error
