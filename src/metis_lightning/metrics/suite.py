"""Every metric of a protocol on one utterance, and a fingerprint of what decides the numbers."""

from __future__ import annotations

import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from metis_lightning import metrics
from metis_lightning.errors import UserError
from metis_lightning.metrics import protocols, signal
from metis_lightning.metrics.metric import MetricValue, OptionalMetric, UtteranceMetric
from metis_lightning.metrics.model_files import versions
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.requested import requested_metrics
from metis_lightning.metrics.signal import ScoringItem


class Suite:
    """All metrics of a protocol, with their models loaded once. No metric of the protocol "offline" downloads anything.

    A `UserError` if the protocol is unknown, a package is missing, or a model is missing or not the known one.
    """

    def __init__(self, options: SuiteOptions = SuiteOptions()) -> None:  # noqa: B008  (frozen)
        self.options, task = protocols.resolve(options)
        kinds = list(metric_classes())
        own = sorted((kind for kind in kinds if not issubclass(kind, OptionalMetric)), key=lambda kind: kind.order)
        # Those that the task has no use for are loaded too: their models are part of the protocol.
        self._all: list[UtteranceMetric] = [kind(self.options, task) for kind in own]
        optional = {kind.kind: kind for kind in kinds if issubclass(kind, OptionalMetric)}
        self._all += requested_metrics(self.options, task, optional)
        self.metrics = [metric for metric in self._all if metric.applies_to(task)]
        self.columns = {column.name: column for metric in self.metrics for column in metric.columns}
        names = Counter(column.name for metric in self.metrics for column in metric.columns)
        if doubled := [name for name, count in names.items() if count > 1]:
            raise UserError(f"--metrics: two metrics have the column {doubled[0]}; leave one out or rename it")

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the values of one utterance, or why not: of all columns but unknown speed and other recognisers'."""
        values: dict[str, MetricValue] = {}
        try:
            for metric in self.metrics:
                if metric.is_of_absent == item.is_absent:
                    values |= metric.score(item)
        except Exception as error:
            error.add_note(f"while scoring {item.id}")
            raise
        return values

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as plain JSON values."""
        packages, models = ["torch", "numpy", "soxr"], dict[str, Any]()
        decisive: dict[str, Any] = {"protocol": self.options.protocol, "task": self.options.task, "models": models}
        for metric in self._all:
            # Models of all metrics stand together, other parts side by side.
            part = metric.fingerprint()
            models |= part.pop("models", {})
            decisive |= part
            packages += metric.packages
        decisive |= {"sample_rate": signal.METRIC_RATE, "resampler": signal.RESAMPLER}
        decisive["max_length_difference"] = signal.MAX_LENGTH_DIFFERENCE
        # For the record: the numbers are the same by every version that is let in.
        return {**decisive, "packages": versions(tuple(packages))}


def metric_classes() -> Iterator[type[Any]]:
    """Yield the metrics that modules of this package define; a new one needs a file and nothing else."""
    for info in pkgutil.walk_packages(metrics.__path__, f"{metrics.__name__}."):
        module = import_module(info.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            # Base classes and what a module imports are no metrics of its own.
            is_own = kind.__module__ == module.__name__ and issubclass(kind, UtteranceMetric)
            is_base = inspect.isabstract(kind) or (issubclass(kind, OptionalMetric) and not hasattr(kind, "kind"))
            if is_own and not is_base:
                yield kind
