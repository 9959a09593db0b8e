"""The table of tasks: consistent in itself, and light enough for the help of commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metis_lightning.generate.jobs import INPUTS
from metis_lightning.task_table import TASKS, Task, task_named


def test_the_table_loads_no_torch() -> None:
    code = "import sys, metis_lightning.task_table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_record_agrees_with_itself(task: Task) -> None:
    assert TASKS[task.name] is task
    assert set(task.served) <= TASKS.keys()
    assert task.inputs <= set(INPUTS)
    assert set(task.labels) <= task.inputs
    # The app can give all that a task needs.
    assert task.covers or all(set(names) & set(task.labels) for names in task.needs)
    assert (task.condition is None) == (task.speaks_text or bool(task.covers))
    assert task.condition in (None, *task.inputs)


def test_a_task_without_a_record_takes_what_it_is_given() -> None:
    own = task_named("unhum")
    assert (own.name, own.served, own.condition) == ("unhum", ("unhum",), "any")
    assert own.inputs == {"source", "video", "features", "prompt"}
    assert own.is_aligned and not own.speaks_text and "text" not in own.optional
    assert task_named("tse") is TASKS["tse"]
