"""A run that is killed at any moment leaves no process and nothing that is in the way of the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluate.killed import kill_and_repeat
from metis_lightning.evaluate.options import EvaluateOptions

KILLS = int(os.environ.get("METIS_KILLS", "3"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.timeout(600 + 240 * KILLS)
def test_runs_that_were_killed_end_as_others(make_options: Callable[..., EvaluateOptions], every_task: Path) -> None:
    words = ("--task", "tse", "--test-sets", "test-unseen", "--limit", "4", "--devices", "2")
    options = make_options(*words, "--system", "input", "target", str(every_task))
    undisturbed, *repeated = kill_and_repeat(options, KILLS)
    assert len(undisturbed[0]) == 12
    assert repeated == [undisturbed] * KILLS
