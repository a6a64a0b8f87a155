"""The denominators of a contrastive loss and their gradient, in memory linear in the number of frames.

With s_ik = h_i.h_k / tau and l_i = log sum_{k != i} exp(s_ik), the gradient of sum_i g_i l_i with respect to h_i is

    1/tau sum_{k != i} (g_i exp(s_ik - l_i) + g_k exp(s_ik - l_k)) h_k.

The bracket is symmetric in i and k, as s is. So only the blocks of pairs on and above the diagonal are visited,
once for l and once for the gradient: each gives its rows and, transposed, its columns. That is half a product of
all pairs for l and one and a half for the gradient, and one exponential per ordered pair in all.

Features of unit length bound s by 1/tau, so exp(s) needs no running maximum unless tau is very small; then
the gradient's bracket is exp(s_ik) (w_i + w_k) with w_i = g_i exp(-l_i). Several processes share the blocks out.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ser_cli.global_batch import log_sum_over_processes, own_share, sum_over_processes

CPU_BLOCK_FRAMES = 2048
"""Rows and columns of a block, 16 MiB of float32 numbers.

Half of it is a tenth faster on an idle machine, but has the threads wait for each other four times as often, which
costs many times the work itself where another program holds a core.
"""
DEVICE_BLOCK_FRAMES = 4096
"""The same on an accelerator, where a launch costs more than 64 MiB of its memory."""


def log_denominators(features: Tensor, temperature: float) -> Tensor:
    """The denominators of eq. 10 as logarithms, log sum_{k != i} exp(h_i.h_k / tau) for every i.

    Args:
        features: (frames, dim) of unit length or zero, at least two, the same in all processes.
        temperature: tau, above 0.

    Returns:
        (frames,).
    """
    if _exp_stays_in_range(features, temperature):
        sums = features.new_zeros(len(features))
        for rows, columns, scores in _blocks(features, math.log2(math.e) / temperature):
            # torch computes exp2 in a third of exp's time on x86, as exactly.
            scores.exp2_()
            sums[rows] += scores.sum(dim=1)
            if rows != columns:
                sums[columns] += scores.sum(dim=0)
        return log_sum_over_processes(sums.log_())
    result = features.new_full((len(features),), -torch.inf)
    for rows, columns, scores in _blocks(features, 1 / temperature):
        result[rows] = result[rows].logaddexp(scores.logsumexp(dim=1))
        if rows != columns:
            result[columns] = result[columns].logaddexp(scores.logsumexp(dim=0))
    return log_sum_over_processes(result)


def gradient_of_log_denominators(features: Tensor, upstream: Tensor, log_sums: Tensor, temperature: float) -> Tensor:
    """Gradient of sum_i g_i l_i with respect to the features.

    Args:
        features: (frames, dim), as for `log_denominators`.
        upstream: (frames,), g.
        log_sums: (frames,), l, as `log_denominators` gave them.
        temperature: tau.

    Returns:
        (frames, dim).
    """
    gradient = torch.zeros_like(features)
    in_range = _exp_stays_in_range(features, temperature)
    weights = upstream * log_sums.neg().exp() if in_range else upstream
    other = features.new_empty(min(len(features), _block_frames(features)) ** 2)
    for rows, columns, scores in _blocks(features, math.log2(math.e) / temperature if in_range else 1 / temperature):
        second = other[: scores.numel()].view(scores.shape)
        if in_range:
            torch.add(weights[rows, None], weights[columns], out=second)
            pairs = scores.exp2_().mul_(second)
        else:
            torch.sub(scores, log_sums[columns], out=second).exp_().mul_(weights[columns])
            pairs = scores.sub_(log_sums[rows, None]).exp_().mul_(weights[rows, None]).add_(second)
        gradient[rows].addmm_(pairs, features[columns])
        if rows != columns:
            gradient[columns].addmm_(pairs.T, features[rows])
    return sum_over_processes(gradient.div_(temperature))


def _exp_stays_in_range(features: Tensor, temperature: float) -> bool:
    # The rest of the exponent's range is for sums over frames and for w = g exp(-l).
    return 1 / temperature < 0.7 * math.log(torch.finfo(features.dtype).max)


def _block_frames(features: Tensor) -> int:
    return CPU_BLOCK_FRAMES if features.device.type == "cpu" else DEVICE_BLOCK_FRAMES


def _blocks(features: Tensor, factor: float) -> Iterator[tuple[slice, slice, Tensor]]:
    """Factor times the products of each block's pairs, -inf for a frame with itself; valid until the next block."""
    size = _block_frames(features)
    slices = [slice(start, min(start + size, len(features))) for start in range(0, len(features), size)]
    memory = features.new_empty(min(len(features), size) ** 2)
    for rows, columns in own_share([(a, b) for i, a in enumerate(slices) for b in slices[i:]]):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        scores = memory[: math.prod(shape)].view(shape)
        scores.addmm_(features[rows], features[columns].T, beta=0, alpha=factor)
        if rows == columns:
            scores.fill_diagonal_(-torch.inf)
        yield rows, columns, scores
