"""The batch of all processes together: what losses and means read when training runs on several devices.

Every process computes the loss of the whole batch, so its value is the same everywhere and equal to that of one
process with the concatenated batch. The rows that another process made are constants here; its own backward pass
carries their gradient.

Convention: the gradient that leaves `whole_batch` is multiplied by the number of processes, because
DistributedDataParallel averages the parameters' gradients over the processes where a sum is meant. Parameters of a
loss (class centers) get their whole gradient in every process; averaging leaves it as it is.

What calls these functions must therefore be called by all processes together, or it waits for the others.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ser_cli.processes import number_of_processes

Item = TypeVar("Item")


def whole_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, in the order of their ranks; with one process, the tensors themselves.

    Args:
        tensors: (rows, ...), with the same number of rows; that number may differ between processes and be 0.

    Returns:
        (rows of all processes, ...) for each tensor. Its gradient is described at the top of this module.
    """
    if number_of_processes() == 1:
        return tensors
    own = torch.tensor([len(tensors[0])], device=tensors[0].device)
    rows = [int(count) for count in torch.cat(_of_all(own)).tolist()]
    return tuple(_WholeBatch.apply(tensor, rows) for tensor in tensors)


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th item, where n is the number of processes: together they do each item once."""
    count = number_of_processes()
    return items if count == 1 else items[dist.get_rank() :: count]


def sum_over_processes(share: Tensor) -> Tensor:
    """Sum of what each process has; `share` is overwritten."""
    if number_of_processes() > 1:
        dist.all_reduce(share)
    return share


def sum_with_gradient(share: Tensor) -> Tensor:
    """Sum of what each process has, of which all go on to make different things.

    Its gradient is the sum of theirs. Where that came out of `whole_batch` it is multiplied by the number of processes
    already.
    """
    return share if number_of_processes() == 1 else _SumWithGradient.apply(share)


def log_sum_over_processes(log_share: Tensor) -> Tensor:
    """Logarithm of the sum of exp of what each process has; -inf is a share of nothing."""
    if number_of_processes() == 1:
        return log_share
    return torch.stack(_of_all(log_share)).logsumexp(dim=0)


class _WholeBatch(torch.autograd.Function):
    """Gather forward; backward, the own rows of a gradient that all processes compute alike."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: list[int]) -> Tensor:
        rank = dist.get_rank()
        start = sum(rows[:rank])
        ctx.own_rows = slice(start, start + rows[rank])
        # Collectives want equal shapes: the shorter ones are filled up with zeros, which are cut off again.
        filled = own.new_zeros(max(rows), *own.shape[1:])
        filled[: len(own)] = own
        return torch.cat([part[:count] for part, count in zip(_of_all(filled), rows, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[ctx.own_rows] * number_of_processes(), None


class _SumWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        return sum_over_processes(share.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return sum_over_processes(upstream.clone())


def _of_all(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(number_of_processes())]
    dist.all_gather(parts, tensor)
    return parts
