"""The work of one process: generate what is its share and not done yet, while other processes score."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metis_lightning.data.media.audio import write_wav
from metis_lightning.evaluate.results.run_files import Key, RowFile
from metis_lightning.evaluate.run.outputs import Output, Run, timed
from metis_lightning.evaluate.run.plan import Job, Plan
from metis_lightning.evaluate.run.rows import Unscored, utterance_of
from metis_lightning.evaluate.run.systems import System
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.pool import ScoringPool

_LINE_EVERY = 20

Submitted = tuple[Unscored, Future[dict[str, MetricValue]]]
Waiting = deque[Submitted]


@dataclass(frozen=True)
class Share:
    """Every `count`-th job from number `rank` on. What a job gives does not depend on whose it is."""

    rank: int = 0
    count: int = 1

    def of(self, plan: Plan, system: System) -> list[Job]:
        """Return this share of a system's jobs."""
        return list(plan.jobs_of(system))[self.rank :: self.count]


class Progress:
    """A bar on a terminal, plain lines elsewhere; silent in all processes but the first."""

    def __init__(self, plan: Plan, share: Share) -> None:
        self._total = sum(len(share.of(plan, system)) for system in plan.systems)
        which = f" (process 1 of {share.count})" if share.count > 1 else ""
        self._is_first, self._count = share.rank == 0, 0
        self._bar: tqdm[Any] = tqdm(
            total=self._total, unit="utt", desc=f"evaluate {plan.task}{which}", disable=None if self._is_first else True
        )

    def step(self, system: System, is_new: bool) -> None:
        """Count one utterance, which was made now or before."""
        self._count += 1
        self._bar.update()
        # A bar that is off, away from a terminal, does not count.
        if self._bar.disable and self._is_first and is_new and self._count % _LINE_EVERY == 0:
            print(f"{self._count}/{self._total} utterances, now {system.name}", file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def run_share(plan: Plan, share: Share, done: Collection[Key], rows: RowFile, pool: ScoringPool) -> None:
    """Generate and score a share of a plan's jobs but those that are `done`, and append their rows in order."""
    progress = Progress(plan, share)
    waiting: Waiting = deque()
    for system in plan.systems:
        for is_new in _made(plan, share.of(plan, system), done, rows.path.parent, pool, waiting):
            while waiting and waiting[0][1].done():
                _append(waiting, rows)
            progress.step(system, is_new)
    while waiting:
        _append(waiting, rows)
    progress.close()


def _made(
    plan: Plan, jobs: list[Job], done: Collection[Key], folder: Path, pool: ScoringPool, waiting: Waiting
) -> Iterator[bool]:
    """Work through one system's jobs and yield of each whether it was new; its models live no longer than this."""
    run = None
    for job in jobs:
        if job.key not in done:
            run = run or job.system.load()
            waiting.append(_submit(plan, job, run, folder, pool))
        yield job.key not in done


def _submit(plan: Plan, job: Job, run: Run, folder: Path, pool: ScoringPool) -> Submitted:
    """Generate one utterance, write it, and have it scored."""
    item = job.item()
    output = timed(run, job.trial, item, job.seed or 0)
    _write(output, folder / "wavs" / job.system.name / _subfolder(plan, job) / f"{item.id}.wav")
    utterance = utterance_of(plan.task, job, item, output)
    return Unscored.of(plan.task, job, item, output), pool.submit(utterance)


def _append(waiting: Waiting, rows: RowFile) -> None:
    row, values = waiting.popleft()
    rows.append(row.scored(values.result()))


def _write(output: Output, path: Path) -> None:
    """Write what can be heard."""
    if output.samples().numel():
        write_wav(path, output.samples(), output.rate)


def _subfolder(plan: Plan, job: Job) -> str:
    """Return where audio of a seed lies below its system's folder; the first seed's lies in it, for `compare`."""
    return "" if job.seed is None or job.seed == plan.seeds[0] else f"seed-{job.seed}"
