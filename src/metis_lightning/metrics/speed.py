"""Speed: seconds of computing for a second of speech, and sampling steps."""

from __future__ import annotations

from metis_lightning.metrics.metric import Column, MetricError, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.signal import ScoringItem


def real_time_factor(computed: float, spoken: float) -> float:
    """Return the seconds computed for each second of speech. A `MetricError` if one of them is not a positive number.

    >>> real_time_factor(2.0, 8.0)
    0.25
    """
    if not spoken > 0.0:
        raise MetricError("the signal is empty")
    if not computed > 0.0:
        raise MetricError(f"the time to make it is {computed} s")
    return computed / spoken


class SpeedMetric(UtteranceMetric):
    """The real-time factor and the number of steps of both stages, where an item has them."""

    order = 90
    columns = (Column("RTF", "RTF", higher_is_better=False), Column("STEPS", "STEPS", higher_is_better=False))

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return those of the two that are known."""
        values: dict[str, MetricValue] = {}
        if item.seconds is not None:
            spoken = len(item.generated) / item.sample_rate
            values |= measure(self.columns[:1], real_time_factor, item.seconds, spoken)
        if item.num_steps is not None:
            values["STEPS"] = MetricValue(float(item.num_steps))
        return values
