"""The work of one process: generate its share of what is not done yet, while other processes score.

A `PendingRow` is what is known of an output before it is scored; the scores complete the row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metis_lightning.data.media.audio import write_wav
from metis_lightning.evaluate.results.rows import OF_THE_TEST_SET, ErrorCounts, ResultRow, RowKey, append_rows
from metis_lightning.evaluate.run.outputs import Output, Run, timed
from metis_lightning.evaluate.run.plan import EvaluationJob, Plan
from metis_lightning.evaluate.run.systems import trial_task
from metis_lightning.metrics.metric import INFINITE, ErrorRate, MetricValue, error_rates_of
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.progress import Progress
from metis_lightning.task_table import task_named
from metis_lightning.types import TestItem


@dataclass(frozen=True)
class PendingRow:
    """A row without its metrics.

    Args:
        row: the other fields.
        fault: why nothing can be scored; None if it can.
        is_reference: whether the output is the target itself, to which no distance can be measured: no failure.
    """

    row: ResultRow
    fault: str | None
    is_reference: bool

    @classmethod
    def of(cls, task: str, job: EvaluationJob, item: TestItem, output: Output) -> PendingRow:
        """Return the row of a system's output for an item."""
        row = ResultRow(
            id=item.id,
            task=task,
            test_set=item.test_set,
            system=job.system.name,
            seed=job.seed,
            speaker=item.speaker or None,
            n_samples=len(output.samples()),
            seconds=output.seconds,
            steps=output.steps,
            sample_rate=output.sample_rate,
            channels=output.channels,
            text=item.text,
        )
        # Of the reference itself, PESQ and the like have no value or an infinite one.
        target = item.recording("target")
        is_reference = (
            target is not None
            and target.sample_rate == output.sample_rate
            and torch.equal(output.samples(), target.wave)
        )
        return cls(row, output.fault, is_reference)

    def scored(self, values: Mapping[str, MetricValue]) -> ResultRow:
        """Return the whole row.

        A column has failed if the system gave nothing to measure although the test set has all that it needs. A loop of
        the recogniser is an error beside a value, but nobody's failure.
        """
        metrics: dict[str, float | None] = {}
        errors, failed = {}, []
        for name, value in values.items():
            rate, is_absent = value if isinstance(value, ErrorRate) else None, self._is_absent(value)
            # Of an output at fault only error rates have a value, the worst.
            metrics[name] = None if self.fault and rate is None else value.value
            # Whoever is to blame: first the test set, then the output, then what the metric says.
            reason = value.error if is_absent else self.fault or value.error
            if reason:
                errors[name] = reason
            is_loop = rate is not None and rate.is_loop
            if reason and not is_absent and (self.fault or not is_loop):
                failed.append(name)
        wer, cer = error_rates_of(values)
        return replace(
            self.row,
            text=self.row.text if wer.reference is None else wer.reference,
            metrics=metrics,
            error=errors,
            failed=failed,
            wer=_counts(wer, wer.compared),
            cer=_counts(cer),
            hypothesis=None if self.fault else wer.hypothesis,
        )

    def _is_absent(self, value: MetricValue) -> bool:
        """Return whether there is no value because the test set lacks what it needs, or because it is beyond all."""
        if isinstance(value, ErrorRate):
            return value.value is None
        is_beyond = self.fault is None and (value.error == INFINITE or (self.is_reference and value.error is not None))
        return is_beyond or (value.error or "").startswith(OF_THE_TEST_SET)


def _counts(rate: ErrorRate, compared: tuple[str, str] | None = None) -> ErrorCounts | None:
    """Return what a rate of errors was counted from; None without a value."""
    if rate.edits is None or rate.length is None:
        return None
    return ErrorCounts(rate.edits, rate.length, rate.substitutions, rate.deletions, rate.insertions, compared)


def scoring_item(task: str, job: EvaluationJob, item: TestItem, output: Output) -> ScoringItem:
    """Return what the metrics are given of an item and a system's output: no samples if the output is at fault."""
    # One suite serves all tasks of Omni: where a result has a timing of its own, it is given nothing to compare with.
    is_compared = trial_task(task, job.trial).is_aligned or not task_named(task).is_aligned
    fields = {"interferer": "interferer", "prompt": "enrollment"}
    fields |= {"reference": "target"} if is_compared else {}
    fields |= {"text_recording": "target"} if item.is_transcribed else {}
    recorded = {name: recording for name, field in fields.items() if (recording := item.recording(field)) is not None}
    waves: dict[str, Any] = {name: recording.wave for name, recording in recorded.items()}
    return ScoringItem(
        id=item.id,
        generated=output.samples()[: 0 if output.fault else None],
        sample_rate=output.rate,
        text=item.text or None,
        language=item.language,
        rates={name: recording.sample_rate for name, recording in recorded.items()},
        **waves,
    )


def run_share(
    plan: Plan, done: Collection[RowKey], rows: Path, pool: ScoringPool, rank: int = 0, count: int = 1
) -> None:
    """Generate and score every `count`-th job of a plan from number `rank` on, but those that are `done`.

    Rows are appended to a file in the order of the jobs. What a job gives does not depend on whose share it is in.
    """
    jobs = {system.name: list(plan.jobs_of(system))[rank::count] for system in plan.systems}
    label = f"evaluate {plan.options.task}" + (f" (process 1 of {count})" if count > 1 else "")
    submitted: deque[tuple[PendingRow, Future[dict[str, MetricValue]]]] = deque()
    with Progress(label, "utterances", sum(map(len, jobs.values())), silent=rank > 0) as progress:
        for system in plan.systems:
            # Loaded for the first job that is not done; models of one system live at a time.
            run: Run | None = None
            for job in jobs[system.name]:
                if job.key not in done:
                    run = run or system.load()
                    submitted.append(_submit(plan, job, run, rows.parent, pool))
                _append_scored(rows, submitted)
                progress.step(system.name)
        _append_scored(rows, submitted, waits=True)


def _append_scored(
    path: Path, submitted: deque[tuple[PendingRow, Future[dict[str, MetricValue]]]], waits: bool = False
) -> None:
    """Append the rows of the first utterances that are scored; of all, if it waits."""
    while submitted and (waits or submitted[0][1].done()):
        row, scores = submitted.popleft()
        append_rows(path, row.scored(scores.result()))


def _submit(
    plan: Plan, job: EvaluationJob, run: Run, folder: Path, pool: ScoringPool
) -> tuple[PendingRow, Future[dict[str, MetricValue]]]:
    """Generate one utterance, write it, and have it scored."""
    task, item = plan.options.task, job.test_set.reader.load_item(job.trial)
    output = timed(run, job.trial, item, job.seed or 0)
    # Audio of the first seed lies in the system's folder, for `compare`; of others below it.
    is_first = job.seed is None or job.seed == plan.options.seeds[0]
    place = folder / "wavs" / job.system.name / ("" if is_first else f"seed-{job.seed}")
    if output.samples().numel():
        write_wav(place / f"{item.id}.wav", output.samples(), output.rate)
    return PendingRow.of(task, job, item, output), pool.submit(scoring_item(task, job, item, output))
