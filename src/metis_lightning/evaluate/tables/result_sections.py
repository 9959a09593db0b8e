"""All our results of a task as sections of a table, one for each test set and protocol, tested against a baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.results.columns import Column, word_errors_of
from metis_lightning.evaluate.results.comparison import CONTROLS, on_common_items
from metis_lightning.evaluate.results.runs import Result
from metis_lightning.evaluate.results.significance import LEVEL, against_baseline
from metis_lightning.evaluate.tables.benchmarks import Ours
from metis_lightning.evaluate.tables.layout import EMPTY, MARKS, NOT_APPLICABLE, Cell, Line, Notes, Section, number
from metis_lightning.evaluate.tables.matching import Measured
from metis_lightning.evaluate.tables.paper_section import mixed_note, protocol_note
from metis_lightning.evaluate.tables.remarks import remarks

MEASURED, ABOVE_HALF = "where measured", "share of utterances above 50%"
"""What further columns of error rates hold, as they are called."""

_PERCENT_DECIMALS, _DECIMALS, _UNIT_DECIMALS = 1, 2, 3


@dataclass(frozen=True)
class Group:
    """Results on one test set under one protocol, and how each but the baseline compares with it.

    The means of `results` are over the utterances that all of them have. `comparisons` are the records of
    `against_baseline` by run, system and metric; those of controls are of no family, so they have no `p_holm`.
    """

    results: tuple[Result, ...]
    baseline: Result | None
    comparisons: dict[tuple[str, str, str], dict[str, Any]]

    @property
    def metrics(self) -> list[str]:
        """Return the columns of all results, in the order of first appearance."""
        return list(dict.fromkeys(name for result in self.results for name in result.metrics))


@dataclass(frozen=True)
class _Column:
    """A column of a section: a metric, or of an error rate its mean where measured or its tail."""

    metric: str
    key: str = ""

    def title(self, group: Group) -> str:
        """Return the heading, with of how many utterances the means are if not of all that the metric applies to."""
        column = Column.of(self.metric)
        if self.key == "measured_corpus":
            return column.title.replace("%", f"% {MEASURED}")
        if self.key:
            return column.title.replace("%", "> 50%, % of utterances")
        record = next(result.metrics[self.metric] for result in group.results if self.metric in result.metrics)
        common, items = record["n_common"], record["n_items"]
        return column.title if common == items else f"{column.title} ({common} of {items})"

    def cell(self, group: Group, result: Result, notes: Notes) -> Cell:
        """Return what a result has in this column."""
        if self.metric not in result.metrics:
            return Cell()
        if not self.key:
            return _cell(group, result, self.metric, notes)
        found = result.metrics[self.metric].get(self.key)
        return Cell(number(None if found is None else Column.of(self.metric).scale * found, _PERCENT_DECIMALS))


def our_groups(results: Sequence[Result], ours: Ours, baseline: str | None) -> list[Group]:
    """Return all results of a table's task by test set and protocol, tested against the system `baseline`."""
    parts = defaultdict(list)
    for result in results:
        if ours.lists_all and result.task == ours.task:
            parts[result.test_set, result.protocol.mark].append(result)
    return [_group(on_common_items(part), ours, baseline) for _, part in sorted(parts.items())]


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
    for metric in base.metrics if base else ():
        others = [result for result in ordered if result.system != baseline and metric in result.metrics]
        for is_control in (False, True):
            family = [result for result in others if (result.system in CONTROLS) == is_control]
            records = against_baseline([result.rows for result in family], base.rows if base else (), metric)
            for result, record in zip(family, records, strict=True):
                untested = {"p_holm": None, "p_utterances_holm": None} if is_control else {}
                comparisons[result.run, result.system, metric] = record | untested
    return Group(tuple(ordered), base, comparisons)


def _section(group: Group, marks: Sequence[str], notes: Notes) -> Section:
    """Return one group as a section."""
    first, columns = group.results[0], _columns(group)
    lines = [_line(group, result, columns, notes) for result in group.results]
    warning = [mixed_note(marks)] if len(marks) > 1 else []
    return Section(
        title=f"Ours on {first.test_set}, protocol {first.protocol.mark}",
        intro=" ".join([*warning, _intro(group)]),
        label_names=("system", "run", "n", "speakers"),
        column_names=tuple(Cell(column.title(group)) for column in columns),
        lines=tuple(lines),
        remarks=(*remarks(group.results, group.comparisons), *_seeds(group)),
        is_papers=False,
    )


def _columns(group: Group) -> list[_Column]:
    """Return the columns: of an error rate its tail too, and the mean where measured if that is another for anyone."""
    columns = []
    for metric in group.metrics:
        columns.append(_Column(metric))
        records = [result.metrics[metric] for result in group.results if metric in result.metrics]
        if any(record.get("measured_n", record["n"]) != record["n"] for record in records):
            columns.append(_Column(metric, "measured_corpus"))
        if metric.startswith("WER_") and any("share_above_50" in record for record in records):
            columns.append(_Column(metric, "share_above_50"))
    return columns


def _intro(group: Group) -> str:
    """Return how to read a section."""
    over = {record["clusters"] for result in group.results for record in result.metrics.values() if record["n"]}
    clusters = "speakers" if over != {"utterances"} else "utterances (speakers unknown)"
    counted = "all edits over all words or characters"
    if word_errors_of(group.results[0].test_set) == "mean":
        counted = "means of the utterances' rates, as Seed-TTS-eval counts"
    text = (
        f"Means with the 95% interval over {clusters} and how many those are; n utterances. WER and CER are {counted}; "
        "of an output in which nothing can be heard all are deleted. Other means are of "
        "the utterances that all systems here have, n of N in the heading if not all; "
        f"{NOT_APPLICABLE} is what cannot be measured here. In brackets stands the metric model."
    )
    if group.baseline is None:
        return f"{text} Nothing is tested: there is no baseline system among these."
    return (
        f"{text} ▲ better, ▼ worse than {group.baseline.system} in a paired permutation test over {clusters}, "
        f"p < {LEVEL} after Holm's correction over the systems of a column; △ and ▽ where only the same test over "
        "utterances says so, which holds for these voices and says nothing of others. Controls have no marks; metrics "
        f"are not corrected for one another.{_power(group)}"
    )


def _power(group: Group) -> str:
    """Return a warning if there are too few speakers for any ▲ or ▼, however large the differences."""
    tested = {key: record for key, record in group.comparisons.items() if key[1] not in CONTROLS}
    speakers = max((record["n_clusters"] for record in tested.values()), default=0)
    systems = len({key[:2] for key in tested})
    if not systems or systems * 2 / 2**speakers < LEVEL:
        return ""
    return (
        f" With {speakers} speakers and {systems} systems nothing can be marked ▲ or ▼, however large the difference."
    )


def _line(group: Group, result: Result, columns: Sequence[_Column], notes: Notes) -> Line:
    """Return one system."""
    speakers = {row.get("speaker") for row in result.rows}
    labels = (
        Cell(result.system),
        Cell(result.run, notes=(notes.key(protocol_note(result)),)),
        Cell(result.count_text),
        Cell(EMPTY if None in speakers else str(len(speakers))),
    )
    return Line(labels, tuple(column.cell(group, result, notes) for column in columns), "ours")


def _cell(group: Group, result: Result, metric: str, notes: Notes) -> Cell:
    """Return mean, interval, significance, and on how many utterances the system failed."""
    column = Column.of(metric)
    measured = Measured.of(result.metrics, metric, column.scale, word_errors_of(result.test_set))
    doubts = tuple(notes.key(text) for text in measured.doubts)
    mark = _mark(group.comparisons.get((result.run, result.system, metric)), column)
    return measured.cell(_decimals(group, metric), doubts, mark)


def _decimals(group: Group, metric: str) -> int:
    """Return the decimals of a column; quantities that stay within one get a decimal more."""
    if Column.of(metric).unit == "%":
        return _PERCENT_DECIMALS
    means = [result.metrics[metric]["mean"] for result in group.results if metric in result.metrics]
    return _UNIT_DECIMALS if all(abs(mean) <= 1 for mean in means if mean is not None) else _DECIMALS


def _mark(comparison: dict[str, Any] | None, column: Column) -> str:
    """Return the mark of a difference: over speakers, or else over utterances; nothing if neither is significant."""
    if comparison is None or not comparison["mean"]:
        return ""
    direction = 1 if (comparison["mean"] > 0) == column.higher_is_better else -1
    for over, key in (("speakers", "p_holm"), ("utterances", "p_utterances_holm")):
        if comparison[key] is not None and comparison[key] < LEVEL:
            return MARKS[over, direction]
    return ""


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
