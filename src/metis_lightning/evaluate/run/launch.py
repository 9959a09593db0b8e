"""One process or several, on one machine (`--devices`) or on many (torchrun, which sets RANK and WORLD_SIZE).

All machines share a folder. Lightning's Fabric starts processes, too, but hands on an error as the text of a traceback,
where a user's mistake must stay one line, and does not know of ranks that a cluster's own launcher sets.
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

import torch
from torch import distributed

from metis_lightning.child_processes import end_with_parent
from metis_lightning.errors import UserError


@dataclass(frozen=True)
class Launch:
    """How this process was started: as number `rank` of `count`; None if it starts the others itself."""

    count: int
    rank: int | None = None
    local_rank: int = 0

    @classmethod
    def of(cls, devices: int, environment: Mapping[str, str]) -> Launch:
        """Read what a launcher says in the environment, else `devices`. A `UserError` if it is both, or incomplete."""
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
    """Return the device of a process, by default the GPUs in turn. A `UserError` if one is named and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; leave it out, or give cpu")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return kind if kind == "cpu" else f"{kind}:{local_rank % max(1, torch.cuda.device_count())}"


@contextmanager
def joined(launch: Launch) -> Iterator[Callable[[], None]]:
    """Yield a barrier for all processes of a launcher; it does nothing if there is no launcher."""
    if launch.rank is None:
        yield lambda: None
        return
    # The first to finish waits for the last, however long.
    patience = timedelta(days=30)
    distributed.init_process_group("gloo", rank=launch.rank, world_size=launch.count, timeout=patience)
    try:
        yield distributed.barrier
    finally:
        distributed.destroy_process_group()


def run_in_processes(work: Callable[..., None], count: int, *arguments: object) -> None:
    """Call `work(rank, *arguments)` in `count` processes until one raises. A `UserError` if one is killed."""
    # Where the system has such a thing, they are forked from a server without threads or open accelerators.
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        # What this process has loaded of us, the others need too.
        context.set_forkserver_preload([name for name in sys.modules if name.startswith("metis_lightning.")])
    with ExitStack() as stack:
        # One executor a rank: one of several does not always see a process die that it started after the first.
        pools = (ProcessPoolExecutor(1, context, initializer=end_with_parent) for _ in range(count))
        executors = [stack.enter_context(pool) for pool in pools]
        ranks = {executor.submit(work, rank, *arguments): rank for rank, executor in enumerate(executors)}
        # What one raises is raised here, and stops the others.
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
