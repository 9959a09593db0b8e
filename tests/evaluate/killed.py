"""SIGKILLs at random moments of `evaluate --devices 2`, each followed by the same command.

python -m pytest tests/evaluate/test_killed.py kills 3 times; how many, if more: METIS_KILLS=20.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import ResultRow, read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from orphans import descendants, wait_for_end
from quick_pool import QuickPool

Outcome = tuple[list[ResultRow], dict[str, bytes], set[str]]


def _context() -> ForkServerContext:
    """Return what starts processes that have the large imports already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metis_lightning.evaluate.run.main"])
    return context


def start(options: EvaluateOptions) -> BaseProcess:
    """Start `evaluate` in a process of its own."""
    process = _context().Process(target=run_evaluate, args=(options, QuickPool))
    process.start()
    return process


def run(options: EvaluateOptions) -> float:
    """Run it to its end; return how many seconds that took."""
    began = time.monotonic()
    process = start(options)
    process.join()
    assert process.exitcode == 0, options.out
    return time.monotonic() - began


def kill(options: EvaluateOptions, after: float) -> None:
    """Kill a run after some seconds, if it takes so long, and see that no process is left of it."""
    before = descendants(os.getpid())
    process = start(options)
    process.join(after)
    others = descendants(os.getpid()) - before
    process.kill()
    process.join()
    left = wait_for_end(others, 60)
    assert {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in left} == {}


def outcome(folder: Path) -> Outcome:
    """Return what a run left: rows without what a clock says of them, the audio, and the names beside."""
    rows = [replace(row, seconds=None) for row in read_rows(folder)]
    waves = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}
    return rows, waves, {path.name for path in folder.iterdir()}


def kill_and_repeat(options: EvaluateOptions, kills: int, seed: int = 0) -> Iterator[Outcome]:
    """Yield what a run leaves that nobody disturbs, then what those leave that were killed at random and repeated."""
    root, rng = options.out, random.Random(seed)
    options = replace(options, out=root / "undisturbed")
    # Whatever starts first starts the server of processes, too, whose imports are no part of a run.
    _context().Process(target=print).start()
    seconds = run(options)
    yield outcome(options.out)
    for number in range(kills):
        options = replace(options, out=root / str(number))
        kill(options, rng.uniform(0, seconds))
        run(options)
        yield outcome(options.out)
