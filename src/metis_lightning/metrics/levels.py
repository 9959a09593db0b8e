"""Levels of what comes out where nothing should: extraction of a voice that the mixture does not hold."""

from __future__ import annotations

import numpy as np

from metis_lightning.metrics.metric import Column, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.signal import ScoringItem, Wave, as_array, with_sound
from metis_lightning.task_table import Task

# Decibels below the mixture down to which what comes out counts as heard, and those of silence.
HEARD_DB, FLOOR_DB = -20, -80.0


def relative_level(signal: Wave, mixture: Wave) -> float:
    """Return the power of a signal over that of its mixture in dB, (S,) each at one rate; -80 of less and of silence.

    >>> relative_level(np.array([0.1, -0.1]), np.array([1.0, -1.0]))
    -20.0
    """
    power = float(np.mean(np.square(as_array(signal), dtype=np.float64)))
    whole = float(np.mean(np.square(with_sound(mixture, "source"), dtype=np.float64)))
    return round(float(max(FLOOR_DB, 10.0 * np.log10(max(power / whole, 1e-12)))), 6)


class AbsentMetric(UtteranceMetric):
    """The level of what was extracted of mixtures without the enrolled voice, and how often it is to be heard.

    The rule stands in the columns' name, not in fingerprints: those of test sets with the voice stay what they were.
    """

    order = 80
    is_of_absent = True
    columns = (
        Column("ABSENT_LEVEL", "ABSENT_LEVEL", "dB", higher_is_better=False),
        Column(f"ABSENT_above_{HEARD_DB}dB", f"ABSENT_above_{HEARD_DB}dB", "%", higher_is_better=False),
    )

    def applies_to(self, task: Task) -> bool:
        """Return whether the task is to find one of several voices."""
        return "margin" in task.similar_to

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the level, and 1 if that is above the threshold."""

        def levels() -> tuple[float, float]:
            level = relative_level(item.wave("generated"), item.wave("source"))
            return level, float(level > HEARD_DB)

        return measure(self.columns, levels)
