"""The loader's soak sees what grows and what is left; a short one leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from soak_loader import Sample, sample, slope, soak


def test_the_slope_is_of_an_hour() -> None:
    growing = [Sample(float(second), 500 + second / 60, 10, 1) for second in range(0, 600, 10)]
    assert slope(growing) == pytest.approx(60)


def test_processes_and_files_below_are_counted() -> None:
    start = time.monotonic()
    before = sample(start)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child, open(os.devnull):
        after = sample(start)
        child.communicate(b"\n")
    assert after.processes == before.processes + 1
    assert after.files >= before.files + 2
    assert after.memory > before.memory


def test_a_short_soak_leaves_nothing() -> None:
    samples, count, left = soak(0.05, workers=1, interval=1.0)
    assert count > 0 and samples and samples[-1].memory > 50
    assert left == []
