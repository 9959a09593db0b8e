"""Asks a pipeline for a test item, and tells which test lists serve a task, by `metis_lightning.task_table`.

The controls follow from the same table: `input` plays what the model is given as its source, `target` is the item's
`target`, and `resynthesis` that after a round trip through the acoustic codec. Where a task or a test set has no such
signal, the control does not exist: it is not listed, and no row counts as failed for it.

A task without a record is given the signals that its items hold: its test sets say that they are for it (`Trial.task`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis, Request, Settings
from metis_lightning.task_table import TASKS, Task, task_named
from metis_lightning.types import WAVE_RATE, TestItem, Trial

LENGTHS = ("predicted", "reference")
"""How long speech from text is: by the prompt's speaking rate, or as the recording of the text."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked, beside the item.

    settings: of the sampler.
    text_guided: whether tasks that can be guided by text are told what is said.
    tts_length: one of `LENGTHS`.
    """

    settings: Settings
    text_guided: bool = False
    tts_length: str = "predicted"

    def identity(self, name: str) -> dict[str, Any]:
        """Return what of it decides a task's output, as plain JSON values."""
        task = task_named(name)
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.settings)))
        if task.is_guided_by_text:
            plain["text_guided"] = self.text_guided
        if task.speaks_text:
            plain["tts_length"] = self.tts_length
        return plain


def request_of(metis: Metis, task: Task, item: TestItem, asking: Asking) -> Request:
    """Return what a pipeline is asked for an item.

    Raises:
        UserError: if the item has not what the task needs.
    """
    given: dict[str, Any] = {}
    if task.condition == "features" or (task.condition == "any" and item.features is not None):
        given["features"] = item.signal("features")
    elif task.condition is not None:
        given["source"] = item.signal("mixture")
    if "prompt" in task.inputs:
        given["prompt"] = item.enrollment if "prompt" in task.optional else item.signal("enrollment")
    is_guided = asking.text_guided and task.is_guided_by_text
    if is_guided and not (item.text and item.prompt_text):
        raise UserError(f"{item.id}: the texts of the target and of its enrollment are not both known (--text-guided)")
    if task.speaks_text or is_guided:
        given |= {"text": item.text or "", "prompt_text": item.prompt_text, "language": item.language}
    if task.speaks_text and asking.tts_length == "reference":
        given["seconds"] = len(item.signal("target")) / WAVE_RATE
    return metis.request(task.name, **given)


def task_of(name: str, trial: Trial) -> Task:
    """Return which task a trial is in an evaluation of the task `name`."""
    return task_named(trial.task if task_named(name).covers else name)


def is_for(task: str, said: str) -> bool:
    """Return whether a list is for a task, given the task that it names.

    A list that names none is for any task that the table has, but not for one that covers others.
    """
    covers = task_named(task).covers
    return said in (task, *covers) or (not said and task in TASKS and not covers)
