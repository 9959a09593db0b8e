"""Mixtures that do not hold the enrolled voice: silence is right, and nothing else is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from metis_lightning.data.corpora.starter_absent import StarterAbsentTests
from metis_lightning.data.corpora.starter_tests import StarterTests
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.metrics.levels import AbsentMetric
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS
from quick_pool import QuickPool

SET = "test-human-absent"


@pytest.fixture(scope="module")
def reader() -> StarterAbsentTests:
    return StarterAbsentTests()


def test_the_enrolled_voice_is_not_in_the_mixture(reader: StarterAbsentTests) -> None:
    present = StarterTests()
    find = present.corpus.find
    for name in present.test_sets:
        trials, absent = present.load_trials(name), reader.load_trials(f"{name}-absent")
        assert len(trials) == len(absent)
        for trial, other in zip(trials, absent, strict=True):
            voices = {find(each).speaker for each in (trial.target, trial.interferer)}
            assert find(other.enrollment).speaker not in voices
            assert find(other.enrollment).split == find(trial.target).split
    item, mixed = reader.load_item(absent[0]), present.load_item(trials[0])
    assert item.mixture is not None and mixed.mixture is not None
    assert item.mixture.equal(mixed.mixture)
    assert (item.target, item.interferer, item.text, item.is_absent) == (None, None, None, True)
    assert item.speaker == find(absent[0].enrollment).speaker


class LevelPool(QuickPool):
    def __init__(self, options: SuiteOptions, processes: int) -> None:
        super().__init__(options, processes)
        self.metric = AbsentMetric(options, TASKS["tse"])
        self.columns = {column.name: column for column in self.metric.columns}

    def score(self, utterance: ScoringItem) -> dict[str, MetricValue]:
        assert utterance.is_absent
        return self.metric.score(utterance)


def test_silence_is_no_failure_but_a_missing_file_is(
    reader: StarterAbsentTests, tmp_path: Path, make_options: Callable[..., EvaluateOptions]
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    first, second = reader.load_trials(SET)[:2]
    mixture = reader.load_item(second).signal("mixture").numpy()
    soundfile.write(made / f"{first.id}.wav", np.zeros(24_000), 24_000)
    soundfile.write(made / f"{second.id}.wav", 0.5 * mixture, 24_000, subtype="FLOAT")
    options = make_options(
        "--task", "tse", "--data", "starter_absent", "--test-sets", SET, "--limit", "3", "--max-failed-share", "1",
        "--system", "input", f"made=wavs:{made}",
    )  # fmt: skip
    run_evaluate(options, LevelPool)
    rows = {(row.system, row.id): row for row in read_rows(options.out)}
    silent, half = (rows["made", each.id] for each in (first, second))
    assert (silent.metrics["ABSENT_LEVEL"], silent.metrics["ABSENT_above_-20dB"], silent.failed) == (-80.0, 0.0, [])
    assert half.metrics["ABSENT_LEVEL"] == pytest.approx(-6.02, abs=0.01)
    missing = rows["made", reader.load_trials(SET)[2].id]
    assert missing.metrics == {"ABSENT_LEVEL": None, "ABSENT_above_-20dB": None}
    assert missing.error["ABSENT_LEVEL"] == "missing"
    assert missing.failed == ["ABSENT_LEVEL", "ABSENT_above_-20dB"]
    assert rows["input", first.id].metrics["ABSENT_LEVEL"] == pytest.approx(0.0, abs=1e-6)
    assert rows["input", first.id].facts["sexes"] in ("f-m", "m-f", "f-f", "m-m")
