"""All our results of a task as sections of a table, one for each test set and protocol, tested against a baseline."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from metis_lightning.evaluate.results.comparison import CONTROLS, on_common_items
from metis_lightning.evaluate.results.intervals import LEVEL, PairedDifference, against_baseline, few_notes
from metis_lightning.evaluate.results.rows import ERROR_RATES
from metis_lightning.evaluate.results.runs import Result, metric_names
from metis_lightning.evaluate.results.summary import Summary, word_error_rule
from metis_lightning.evaluate.tables.benchmarks import ResultsSpec
from metis_lightning.evaluate.tables.layout import Cell, Line, NoteKeys, Section, TableValue, format_number, render_text
from metis_lightning.evaluate.tables.paper_rows import mixed_notes, protocol_note
from metis_lightning.metrics.metric import Column

# What error rates are called without outputs in which nothing was heard, and without loops.
MEASURED = "where measured"
# How a result that is better (1) or worse (-1) than the baseline is marked, by what was tested over.
MARKS = {("speakers", 1): "▲", ("speakers", -1): "▼", ("utterances", 1): "△", ("utterances", -1): "▽"}
_NUMBER = re.compile(r"\d+(\.\d+)?")
_PERCENT_DECIMALS, _DECIMALS, _UNIT_DECIMALS = 1, 2, 3


@dataclass(frozen=True)
class ResultGroup:
    """Results on one test set under one protocol, over the utterances that all have, compared with the baseline."""

    results: tuple[Result, ...]
    baseline: Result | None
    # By run, system and metric; those of controls have no `p_holm`.
    comparisons: Mapping[tuple[str, str, str], PairedDifference]

    def summaries(self, metric: str) -> list[Summary]:
        """Return a metric of all results that have it."""
        return [result.metrics[metric] for result in self.results if metric in result.metrics]


@dataclass(frozen=True)
class _TableColumn:
    """A column of a section: a metric, or of an error rate its mean where measured or its tail (see `part`)."""

    column: Column
    part: str = ""

    def title(self, group: ResultGroup) -> str:
        """Return the heading, with of how many utterances the means are if not of all that the metric applies to."""
        title = self.column.title
        if self.part == "measured_corpus":
            return title.replace("%", f"% {MEASURED}")
        if self.part:
            return title.replace("%", "> 50%, % of utterances")
        first = group.summaries(self.column.name)[0]
        return title if first.n_common == first.n_items else f"{title} ({first.n_common} of {first.n_items})"

    def cell(self, group: ResultGroup, result: Result, keys: NoteKeys) -> Cell:
        """Return the cell of a result: mean, interval, significance, and on how many utterances the system failed."""
        summary = result.metrics.get(self.column.name)
        if summary is None:
            return Cell()
        if self.part:
            value = getattr(summary.corpus, self.part, None)
            return Cell(format_number(None if value is None else self.column.scale * value, _PERCENT_DECIMALS))
        decimals = _PERCENT_DECIMALS
        if self.column.unit != "%":
            # Quantities that stay within one get a decimal more.
            means = [each.mean for each in group.summaries(self.column.name)]
            decimals = _UNIT_DECIMALS if all(abs(mean) <= 1 for mean in means if mean is not None) else _DECIMALS
        ours = TableValue.of(summary, word_error_rule(result.test_set))
        mark = _mark(group.comparisons.get((result.run, result.system, self.column.name)), self.column)
        return ours.cell(decimals, keys.of(*ours.doubts), mark)


def group_results(results: Sequence[Result], spec: ResultsSpec, baseline: str | None) -> list[ResultGroup]:
    """Return all results of a table's task by test set and protocol, tested against `baseline` or the table's own."""
    parts = defaultdict(list)
    for result in results:
        if spec.lists_all and result.task == spec.task:
            parts[result.test_set, result.protocol.mark].append(result)
    return [_group(on_common_items(part), spec, baseline or spec.baseline) for _, part in sorted(parts.items())]


def _group(results: Sequence[Result], spec: ResultsSpec, baseline: str | None) -> ResultGroup:
    rank = {system: index for index, system in enumerate(spec.first)}
    ordered = sorted(results, key=lambda result: (rank.get(result.system, len(rank)), result.system, result.run))
    base = next((result for result in ordered if result.system == baseline), None)
    comparisons = {}
    for metric, summary in base.metrics.items() if base else ():
        others = [result for result in ordered if result.system != baseline and metric in result.metrics]
        # Controls are compared, too, but are of no family: that clean speech is better than a mixture is no finding.
        for is_control in (False, True):
            family = [result for result in others if (result.system in CONTROLS) == is_control]
            compared = against_baseline([each.rows for each in family], base.rows if base else (), summary.column)
            for result, difference in zip(family, compared, strict=True):
                if is_control:
                    difference = replace(difference, p_holm=None, p_utterances_holm=None)
                comparisons[result.run, result.system, metric] = difference
    return ResultGroup(tuple(ordered), base, comparisons)


def result_sections(groups: Sequence[ResultGroup], keys: NoteKeys) -> list[Section]:
    """Return one section for each group; footnotes go to `keys`."""
    marks = defaultdict(list)
    # Several groups of one test set differ in their protocols, which each of them says.
    for group in groups:
        marks[group.results[0].test_set].append(group.results[0].protocol.mark)
    sections = []
    for group in groups:
        first, columns = group.results[0], _columns(group)
        lines = []
        for result in group.results:
            speakers = {row.speaker for row in result.rows}
            labels = (
                Cell(result.system),
                Cell(result.run, notes=keys.of(protocol_note(result))),
                Cell(result.count_text),
                Cell() if None in speakers else Cell(str(len(speakers))),
            )
            lines.append(Line(labels, tuple(column.cell(group, result, keys) for column in columns), "ours"))
        section = Section(
            title=f"Ours on {first.test_set}, protocol {first.protocol.mark}",
            intro=" ".join([*mixed_notes(marks[first.test_set]), _intro(group)]),
            header=tuple(map(Cell, ("system", "run", "n", "speakers", *(column.title(group) for column in columns)))),
            text_columns=2,
            lines=tuple(lines),
            remarks=tuple(_remarks(group)),
            is_papers=False,
        )
        sections.append(section)
    return sections


def _columns(group: ResultGroup) -> list[_TableColumn]:
    """Return the columns: of an error rate its tail too, and the mean where measured if that is another for anyone."""
    columns = []
    for metric in metric_names(group.results):
        summaries = group.summaries(metric)
        column = summaries[0].column
        columns.append(_TableColumn(column))
        if any(each.corpus and each.corpus.measured_n != each.n for each in summaries):
            columns.append(_TableColumn(column, "measured_corpus"))
        if column.is_word_errors and any(each.corpus for each in summaries):
            columns.append(_TableColumn(column, "share_above_50"))
    return columns


def _intro(group: ResultGroup) -> str:
    """Return how to read a section, with a warning if too few speakers allow no ▲ or ▼, however large a difference."""
    kinds = {summary.clusters for result in group.results for summary in result.metrics.values() if summary.n}
    tested = {key: compared for key, compared in group.comparisons.items() if key[1] not in CONTROLS}
    return render_text(
        "ours_intro.txt",
        clusters="speakers" if kinds != {"utterances"} else "utterances (speakers unknown)",
        rule=word_error_rule(group.results[0].test_set),
        baseline=group.baseline and group.baseline.system,
        level=LEVEL,
        # The least p of a family, by Holm: of 2^speakers swaps two are as extreme as any.
        speakers=max((compared.n_clusters for compared in tested.values()), default=0),
        systems=len({key[:2] for key in tested}),
    )


def _mark(compared: PairedDifference | None, column: Column) -> str:
    """Return the mark of a difference: over speakers, or else over utterances; nothing if neither is significant."""
    if compared is None or not compared.mean:
        return ""
    direction = 1 if (compared.mean > 0) == column.higher_is_better else -1
    for over, p in (("speakers", compared.p_holm), ("utterances", compared.p_utterances_holm)):
        if p is not None and p < LEVEL:
            return MARKS[over, direction]
    return ""


def _remarks(group: ResultGroup) -> Iterator[str]:
    """Yield the remarks below a section: limits, failures, doubts and seeds, each for all systems."""
    systems = Counter(result.system for result in group.results)
    # The run, too, where the name alone does not say which is meant.
    names = [each.system if systems[each.system] == 1 else f"{each.run}/{each.system}" for each in group.results]
    named = list(zip(names, group.results, strict=True))
    for name, result in named:
        if result.is_limited:
            yield f"{name} is limited to {result.count_text} utterances (--limit)"
    for name, result in named:
        yield from _reasons(name, result)
        for metric, summary in result.metrics.items():
            # A capped rate has an error beside it which is not the system's.
            rows = [row for row in result.rows if metric in row.error and metric not in row.failed]
            if count := sum(row.value(metric) is not None for row in rows):
                yield f"{summary.column.label} of {name}: {count} × a loop counts as at most 100%"
    for name, result in named:
        yield from _earlier_versions(name, result)
    for name, result in named:
        yield from _pairs(name, result, group)
    yield from _resolution(group)
    yield from few_notes(summary for result in group.results for summary in result.metrics.values())
    for result in group.results:
        spread = [(each.column, each.seed_sd) for each in result.metrics.values() if each.seed_sd is not None]
        if spread:
            count = max(summary.n_seeds or 0 for summary in result.metrics.values())
            parts = [f"{column.label} {format_number(column.scale * sd, _UNIT_DECIMALS)}" for column, sd in spread]
            yield f"Standard deviation over {count} seeds of {result.system}: {', '.join(parts)}"


def _reasons(name: str, result: Result) -> Iterator[str]:
    """Yield a line for each reason why values are missing or the worst; reasons that differ in numbers are one."""
    for title, attribute in (("Failed", "errors"), ("n/a", "not_applicable")):
        by_kind: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for metric, summary in result.metrics.items():
            for reason, count in getattr(summary, attribute).items():
                by_kind[_NUMBER.sub("…", reason)][reason][metric] += count
        for kind, by_reason in by_kind.items():
            by_count: dict[int, list[str]] = defaultdict(list)
            for metric, count in sum(by_reason.values(), Counter[str]()).items():
                by_count[count].append(result.metrics[metric].column.label)
            parts = [
                f"{count} × {'all metrics' if len(labels) == len(result.metrics) else ', '.join(labels)}"
                for count, labels in by_count.items()
            ]
            reason = kind if len(by_reason) > 1 else next(iter(by_reason))
            yield f"{title}: {name}, {reason}: {'; '.join(parts)}"


def _earlier_versions(name: str, result: Result) -> Iterator[str]:
    """Say that failures are not in an error rate, where rows of an earlier version do not know the words."""
    old_rows = [row for row in result.rows if "cer" in row.absent]
    left_out = [
        summary.column.label
        for metric, summary in result.metrics.items()
        if summary.column.quantity in ERROR_RATES
        and any(metric in row.failed and row.value(metric) is None for row in old_rows)
    ]
    if left_out:
        advice = "leave failed outputs out: its rows are of an earlier version; run evaluate again"
        yield f"{', '.join(left_out)} of {name} {advice}"


def _resolution(group: ResultGroup) -> Iterator[str]:
    """Say from which difference on the comparisons of a section find one: the least of its systems, by metric."""
    least: dict[str, PairedDifference] = {}
    for (_, system, metric), compared in group.comparisons.items():
        other = least.get(metric)
        is_shown = system not in CONTROLS and bool(compared.shown.detectable)
        if is_shown and (other is None or (compared.shown.detectable or 0) < (other.shown.detectable or 0)):
            least[metric] = compared
    if least:
        first = next(iter(least.values()))
        parts = []
        for metric, each in least.items():
            column = group.summaries(metric)[0].column
            parts.append(f"{column.label} {format_number(column.scale * (each.shown.detectable or 0), _UNIT_DECIMALS)}")
        yield (
            f"With {first.n_clusters} {first.clusters} that spread as these, differences below these cannot be shown "
            f"(they are found in 80% of evaluations): {', '.join(parts)}"
        )


def _pairs(name: str, result: Result, group: ResultGroup) -> Iterator[str]:
    """Say over how many utterances a comparison is, if not over all that the metric applies to."""
    by_count: dict[tuple[int, int | None], list[str]] = defaultdict(list)
    for metric, summary in result.metrics.items():
        compared = group.comparisons.get((result.run, result.system, metric))
        if compared is not None and 0 < compared.n < (summary.n_items or 0):
            by_count[compared.n, summary.n_items].append(summary.column.label)
    for (pairs, items), labels in by_count.items():
        yield f"{name} is compared with the baseline on {pairs} of {items} utterances in {', '.join(labels)}"
