"""Results rows: what is known of an utterance before it is scored, and what the scores add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from metis_lightning.evaluate.outputs import Output
from metis_lightning.evaluate.plan import Job
from metis_lightning.evaluate.tasks import task_of
from metis_lightning.metrics.utterance import Utterance
from metis_lightning.metrics.values import MetricValue, WerValue, word_errors_of
from metis_lightning.types import WAVE_RATE, TestItem

Row = dict[str, Any]


@dataclass(frozen=True)
class Unscored:
    """A row without its metrics.

    known: the other fields.
    fault: why nothing can be scored; None if it can.
    absent: the reasons that a metric gives for a signal or a text that the test set does not have: no failure.
    is_reference: whether it is the target itself, to which no distance can be measured: no failure either.
    """

    known: Row
    fault: str | None
    absent: frozenset[str]
    is_reference: bool

    @classmethod
    def of(cls, task: str, job: Job, item: TestItem, output: Output, utterance: Utterance) -> Unscored:
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
        absent = [f"no {name}" for name in ("reference", "interferer", "prompt") if getattr(utterance, name) is None]
        absent += [] if item.text else ["no reference text"]
        is_reference = item.target is not None and torch.equal(output.samples(), item.target)
        return cls(known, output.fault, frozenset(absent), is_reference)

    def scored(self, values: Mapping[str, MetricValue]) -> Row:
        """Return the whole row.

        Its `failed` are the columns without a value although the test set has all that they need.
        """
        wer = word_errors_of(values)
        errors = {name: self.fault or value.error for name, value in values.items() if self.fault or value.error}
        return {
            **self.known,
            "metrics": {name: None if self.fault else value.value for name, value in values.items()},
            "error": errors,
            "failed": [name for name in errors if self._is_failure(values[name])],
            "wer": None if self.fault or wer.value is None else {"edits": wer.edits, "words": wer.words},
            "hypothesis": None if self.fault else wer.hypothesis,
        }

    def _is_failure(self, value: MetricValue) -> bool:
        """Return whether a missing value is the system's doing."""
        if self.fault:
            return True
        # A recogniser that was not asked does not know the language.
        not_asked = isinstance(value, WerValue) and value.hypothesis is None
        return not not_asked and not self.is_reference and value.error not in self.absent


def utterance_of(task: str, job: Job, item: TestItem, output: Output) -> Utterance:
    """Return what the metrics are given of an item and what a system made of it: no samples if they are at fault."""
    _, entry = task_of(task, job.trial)
    return Utterance(
        id=item.id,
        generated=output.samples()[: 0 if output.fault else None],
        sample_rate=WAVE_RATE,
        reference=item.target if entry.is_aligned else None,
        interferer=item.interferer,
        prompt=item.enrollment,
        text=item.text or None,
        language=item.language,
    )
