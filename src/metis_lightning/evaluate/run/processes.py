"""One process or several, on one machine (`--devices`) or on many (torchrun, which sets RANK and WORLD_SIZE).

Every process takes its share of the same list and writes rows of its own; nothing that it computes depends on whose
share it is. The processes of several machines share the folder of the results.
"""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

import torch
from torch import distributed

from metis_lightning.child_processes import end_with_parent
from metis_lightning.errors import UserError

_LONG = timedelta(days=30)
"""How long the first to finish waits for the last."""


@dataclass(frozen=True)
class Launch:
    """How this process was started.

    count: processes in all.
    rank: this one's number; None if it starts the others itself.
    local_rank: its number on this machine.
    """

    count: int
    rank: int | None = None
    local_rank: int = 0

    @classmethod
    def of(cls, devices: int, environment: Mapping[str, str]) -> Launch:
        """Read the environment; outside of a launcher, `devices` says how many processes there are.

        Raises:
            UserError: both ask for several processes, or the launcher did not say where the first process is.
        """
        count = int(environment.get("WORLD_SIZE", "1"))
        if count == 1 or "RANK" not in environment:
            return cls(devices)
        if devices > 1:
            raise UserError(f"--devices {devices} inside of a launcher with WORLD_SIZE={count}: leave --devices out")
        if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
            raise UserError(
                "WORLD_SIZE and RANK are set, MASTER_ADDR and MASTER_PORT are not; start this with torchrun"
            )
        return cls(count, int(environment["RANK"]), int(environment.get("LOCAL_RANK", environment["RANK"])))


def device_of(device: str | None, local_rank: int = 0) -> str:
    """Return the device of a process; by default the accelerators in turn where there are any.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; leave it out, or give cpu")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return kind if kind == "cpu" else f"{kind}:{local_rank % max(1, torch.cuda.device_count())}"


def use_device(device: str) -> None:
    """Make a GPU the current one of this process: work that names no device goes there, too."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)


@contextmanager
def together(launch: Launch) -> Iterator[Callable[[], None]]:
    """Give what waits until every process of a launcher is there; nothing to wait for if there is no launcher."""
    if launch.rank is None:
        yield lambda: None
        return
    distributed.init_process_group("gloo", rank=launch.rank, world_size=launch.count, timeout=_LONG)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()


def in_processes(work: Callable[..., None], count: int, *arguments: object) -> None:
    """Call `work(rank, *arguments)` in `count` processes, which end with this one.

    They are forked from a server that has no threads and no accelerator open, where the system has such a thing.

    Raises:
        UserError: a process was killed.
        Exception: what a process raised, as soon as it does; the others are then stopped.
    """
    methods = multiprocessing.get_all_start_methods()
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if "forkserver" in methods:
        context = multiprocessing.get_context("forkserver")
        # What this process has loaded of us, the others need too.
        context.set_forkserver_preload([name for name in sys.modules if name.startswith("metis_lightning.")])
    ranks: dict[Connection, BaseProcess] = {}
    try:
        for rank in range(count):
            answer, sent = context.Pipe(duplex=False)
            process = context.Process(target=_work_in_child, args=(sent, work, rank, *arguments))
            process.start()
            ranks[answer] = process
            # With ours open, the pipe would not end with the process.
            sent.close()
        waiting = list(ranks)
        while waiting:
            ready = wait(waiting)
            for answer in [each for each in waiting if each in ready]:
                _check_answer(answer)
                waiting.remove(answer)
    except BaseException:
        for each in ranks.values():
            each.terminate()
        raise
    finally:
        for each in ranks.values():
            each.join()


def _work_in_child(answer: Connection, work: Callable[..., None], rank: int, *arguments: object) -> None:
    """Work, and send what it ended with: None, or the error."""
    end_with_parent()
    error: Exception | None = None
    try:
        work(rank, *arguments)
    except Exception as caught:
        error = caught
        if not isinstance(error, UserError):
            # A traceback does not travel.
            error.add_note(f"in process {rank}:\n{traceback.format_exc()}")
    answer.send(error)


def _check_answer(answer: Connection) -> None:
    """Raise what a process ended with, if anything."""
    try:
        error = answer.recv()
    except EOFError as silence:
        raise UserError(
            "one of the processes was killed (out of memory?): run the same command again with fewer --devices; "
            "what was scored is kept"
        ) from silence
    if error is not None:
        raise error
