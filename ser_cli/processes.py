"""Several processes that train one fold together, as `torchrun` or `accelerate launch` start them.

Each function does nothing with a single process. With several, all of them must call it together.
"""

import gc
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from ser_cli.errors import SerError

Item = TypeVar("Item")


def were_several_started() -> bool:
    """Whether this process is one of several; known before torch.distributed is set up."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def number_of_processes() -> int:
    """1 where torch.distributed is not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if number_of_processes() > 1 else 0


def leave_others() -> None:
    """End the connections to the other processes: torch aborts a process that ends with its threads still listening."""
    if dist.is_available() and dist.is_initialized():
        gc.collect()  # models that were shared hold on to the connections
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Go on when every process is here."""
    if number_of_processes() > 1:
        dist.barrier()


def shared_by_first(item: Item) -> Item:
    """What the first process has."""
    if number_of_processes() == 1:
        return item
    held = [item]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def shared_from_first(tensor: torch.Tensor) -> None:
    """Overwrite a tensor with that of the first process."""
    if number_of_processes() > 1:
        dist.broadcast(tensor, src=0)


def gathered(item: Item) -> list[Item]:
    """What each process has, in the order of their ranks."""
    if number_of_processes() == 1:
        return [item]
    held: list[Item] = [item] * number_of_processes()
    dist.all_gather_object(held, item)
    return held


def largest(values: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each value over the processes."""
    if number_of_processes() == 1:
        return list(values)
    together = torch.tensor(values, device=device)
    dist.all_reduce(together, op=dist.ReduceOp.MAX)
    found: list[int] = together.tolist()
    return found


def by_first(work: Callable[[], None]) -> None:
    """Have the first of several processes write something; the others go on when it is there.

    Raises:
        SerError: it could not, in every process.
    """
    problem: SerError | None = None
    if rank() == 0:
        try:
            work()
        except SerError as error:
            problem = error
    problem = shared_by_first(problem)
    if problem is not None:
        raise problem
