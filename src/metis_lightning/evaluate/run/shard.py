"""The work of one process: generates its share of the jobs, while others score; no row depends on whose share it is."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metis_lightning.data.media.audio import write_wav
from metis_lightning.evaluate.results.rows import OF_THE_TEST_SET, ErrorCounts, ResultRow, append_rows, read_rows
from metis_lightning.evaluate.run.outputs import SILENT, Output, Run, timed
from metis_lightning.evaluate.run.plan import EvaluationJob, Plan
from metis_lightning.evaluate.run.systems import trial_task
from metis_lightning.metrics.metric import INFINITE, ErrorRate, MetricValue, error_rates_of
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.progress import Progress
from metis_lightning.task_table import task_named
from metis_lightning.types import TestItem, Trial


@dataclass(frozen=True)
class PendingRow:
    """A row without its metrics, whose `scores` other processes are still making; `fault` is why none has a value."""

    row: ResultRow
    fault: str | None
    is_reference: bool
    scores: Future[dict[str, MetricValue]]

    def scored(self) -> ResultRow:
        """Wait for the scores, and return the whole row; `failed` are columns whose test set has all that they need."""
        values = self.scores.result()
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
            # A loop of the recogniser is an error beside a value, but nobody's failure.
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
        # Of the reference itself, PESQ and the like have no value or an infinite one: no failure.
        is_beyond = self.fault is None and (value.error == INFINITE or (self.is_reference and value.error is not None))
        return is_beyond or (value.error or "").startswith(OF_THE_TEST_SET)


def _counts(rate: ErrorRate, compared: tuple[str, str] | None = None) -> ErrorCounts | None:
    if rate.edits is None or rate.length is None:
        return None
    return ErrorCounts(rate.edits, rate.length, rate.substitutions, rate.deletions, rate.insertions, compared)


def run_share(plan: Plan, rows: Path, pool: ScoringPool, rank: int, count: int) -> None:
    """Append to `rows` those of every `count`-th job from number `rank` on, but what the file's folder has."""
    done = {row.key for row in read_rows(rows.parent)}
    jobs = {system.name: list(plan.jobs_of(system))[rank::count] for system in plan.systems}
    label = f"evaluate {plan.options.task}" + (f" (process 1 of {count})" if count > 1 else "")
    pending: deque[PendingRow] = deque()
    with Progress(label, "utterances", sum(map(len, jobs.values())), silent=rank > 0) as progress:
        for system in plan.systems:
            # Loaded for the first job that is not done; models of one system live at a time.
            run: Run | None = None
            for job in jobs[system.name]:
                if job.key not in done:
                    run = run or system.load()
                    pending.append(_generate(plan, job, run, rows.parent, pool))
                while pending and pending[0].scores.done():
                    append_rows(rows, pending.popleft().scored())
                progress.step(system.name)
        for row in pending:
            append_rows(rows, row.scored())


def _generate(plan: Plan, job: EvaluationJob, run: Run, folder: Path, pool: ScoringPool) -> PendingRow:
    task, item = plan.options.task, job.test_set.reader.load_item(job.trial)
    output = timed(run, job.trial, item, job.seed or 0)
    samples = output.samples()
    # Audio of the first seed lies in the system's folder, for `compare`; of others below it.
    is_first = job.seed is None or job.seed == plan.options.seeds[0]
    place = folder / "wavs" / job.system.name / ("" if is_first else f"seed-{job.seed}")
    if samples.numel():
        write_wav(place / f"{item.id}.wav", samples, output.rate)
    row = ResultRow(
        id=item.id,
        task=task,
        test_set=item.test_set,
        system=job.system.name,
        seed=job.seed,
        speaker=item.speaker or None,
        n_samples=len(samples),
        seconds=output.seconds,
        steps=output.steps,
        sample_rate=output.sample_rate,
        channels=output.channels,
        text=item.text,
        facts=facts_of(job.trial, item),
    )
    target, fault = item.recording("target"), fault_of(item, output)
    is_reference = target is not None and target.sample_rate == output.sample_rate and torch.equal(samples, target.wave)
    return PendingRow(row, fault, is_reference, pool.submit(scoring_item(task, job, item, output)))


def scoring_item(task: str, job: EvaluationJob, item: TestItem, output: Output) -> ScoringItem:
    """Return what the metrics are given of an item and a system's output: no samples if the output is at fault."""
    # One suite serves all tasks of Omni: where a result has a timing of its own, it is given nothing to compare with.
    is_compared = trial_task(task, job.trial).is_aligned or not task_named(task).is_aligned
    fields = {"interferer": "interferer", "prompt": "enrollment", "source": "mixture"}
    fields |= {"reference": "target"} if is_compared else {}
    fields |= {"text_recording": "target"} if item.is_transcribed else {}
    recorded = {name: recording for name, field in fields.items() if (recording := item.recording(field)) is not None}
    waves: dict[str, Any] = {name: recording.wave for name, recording in recorded.items()}
    return ScoringItem(
        id=item.id,
        generated=output.samples()[: 0 if fault_of(item, output) else None],
        sample_rate=output.rate,
        text=item.text or None,
        language=item.language,
        rates={name: recording.sample_rate for name, recording in recorded.items()},
        is_absent=item.is_absent,
        **waves,
    )


def facts_of(trial: Trial, item: TestItem) -> dict[str, str | float]:
    """Return what tells an utterance from others beside its speaker."""
    given = item.recording("target") or item.recording("mixture")
    facts: dict[str, str | float] = {"language": item.language}
    facts |= {} if given is None else {"seconds": round(given.wave.numel() / given.sample_rate, 2)}
    facts |= {} if trial.snr_db is None else {"snr_db": trial.snr_db}
    return facts | dict(item.facts)


def fault_of(item: TestItem, output: Output) -> str | None:
    """Return why there is nothing to score; silence is none where the wanted voice is absent, but what is wanted."""
    return None if item.is_absent and output.fault == SILENT else output.fault
