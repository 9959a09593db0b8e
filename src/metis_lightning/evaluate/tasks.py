"""What each task's model is given of a test item: one entry a task. What is measured is in `metrics.protocols`.

The controls follow from the same entry: `input` plays what the model hears, `target` is the item's `target`, and
`resynthesis` that after a round trip through the acoustic codec. Where a task or a test set has no such signal, the
control does not exist: it is not listed, and no row counts as failed for it.

A task that has no entry is given the signals that its items hold, so a new task of this kind needs no entry: its test
sets say that they are for it (`Trial.task`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from metis_lightning.pipeline import Metis, Request, Settings, Speech
from metis_lightning.tokens.lips import double_rate
from metis_lightning.types import TestItem, Trial

Answer = Callable[[Metis, TestItem, int, Settings], Speech]


@dataclass(frozen=True)
class EvaluatedTask:
    """What is done with a test item.

    answer: asks a pipeline for the item's speech, with a seed and settings.
    hears: the field of the item that is the model's source, and what the control `input` plays; None if there is none.
    covers: the tasks whose test sets are those of this one, each asked as its own; the entry's rest is not used then.
    """

    answer: Answer
    hears: str | None = None
    covers: tuple[str, ...] = ()


def _extract(metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    return metis.extract(item.signal("mixture"), item.signal("enrollment"), seed, settings)


def _enhance(metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    return metis.enhance(item.signal("mixture"), seed, settings)


def _convert(metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    return metis.convert(item.signal("mixture"), item.signal("enrollment"), seed, settings)


def _synthesize(metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    return metis.synthesize(
        item.text or "", item.signal("enrollment"), item.prompt_text, item.language, seed=seed, settings=settings
    )


def _lip_to_speech(metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    return metis.lip_to_speech(item.signal("features"), item.signal("enrollment"), seed, settings)


TASKS: Mapping[str, EvaluatedTask] = {
    "tts": EvaluatedTask(_synthesize),
    "vc": EvaluatedTask(_convert, "mixture"),
    "tse": EvaluatedTask(_extract, "mixture"),
    "se": EvaluatedTask(_enhance, "mixture"),
    "l2s": EvaluatedTask(_lip_to_speech),
    # One checkpoint for several tasks: each trial is asked of it as its own task is.
    "omni": EvaluatedTask(_extract, covers=("tts", "vc", "tse", "se")),
}


def task_of(name: str, trial: Trial) -> tuple[str, EvaluatedTask]:
    """Return which task a trial is, by name and entry, in an evaluation of the task `name`."""
    if name in TASKS and TASKS[name].covers:
        name = trial.task
    return name, TASKS.get(name) or EvaluatedTask(partial(_ask, name), "mixture")


def is_for(task: str, said: str) -> bool:
    """Return whether a list is for a task, given what it says of that.

    A list that says nothing is for any task that the table knows, but not for one that covers others.
    """
    covers = TASKS[task].covers if task in TASKS else ()
    return said in (task, *covers) or (not said and task in TASKS and not covers)


def _ask(task: str, metis: Metis, item: TestItem, seed: int, settings: Settings) -> Speech:
    """Ask for a task that the table does not know, with the signals that the item holds."""
    if item.features is not None:
        return metis.generate(
            Request(task, item.enrollment, features=double_rate(item.features[None])[0]), seed, settings
        )
    return metis.generate(Request(task, item.enrollment, item.signal("mixture")), seed, settings)
