"""All our results of a task as sections of a table, one for each test set and protocol, tested against a baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.benchmarks import Ours
from metis_lightning.evaluate.beside import Measured
from metis_lightning.evaluate.columns import Column
from metis_lightning.evaluate.layout import Cell, Line, Notes, Section, interval, number
from metis_lightning.evaluate.paper_section import mixed_note, protocol_note
from metis_lightning.evaluate.runs import Result
from metis_lightning.evaluate.significance import LEVEL, against_baseline

_PERCENT_DECIMALS, _DECIMALS, _UNIT_DECIMALS = 1, 2, 3


@dataclass(frozen=True)
class Group:
    """Results on one test set under one protocol, and how each but the baseline compares with it.

    `comparisons` are the records of `against_baseline` by run, system and metric.
    """

    results: tuple[Result, ...]
    baseline: Result | None
    comparisons: dict[tuple[str, str, str], dict[str, Any]]

    @property
    def metrics(self) -> list[str]:
        """Return the columns of all results, in the order of first appearance."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))


def our_groups(results: Sequence[Result], ours: Ours, baseline: str | None) -> list[Group]:
    """Return all results of a table's task by test set and protocol, tested against the system `baseline`."""
    parts = defaultdict(list)
    for result in results:
        if ours.lists_all and result.task == ours.task:
            parts[result.test_set, result.protocol.mark].append(result)
    return [_group(part, ours, baseline) for _, part in sorted(parts.items())]


def our_sections(groups: Sequence[Group], notes: Notes) -> list[Section]:
    """Return one section for each group; what is remarked on goes to `notes`."""
    marks = defaultdict(list)
    for group in groups:
        marks[group.results[0].test_set].append(group.results[0].protocol.mark)
    return [_section(group, marks[group.results[0].test_set], notes) for group in groups]


def _group(results: Sequence[Result], ours: Ours, baseline: str | None) -> Group:
    """Return the results in order, each compared with the baseline."""
    rank = {system: index for index, system in enumerate(ours.first)}
    ordered = sorted(results, key=lambda result: (rank.get(result.system, len(rank)), result.system, result.run))
    base = next((result for result in ordered if result.system == baseline), None)
    comparisons = {}
    if base is not None:
        others = [result for result in ordered if result.system != baseline]
        for metric in base.metrics:
            having = [result for result in others if metric in result.metrics]
            records = against_baseline([result.rows for result in having], base.rows, metric)
            for result, record in zip(having, records, strict=True):
                comparisons[result.run, result.system, metric] = record
    return Group(tuple(ordered), base, comparisons)


def _section(group: Group, marks: Sequence[str], notes: Notes) -> Section:
    """Return one group as a section."""
    first = group.results[0]
    lines = [_line(group, result, notes) for result in group.results]
    warning = [mixed_note(marks)] if len(marks) > 1 else []
    return Section(
        title=f"Ours on {first.test_set}, protocol {first.protocol.mark}",
        intro=" ".join([*warning, _intro(group)]),
        label_names=("system", "run", "n", "speakers"),
        column_names=tuple(Cell(Column.of(metric).title) for metric in group.metrics),
        lines=tuple(lines),
        remarks=(*_failures(group), *_seeds(group)),
    )


def _intro(group: Group) -> str:
    """Return how to read a section."""
    text = (
        "Means with the 95% interval of a bootstrap over speakers; n utterances. WER is all edits over all words; "
        "in brackets stands the metric model."
    )
    if group.baseline is None:
        return f"{text} Nothing is tested: there is no baseline system among these."
    return (
        f"{text} ▲ better, ▼ worse than {group.baseline.system} in a paired permutation test over speakers, "
        f"p < {LEVEL} after Holm's correction over the systems of a column.{_power(group)}"
    )


def _power(group: Group) -> str:
    """Return a warning if there are too few speakers for any mark, however large the differences."""
    speakers = max((record["n_clusters"] for record in group.comparisons.values()), default=0)
    systems = len({key[:2] for key in group.comparisons})
    if systems * 2 / 2**speakers < LEVEL:
        return ""
    return f" With {speakers} speakers and {systems} systems nothing can be marked, however large the difference."


def _line(group: Group, result: Result, notes: Notes) -> Line:
    """Return one system."""
    speakers = {row.get("speaker") for row in result.rows}
    labels = (
        Cell(result.system),
        Cell(result.run, notes=(notes.key(protocol_note(result)),)),
        # With several seeds an utterance has several rows.
        Cell(str(len({row["id"] for row in result.rows}))),
        Cell("–" if None in speakers else str(len(speakers))),
    )
    return Line(labels, tuple(_cell(group, result, metric) for metric in group.metrics), "ours")


def _cell(group: Group, result: Result, metric: str) -> Cell:
    """Return mean, interval, significance, and how many utterances have no value."""
    if metric not in result.metrics:
        return Cell()
    column = Column.of(metric)
    measured = Measured.of(result.metrics, metric, column.scale, "corpus")
    decimals = _decimals(group, metric)
    return Cell(
        number(measured.mean, decimals),
        interval(measured.low, measured.high, decimals),
        measured.n_failed,
        _sign(group.comparisons.get((result.run, result.system, metric)), column),
    )


def _decimals(group: Group, metric: str) -> int:
    """Return the decimals of a column; quantities that stay within one get a decimal more."""
    if Column.of(metric).unit == "%":
        return _PERCENT_DECIMALS
    means = [result.metrics[metric]["mean"] for result in group.results if metric in result.metrics]
    return _UNIT_DECIMALS if all(abs(mean) <= 1 for mean in means if mean is not None) else _DECIMALS


def _sign(comparison: dict[str, Any] | None, column: Column) -> int:
    """Return 1 for significantly better, -1 for worse, 0 for neither."""
    if comparison is None or comparison["p_holm"] is None or comparison["p_holm"] >= LEVEL or not comparison["mean"]:
        return 0
    return 1 if (comparison["mean"] > 0) == column.higher_is_better else -1


def _failures(group: Group) -> list[str]:
    """Return why values are missing."""
    systems = defaultdict(list)
    for metric in group.metrics:
        for result in group.results:
            for reason, count in result.metrics.get(metric, {}).get("errors", {}).items():
                systems[Column.of(metric).name, reason, count].append(result.system)
    return [
        f"Without a value: {name}, {count} × {reason} ({', '.join(names)})"
        for (name, reason, count), names in systems.items()
    ]


def _seeds(group: Group) -> list[str]:
    """Return how far the means of a system's seeds are apart."""
    lines = []
    for result in group.results:
        spread = {name: record for name, record in result.metrics.items() if "seed_sd" in record}
        if spread:
            count = max(record["n_seeds"] for record in spread.values())
            parts = [
                f"{Column.of(name).name} {number(Column.of(name).scale * record['seed_sd'], _UNIT_DECIMALS)}"
                for name, record in spread.items()
            ]
            lines.append(f"Standard deviation over {count} seeds of {result.system}: {', '.join(parts)}")
    return lines
