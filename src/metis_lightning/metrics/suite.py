"""Every metric of a protocol on one utterance, and a fingerprint of what decides the numbers."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from metis_lightning import metrics
from metis_lightning.metrics import protocols, signal
from metis_lightning.metrics.metric import MetricValue, UtteranceMetric
from metis_lightning.metrics.model_files import versions
from metis_lightning.metrics.protocols import PROTOCOLS, SuiteOptions
from metis_lightning.metrics.signal import ScoringItem

__all__ = ["PROTOCOLS", "Suite", "SuiteOptions"]


class Suite:
    """All metrics of a protocol, with their models loaded once. No metric of the protocol "offline" downloads anything.

    Args:
        options: which metrics, by which back ends.
    """

    def __init__(self, options: SuiteOptions = SuiteOptions()) -> None:  # noqa: B008  (frozen)
        """Load every model now, so that a missing package ends the run before hours are spent.

        Raises:
            UserError: the protocol is unknown, a package is missing, or a model is missing or not the known one.
        """
        self.options, task = protocols.resolve(options)
        kinds = sorted(metric_classes(), key=lambda kind: kind.order)
        # Those that the task has no use for are loaded too: their models are part of the protocol.
        self._all = [kind(self.options, task) for kind in kinds]
        self.metrics = [metric for metric in self._all if metric.applies_to(task)]
        self.columns = {column.name: column for metric in self.metrics for column in metric.columns}

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the values of one utterance by the names of `columns`, null with a reason where it has none.

        Columns are always there, but for RTF and STEPS if they are not known, and for word errors by the recogniser of
        another language. Of a signal that cannot be transcribed all words are deleted: WER and CER are 1, with the
        reason beside it.
        """
        values: dict[str, MetricValue] = {}
        try:
            for metric in self.metrics:
                values |= metric.score(item)
        except Exception as error:
            error.add_note(f"while scoring {item.id}")
            raise
        return values

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that decides the numbers, as plain JSON values."""
        models: dict[str, Any] = {}
        decisive: dict[str, Any] = {}
        packages = ["torch", "numpy", "soxr"]
        for metric in self._all:
            # Models of all metrics stand together, other parts side by side.
            part = metric.fingerprint()
            models |= part.pop("models", {})
            decisive |= part
            packages += metric.packages
        return {
            "protocol": self.options.protocol,
            "task": self.options.task,
            "models": models,
            **decisive,
            "sample_rate": signal.METRIC_RATE,
            "resampler": signal.RESAMPLER,
            "max_length_difference": signal.MAX_LENGTH_DIFFERENCE,
            # For the record: the numbers are the same by every version that is let in.
            "packages": versions(tuple(packages)),
        }


def metric_classes() -> Iterator[type[Any]]:
    """Yield the metrics that modules of this package define; a new one needs a file and nothing else."""
    for found in pkgutil.walk_packages(metrics.__path__, f"{metrics.__name__}."):
        module = import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            # Base classes and what a module imports are no metrics of its own.
            is_own = kind.__module__ == module.__name__ and issubclass(kind, UtteranceMetric)
            if is_own and not inspect.isabstract(kind):
                yield kind
