"""Train the cells of a grid into one study, one after another or several at once.

What is done is never trained again, a fold that was stopped goes on at its checkpoint, and any number of commands may
fill one study, on one machine or on several that share a disk: a batch job per cell is `ser ablate … --cells N`.

Cells that run at once on one machine go through joblib. Its process pool (loky) is here already, with scikit-learn;
it starts clean processes in which CUDA works, gives each its share of the threads before any library is loaded, and
notices a process that the system killed. submitit would bring a scheduler's options into this program, where a batch
script with `--cells` says them better, and Ray a service of its own. Both would be one more thing to install.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from ser_cli.ablation.grids import GridCell
from ser_cli.ablation.studies import CellRun, Study
from ser_cli.devices import choose_device
from ser_cli.errors import HeldError, SerError, Stopped
from ser_cli.repeating import repeating
from ser_cli.training.checkpoint_times import Interval
from ser_cli.training.cross_validation import Plan, cross_validate
from ser_cli.training.observers import TrainingObserver

FORWARD_EVERY_S = 0.2

STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""Signals that ask a command to end, which schedulers and terminals send to all its processes at once. Windows lacks
the last two."""

Watch = Callable[[str, Plan], AbstractContextManager[TrainingObserver]]
"""Given a cell's name and what is trained of it: who is told of its training. It goes to other processes, so it must be
picklable."""


@dataclass(frozen=True)
class Outcome:
    """What became of the training of one run."""

    name: str
    problem: str = ""
    """Why it could not be trained; empty where it was."""
    stopped: int = 0
    """The signal that stopped it."""
    held: str = ""
    """Who else trains it; empty where nobody does."""


@dataclass(frozen=True)
class Training:
    """How runs are trained; it goes to other processes."""

    device_name: str
    """As `--device` takes it."""
    watch: Watch
    """Told what happens."""
    interval: Interval | None = None
    """Between checkpoints; None as often as it costs next to nothing."""
    changed_anyway: bool = False
    """Go on with a run of another recipe, corpus or version."""
    force: bool = False
    """Delete another run that lies in the folder of a cell."""

    def train(self, run: CellRun) -> Outcome:
        """Train what is left of a run in this process."""
        plan = run.plan
        try:
            with self.watch(run.name, plan) as observer:
                cross_validate(
                    plan,
                    run.folder,
                    self.device_name,
                    observer,
                    interval=self.interval,
                    changed_anyway=self.changed_anyway,
                    force=self.force,
                )
        except Stopped as stopped:
            return Outcome(run.name, stopped=stopped.exit_code - 128)
        except HeldError as error:
            return Outcome(run.name, held=str(error).splitlines()[1].strip())
        except SerError as error:
            return Outcome(run.name, problem=str(error))
        return Outcome(run.name)


def run_study(
    study: Study,
    cells: Sequence[GridCell],
    training: Training,
    *,
    jobs: int,
    signal_that_came: Callable[[], int],
) -> list[Outcome]:
    """Train what is not done of some cells; one that cannot be trained does not keep the others from it.

    Args:
        study: an open one.
        cells: to train, with the seeds that are asked for.
        training: how.
        jobs: cells at once, each in a process of its own; with 1 all are trained in this process.
        signal_that_came: number of the signal that asked this process to end, or 0.

    Raises:
        UsageError: the device is not to be had.
        Stopped: a signal came; each cell that ran wrote a checkpoint.
    """
    choose_device(training.device_name)
    left = [run for run in study.wanted(cells) if not run.is_finished]
    if jobs > 1:
        outcomes = list(_train_apart(left, training, jobs, signal_that_came))
    else:
        outcomes = []
        for run in left:
            if signal_that_came() or any(outcome.stopped for outcome in outcomes):
                break
            outcomes.append(training.train(run))
    stopped = signal_that_came() or next((outcome.stopped for outcome in outcomes if outcome.stopped), 0)
    if stopped:
        raise Stopped(stopped)
    return outcomes


def threads_of_each(jobs: int) -> int:
    """Threads of one of several cells: OMP_NUM_THREADS where it is set, else the cores divided.

    What a cell comes to may depend on it in the last digits, and on nothing else of what runs beside it.
    """
    from joblib import cpu_count  # type: ignore[import-untyped]

    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else max(1, cpu_count() // jobs)


def _train_in_worker(run: CellRun, training: Training, threads: int) -> Outcome:
    """Train one run in a process that joblib started."""
    # While a cell trains, `watch` catches these. Between two cells they would kill the process, and with it the pool.
    for name in STOPPING:
        # Passed over rather than ignored, which `watch` would take for nohup's wish.
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda number, frame: None)
    import torch

    torch.set_num_threads(threads)
    return training.train(run)


def _train_apart(
    runs: Sequence[CellRun], training: Training, jobs: int, signal_that_came: Callable[[], int]
) -> Iterator[Outcome]:
    """Train runs in several processes; the outcomes come as they finish. A signal is handed on to all of them.

    Raises:
        SerError: a process was ended from outside.
    """
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import (  # type: ignore[import-untyped]
        TerminatedWorkerError,
    )

    if not runs:
        return
    threads = threads_of_each(jobs)
    tasks = (
        delayed(_train_in_worker)(run, training, threads)
        for run in runs
        if not signal_that_came()  # looked at when a process is free: what has not begun is left
    )
    with _handing_on(signal_that_came), parallel_config("loky", inner_max_num_threads=threads):
        pool = Parallel(min(jobs, len(runs)), return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        try:
            yield from pool(tasks)
        except TerminatedWorkerError:
            if signal_that_came():
                return
            raise SerError(
                f"a process that trained a cell was ended from outside, most often for want of memory\n"
                f"  run the same command with fewer --jobs than {jobs}; what was finished is kept"
            ) from None


def _handing_on(signal_that_came: Callable[[], int]) -> AbstractContextManager[None]:
    """Have the processes of the pool stop when this one is asked to; Ctrl-C reaches them by itself, SIGTERM may not."""

    def hand_on() -> bool:
        if not signal_that_came():
            return True
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)
        return False

    return repeating(hand_on, FORWARD_EVERY_S, "signals")
