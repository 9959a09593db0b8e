"""Scoring in processes of their own, while this one generates.

Never forked ones: torch, numpy and onnxruntime each keep a pool of threads, and after a first scoring beside generation
in one process torch computes on fewer cores than it had. Threads are capped before numpy and torch are imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import attrgetter, methodcaller
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from metis_lightning.child_processes import end_with_parent
from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import Column, MetricValue
from metis_lightning.metrics.protocols import SuiteOptions

if TYPE_CHECKING:
    from metis_lightning.metrics.signal import ScoringItem
    from metis_lightning.metrics.suite import Suite

Result = TypeVar("Result")

# Utterances that wait for each process; `submit` blocks beyond that, so waiting audio cannot fill the memory.
_WAITING_PER_PROCESS = 2
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ScoringPool:
    """Processes with a `Suite` of the same options each, at least 1; they run within the `with` block."""

    def __init__(self, options: SuiteOptions, processes: int) -> None:
        if processes < 1:
            raise UserError(f"scoring needs at least 1 process, not {processes}")
        self.options, self.processes = options, processes
        self._free: SimpleQueue[_Process] = SimpleQueue()
        # One thread a process, which hands it an utterance and waits: so it is known what a process died of.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="scoring")
        self._room = threading.BoundedSemaphore(processes * (1 + _WAITING_PER_PROCESS))

    def __enter__(self) -> ScoringPool:
        """Start the processes; they load their models while this one goes on."""
        for _ in range(self.processes):
            self._free.put(_Process(self.options))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for what was submitted, or drop what waits if the block failed, and end the processes."""
        self._threads.shutdown(wait=True, cancel_futures=kind is not None)
        while not self._free.empty():
            self._free.get().executor.shutdown(cancel_futures=True)

    def submit(self, item: ScoringItem) -> Future[dict[str, MetricValue]]:
        """Return a future of `Suite.score` in some process, or of a `UserError` if it dies; blocks while many wait."""
        self._room.acquire()
        try:
            score: Callable[[Suite], dict[str, MetricValue]] = methodcaller("score", item.as_arrays())
            future = self._threads.submit(self._run, f"the utterance {item.id}", score)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def fingerprint(self) -> dict[str, Any]:
        """Return `Suite.fingerprint()` of the processes' suites."""
        return self._run("the fingerprint", methodcaller("fingerprint"))

    @property
    def columns(self) -> Mapping[str, Column]:
        """`Suite.columns` of the processes' suites."""
        return self._run("the columns", attrgetter("columns"))

    def _run(self, what: str, read: Callable[[Suite], Result]) -> Result:
        """Call `read` in a free process; one that died is replaced, so that other utterances are still scored."""
        process = self._free.get()
        try:
            process.started.result()
            return process.executor.submit(_on_suite, self.options, read).result()
        except BrokenProcessPool as error:
            process.executor.shutdown(cancel_futures=True)
            process = _Process(self.options)
            cause = "out of memory, or a crash of a metric's library"
            cure = "leave the utterance out, or score with fewer processes"
            raise UserError(f"a scoring process died on {what} ({cause}): {cure}") from error
        finally:
            self._free.put(process)


class _Process:
    """One scoring process. Its first task makes the suite: an error of that reaches the caller as it is."""

    def __init__(self, options: SuiteOptions) -> None:
        # Ctrl-C reaches every process of a terminal; the one that generates decides what it means.
        initializer, spawn = partial(end_with_parent, signal.SIG_IGN), multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, spawn, initializer)
        self.started = self.executor.submit(_on_suite, options, attrgetter("options"))


# From here on, what runs in a scoring process.


class _Worker:
    suite: Suite | None = None


def _on_suite(options: SuiteOptions, read: Callable[[Suite], Result]) -> Result:
    """Return what `read` makes of this process's suite, which the first call loads."""
    if _Worker.suite is None:
        # No more threads for each library that computes.
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(options.num_threads)
        import torch

        from metis_lightning.metrics.suite import Suite

        torch.set_num_threads(options.num_threads)
        _Worker.suite = Suite(options)
    return read(_Worker.suite)
