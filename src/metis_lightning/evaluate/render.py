"""One table as Markdown: our rows, then the paper's.

Our rows stand in a table of their own above the paper's, whose numbers come from other metric models and other data.
Runs share a table only if their protocols agree in everything but the systems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from metis_lightning.evaluate.benchmarks import Benchmark, Ours
from metis_lightning.evaluate.markdown import EMPTY, estimate, grid
from metis_lightning.evaluate.results import fingerprint

_PERCENT_DECIMALS, _DECIMALS, _UNIT_DECIMALS = 1, 2, 3


@dataclass(frozen=True)
class Run:
    """A finished run's results for one task.

    `groups` are the records of `summarize`, one a test set and system; `protocol` is what decides the numbers and is
    common to all systems.
    """

    name: str
    task: str
    protocol: dict[str, Any]
    groups: tuple[dict[str, Any], ...]


def render(benchmark: Benchmark, runs: Sequence[Run]) -> str:
    """Return the Markdown of one table: our rows, one section a protocol, then the paper's."""
    sections = defaultdict(list)
    for run in runs:
        sections[fingerprint(run.protocol)].append(run)
    parts = [
        f"# Table {benchmark.table}: {benchmark.title}",
        "Written by `python -m metis_lightning tables`.",
        *(_our_section(mark, part, benchmark.ours or Ours("")) for mark, part in sorted(sections.items())),
        _paper_section(benchmark),
    ]
    return "\n\n".join(parts) + "\n"


def _our_section(mark: str, runs: Sequence[Run], ours: Ours) -> str:
    """Return our rows of one protocol."""
    groups = _ordered(runs, ours)
    names = list(dict.fromkeys(name for _, group in groups for name in group["metrics"]))
    columns = [_Column.of(name, [group for _, group in groups]) for name in names]
    rows = [
        [group["test_set"], group["system"], run, str(group["n_rows"]), *(column.cell(group) for column in columns)]
        for run, group in groups
    ]
    settings = [f"{key} {value}" for key, value in runs[0].protocol.items() if isinstance(value, (str, int, float))]
    parts = [
        f"## Ours, protocol {mark}",
        f"Of {', '.join(f'`{run.name}`' for run in runs)}; {', '.join(settings)}, more in each run's protocol.json. "
        "Means ± half the 95% interval of a bootstrap over speakers; n utterances. "
        "WER is total edits over total words; in brackets stands the metric model.",
        grid(["test set", "system", "run", "n", *(column.title for column in columns)], rows, text_columns=3),
        _failures(columns, [group for _, group in groups]),
    ]
    return "\n\n".join(filter(None, parts))


def _ordered(runs: Sequence[Run], ours: Ours) -> list[tuple[str, dict[str, Any]]]:
    """Return (run, group) by test set and system; of groups that runs have in common, the first."""
    found: list[tuple[str, dict[str, Any]]] = []
    for run in runs:
        known = [group for _, group in found]
        found += [(run.name, group) for group in run.groups if group not in known]
    rank = {system: index for index, system in enumerate(ours.first)}

    def key(entry: tuple[str, dict[str, Any]]) -> tuple[str, int, str, str]:
        name, group = entry
        return group["test_set"], rank.get(group["system"], len(rank)), group["system"], name

    return sorted(found, key=key)


@dataclass(frozen=True)
class _Column:
    """A metric in our table: where its numbers are in a summary and how they are written."""

    metric: str
    decimals: int
    percent: bool

    @classmethod
    def of(cls, metric: str, groups: Iterable[dict[str, Any]]) -> _Column:
        """Return the column of a metric; quantities that stay within one get a decimal more."""
        if metric.startswith("WER_"):
            return cls(metric, _PERCENT_DECIMALS, percent=True)
        means = [group["metrics"].get(metric, {}).get("mean") for group in groups]
        within_one = all(abs(mean) <= 1 for mean in means if mean is not None)
        return cls(metric, _UNIT_DECIMALS if within_one else _DECIMALS, percent=False)

    @property
    def name(self) -> str:
        """The metric with its model in brackets: `SIM_target_ge2e` is `SIM target (ge2e)`."""
        *words, last = self.metric.split("_")
        # Scores are in capitals (DNSMOS_SIG, SI_SDR), models are not.
        if not words or last.isupper():
            return " ".join([*words, last])
        return f"{' '.join(words)} ({last})"

    @property
    def title(self) -> str:
        """The name with its unit and the direction that is better."""
        return f"{self.name.replace('WER', 'WER %', 1)} ↓" if self.percent else f"{self.name} ↑"

    def cell(self, group: dict[str, Any]) -> str:
        """Return mean, interval, and how many utterances have no value."""
        record = group["metrics"].get(self.metric)
        if record is None:
            return EMPTY
        prefix, mean = ("corpus_ci95", record["corpus"]) if self.percent else ("ci95", record["mean"])
        low, high = record[f"{prefix}_low"], record[f"{prefix}_high"]
        scale = 100 if self.percent else 1
        half = None if low is None or high is None else scale * (high - low) / 2
        text = estimate(None if mean is None else scale * mean, half, self.decimals)
        return f"{text} ({record['n_failed']} failed)" if record["n_failed"] else text


def _failures(columns: Sequence[_Column], groups: Sequence[dict[str, Any]]) -> str:
    """Return a list of why values are missing; empty if none is."""
    systems: dict[tuple[str, str, str, int], list[str]] = defaultdict(list)
    for column in columns:
        for group in groups:
            for reason, count in group["metrics"].get(column.metric, {}).get("errors", {}).items():
                systems[column.name, group["test_set"], reason, count].append(group["system"])
    lines = [
        f"- {name}, {test_set}: {count} × {reason} ({', '.join(names)})"
        for (name, test_set, reason, count), names in systems.items()
    ]
    return "\n".join(["Without a value:", "", *lines]) if lines else ""


def _paper_section(benchmark: Benchmark) -> str:
    """Return the paper's rows."""
    rows = benchmark.rows
    labels = [key for key in ("task", "test_set", "system", "train_data") if any(key in row for row in rows)]
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    header = [label.replace("_", " ") for label in labels]
    header += ["WER % ↓" if name == "WER" else f"{name} ↑" for name in metrics]
    cells = [
        [*(row.get(label, EMPTY) for label in labels), *(_printed(row["metrics"].get(name)) for name in metrics)]
        for row in rows
    ]
    return "\n\n".join(
        [
            "## The paper's rows",
            f"As printed in {benchmark.source}: measured by its authors on other data, with other metric models "
            f"({benchmark.measured_with}). Not comparable with our rows.",
            grid(header, cells, text_columns=len(labels)),
        ]
    )


def _printed(value: float | dict[str, float] | None) -> str:
    """Return a number of the paper's with two decimals, as it prints them."""
    if isinstance(value, dict):
        return estimate(value["mean"], value["ci95"], _DECIMALS)
    return estimate(value, None, _DECIMALS)
