"""Metrics that a command asks for beside a protocol's: KIND[:SOURCE] of this project, MODULE:FUNCTION of anyone.

A function of one's own says what it gives by `metric`, and what it needs by the names of its parameters:

    @metric("PEAK", unit="dB", higher_is_better=False)
    def peak(generated, reference): ...

Signals (`generated`, `reference`, `interferer`, `prompt`, `source`) come as (S,) float32 at 16 kHz, `text` and
`language` as they are; where an item lacks one that has no default, there is no value, and the reason says so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import Column, MetricError, OptionalMetric, UtteranceMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import Task

Function = TypeVar("Function", bound=Callable[..., float])

_SIGNALS = ("generated", "reference", "interferer", "prompt", "source")
_NEEDS = (*_SIGNALS, "text", "language")


def metric(name: str, *, higher_is_better: bool, unit: str = "") -> Callable[[Function], Function]:
    """Mark a function as a metric: its column's name, unit ("%", if its values are fractions, "dB", …) and direction.

    The function returns a finite number, or raises `MetricError` with the reason why there is none.
    """

    def mark(function: Function) -> Function:
        function.column = Column(name, name, unit, higher_is_better)  # type: ignore[attr-defined]
        return function

    return mark


class FunctionMetric(OptionalMetric):
    """A function that `metric` marked; `UtteranceMetric` of one's own need nothing of this."""

    def __init__(self, spec: str, function: Callable[..., float]) -> None:
        column = getattr(function, "column", None)
        if not isinstance(column, Column):
            cure = 'mark it: @metric("NAME", higher_is_better=True) of metis_lightning.metrics.requested'
            raise UserError(f"--metrics {spec}: it does not say its name, unit and direction; {cure}")
        self._needs = inspect.signature(function).parameters
        if unknown := [name for name in self._needs if name not in _NEEDS]:
            raise UserError(f"--metrics {spec}: its parameter {unknown[0]!r} is none of {', '.join(_NEEDS)}")
        self.columns, self._function, self._column = (column,), function, column
        # What it computes is in its file, whatever it is called.
        source = inspect.getsourcefile(function)
        self.models = {f"metric {spec}": {"sha256": sha256_of(Path(source))} if source else {}}
        self.definition = {f"metric {column.name}": [*self._needs]}

    def value(self, item: ScoringItem) -> float:
        """Return what the function gives."""
        given = {}
        for name, parameter in self._needs.items():
            is_there = getattr(item, name) is not None
            if is_there or parameter.default is inspect.Parameter.empty:
                given[name] = _argument(item, name)
        value = float(self._function(**given))
        if not math.isfinite(value):
            raise MetricError(f"{self._column.name} is {value}")
        return value


def _argument(item: ScoringItem, name: str) -> Any:  # noqa: ANN401  (a signal or a text)
    if name in _SIGNALS:
        return item.wave(name)
    if (value := getattr(item, name)) is None:
        raise MetricError("no reference text")
    return value


def requested_metrics(
    options: SuiteOptions, task: Task, kinds: Mapping[str, type[OptionalMetric]]
) -> Iterator[UtteranceMetric]:
    """Yield the metrics of `options.metrics`; "all" are those of the project that need no path.

    A `UserError` if there is no such metric, it lacks its path or package, or it does not say what it gives.
    """
    own = [name for name, kind in kinds.items() if not kind.takes or kind.takes.startswith("[")]
    for spec in dict.fromkeys(each for given in options.metrics for each in (own if given == "all" else [given])):
        name, _, source = spec.partition(":")
        if kind := kinds.get(name):
            if source and not kind.takes:
                raise UserError(f"--metrics {spec}: {name} takes no path")
            if not source and kind.takes and not kind.takes.startswith("["):
                raise UserError(f"--metrics {spec}: give {name}:PATH, the path of {kind.takes}")
            yield kind(options, task, source)
        elif not source:
            raise UserError(f"--metrics {spec}: choose from all, {', '.join(sorted(kinds))}, or give MODULE:FUNCTION")
        else:
            yield _of_module(options, task, spec)


def _of_module(options: SuiteOptions, task: Task, spec: str) -> UtteranceMetric:
    module, _, name = spec.rpartition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--metrics {spec}: there is no such function ({error}); see that PYTHONPATH has it") from error
    if inspect.isclass(found) and issubclass(found, UtteranceMetric):
        return found(options, task)
    if not callable(found):
        raise UserError(f"--metrics {spec}: {name} is no function")
    return FunctionMetric(spec, found)
