"""Several systems on the items that all of them have.

Most scores have no worst value, so a system that fails on what is hard would be the better for it. Where systems stand
side by side, each mean is of the same utterances. A system with no value at all in a metric takes no part in it.

Several systems on the same utterances, out of their results on disk: what `compare` shows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.columns import Column
from metis_lightning.evaluate.results.intervals import few_notes
from metis_lightning.evaluate.results.run_files import PROTOCOL
from metis_lightning.evaluate.results.runs import Result, find_results, read_results
from metis_lightning.evaluate.results.stats import failed_of, is_infinite, items_of, summary_of, value

# What of a summary is of all of a system's utterances, whatever the others have.
_OWN = ("n", "n_failed", "n_infinite", "n_not_applicable", "errors", "not_applicable")
_OWN_MEASURED = ("measured_n", "measured_mean", "measured_corpus")


def on_common_items(results: Sequence[Result]) -> list[Result]:
    """Return results of one test set with their means over the utterances that all have.

    In each summary `n_common` says how many those are, and `n_items` to how many the metric applies: to those in which
    any of the systems has a value or failed.
    """
    names = dict.fromkeys(name for result in results for name in result.metrics)
    metrics: list[dict[str, Any]] = [dict(result.metrics) for result in results]
    for name in names:
        having = [items for result in results if (items := _having(result, name))]
        common = set.intersection(*having) if having else set()
        applies = set().union(*(_applies(result, name) for result in results))
        for result, summaries in zip(results, metrics, strict=True):
            if name in summaries:
                counts = {"n_common": len(common), "n_items": len(applies)}
                summaries[name] = {**_restricted(result, name, common), **counts}
    return [replace(result, metrics=summaries) for result, summaries in zip(results, metrics, strict=True)]


def _having(result: Result, name: str) -> set[tuple[str, str]]:
    return items_of(row for row in result.rows if value(row, name) is not None)


def _applies(result: Result, name: str) -> set[tuple[str, str]]:
    return items_of(
        row for row in result.rows if value(row, name) is not None or name in failed_of(row) or is_infinite(row, name)
    )


def _restricted(result: Result, name: str, common: set[tuple[str, str]]) -> Mapping[str, Any]:
    """Return a summary whose estimates are of the common utterances."""
    own = result.metrics[name]
    if own["n"] in (0, len(common)):
        return own
    part = summary_of([row for row in result.rows if (row["test_set"], row["id"]) in common], name)
    return part | {key: own[key] for key in (*_OWN, *_OWN_MEASURED) if key in own}


CONTROLS = ("input", "target", "resynthesis")


@dataclass(frozen=True)
class Entry:
    """What a system made of an utterance: its row, and its audio or why there is none."""

    row: Mapping[str, Any]
    wav: Path | None
    missing: str | None = None


@dataclass(frozen=True)
class Utterance:
    """An utterance with what each system made of it, by label; a system may lack it."""

    test_set: str
    id: str
    text: str | None
    speaker: str | None
    entries: Mapping[str, Entry]


@dataclass(frozen=True)
class Comparison:
    """Systems side by side.

    `results` are by label, one a test set; `utterances` are in the order of the results; `warnings` say what makes the
    numbers hard to compare.
    """

    task: str
    results: Mapping[str, tuple[Result, ...]]
    utterances: tuple[Utterance, ...]
    warnings: tuple[str, ...]

    @property
    def systems(self) -> list[str]:
        """Return the labels, in the order asked for."""
        return list(self.results)

    @property
    def metrics(self) -> list[str]:
        """Return the columns of all systems, in the order of first appearance."""
        found = [name for results in self.results.values() for result in results for name in result.metrics]
        return list(dict.fromkeys(found))

    def default_metric(self) -> str:
        """Return the metric to sort by where none is asked for: word errors, else the first."""
        return next((name for name in self.metrics if Column.of(name).is_word_errors), self.metrics[0])

    def default_system(self) -> str:
        """Return the system to sort by: the first that is no control."""
        return next((name for name in self.systems if name not in CONTROLS), self.systems[0])

    def worst_first(self, metric: str, system: str) -> list[Utterance]:
        """Return the utterances from a system's worst value to its best; what has no value comes first of all."""
        sign = 1 if Column.of(metric).higher_is_better else -1

        def badness(utterance: Utterance) -> float:
            entry = utterance.entries.get(system)
            value = entry.row["metrics"].get(metric) if entry else None
            return -math.inf if value is None else sign * value

        return sorted(self.utterances, key=badness)


def read_comparison(results_dir: Path, task: str, systems: Sequence[str] | None) -> Comparison:
    """Find systems among the results of a folder.

    Args:
        results_dir: a folder of runs, or one run.
        task: only its results.
        systems: names as in the results, or RUN/SYSTEM where several runs have a system of that name; None for all.

    Raises:
        UserError: there are no results of the task, or none, or several, of a system.
    """
    single = (results_dir / PROTOCOL).is_file()
    found = [result for result in (read_results if single else find_results)(results_dir) if result.task == task]
    if not found:
        raise UserError(
            f"no results of task {task} in {results_dir}: run `python -m metis_lightning evaluate --task {task}`"
        )
    chosen = _on_common_items({name: _choose(found, name) for name in systems or _labels(found)})
    return Comparison(task, chosen, _utterances(chosen), (*_warnings(chosen), *_few(chosen)))


def _labels(results: Sequence[Result]) -> list[str]:
    """Return a label for every system, with its run where the name alone does not say which is meant."""
    labels: dict[str, None] = {}
    for result in results:
        alike = [other for other in results if _place(other) == _place(result)]
        labels[result.system if len(alike) == 1 else f"{result.run}/{result.system}"] = None
    return list(labels)


def _choose(results: Sequence[Result], name: str) -> tuple[Result, ...]:
    """Return the results that a name on the command line means, one a test set."""
    matching = [result for result in results if name in (result.system, f"{result.run}/{result.system}")]
    if not matching:
        known = ", ".join(dict.fromkeys(result.system for result in results))
        raise UserError(f"--systems {name}: no such system in the results of this task; there are {known}")
    if len({_place(result) for result in matching}) < len(matching):
        choices = ", ".join(sorted({f"{result.run}/{result.system}" for result in matching}))
        raise UserError(f"--systems {name}: several runs have it; write one of {choices}")
    return tuple(matching)


def _place(result: Result) -> tuple[str, str]:
    return result.test_set, result.system


def _on_common_items(chosen: Mapping[str, Sequence[Result]]) -> dict[str, tuple[Result, ...]]:
    """Return the results with each test set's means over the utterances that all systems have."""
    by_test_set: dict[str, list[Result]] = defaultdict(list)
    for results in chosen.values():
        for result in results:
            by_test_set[result.test_set].append(result)
    common = {test_set: iter(on_common_items(part)) for test_set, part in by_test_set.items()}
    return {label: tuple(next(common[result.test_set]) for result in results) for label, results in chosen.items()}


def _few(chosen: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return how far the intervals can be trusted, if any is over few clusters."""
    return few_notes(
        summary for results in chosen.values() for result in results for summary in result.metrics.values()
    )


def _utterances(chosen: Mapping[str, Sequence[Result]]) -> tuple[Utterance, ...]:
    """Return every utterance that any system has, in the order of the rows."""
    entries: dict[tuple[str, str], dict[str, Entry]] = {}
    for label, results in chosen.items():
        for result in results:
            for row in result.rows:
                # Of several seeds the first is shown.
                entries.setdefault((row["test_set"], row["id"]), {}).setdefault(label, _entry(result.folder, row))
    return tuple(
        Utterance(*key, text=_first(found, "text"), speaker=_first(found, "speaker"), entries=found)
        for key, found in entries.items()
    )


def _first(entries: Mapping[str, Entry], key: str) -> str | None:
    """Return a field of the first row that has it."""
    return next((entry.row[key] for entry in entries.values() if entry.row.get(key)), None)


def _entry(folder: Path, row: Mapping[str, Any]) -> Entry:
    """Return a row with its audio, which must lie in the run's own folder whatever its id or its system say."""
    root = folder / "wavs"
    try:
        path = root / row["system"] / f"{row['id']}.wav"
        inside = path.resolve().is_relative_to(root.resolve())
        there = inside and path.is_file()
    except (OSError, ValueError):
        return Entry(row, None, "its name is not that of a file")
    if not inside:
        return Entry(row, None, "its name leaves the folder of the run")
    return Entry(row, path) if there else Entry(row, None, _fault(row) or "no audio file")


def _fault(row: Mapping[str, Any]) -> str | None:
    """Return why nothing of a row could be scored; None if something could."""
    failed = failed_of(row)
    if any(name not in row["error"] for name in row["metrics"]):
        return None
    return next(iter({row["error"][name] for name in failed}), None)


def _warnings(chosen: Mapping[str, Sequence[Result]]) -> tuple[str, ...]:
    """Return what makes the numbers hard to compare: other protocols, other utterances."""
    warnings = []
    for test_set in dict.fromkeys(result.test_set for results in chosen.values() for result in results):
        here = {label: result for label, results in chosen.items() for result in results if result.test_set == test_set}
        marks = {label: result.protocol.mark for label, result in here.items()}
        if len(set(marks.values())) > 1:
            listed = ", ".join(f"{label} {mark}" for label, mark in marks.items())
            warnings.append(f"{test_set}: results of several protocols, whose numbers are not comparable ({listed}).")
        counts = {label: len({row["id"] for row in result.rows}) for label, result in here.items()}
        if len(set(counts.values())) > 1 or len(here) < len(chosen):
            listed = ", ".join(f"{label} {counts.get(label, 0)}" for label in chosen)
            warnings.append(f"{test_set}: not every system has every utterance ({listed}).")
    return tuple(warnings)
