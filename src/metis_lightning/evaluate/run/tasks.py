"""What each task's model is given of a test item: one entry a task. What is measured is in `metrics.protocols`.

The controls follow from the same entry: `input` plays what the model hears, `target` is the item's `target`, and
`resynthesis` that after a round trip through the acoustic codec. Where a task or a test set has no such signal, the
control does not exist: it is not listed, and no row counts as failed for it.

A task that has no entry is given the signals that its items hold, so a new task of this kind needs no entry: its test
sets say that they are for it (`Trial.task`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis, Request, Settings, Speech
from metis_lightning.tokens.visual.lips import double_rate
from metis_lightning.types import WAVE_RATE, TestItem, Trial

LENGTHS = ("predicted", "reference")
"""How long speech from text is: by the prompt's speaking rate, or as the recording of the text."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked, beside the item.

    settings: of the sampler.
    text_guided: whether target speaker extraction is told what is said.
    tts_length: one of `LENGTHS`.
    """

    settings: Settings
    text_guided: bool = False
    tts_length: str = "predicted"

    def identity(self, task: str) -> dict[str, Any]:
        """Return what of it decides a task's output, as plain JSON values."""
        own: dict[str, dict[str, Any]]
        own = {"tse": {"text_guided": self.text_guided}, "tts": {"tts_length": self.tts_length}}
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.settings)))
        return {**plain, **own.get(task, {})}


Answer = Callable[[Metis, TestItem, int, Asking], Speech]


@dataclass(frozen=True)
class EvaluatedTask:
    """What is done with a test item.

    answer: asks a pipeline for the item's speech, with a seed and what else is to be said.
    hears: the field of the item that is the model's source, and what the control `input` plays; None if there is none.
    covers: the tasks whose test sets are those of this one, each asked as its own; the entry's rest is not used then.
    """

    answer: Answer
    hears: str | None = None
    covers: tuple[str, ...] = ()


def _extract(metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    mixture, enrollment = item.signal("mixture"), item.signal("enrollment")
    if not asking.text_guided:
        return metis.extract(mixture, enrollment, seed, asking.settings)
    if not item.text or not item.prompt_text:
        raise UserError(f"{item.id}: the texts of the target and of its enrollment are not both known (--text-guided)")
    return metis.extract(mixture, enrollment, seed, asking.settings, item.text, item.prompt_text, item.language)


def _enhance(metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    return metis.enhance(item.signal("mixture"), seed, asking.settings)


def _convert(metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    return metis.convert(item.signal("mixture"), item.signal("enrollment"), seed, asking.settings)


def _synthesize(metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    return metis.synthesize(
        item.text or "",
        item.signal("enrollment"),
        item.prompt_text,
        item.language,
        seconds=item.signal("target").numel() / WAVE_RATE if asking.tts_length == "reference" else None,
        seed=seed,
        settings=asking.settings,
    )


def _lip_to_speech(metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    return metis.lip_to_speech(item.signal("features"), item.signal("enrollment"), seed, asking.settings)


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


def _ask(task: str, metis: Metis, item: TestItem, seed: int, asking: Asking) -> Speech:
    """Ask for a task that the table does not know, with the signals that the item holds."""
    if item.features is not None:
        return metis.generate(
            Request(task, item.enrollment, features=double_rate(item.features[None])[0]), seed, asking.settings
        )
    return metis.generate(Request(task, item.enrollment, item.signal("mixture")), seed, asking.settings)
