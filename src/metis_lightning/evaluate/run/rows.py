"""Results rows: what is known of an utterance before it is scored, and what the scores add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from metis_lightning.evaluate.results.stats import OF_THE_TEST_SET
from metis_lightning.evaluate.run.outputs import Output
from metis_lightning.evaluate.run.plan import Job
from metis_lightning.evaluate.run.tasks import task_of
from metis_lightning.metrics.metric import (
    INFINITE,
    ErrorRate,
    MetricValue,
    WerValue,
    character_errors_of,
    word_errors_of,
)
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import task_named
from metis_lightning.types import Recording, TestItem

Row = dict[str, Any]


@dataclass(frozen=True)
class Unscored:
    """A row without its metrics.

    known: the other fields.
    fault: why nothing can be scored; None if it can.
    is_reference: whether it is the target itself, to which no distance can be measured: no failure.
    """

    known: Row
    fault: str | None
    is_reference: bool

    @classmethod
    def of(cls, task: str, job: Job, item: TestItem, output: Output) -> Unscored:
        """Return the row of what a system made of an item."""
        known = {
            "id": item.id,
            "task": task,
            "test_set": item.test_set,
            "system": job.system.name,
            "seed": job.seed,
            "speaker": item.speaker or None,
            "n_samples": len(output.samples()),
            "seconds": output.seconds,
            "steps": output.steps,
            "sample_rate": output.sample_rate,
            "channels": output.channels,
            "text": item.text,
        }
        target = item.recording("target")
        is_reference = (
            target is not None
            and target.sample_rate == output.sample_rate
            and torch.equal(output.samples(), target.wave)
        )
        return cls(known, output.fault, is_reference)

    def scored(self, values: Mapping[str, MetricValue]) -> Row:
        """Return the whole row.

        `error` says of every column why it has no value, or, of word errors, why nothing was heard or that the
        recogniser loops. `failed` are the columns that the system is to blame for: it gave nothing to measure although
        the test set has all that they need. `wer` and `cer` are the counts; the first has the texts as compared, too.
        """
        wer, cer = word_errors_of(values), character_errors_of(values)
        absent = {name: str(value.error) for name, value in values.items() if self._is_absent(value)}
        faults = {name: self.fault or value.error for name, value in values.items() if name not in absent}
        errors = {name: reason for name in values if (reason := absent.get(name) or faults[name])}
        return {
            **self.known,
            **({} if wer.reference is None else {"text": wer.reference}),
            "metrics": {name: self._value(value) for name, value in values.items()},
            "error": errors,
            "failed": [name for name in errors if name not in absent and (self.fault or not _is_loop(values[name]))],
            "wer": None if wer.value is None else {**_counts(wer, "words"), **_compared(wer)},
            "cer": None if cer.value is None else _counts(cer, "characters"),
            "hypothesis": None if self.fault else wer.hypothesis,
        }

    def _value(self, value: MetricValue) -> float | None:
        return None if self.fault and not isinstance(value, ErrorRate) else value.value

    def _is_absent(self, value: MetricValue) -> bool:
        """Return whether there is no value because the test set lacks what it needs, or because it is beyond all."""
        if isinstance(value, ErrorRate):
            return value.value is None
        is_beyond = self.fault is None and (value.error == INFINITE or (self.is_reference and value.error is not None))
        return is_beyond or (value.error or "").startswith(OF_THE_TEST_SET)


def _is_loop(value: MetricValue) -> bool:
    return isinstance(value, ErrorRate) and value.is_loop


def _counts(rate: ErrorRate, unit: str) -> Row:
    """Return what a rate of errors is made of; `unit` names the length of the reference."""
    return {
        "edits": rate.edits,
        unit: rate.length,
        "substitutions": rate.substitutions,
        "deletions": rate.deletions,
        "insertions": rate.insertions,
    }


def _compared(wer: WerValue) -> Row:
    """Return the texts that were compared, after normalisation."""
    return {} if wer.compared is None else dict(zip(("text", "hypothesis"), wer.compared, strict=True))


def utterance_of(task: str, job: Job, item: TestItem, output: Output) -> ScoringItem:
    """Return what the metrics are given of an item and what a system made of it: no samples if they are at fault."""
    # One suite serves all tasks of Omni: where a result has a timing of its own, it is given nothing to compare with.
    is_compared = task_of(task, job.trial).is_aligned or not task_named(task).is_aligned
    fields = {"interferer": "interferer", "prompt": "enrollment"}
    fields |= {"reference": "target"} if is_compared else {}
    fields |= {"text_recording": "target"} if item.is_transcribed else {}
    recorded: dict[str, Recording]
    recorded = {name: found for name, field in fields.items() if (found := item.recording(field)) is not None}
    waves: dict[str, Any] = {name: each.wave for name, each in recorded.items()}
    return ScoringItem(
        id=item.id,
        generated=output.samples()[: 0 if output.fault else None],
        sample_rate=output.rate,
        text=item.text or None,
        language=item.language,
        rates={name: each.sample_rate for name, each in recorded.items()},
        **waves,
    )
