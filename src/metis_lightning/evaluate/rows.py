"""Results rows: what is known of an utterance before it is scored, and what the scores add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from metis_lightning.evaluate.outputs import Output
from metis_lightning.evaluate.plan import Job
from metis_lightning.evaluate.tasks import task_of
from metis_lightning.metrics.protocols import TASKS
from metis_lightning.metrics.utterance import Utterance
from metis_lightning.metrics.values import MetricValue, word_errors_of
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
        absent += ["no reference text", "the reference text has no words"]
        is_reference = item.target is not None and torch.equal(output.samples(), item.target)
        return cls(known, output.fault, frozenset(absent), is_reference)

    def scored(self, values: Mapping[str, MetricValue]) -> Row:
        """Return the whole row.

        Its `failed` are the columns without a value although the test set has all that they need.
        """
        wer = word_errors_of(values)
        # A recogniser that was not asked does not know the language.
        absent = self.absent | ({wer.error} if wer.hypothesis is None else set())
        errors = {name: self.fault or value.error for name, value in values.items() if self.fault or value.error}
        return {
            **self.known,
            "metrics": {name: None if self.fault else value.value for name, value in values.items()},
            "error": errors,
            "failed": [name for name in errors if self.fault or not (self.is_reference or errors[name] in absent)],
            "wer": None if self.fault or wer.value is None else {"edits": wer.edits, "words": wer.words},
            "hypothesis": None if self.fault else wer.hypothesis,
        }


def is_aligned(task: str) -> bool:
    """Return whether a task's results are in time with the target; a task that is not known is like most."""
    return TASKS.get(task, TASKS[None]).is_aligned


def utterance_of(task: str, job: Job, item: TestItem, output: Output) -> Utterance:
    """Return what the metrics are given of an item and what a system made of it: no samples if they are at fault."""
    # One suite serves all tasks of Omni: where a result has a timing of its own, it is given nothing to compare with.
    is_compared = is_aligned(task_of(task, job.trial)[0]) or not is_aligned(task)
    return Utterance(
        id=item.id,
        generated=output.samples()[: 0 if output.fault else None],
        sample_rate=WAVE_RATE,
        reference=item.target if is_compared else None,
        interferer=item.interferer,
        prompt=item.enrollment,
        text=item.text or None,
        language=item.language,
    )
