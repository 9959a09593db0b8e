"""Several systems on the same utterances, out of their results on disk.

Most scores have no worst value, so a system that fails on what is hard would be the better for it. Where systems stand
side by side, each mean is of the same utterances. A system with no value at all in a metric takes no part in it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metis_lightning.errors import UserError, nearest
from metis_lightning.evaluate.results.intervals import PairedDifference, compare_rows, few_notes
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.evaluate.results.runs import PROTOCOL, Result, find_results, metric_names, read_results
from metis_lightning.evaluate.results.summary import Summary, summary_of
from metis_lightning.metrics.metric import INFINITE, Column

CONTROLS = ("input", "target", "resynthesis", "oracle")
# Fields of a summary that are of all of a system's utterances, whatever others have.
_COUNTS = ("n", "n_failed", "n_infinite", "n_not_applicable", "errors", "not_applicable")


def on_common_items(results: Sequence[Result]) -> list[Result]:
    """Return results of one test set with their means over the `n_common` of `n_items` utterances that all have."""
    metrics: list[dict[str, Summary]] = [dict(result.metrics) for result in results]
    for name in metric_names(results):
        # A system without any value takes no part: with it, no utterance would be common to all.
        valued = [{row.item for row in result.rows if row.value(name) is not None} for result in results]
        common = set.intersection(*(filter(None, valued))) if any(valued) else set()
        # A metric applies to what any system has a value for or failed in.
        applies = {
            row.item
            for result in results
            for row in result.rows
            if row.value(name) is not None or name in row.failed or row.error.get(name) == INFINITE
        }
        for result, summaries in zip(results, metrics, strict=True):
            if name in summaries:
                restricted = _restricted(summaries[name], result.rows, common)
                summaries[name] = replace(restricted, n_common=len(common), n_items=len(applies))
    return [replace(result, metrics=summaries) for result, summaries in zip(results, metrics, strict=True)]


def _restricted(own: Summary, rows: Sequence[ResultRow], common: set[tuple[str, str]]) -> Summary:
    """Return a summary whose estimates are of the common utterances, its counts of all of the system's."""
    if own.n in (0, len(common)):
        return own
    part = summary_of([row for row in rows if row.item in common], own.column)
    corpus = part.corpus
    if corpus and own.corpus:
        measured = ("measured_n", "measured_mean", "measured_corpus")
        corpus = replace(corpus, **{name: getattr(own.corpus, name) for name in measured})
    return replace(part, corpus=corpus, **{name: getattr(own, name) for name in _COUNTS})


def margin_column(columns: Iterable[Column]) -> Column | None:
    """Return the column of the similarity margin, to the target minus to the interferer; None if it is not measured."""
    return next((column for column in columns if column.quantity == "SIM_margin"), None)


def margin_gain(rows: Sequence[ResultRow], system: str, column: Column) -> tuple[str, PairedDifference]:
    """Return how much further than `input` a system is from the interferer and towards the target, also as a line."""
    own, base = ([row for row in rows if row.system == name] for name in (system, "input"))
    gain = compare_rows(own, base, column)
    where = f"{system} - input on {rows[0].test_set}, {column.name}"
    if gain.mean is None:
        return f"{where}: no utterance has both", gain
    # Over speakers it says what to expect of other voices, over utterances what of these.
    intervals = {f"{gain.n} utterances": (gain.utterances_ci95_low, gain.utterances_ci95_high)}
    if gain.clusters == "speakers":
        intervals = {f"{gain.n_clusters} speakers": (gain.ci95_low, gain.ci95_high), **intervals}
    bounds = [
        f"{count}: too few" if low is None else f"{count} {low:+.3f} to {high:+.3f}"
        for count, (low, high) in intervals.items()
    ]
    of_all = f" of {gain.n + gain.n_missing}" if gain.n_missing else ""
    return f"{where}: {gain.mean:+.3f} (95% over {', over '.join(bounds)}), n {gain.n}{of_all}", gain


@dataclass(frozen=True)
class Entry:
    """The output of a system for an utterance: its row, and its audio or why there is none."""

    row: ResultRow
    wav: Path | None
    missing: str | None = None


@dataclass(frozen=True)
class ComparedUtterance:
    """An utterance with the output of each system, by label; a system may lack it."""

    test_set: str
    id: str
    text: str | None
    speaker: str | None
    entries: Mapping[str, Entry]


@dataclass(frozen=True)
class Comparison:
    """Systems side by side: their results by label, one a test set, in the order of the command line."""

    task: str
    results: Mapping[str, tuple[Result, ...]]
    utterances: tuple[ComparedUtterance, ...]
    warnings: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, Summary]:
        """A summary of each metric of any system, by its name, in the order of first appearance."""
        results = [result for results in self.results.values() for result in results]
        return {
            name: next(result.metrics[name] for result in results if name in result.metrics)
            for name in metric_names(results)
        }

    def sort_order(self, metric: str | None) -> tuple[str, str]:
        """Return a metric and the first system but controls to sort by. A `UserError` if unknown.

        The default are word errors, of several recognisers by the one that most of the utterances went to.
        """
        metrics = self.metrics
        if metric is not None and metric not in metrics:
            raise UserError(f"--sort {metric}: the results have {', '.join(metrics)}")
        counts: Counter[str] = Counter()
        for result in (result for part in self.results.values() for result in part):
            counts.update({name: each.n for name, each in result.metrics.items() if each.column.is_word_errors})
        system = next((name for name in self.results if name not in CONTROLS), next(iter(self.results)))
        return metric or max(counts, key=counts.__getitem__, default=next(iter(metrics))), system

    def worst_first(self, metric: str, system: str) -> list[ComparedUtterance]:
        """Return the utterances from a system's worst value to its best; those without a value come first of all."""
        sign = 1 if self.metrics[metric].column.higher_is_better else -1

        def quality(utterance: ComparedUtterance) -> float:
            entry = utterance.entries.get(system)
            value = entry.row.metrics.get(metric) if entry else None
            return -math.inf if value is None else sign * value

        return sorted(self.utterances, key=quality)


def read_comparison(results_dir: Path, task: str, systems: Sequence[str] | None) -> Comparison:
    """Find systems, `SYSTEM` or `RUN/SYSTEM`, or all, among the results of a task, in a folder of runs or one run.

    A `UserError` if there are no results of the task, or none, or several, of a system.
    """
    read = read_results if (results_dir / PROTOCOL).is_file() else find_results
    results = [result for result in read(results_dir) if result.task == task]
    if not results:
        raise UserError(
            f"no results of task {task} in {results_dir}: run `python -m metis_lightning evaluate --task {task}`"
        )
    # Without names all systems, with their run where the name alone does not say which is meant.
    places = [(result.test_set, result.system) for result in results]
    labels = [
        result.system if places.count(place) == 1 else f"{result.run}/{result.system}"
        for result, place in zip(results, places, strict=True)
    ]
    chosen = {name: _choose(results, name) for name in systems or dict.fromkeys(labels)}
    # Each test set has its own common utterances; results go back to their labels in the order in which they came.
    by_test_set: dict[str, list[Result]] = defaultdict(list)
    for result in (result for part in chosen.values() for result in part):
        by_test_set[result.test_set].append(result)
    common = {test_set: iter(on_common_items(part)) for test_set, part in by_test_set.items()}
    compared = {label: tuple(next(common[result.test_set]) for result in part) for label, part in chosen.items()}
    summaries = [summary for part in compared.values() for result in part for summary in result.metrics.values()]
    return Comparison(task, compared, _utterances(compared), (*_warnings(compared), *few_notes(summaries)))


def _choose(results: Sequence[Result], name: str) -> tuple[Result, ...]:
    """Return the results that a name on the command line means, one a test set."""
    matching = [result for result in results if name in (result.system, f"{result.run}/{result.system}")]
    if not matching:
        systems = list(dict.fromkeys(result.system for result in results))
        there = f"there are {', '.join(systems)}{nearest(name, systems)}"
        raise UserError(f"--systems {name}: no such system in the results of this task; {there}")
    if len({(result.test_set, result.system) for result in matching}) < len(matching):
        choices = ", ".join(sorted({f"{result.run}/{result.system}" for result in matching}))
        raise UserError(f"--systems {name}: several runs have it; write one of {choices}")
    return tuple(matching)


def _utterances(results: Mapping[str, Sequence[Result]]) -> tuple[ComparedUtterance, ...]:
    """Return every utterance that any system has, in the order of the rows."""
    entries: dict[tuple[str, str], dict[str, Entry]] = {}
    for label, part in results.items():
        for result in part:
            for row in result.rows:
                # Of several seeds the first is shown.
                entries.setdefault(row.item, {}).setdefault(label, _entry(result.folder, row))
    utterances = []
    for (test_set, item_id), by_label in entries.items():
        rows = [entry.row for entry in by_label.values()]
        text = next((row.text for row in rows if row.text), None)
        speaker = next((row.speaker for row in rows if row.speaker), None)
        utterances.append(ComparedUtterance(test_set, item_id, text, speaker, by_label))
    return tuple(utterances)


def _entry(folder: Path, row: ResultRow) -> Entry:
    """Return a row with its audio, which must lie in the run's own folder whatever its id or its system say."""
    root = folder / "wavs"
    try:
        path = root / row.system / f"{row.id}.wav"
        if not path.resolve().is_relative_to(root.resolve()):
            return Entry(row, None, "its name leaves the folder of the run")
        if path.is_file():
            return Entry(row, path)
    except (OSError, ValueError):
        return Entry(row, None, "its name is not that of a file")
    # Why nothing could be scored is why there is no file.
    nothing_scored = all(name in row.error for name in row.metrics)
    reason = next((row.error[name] for name in row.failed), None) if nothing_scored else None
    return Entry(row, None, reason or "no audio file")


def _warnings(results: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return what makes the numbers hard to compare: other protocols, other utterances."""
    warnings = []
    for test_set in dict.fromkeys(result.test_set for part in results.values() for result in part):
        here = {label: result for label, part in results.items() for result in part if result.test_set == test_set}
        marks = {label: result.protocol.mark for label, result in here.items()}
        if len(set(marks.values())) > 1:
            listed = ", ".join(f"{label} {mark}" for label, mark in marks.items())
            warnings.append(f"{test_set}: results of several protocols, whose numbers are not comparable ({listed}).")
        counts = {label: result.count for label, result in here.items()}
        if len(set(counts.values())) > 1 or len(here) < len(results):
            listed = ", ".join(f"{label} {counts.get(label, 0)}" for label in results)
            warnings.append(f"{test_set}: not every system has every utterance ({listed}).")
    return warnings
