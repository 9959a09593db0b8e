"""One process or several, on one machine (`--devices`) or on many (torchrun, which sets RANK and WORLD_SIZE).

Every process takes its share of the same list and writes rows of its own; nothing that it computes depends on whose
share it is. The processes of several machines share the folder of the results.

Lightning's Fabric starts processes, too, but hands on an error as the text of a traceback, where a user's mistake must
stay one line, and does not know of ranks that a cluster's own launcher sets.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerContext, SpawnContext

import torch
from torch import distributed

from metis_lightning.child_processes import end_with_parent
from metis_lightning.errors import UserError

# How long the first to finish waits for the last.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Launch:
    """How this process was started: as number `rank` of `count`; None if it starts the others itself."""

    count: int
    rank: int | None = None
    local_rank: int = 0

    @classmethod
    def of(cls, devices: int, environment: Mapping[str, str]) -> Launch:
        """Read the environment; outside of a launcher, `devices` says how many processes there are.

        A `UserError` if both ask for several processes, or the launcher did not say where the first process is.
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

    A `UserError` if a GPU is asked for and there is none.
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
def joined(launch: Launch) -> Iterator[Callable[[], None]]:
    """Yield a barrier for all processes of a launcher; it does nothing if there is no launcher."""
    if launch.rank is None:
        yield lambda: None
        return
    distributed.init_process_group("gloo", rank=launch.rank, world_size=launch.count, timeout=_PATIENCE)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()


def run_in_processes(work: Callable[..., None], count: int, *arguments: object) -> None:
    """Call `work(rank, *arguments)` in `count` processes, which end with this one.

    They are forked from a server that has no threads and no accelerator open, where the system has such a thing.

    Raises:
        UserError: a process was killed.
        Exception: the first that a process raised, as soon as it does; the others are then stopped.
    """
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        # What this process has loaded of us, the others need too.
        context.set_forkserver_preload([name for name in sys.modules if name.startswith("metis_lightning.")])
    with ExitStack() as stack:
        # One executor a rank: one of several does not always see a process die that it started after the first.
        executors = [
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=end_with_parent)) for _ in range(count)
        ]
        ranks = {executor.submit(work, rank, *arguments): rank for rank, executor in enumerate(executors)}
        try:
            for future in as_completed(ranks):
                if error := future.exception():
                    error.add_note(f"in process {ranks[future]}")
                    raise error
        except BaseException as error:
            # An executor waits for work that has begun; only from Python 3.14 on can it be told not to.
            for executor in executors:
                for process in (executor._processes or {}).values():
                    process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise UserError(
                "one of the processes was killed (out of memory?): run the same command again with fewer --devices; "
                "what was scored is kept"
            ) from error
