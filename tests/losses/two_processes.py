"""Work of two processes of torch.distributed, for tests of what they share."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ser_cli.processes import leave_others, wait_for_all


def found_by_two(work: Callable[[int], dict], folder: Path) -> list[dict]:
    """What the work, given its rank, found in each of two processes."""
    mp.spawn(_join, (work, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _join(rank: int, work: Callable[[int], dict], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save(work(rank), f"{folder}/{rank}.pt")
        # Who leaves while the other still talks to it, or with models that hold a connection, is aborted by torch.
        wait_for_all()
    finally:
        leave_others()
